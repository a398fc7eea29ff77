"""Policies of others run in a process that may do nothing else."""
