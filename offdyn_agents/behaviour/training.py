"""One training run: from nothing, or from where it stopped, to its last policy."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from offdyn_agents.behaviour.checkpoint import load_arrays, load_state, save_arrays, save_state
from offdyn_envs.errors import OffDynError
from offdyn_envs.progress import progress

CHECKPOINT_SECONDS = 60.0
SNAPSHOTS = 160


class Settings(Protocol):
    """Settings of a learning algorithm."""

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON types."""
        ...


class Learner(Protocol):
    """What a learning algorithm offers to the training loop.

    Attributes:
        algorithm: its name.
        unit: what `steps` counts.
        seed: seed of everything random.
        steps: units made so far.
    """

    algorithm: str
    unit: str
    seed: int
    steps: int

    @property
    def settings(self) -> Settings:
        """The settings it was made with."""
        ...

    @property
    def total(self) -> int:
        """Units of the whole run."""
        ...

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return of the latest training episodes."""
        ...

    def iterate(self) -> int:
        """Learn for about a second; returns the units made."""
        ...

    def state(self) -> dict[str, Any]:
        """The complete state."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        ...

    def snapshot(self) -> dict[str, NDArray[np.float64]]:
        """The present policy."""
        ...


@dataclass
class Run:
    """A folder that holds one run.

    Attributes:
        directory: the folder.
        history: one (steps, mean training return, seconds) per snapshot, oldest first.
        seconds: time spent learning, over all sittings.
        origin: where the run begins, as its card tells it; nothing for a run that begins from nothing.
    """

    directory: Path
    history: list[tuple[int, float, float]] = field(default_factory=list[tuple[int, float, float]])
    seconds: float = 0.0
    origin: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def checkpoint(self) -> Path:
        """The checkpoint file."""
        return self.directory / "checkpoint.pt"

    def snapshot_path(self, steps: int) -> Path:
        """The file of the policy after so many steps.

        Args:
            steps: units of the learner.

        Returns:
            The path.
        """
        return self.directory / "snapshots" / f"{steps:010d}.npz"

    def snapshot(self, steps: int) -> dict[str, NDArray[np.float64]]:
        """The policy after so many steps.

        Args:
            steps: one of the history's.

        Returns:
            The learner's snapshot.
        """
        return load_arrays(self.snapshot_path(steps))

    def load(self, learner: Learner | None = None) -> bool:
        """Read the checkpoint, if there is one.

        Args:
            learner: restored too, when given.

        Returns:
            Whether there was one.
        """
        if not self.checkpoint.exists():
            return False
        state = load_state(self.checkpoint)
        self.history = [(int(a), float(b), float(c)) for a, b, c in state["history"]]
        self.seconds = float(state["seconds"])
        if learner is not None:
            self._check(learner, state)
            learner.restore(state["learner"])
        # Which policy was adopted is known to the checkpoint alone, once another one may have taken its place.
        self.origin = state.get("origin", self.origin)
        return True

    def save(self, learner: Learner) -> None:
        """Write the checkpoint.

        Args:
            learner: the learner.
        """
        state = {
            "learner": learner.state(),
            "history": [list(x) for x in self.history],
            "seconds": self.seconds,
            "settings": learner.settings.to_json(),
            "seed": learner.seed,
            "origin": self.origin,
        }
        save_state(self.checkpoint, state)

    def _check(self, learner: Learner, state: dict[str, Any]) -> None:
        # A longer run may go on from a shorter one; anything else would not be the run that the card describes.
        mine, saved = learner.settings.to_json() | {"seed": learner.seed}, state["settings"] | {"seed": state["seed"]}
        mine["origin"], saved["origin"] = _plan(self.origin), _plan(state.get("origin", self.origin))
        for name in sorted(mine.keys() | saved.keys()):
            if name not in ("steps", "updates") and mine.get(name) != saved.get(name):
                raise OffDynError(
                    f"{self.checkpoint} was written with {name} {saved.get(name)}, not {mine.get(name)}; "
                    "delete the folder to start anew"
                )

    def remember(self, learner: Learner) -> None:
        """Keep the present policy.

        Args:
            learner: the learner.
        """
        save_arrays(self.snapshot_path(learner.steps), learner.snapshot())
        self.history.append((learner.steps, learner.mean_return, self.seconds))


def _plan(origin: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says of an origin: all but the SHA-256 of a policy."""
    return {
        kind: {name: value for name, value in facts.items() if name != "policy_sha256"}
        for kind, facts in origin.items()
    }


def learn(learner: Learner, run: Run, name: str, *, limit: int | None = None, quiet: bool = False) -> bool:
    """Learn until the run is complete, with a checkpoint about every minute.

    Args:
        learner: a fresh learner; it goes on from the checkpoint when there is one.
        run: the folder's run.
        name: what the progress bar shows.
        limit: stop, with a checkpoint, at this count of the learner's units.
        quiet: show no progress.

    Returns:
        Whether the run is complete.
    """
    run.load(learner)
    with repeatable():
        _loop(learner, run, name, min(learner.total, limit or learner.total), quiet)
    return learner.steps >= learner.total


def _loop(learner: Learner, run: Run, name: str, goal: int, quiet: bool) -> None:
    spacing = max(learner.total // SNAPSHOTS, 1)
    last = saved = time.monotonic()
    # Counted from here on, or the time left would be guessed from work done in earlier sittings.
    begun = f" from {learner.steps:,}" if learner.steps else ""
    with progress(f"{name}{begun}, {learner.unit}", goal - learner.steps, quiet=quiet) as advance:
        while learner.steps < goal:
            made = learner.iterate()
            now = time.monotonic()
            run.seconds += now - last
            last = now
            newest = run.history[-1][0] if run.history else 0
            if learner.steps - newest >= spacing or learner.steps >= learner.total:
                run.remember(learner)
            if now - saved >= CHECKPOINT_SECONDS:
                run.save(learner)
                saved = now
            advance(made, mean_return=learner.mean_return)
    run.save(learner)


@contextmanager
def repeatable() -> Generator[None]:
    """Let what a learner does in the block repeat itself bit for bit.

    The arithmetic is kept on one thread: two processes side by side are faster than one on two cores anyway. Numbers
    too small for full precision are flushed to 0, because they are slow.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # Whatever ran before in this process must not decide how products round.
        with matrix_precision("ieee"), flushed_denormals():
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def flushed_denormals() -> Generator[None]:
    """Flush numbers too small for full precision to 0 on this thread for the block.

    The switch is the processor's, not PyTorch's: left on, it would change every later computation of the thread.
    """
    before = sys.float_info.min / 2.0 == 0.0  # PyTorch tells no state; this division is exact unless it is flushed
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextmanager
def matrix_precision(name: str) -> Generator[None]:
    """Compute matrix products in the named precision, "ieee" or "bf16", for the block."""
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(matmul, "fp32_precision"):  # before torch 2.9
        yield
        return
    before = matmul.fp32_precision
    matmul.fp32_precision = name
    try:
        yield
    finally:
        matmul.fp32_precision = before
