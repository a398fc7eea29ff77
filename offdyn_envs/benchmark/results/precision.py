"""bf16 beside fp32: runs that are called AGENT@fp32 are held against the run AGENT of the same task."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from offdyn_envs.benchmark.entries.entries_from_runs import FinishedRun, learning_curve
from offdyn_envs.benchmark.results.rows import Row, Seeds, clean_scores
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.scores import Reference
from offdyn_envs.benchmark.scoring.statistics import Interval, mean_difference
from offdyn_envs.errors import OffDynError

__all__ = ["BF16", "FP32", "Held", "held_against"]

BF16, FP32 = "bf16", "fp32"
SAME = ("agent", "task", "updates", "settings")


class Held(NamedTuple):
    """How a method scores in bf16 beside fp32.

    Attributes:
        method: The agent.
        tasks: Where there are runs in both; none where bf16 has not been held against fp32 yet.
        final: Score of the final policies, bf16 minus fp32, mean over these tasks; None without tasks.
        curve: The same of the mean over all evaluations during training; None where a run has no curve.
    """

    method: str
    tasks: tuple[str, ...] = ()
    final: Interval | None = None
    curve: Interval | None = None


def held_against(rows: Sequence[Row], runs: Sequence[Path], references: Mapping[str, Reference]) -> list[Held]:
    """Returns every method that has figures in bf16, with how they differ from fp32.

    Args:
        rows: The rows of the page.
        runs: Folders of runs (`runs`), in which `TASK/AGENT@fp32` stands beside `TASK/AGENT`.
        references: Of the tasks that count.

    Raises:
        OffDynError: A run cannot be read, has one seed, or is not what its name says.
    """
    pairs = list(_pairs(runs, references))
    methods = sorted({row.key.partition("@")[0] for row in rows if BF16 in row.precisions})
    return [_held(method, [pair for pair in pairs if pair[0].run["agent"] == method], references) for method in methods]


def _pairs(runs: Sequence[Path], references: Mapping[str, Reference]) -> Iterator[tuple[FinishedRun, FinishedRun]]:
    """Yields runs in bf16 and fp32 of the same agent on the same task, of those that count."""
    versions = tuple(protocol.VERIFIERS)
    named = [path.with_name(f"{path.name}@{FP32}") for path in runs]
    below = [path.parent for folder in runs for path in folder.glob(f"*/*@{FP32}/evaluation.json")]
    for path in sorted({*named, *below}):
        plain = path.with_name(path.name.removesuffix(f"@{FP32}"))
        if path.parent.name in references and all((one / "evaluation.json").is_file() for one in (plain, path)):
            pair = FinishedRun.load(plain, versions), FinishedRun.load(path, versions)
            _refuse_unlike(*pair)
            yield pair


def _refuse_unlike(plain: FinishedRun, exact: FinishedRun) -> None:
    told = (plain.run.get("precision"), exact.run.get("precision"))
    if told != (BF16, FP32):
        raise OffDynError(
            f"runs '{plain.folder}' and '{exact.folder}' are in {told[0]} and {told[1]}, not bf16 and fp32"
        )
    other = [name for name in SAME if plain.run.get(name) != exact.run.get(name)]
    if other:
        raise OffDynError(
            f"runs '{plain.folder}' and '{exact.folder}' differ in {', '.join(other)}, not in precision alone"
        )


def _held(method: str, pairs: Sequence[tuple[FinishedRun, FinishedRun]], references: Mapping[str, Reference]) -> Held:
    if not pairs:
        return Held(method)
    final = [[clean_scores(run, references[run.task]) for run in pair] for pair in pairs]
    curves = [[_over_curve(run, references[run.task]) for run in pair] for pair in pairs]
    # Of runs that were looked at on other occasions, means over a curve are no pair.
    alike = all(len({tuple(learning_curve(run).get("updates", ())) for run in pair}) == 1 for pair in pairs)
    complete = alike and all(scores for pair in curves for scores in pair)
    tasks = tuple(plain.task for plain, _ in pairs)
    return Held(method, tasks, _difference(final), _difference(curves) if complete else None)


def _over_curve(run: FinishedRun, reference: Reference) -> Seeds:
    """Returns each seed's mean score over its evaluations during training; empty without a curve."""
    returns = learning_curve(run).get("returns", {})
    return {int(seed): float(reference.normalise(np.mean(values))) for seed, values in returns.items()}


def _difference(pairs: Sequence[Sequence[Seeds]]) -> Interval:
    ours, theirs = zip(*([list(seeds.values()) for seeds in pair] for pair in pairs), strict=True)
    return mean_difference(ours, theirs)
