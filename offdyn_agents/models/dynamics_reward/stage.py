"""The dynamics reward as a stage before the policy: cached by content, one for a data set, shared by all seeds.

A training that was interrupted goes on from a copy that is about a minute old, and ends as it would have.
"""

from __future__ import annotations

import time
from pathlib import Path

from torch import Tensor

from offdyn_agents.engine.products import exact_fast_products, threads_inside
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.stage_cache import Keep, Unfinished, cached
from offdyn_agents.engine.termination import Termination, never
from offdyn_agents.models.dynamics_reward.checkpoints import FrozenOpponents
from offdyn_agents.models.dynamics_reward.contrast import NoiseContrast
from offdyn_agents.models.dynamics_reward.discriminator import DynamicsReward
from offdyn_agents.models.dynamics_reward.generator import Settle, as_drawn
from offdyn_agents.models.dynamics_reward.models import split_rows
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings
from offdyn_agents.models.dynamics_reward.training import Adversaries

__all__ = ["fit_dynamics_reward", "real_share"]

NAME, VERSION = "dynamics-reward", 1
SAVE_SECONDS = 60.0
"""Time between copies of an unfinished training."""
WORTH_COMPILING = 200
"""Iterations, or steps, below which compiling would take longer than it saves."""
Training = NoiseContrast | Adversaries | FrozenOpponents


def fit_dynamics_reward(
    settings: DynamicsRewardSettings,
    layout: Layout,
    rows: Tensor,
    cache: Path | None,
    *,
    source: Tensor | None = None,
    terminated: Termination = never,
    settle: Settle = as_drawn,
    seed: int = 0,
    threads: int = 1,
    compiled: bool = True,
    quiet: bool = True,
) -> DynamicsReward:
    """Train or find the dynamics reward of some rows.

    Args:
        settings: How it is trained.
        layout: Layout of packed rows.
        rows: Packed rows [N, W] on the device, which count as real; a tenth, at most 1000, is held out.
        cache: Folder of results and of copies of an unfinished training; None keeps nothing.
        source: Packed source rows [M, W], whose answers are fakes; None in a single domain.
        terminated: Says which states end an episode. It goes with the robot, whose rows these are.
        settle: Makes drawn actions such as real ones are; it goes with the rows too.
        seed: Decides everything that is drawn.
        threads: CPU threads.
        compiled: Whether to compile the steps.
        quiet: Show no progress.

    Returns:
        All kept snapshots, also useless ones; see `DynamicsReward.usable`.
    """
    kept, _ = split_rows(rows, seed)
    asked = settings.opponent == "nce" and settings.source_fakes
    other = source if asked and source is not None else rows[:0]

    def new(number: int) -> Training:
        if settings.opponent == "nce":
            return NoiseContrast(settings, layout, kept, number, other)
        kind = {"ppo": Adversaries, "checkpoints": FrozenOpponents}[settings.opponent]
        return kind(settings, layout, kept, number, terminated, settle)

    def compute(missing: list[int], keep: Keep) -> None:
        copy = keep.copy(missing[0])
        inputs = (2 * layout.observation_dim + layout.action_dim, layout.observation_dim + layout.action_dim)
        with threads_inside(threads), exact_fast_products(settings.discriminator_width, inputs, settings.batch_size):
            training = new(missing[0])
            if not _restored(training, copy):
                training = new(missing[0])
            if compiled and settings.length >= WORTH_COMPILING:
                training.compile(threads)
            _finish(training, copy, quiet)
            result = training.result()
            keep(missing[0], result.tensors(), "" if bool(result.able.any()) else "no snapshot is usable")
        copy.remove()

    learned_from = [rows, other] if len(other) else rows
    (found,) = cached(NAME, settings, learned_from, [seed], cache, compute, VERSION)
    return DynamicsReward.from_tensors(found, rows.device)


def real_share(reward: DynamicsReward, layout: Layout, rows: Tensor, threshold: float, seed: int = 0) -> float | None:
    """Return the share of the held-out real transitions whose reward reaches a threshold.

    The method wants 95% of them to reach .6 before rollouts are filtered.

    Args:
        reward: Usable discriminators.
        layout: Layout of packed rows.
        rows: The packed rows [N, W] that the reward was trained for.
        threshold: Of rollouts.
        seed: With which it was trained.

    Returns:
        A number in [0, 1]; None where none of the rows was held out.
    """
    _, held = split_rows(rows, seed)
    if not len(held):
        return None
    return reward.passing(*layout.split(held)[:3], threshold)


def _finish(training: Training, copy: Unfinished, quiet: bool) -> None:
    from offdyn_envs.progress import progress

    saved = time.monotonic()
    with progress("dynamics reward", training.length, quiet=quiet, start=training.done) as advance:
        while training.done < training.length:
            advance(1, **training.advance())
            if time.monotonic() - saved > SAVE_SECONDS:
                copy.write(training.state())
                saved = time.monotonic()


def _restored(training: Training, copy: Unfinished) -> bool:
    """Take up a copy; return False where it was of another form, and the training is no longer a fresh one."""
    state = copy.read()
    try:
        if state is not None:
            training.restore(state)
    except (KeyError, RuntimeError):
        return False
    return True
