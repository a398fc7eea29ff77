"""What a long build has collected so far, on disk: a build that was killed goes on with the episodes it had finished.

An episode is a function of its number, so it does not matter when, beside which others and by which process it was
collected: a continued build gives the arrays of an uninterrupted one to the last bit.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.atomic import DiskFullError, write_bytes, write_json

__all__ = ["Journal", "begin"]

Array = NDArray[Any]
Episode = dict[str, Array]

EVERY = 50_000
"""Rows between two writings: a few seconds of work."""
_RECIPE = "recipe.json"
_STATES = ("observations", "qpos", "qvel", "goal")
"""Arrays with one row more than an episode has steps."""


def begin(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Keep what a killed build left in a folder only if it was of the same recipe.

    Args:
        folder: Existing.
        recipe: Everything that the episodes depend on, plain JSON.
    """
    note = folder / _RECIPE
    try:
        same = json.loads(note.read_text(encoding="utf-8")) == recipe
    except (OSError, ValueError, RecursionError):
        same = False
    if not same:
        shutil.rmtree(folder)
        folder.mkdir()
        write_json(note, recipe)


class Journal:
    """Finished episodes of one behaviour, in files of about `EVERY` rows; each file is whole or not there.

    Args:
        folder: Where to write; given to `begin` before.
        part: Which of the dataset's behaviours this is, from 0.
    """

    def __init__(self, folder: Path, part: int) -> None:
        self.folder = folder
        self.prefix = f"{part:02d}-"
        self._pending: dict[int, Episode] = {}
        self._rows = 0
        self._full = False

    def read(self) -> dict[int, Episode]:
        """Return the episodes that are there, by number; a file that is damaged is removed."""
        episodes: dict[int, Episode] = {}
        for path in sorted(self.folder.glob(f"{self.prefix}*.npz")):
            episodes |= _read(path)
        return episodes

    def add(self, number: int, episode: Episode) -> None:
        """Keep a finished episode.

        Args:
            number: Its position in the order of episodes.
            episode: Its arrays by name, those of `_STATES` with a row more than the others.
        """
        self._pending[number] = episode
        self._rows += len(episode["rewards"])
        if self._rows >= EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what has been added; where the disk is full the build goes on without a journal."""
        if not self._pending or self._full:
            return
        name, content = f"{self.prefix}{min(self._pending):07d}-{max(self._pending):07d}.npz", io.BytesIO()
        try:
            np.savez(content, **_join(self._pending))
            write_bytes(self.folder / name, content.getbuffer())
        except (OSError, DiskFullError):
            self._full = True
        self._pending, self._rows = {}, 0


def _read(path: Path) -> dict[int, Episode]:
    try:
        # The archive has a checksum of every array.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return _split({key: stored[key] for key in stored.files})
    except Exception:  # NumPy and zipfile raise nearly any type; whatever is wrong, it is collected again.
        path.unlink(missing_ok=True)
        return {}


def _join(episodes: Mapping[int, Episode]) -> dict[str, Any]:
    keys = next(iter(episodes.values()))
    joined = {key: np.concatenate([episode[key] for episode in episodes.values()]) for key in keys}
    lengths = [len(episode["rewards"]) for episode in episodes.values()]
    return {"numbers": np.array(list(episodes)), "lengths": np.array(lengths), **joined}


def _split(joined: dict[str, Array]) -> dict[int, Episode]:
    numbers, lengths = joined.pop("numbers"), joined.pop("lengths")
    ends = {key: np.cumsum(lengths + (key in _STATES)) for key in joined}
    if any(len(array) != ends[key][-1] for key, array in joined.items()):
        raise ValueError("arrays and lengths disagree")
    cut = {key: np.split(array, ends[key][:-1]) for key, array in joined.items()}
    return {int(number): {key: cut[key][i] for key in cut} for i, number in enumerate(numbers)}
