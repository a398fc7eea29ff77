"""The commands of no package in particular, and what all commands have in common."""
