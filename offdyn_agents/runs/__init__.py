"""From names to run folders: plans, training of tasks and tracks, evaluation, curves."""
