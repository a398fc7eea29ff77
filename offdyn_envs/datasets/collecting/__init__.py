"""Datasets made by running behaviour policies."""
