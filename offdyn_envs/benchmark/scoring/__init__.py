"""The protocol, normalised scores, statistics, and the episodes behind them."""
