"""TensorBoard's files, written as events come: TensorBoard's own writer meets a full disk in a thread of its own."""

from __future__ import annotations

import os
import platform
import time
from itertools import count
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

from offdyn_envs.atomic import append_bytes

__all__ = ["EventWriter"]

# Made by protobuf, which type checkers cannot see.
_Event: Any = vars(event_pb2)["Event"]
_SessionLog: Any = vars(event_pb2)["SessionLog"]
VERSION = "brain.Event:2"
_number = count()


class EventWriter(SummaryWriter):
    """PyTorch's writer of summaries, whose events are written when it is flushed, by the thread that flushes it."""

    def _get_file_writer(self) -> Any:
        writer: Any = self.file_writer
        if writer is None:
            self.file_writer = writer = _Events(Path(self.log_dir))
            self.all_writers = {self.log_dir: writer}
            if self.purge_step is not None:
                writer.add_event(_Event(step=self.purge_step, file_version=VERSION))
                start = _SessionLog(status=_SessionLog.START)
                writer.add_event(_Event(step=self.purge_step, session_log=start))
                self.purge_step = None
        return writer


class _Events(FileWriter):
    """What PyTorch's writer writes to, made anew after it was closed."""

    def __init__(self, folder: Path) -> None:
        self.event_writer = _EventFile(folder)


class _EventFile:
    """One file of events."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # The name of TensorBoard's own: it reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}.{next(_number)}"
        self._path = folder / name
        self._pending = bytearray()
        self._records = RecordWriter(self)
        self.add_event(_Event(wall_time=time.time(), file_version=VERSION))

    def get_logdir(self) -> str:
        """Return the folder."""
        return str(self._path.parent)

    def write(self, record: bytes) -> None:
        """Keep a record for the next flush."""
        self._pending += record

    def add_event(self, event: Any) -> None:
        """Keep an event for the next flush."""
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        """Write what was kept; what cannot be written is not tried again."""
        content, self._pending = bytes(self._pending), bytearray()
        if content:
            append_bytes(self._path, content)

    def close(self) -> None:
        """Write what was kept."""
        self.flush()

    def reopen(self) -> None:
        """Do nothing: the file is open only while it is written."""
