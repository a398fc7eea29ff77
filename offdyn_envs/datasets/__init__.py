"""Datasets: loading, building and checking them. See `load_task` and `load_dataset`."""

from offdyn_envs.datasets.spec import Arrays, Dataset
from offdyn_envs.datasets.store import data_root, load_dataset
from offdyn_envs.datasets.task import load_task

__all__ = ["Arrays", "Dataset", "data_root", "load_dataset", "load_task"]
