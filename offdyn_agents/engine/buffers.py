"""Where the rows that a run makes itself are kept: a ring in a memory-mapped file beside its checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offdyn_envs.atomic import atomic_write, room
from offdyn_envs.errors import OffDynError

__all__ = ["RolloutBuffer"]


class RolloutBuffer:
    """A ring of packed rows in a memory-mapped file.

    Args:
        path: The file, float32 [capacity, width]; it is made by the first rows.
        capacity: Rows that are kept.
        width: Numbers of a row.
        device: Where rows are wanted; off the CPU a copy of the file lies there.
    """

    def __init__(self, path: Path, capacity: int, width: int, device: str | torch.device = "cpu") -> None:
        self.path, self.capacity, self.width, self.device = path, capacity, width, torch.device(device)
        self.cursor = self.fill = 0
        self._file: np.memmap[Any, np.dtype[np.float32]] | None = None
        # What was never written reads as zeros: a run that stopped early stays in its group on a GPU.
        self._kept = torch.zeros(1, width).expand(capacity, width)
        self._rows = self._kept.to(self.device)

    def add(self, rows: Tensor) -> None:
        """Write rows [n, W] over the oldest ones; of more rows than fit, the last ones stay."""
        self._open()
        rows = rows[-self.capacity :]
        first = rows[: self.capacity - self.cursor]
        self._write(self.cursor, first)
        self._write(0, rows[len(first) :])
        self.cursor = (self.cursor + len(rows)) % self.capacity
        self.fill = min(self.capacity, self.fill + len(rows))

    def rows(self, numbers: Tensor) -> Tensor:
        """Return rows [*shape, W] for numbers [*shape] below `fill`."""
        return self._rows[numbers.reshape(-1)].view(*numbers.shape, -1)

    def state(self) -> list[int]:
        """Return what a checkpoint keeps, once the rows themselves are safe: cursor and number of rows."""
        if self._file is not None:
            with room(self.path):
                self._file.flush()
        return [self.cursor, self.fill]

    def restore(self, state: list[int]) -> None:
        """Go back to a state; the rows themselves are in the file.

        Raises:
            OffDynError: The file with the rows is gone, or of another size.
        """
        cursor, fill = state
        if fill and not self._there:
            raise OffDynError(
                f"'{self.path}' with the {fill} rows of the checkpoint is gone or of another size than {self._size} "
                "bytes; bring it back, or remove the run's folder to start anew"
            )
        self.cursor, self.fill = cursor, fill
        if fill:
            self._open()

    @property
    def _size(self) -> int:
        return 4 * self.capacity * self.width

    @property
    def _there(self) -> bool:
        return self.path.is_file() and self.path.stat().st_size == self._size

    def _open(self) -> None:
        """Map the file; where there is none of the right size, one without rows is made."""
        if self._file is not None:
            return
        if not self._there:
            with atomic_write(self.path, self._size) as temporary:
                # A sparse file: what is never written takes no room.
                os.truncate(temporary, self._size)
        self._file = np.memmap(self.path, dtype=np.float32, mode="r+", shape=(self.capacity, self.width))
        self._kept = torch.from_numpy(self._file)
        self._rows = self._kept.to(self.device)

    def _write(self, start: int, rows: Tensor) -> None:
        if not len(rows):
            return
        # Through the file and not through the map of it, where the system ends a process that finds the disk full.
        content = memoryview(rows.to("cpu", torch.float32).numpy().tobytes())
        with room(self.path, len(content)), self.path.open("r+b", buffering=0) as file:
            file.seek(4 * self.width * start)
            while content:
                content = content[file.write(content) :]
        if self._rows is not self._kept and self._rows.device.type != "cpu":
            self._rows[start : start + len(rows)] = rows
