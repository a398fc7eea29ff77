"""Datasets: loading, building and checking them. See `load_task` and `load_dataset`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from offdyn_envs.datasets.gap.counterfactuals import counterfactual
    from offdyn_envs.datasets.gap.measure import dynamics_gap
    from offdyn_envs.datasets.identifying.identify import identify

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


def __getattr__(name: str) -> Any:
    """Import what simulates when it is first used: loading a dataset needs no simulator."""
    if name == "counterfactual":
        from offdyn_envs.datasets.gap.counterfactuals import counterfactual

        return counterfactual
    if name == "dynamics_gap":
        from offdyn_envs.datasets.gap.measure import dynamics_gap

        return dynamics_gap
    if name == "identify":
        from offdyn_envs.datasets.identifying.identify import identify

        return identify
    raise AttributeError(f"module 'offdyn_envs.datasets' has no attribute '{name}'")
