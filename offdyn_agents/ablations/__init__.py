"""The papers' ablations as tables of variants."""
