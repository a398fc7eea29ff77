"""Checkpoints of a population: one file for each task, so that the same tasks need not be trained together again.

A file is a checkpoint of Lightning that holds the runs of its own task only. `TaskFiles` stands between Lightning and
the files: it cuts what is saved and puts together what is loaded.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from offdyn_envs.atomic import write_bytes
from offdyn_envs.errors import OffDynError, out_of_memory

__all__ = [
    "FILE",
    "Standing",
    "TaskFiles",
    "cut",
    "join",
    "peek",
    "read_checkpoint",
    "standing",
    "unite",
    "updates_done",
    "with_metrics",
]

FILE = Path("checkpoints") / "last.ckpt"
"""Where a run folder has its checkpoint."""

NEEDED = {"agent", "seeds", "identity", "stopped", "generators", "buffers", "per_run"}
SHARED = ("updates", "counter")
"""What all runs have together; every other tensor has an axis of runs in front."""


def read_checkpoint(
    folder: Path, agent: str, seeds: Sequence[int] | None, identity: Mapping[str, str]
) -> dict[str, Any] | None:
    """Read a run folder's checkpoint.

    Args:
        folder: The run folder.
        agent: Name of the agent that wants to go on.
        seeds: Its seeds; None for whichever there are.
        identity: SHA-256 of its data and of its settings.

    Returns:
        Its content, or None where there is none.

    Raises:
        OffDynError: It is damaged, or of another agent, other seeds, other settings or other data.
    """
    content = _read(folder)
    if content is None:
        return None
    path, saved = folder / FILE, content["offdyn"]
    known: tuple[Any, ...] = (saved["agent"], list(saved["seeds"]), dict(saved["identity"]))
    wanted = known[1] if seeds is None else list(seeds)
    if known[:2] != (agent, wanted):
        raise OffDynError(
            f"checkpoint '{path}' is of {known[0]} with seeds {known[1]}; {agent} with seeds {wanted} is allowed"
        )
    for what, digest in identity.items():
        if known[2].get(what) != digest:
            old = str(known[2].get(what))[:12]
            raise OffDynError(
                f"checkpoint '{path}' is of other {what}: SHA-256 {old}..., not {digest[:12]}...; bring those {what}"
                " back, or take another folder"
            )
    return content


def peek(folder: Path) -> int:
    """Return how many updates the checkpoint of a run folder has behind it; 0 for none.

    Raises:
        OffDynError: It is damaged.
    """
    return updates_done(_read(folder))


def updates_done(content: Mapping[str, Any] | None) -> int:
    """Return how many updates a checkpoint has behind it; 0 for none."""
    return 0 if content is None else int(content["state_dict"]["updates"])


@dataclass(frozen=True)
class Standing:
    """Where the runs of a folder stand.

    Attributes:
        updates: Updates that they have behind them.
        seeds: Their seeds.
        stopped: After how many updates runs were stopped, by seed.
        filled: Seeds that learn from rows of their own, in files beside the checkpoint.
    """

    updates: int
    seeds: tuple[int, ...]
    stopped: Mapping[int, int]
    filled: tuple[int, ...]


def standing(folder: Path) -> Standing | None:
    """Return where the runs of a folder stand; None without a checkpoint.

    Raises:
        OffDynError: It is damaged.
    """
    content = _read(folder)
    if content is None:
        return None
    saved = content["offdyn"]
    seeds = tuple(saved["seeds"])
    stopped = {seed: int(told[0]) for seed, told in zip(seeds, saved["stopped"], strict=True) if told}
    filled = tuple(seed for seed, (_, fill) in zip(seeds, saved["buffers"], strict=False) if fill)
    return Standing(updates_done(content), seeds, stopped, filled)


def unite(folders: Sequence[Path], path: Path) -> None:
    """Write one checkpoint out of those of runs of one task that were trained apart, in the order of their seeds.

    Args:
        folders: Their folders; the first decides whatever runs have together.
        path: The file.

    Raises:
        OffDynError: A checkpoint is damaged.
    """
    contents = [content for folder in folders if (content := _read(folder)) is not None]
    whole = join(contents)
    saved, tensors = whole["offdyn"], whole["state_dict"]
    order = sorted(range(len(saved["seeds"])), key=lambda place: saved["seeds"][place])
    tensors = {name: tensor if name in SHARED else tensor[order] for name, tensor in tensors.items()}
    # Runs that have all been stopped are where they are; the others are equally far.
    tensors["updates"] = torch.stack([content["state_dict"]["updates"] for content in contents]).amax()
    for key in saved["per_run"]:
        # Agents without rollouts have no buffers.
        saved[key] = [saved[key][place] for place in order] if saved[key] else []
    for clock in ("seconds", "stage_seconds"):
        saved[clock] = sum(float(content["offdyn"][clock]) for content in contents)
    _write({**whole, "state_dict": tensors}, path)


def cut(content: Mapping[str, Any], runs: slice, identity: Mapping[str, str], path: Path) -> None:
    """Write the checkpoint of some of the runs.

    Args:
        content: A checkpoint of the whole population.
        runs: Which of its runs.
        identity: SHA-256 of their data and settings.
        path: The file.
    """
    # A slice would be saved with everything that it is a slice of.
    tensors = {
        name: tensor if name in SHARED else tensor[runs].to("cpu", copy=True)
        for name, tensor in content["state_dict"].items()
    }
    told = {
        key: value[runs] if key in content["offdyn"]["per_run"] else value for key, value in content["offdyn"].items()
    }
    part = {**content, "state_dict": tensors, "offdyn": {**told, "identity": dict(identity)}}
    _write(part, path)


def _write(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint; the one before stays where there is no room for it."""
    made = io.BytesIO()
    torch.save(content, made)
    write_bytes(path, made.getbuffer())


