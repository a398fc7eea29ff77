"""The five sentences of the results page, each made from its figures; one whose figures are missing says which."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from offdyn_envs.benchmark.entries.precision import Held
from offdyn_envs.benchmark.results.order import FEWEST, Agreement, GapFit, pooled
from offdyn_envs.benchmark.results.plan import Planned
from offdyn_envs.benchmark.results.precision import Unlike
from offdyn_envs.benchmark.results.rows import Row, field_of, short
from offdyn_envs.benchmark.results.shares import TABLE, Kept, kept
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.cells import cell_name
from offdyn_envs.benchmark.scoring.statistics import Interval, mean_difference

__all__ = ["Answer", "Material", "figure", "sentences", "share"]

TOLD = (("kinematic", 3.0), ("morphology", 3.0), ("min-q", 0.2))
"""The hardest condition of each part of the table."""
SMALLEST = next(iter(protocol.DIVISIONS))


@dataclass(frozen=True)
class Material:
    """What the page is about.

    Attributes:
        track: Name of the track.
        tasks: Its tasks.
        rows: All rows.
        orders: How each task's order of methods goes with each paper's.
        gaps: Mean exact gap of the tasks where it is known.
        fit: How gains go with the gaps.
        plan: Methods that can be trained, with what that takes; those that have no figures are missing.
        held: Methods whose bf16 has been held against fp32, by task.
        unlike: Pairs of runs in bf16 and fp32 that cannot be compared.
        division: Division by policy updates.
    """

    track: str
    tasks: tuple[str, ...]
    rows: Sequence[Row]
    orders: Sequence[Agreement]
    gaps: dict[str, float]
    fit: GapFit
    plan: Sequence[Planned] = ()
    held: Sequence[Held] = ()
    unlike: Sequence[Unlike] = ()
    division: str = SMALLEST

    @property
    def name(self) -> str:
        """What the page and the folder of its figures are called: the track, and each larger division behind it."""
        return self.track if self.division == SMALLEST else f"{self.track}-{self.division}"


class Answer(NamedTuple):
    """An answer.

    Attributes:
        sentence: In one sentence.
        details: What it is made of, a sentence each.
    """

    sentence: str
    details: tuple[str, ...] = ()


def figure(interval: Interval, digits: int = 1) -> str:
    """Returns a figure with its interval, for instance "39.2 [37.4, 40.9]"."""
    mean, low, high = (f"{round(value, digits) + 0.0:.{digits}f}" for value in interval)
    return f"{mean} [{low}, {high}]"


def share(interval: Interval) -> str:
    """Returns a share that is kept with its interval in percent; more than all of it is called a gain."""
    mean, low, high = (round(100 * value) for value in interval)
    if mean == 0:
        return f"nothing [{low}, {high}]"
    return f"{mean} % [{low}, {high}]{', a gain' if mean > 100 else ''}"


def sentences(material: Material) -> list[tuple[str, Answer]]:
    """Returns each of the five questions with its answer."""
    made: Sequence[tuple[str, Callable[[Material], Answer]]] = (
        ("Which method wins where?", winners),
        ("What do the papers say?", papers_say),
        ("Does the order of methods agree?", order),
        ("What does robustness cost?", robustness),
        ("How does the score go with the true gap?", gap),
    )
    return [(title, make(material)) for title, make in made]


def winners(material: Material) -> Answer:
    """Returns who is first over all tasks and on each, and whether that is clear."""
    field = field_of(material.rows)
    if len(field) < 2:
        return Answer(f"It cannot be told: {_count(len(field), 'method')} with figures, 2 or more are needed.")
    named = "with a place" if field[0].rank is not None else "with figures, but no place,"
    whole = sorted((row for row in field if row.covers(material.tasks)), key=lambda row: -row.overall().mean)
    if len(whole) >= 2:
        first, second = whole[:2]
        apart = _difference(first, second, material.tasks)
        told = (
            f"Of {len(field)} methods {named} `{first.method}` has the highest interquartile mean over all tasks, "
            f"{figure(first.overall())}, {'clearly' if apart.low > 0 else 'not clearly'} above `{second.method}`: "
            f"{figure(apart)} in the mean."
        )
    else:
        told = (
            f"Of {len(field)} methods {named} {'none covers' if not whole else 'only one covers'} all "
            f"{len(material.tasks)} tasks."
        )
    return Answer(told, tuple(_first(field, task) for task in material.tasks))


def _first(field: Sequence[Row], task: str) -> str:
    there = sorted((row for row in field if task in row.scores), key=lambda row: -_mean(row, task))
    if len(there) < 2:
        return f"{short(task)}: {_count(len(there), 'method')}, nothing to compare."
    first, second = there[:2]
    apart = _difference(first, second, (task,))
    told = f"{short(task)}: `{first.method}` {_mean(first, task):.1f}"
    return f"{told}, {'clear' if apart.low > 0 else 'not clear'} of `{second.method}` with {_mean(second, task):.1f}."


def _mean(row: Row, task: str) -> float:
    values = row.values(task)
    return sum(values) / len(values)


def _difference(ours: Row, theirs: Row, tasks: Sequence[str]) -> Interval:
    return mean_difference([ours.values(task) for task in tasks], [theirs.values(task) for task in tasks])


def papers_say(material: Material) -> Answer:
    """Returns who is first in papers, beside who is first here among the same methods."""
    reported = dict.fromkeys(one.task for one in material.orders)
    comparable = [one for one in material.orders if one.lead is not None]
    clear = [one for one in comparable if _clear(one)]
    same = sum(one.first == one.first_here for one in clear)
    told = f"Papers report {len(reported)} of the {len(material.tasks)} tasks"
    if not comparable:
        return Answer(f"{told}, none with two methods that have figures here.", tuple(map(_reported, material.orders)))
    told += (
        f"; of {len(comparable)} that can be compared, the same method is first here on {same}, another on "
        f"{len(clear) - same}, not clear on {len(comparable) - len(clear)}."
    )
    return Answer(told, tuple(map(_reported, material.orders)))


def _clear(one: Agreement) -> bool:
    """Says whether our first is ahead of our second by more than seeds explain."""
    return one.lead is not None and one.lead.low > 0.0


def _reported(one: Agreement) -> str:
    told = f"{short(one.task)}: {one.paper} has {one.leader} first"
    if one.lead is None:
        return f"{told}; {_count(len(one.ours), 'method')} in common."
    here = "and so have we, by" if one.first == one.first_here else f"we have `{one.first_here}`, by"
    if not _clear(one):
        here = f"here it is not clear: `{one.ranked[0]}` leads `{one.ranked[1]}` by"
    return f"{told}; of {len(one.ours)} methods in common it has `{one.first}`, {here} {figure(one.lead)}."


def order(material: Material) -> Answer:
    """Returns the rank correlation over all tasks with its interval, or what it would take."""
    found = pooled(material.orders, material.rows)
    if found is None or found.correlation is None or found.chance is None:
        most = max((len(one.ours) for one in material.orders), default=0)
        return Answer(
            f"It cannot be told: a task needs {FEWEST} methods in common with a paper, and none has more than {most}."
        )
    count = sum(one.correlation is not None for one in material.orders)
    verdict = "it agrees" if found.clear else "whether it agrees cannot be told"
    if found.correlation.high < 0:
        verdict = "it does not agree"
    return Answer(
        f"Spearman's correlation between published and our scores, mean over {_count(count, 'task')}, is "
        f"{figure(found.correlation, 2)}: {verdict}.",
        (f"Of all orders {found.chance:.0%} would do as well by chance.",),
    )


def robustness(material: Material) -> Answer:
    """Returns between what methods keep of their clean scores under the hardest conditions, and what that costs."""
    field = field_of(material.rows)
    if not any(kept(row, condition) for row in field for condition in TOLD):
        names = ", ".join(cell_name(*condition) for condition in TOLD)
        return Answer(f"It cannot be told: no method with a clean score above 10 has been under {names}.")
    lead, *others = (_range(field, condition) for condition in TOLD)
    return Answer(lead, (*others, _price(field, material.tasks)))


def _range(field: Sequence[Row], condition: tuple[str, float]) -> str:
    there = [row for row in field if kept(row, condition) is not None]
    found = sorted(_in_common(there, condition), key=lambda pair: pair[1].share.mean)
    name = cell_name(*condition)
    if not there:
        return f"Under {name} nothing is known."
    if not found:
        return f"Under {name}, {len(there)} methods have no task in common."
    (least, low), (most, high) = found[0], found[-1]
    count = len(low.tasks)
    if len(found) == 1:
        return (
            f"Under {name} `{most.method}` keeps {share(high.share)} of its clean score, over {_count(count, 'task')}."
        )
    return (
        f"Under {name}, {len(found)} methods keep, on {_count(count, 'common task')}, between {share(low.share)} "
        f"(`{least.method}`) and {share(high.share)} (`{most.method}`) of their clean scores."
    )


def _in_common(field: Sequence[Row], condition: tuple[str, float]) -> list[tuple[Row, Kept]]:
    """Returns what methods keep over the tasks that count for all of them; nothing where no task does."""
    counted = [set(found.tasks) for row in field if (found := kept(row, condition)) is not None]
    common = set[str].intersection(*counted) if counted else set[str]()
    return [(row, found) for row in field if (found := kept(row, condition, common)) is not None]


def _price(field: Sequence[Row], tasks: Sequence[str]) -> str:
    """Returns what the method that keeps most, in the mean of the table, scores less than the best clean one."""
    whole = [row for row in field if row.covers(tasks) and all(kept(row, condition) for condition in TABLE)]
    if len(whole) < 2:
        return "What keeping more costs in clean score is known once two methods have all tasks and conditions."
    shares = {row.name: 0.0 for row in whole}
    for row, found in (pair for condition in TABLE for pair in _in_common(whole, condition)):
        shares[row.name] += found.share.mean
    robust = max(whole, key=lambda row: shares[row.name])
    best = max(whole, key=lambda row: row.overall().mean)
    if robust is best:
        return f"`{best.method}`, which keeps most in the mean of the table, also has the best clean score."
    lost = _difference(best, robust, tasks)
    return f"`{robust.method}`, which keeps most in the mean of the table, scores {figure(lost)} below `{best.method}`."


def gap(material: Material) -> Answer:
    """Returns how what methods gain over the target's rows alone goes with the true gap of the dynamics."""
    fit = material.fit
    if not fit.gains:
        return Answer("It cannot be told: no method that learned from the target's rows alone has figures.")
    if fit.correlation is None:
        told = _count(len(fit.tasks), "task")
        return Answer(
            f"It cannot be told: {told} with a gap, a target-only reference and another method, {FEWEST} are needed."
        )
    verdict = "no relation can be told"
    if fit.clear:
        verdict = f"methods gain {'less' if fit.correlation.high < 0 else 'more'} where the gap is larger"
    return Answer(
        f"Spearman's correlation between a task's gap and the gain over the target-only reference is "
        f"{figure(fit.correlation, 2)}: {verdict}.",
        (
            f"It is the mean of {_count(fit.methods, 'method')} over {_count(len(fit.tasks), 'task')}.",
            f"Of all orders of the tasks {fit.chance or 0.0:.1%} would go as strongly with the gap by chance.",
        ),
    )


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
