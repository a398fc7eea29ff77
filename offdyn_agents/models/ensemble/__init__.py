"""Ensembles of Gaussian dynamics: networks, settings, training, the cached stage, rollouts."""
