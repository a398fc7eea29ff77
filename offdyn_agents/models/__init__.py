"""What agents learn of the world: ensembles, dynamics of two domains, a dynamics reward, classifiers of domains."""
