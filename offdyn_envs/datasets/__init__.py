"""Datasets: loading, building and checking them. See `load_task` and `load_dataset`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offdyn_envs.datasets.gap.counterfactuals import counterfactual
    from offdyn_envs.datasets.gap.measure import dynamics_gap
    from offdyn_envs.datasets.identifying.identify import identify
    from offdyn_envs.datasets.importing.pairs import load_any
    from offdyn_envs.datasets.loading import load_dataset
    from offdyn_envs.datasets.own.arrays import OwnData, from_arrays
    from offdyn_envs.datasets.own.contract import Contract
    from offdyn_envs.datasets.own.reading import read_own
    from offdyn_envs.datasets.own.spec import Spec
    from offdyn_envs.datasets.store.folders import data_root
    from offdyn_envs.datasets.store.imported import ImportedDataset, load_imported
    from offdyn_envs.datasets.store.spec import Arrays, Dataset
    from offdyn_envs.datasets.task import Task, load_task

__all__ = [
    "Arrays",
    "Contract",
    "Dataset",
    "ImportedDataset",
    "OwnData",
    "Spec",
    "Task",
    "counterfactual",
    "data_root",
    "dynamics_gap",
    "from_arrays",
    "identify",
    "load_any",
    "load_dataset",
    "load_imported",
    "load_task",
    "read_own",
]


_HOMES = {
    "Arrays": "store.spec",
    "Contract": "own.contract",
    "Dataset": "store.spec",
    "ImportedDataset": "store.imported",
    "OwnData": "own.arrays",
    "Spec": "own.spec",
    "Task": "task",
    "counterfactual": "gap.counterfactuals",
    "data_root": "store.folders",
    "dynamics_gap": "gap.measure",
    "from_arrays": "own.arrays",
    "identify": "identifying.identify",
    "load_any": "importing.pairs",
    "load_dataset": "loading",
    "load_imported": "store.imported",
    "load_task": "task",
    "read_own": "own.reading",
}
"""Where each name lives: what opens files or simulates is imported when it is first used."""


def __getattr__(name: str) -> Any:
    """Import what a name needs when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'offdyn_envs.datasets' has no attribute '{name}'")
    return getattr(import_module(f"offdyn_envs.datasets.{_HOMES[name]}"), name)
