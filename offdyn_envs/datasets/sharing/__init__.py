"""Datasets shipped with the project, published to and downloaded from servers."""
