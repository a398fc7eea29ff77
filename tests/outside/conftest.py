"""The packages here are tested where they are installed."""

collect_ignore = ["dara_like"]
