"""bf16 beside fp32: runs that are called AGENT@fp32 are held against the run AGENT of the same task."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from offdyn_envs.benchmark.entries.entries_from_runs import FinishedRun, learning_curve
from offdyn_envs.benchmark.entries.precision import Held
from offdyn_envs.benchmark.results.rows import Seeds, clean_scores
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.scores import Reference
from offdyn_envs.benchmark.scoring.statistics import Interval, mean_difference
from offdyn_envs.errors import OffDynError

__all__ = ["BF16", "FP32", "Unlike", "held_against", "renewed"]

BF16, FP32 = "bf16", "fp32"
SAME = ("agent", "task", "updates", "settings")
DIGITS = 6
"""Decimals of a difference in the list: the same on any machine."""


class Unlike(NamedTuple):
    """Two runs that cannot be compared.

    Attributes:
        method: The agent.
        task: The task.
        why: What keeps them from it.
    """

    method: str
    task: str
    why: str


def held_against(runs: Sequence[Path], references: Mapping[str, Reference]) -> tuple[list[Held], list[Unlike]]:
    """Returns how runs in bf16 differ from those in fp32, and the pairs that cannot be compared.

    Args:
        runs: Folders of runs (`runs`), in which `TASK/AGENT@fp32` stands beside `TASK/AGENT`, and single ones of those.
        references: Of the tasks that count.
    """
    held: list[Held] = []
    unlike: list[Unlike] = []
    for plain, exact in _pairs(runs):
        task = plain.parent.name
        if task in references:
            try:
                held.append(_held(plain, exact, references[task]))
            except OffDynError as error:
                unlike.append(Unlike(plain.name, task, str(error)))
    return held, unlike


def renewed(known: Sequence[Held], held: Sequence[Held], unlike: Sequence[Unlike]) -> tuple[Held, ...]:
    """Returns a list of methods with what runs say now: their pairs in place of older ones, and no refuted one."""
    now = {(one.method, one.task) for one in (*held, *unlike)}
    return tuple(sorted([*held, *(one for one in known if (one.method, one.task) not in now)]))


def _pairs(runs: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Yields the folders of evaluated runs AGENT and AGENT@fp32 of the same task."""
    named = [path.with_name(f"{path.name}@{FP32}") for path in runs]
    below = [path.parent for folder in runs for path in folder.glob(f"*/*@{FP32}/evaluation.json")]
    for exact in sorted({*named, *below}):
        plain = exact.with_name(exact.name.removesuffix(f"@{FP32}"))
        evaluated = all((one / "evaluation.json").is_file() for one in (plain, exact))
        if evaluated and "@" not in plain.name:
            yield plain, exact


def _held(plain: Path, exact: Path, reference: Reference) -> Held:
    ours, theirs = (FinishedRun.load(folder, tuple(protocol.VERIFIERS)) for folder in (plain, exact))
    told = ours.run.get("precision"), theirs.run.get("precision")
    if told != (BF16, FP32):
        raise OffDynError(f"they are in {told[0]} and {told[1]}, not {BF16} and {FP32}")
    other = [name for name in SAME if ours.run.get(name) != theirs.run.get(name)]
    if other:
        raise OffDynError(f"they differ in {', '.join(other)}, not in precision alone")
    final = _difference(*(clean_scores(run, reference) for run in (ours, theirs)))
    curves = [learning_curve(run) for run in (ours, theirs)]
    if not all(curves) or curves[0]["updates"] != curves[1]["updates"]:
        raise OffDynError("they were not evaluated after the same updates of training")
    curve = _difference(*(_over_curve(returns, reference) for returns in curves))
    return Held(str(ours.run["agent"]), ours.task, int(ours.run["updates"]), final, curve)


def _over_curve(curve: Mapping[str, Mapping[str, Sequence[float]]], reference: Reference) -> Seeds:
    """Returns each seed's mean score over its evaluations during training."""
    return {int(seed): float(reference.normalise(np.mean(values))) for seed, values in curve["returns"].items()}


def _difference(ours: Seeds, theirs: Seeds) -> Interval:
    found = mean_difference([[*ours.values()]], [[*theirs.values()]])
    return Interval(*(round(value, DIGITS) for value in found))
