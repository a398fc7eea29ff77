"""MOBODY's dynamics of two domains: networks, losses, settings, training, the cached stage."""
