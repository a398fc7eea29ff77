"""From data in memory to a trained, exported population: the Lightning module, its checkpoints, logs and callbacks."""