def with_metrics(content: Mapping[str, Any], count: int) -> Mapping[str, Any]:
    """Return a checkpoint with room for so many metrics.

    An earlier version's agent may have had fewer: its sums, of the updates since the last line of a log, begin anew.
    """
    tensors = content["state_dict"]
    if tensors["sums"].shape[1] == count:
        return content
    empty = {name: tensors[name].new_zeros(len(tensors[name]), count) for name in ("sums", "counts")}
    return {**content, "state_dict": {**tensors, **empty}}


def join(contents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one checkpoint out of those of several tasks, in their order, after equally many updates."""
    most = max(content["state_dict"]["sums"].shape[1] for content in contents)
    contents = [with_metrics(content, most) for content in contents]
    first = contents[0]
    tensors = {
        name: tensor if name in SHARED else torch.cat([content["state_dict"][name] for content in contents])
        for name, tensor in first["state_dict"].items()
    }
    told = dict(first["offdyn"])
    for key in told["per_run"]:
        told[key] = [item for content in contents for item in content["offdyn"][key]]
    return {**first, "state_dict": tensors, "offdyn": told}


class TaskFiles(CheckpointIO):
    """Lightning's way to the checkpoints of several tasks; the path that it names means nothing.

    Args:
        tasks: The run folder of each task, which runs are its own, and the SHA-256 of its data and settings.
        found: What the files hold, to be loaded once; empty to start anew.
    """

    def __init__(
        self, tasks: Sequence[tuple[Path, slice, Mapping[str, str]]], found: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self._tasks, self._found = tuple(tasks), tuple(found)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write every task's file."""
        del path, storage_options
        for folder, runs, identity in self._tasks:
            cut(checkpoint, runs, identity, folder / FILE)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return what the files hold as one checkpoint."""
        del path, map_location, weights_only
        return join(self._found)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Do nothing: there is one file a task, which the next one replaces."""
        del path


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / FILE
    if not path.exists():
        return None
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
        whole = NEEDED <= set(content["offdyn"]) and "updates" in content["state_dict"]
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
        if (known := out_of_memory(error)) is not None:
            raise known from None
        whole, content = False, None
    if not whole:
        raise OffDynError(
            f"checkpoint '{path}' is damaged or of an older version; remove the folder '{folder}' to start anew"
        )
    return content
