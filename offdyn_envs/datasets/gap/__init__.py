"""The exact dynamics gap: transitions of one domain simulated again in another."""
