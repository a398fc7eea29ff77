"""Whether datasets are what they say: simulated again and compared."""
