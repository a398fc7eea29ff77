"""Reference agents for off-dynamics offline reinforcement learning, trained as populations in PyTorch Lightning.

Importing this package imports no torch: the agents live in submodules, and `offdyn train` imports them when it runs.
"""
