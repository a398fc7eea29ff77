"""How good what agents learn of the target is, held against exact outcomes. For diagnosis, never for training."""
