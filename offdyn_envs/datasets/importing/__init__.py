"""Importing somebody else's transitions: D4RL, ODRL/OTDF and Minari files."""

from offdyn_envs.datasets.importing.importer import LAYOUTS, Imported, import_file

__all__ = ["LAYOUTS", "Imported", "import_file"]
