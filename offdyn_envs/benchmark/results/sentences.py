"""The five sentences of the results page, each made from its figures; one whose figures are missing says which."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from offdyn_envs.benchmark.results.order import FEWEST, Agreement, GapFit, pooled
from offdyn_envs.benchmark.results.rows import Row, field_of, short
from offdyn_envs.benchmark.results.shares import TABLE, Kept, kept
from offdyn_envs.benchmark.scoring.cells import cell_name
from offdyn_envs.benchmark.scoring.statistics import Interval, mean_difference

__all__ = ["Material", "figure", "sentences", "share"]

TOLD = (("kinematic", 3.0), ("morphology", 3.0), ("min-q", 0.2))
"""The hardest condition of each part of the table."""


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
    """

    track: str
    tasks: tuple[str, ...]
    rows: Sequence[Row]
    orders: Sequence[Agreement]
    gaps: dict[str, float]
    fit: GapFit


def figure(interval: Interval, digits: int = 1) -> str:
    """Returns a figure with its interval, for instance "39.2 [37.4, 40.9]"."""
    mean, low, high = (f"{round(value, digits) + 0.0:.{digits}f}" for value in interval)
    return f"{mean} [{low}, {high}]"


def share(interval: Interval) -> str:
    """Returns a share that is kept with its interval in percent; more than all of it is called a gain."""
    mean, low, high = (round(100 * value) for value in interval)
    if mean <= 0:
        return f"nothing [{low}, {high}]"
    return f"{mean} % [{low}, {high}]{', a gain' if mean > 100 else ''}"


def sentences(material: Material) -> list[tuple[str, str]]:
    """Returns a question and the sentence that answers it, for each of the five."""
    made: Sequence[tuple[str, Callable[[Material], str]]] = (
        ("Which method wins where", winners),
        ("What the papers say", papers_say),
        ("Whether the order agrees", order),
        ("What robustness costs", robustness),
        ("Score and the true gap", gap),
    )
    return [(title, make(material)) for title, make in made]


def winners(material: Material) -> str:
    """Returns who is first over all tasks and on each, and whether that is clear."""
    field = field_of(material.rows)
    if len(field) < 2:
        return f"cannot be told: {_count(len(field), 'method')} with figures, 2 or more are needed."
    whole = [row for row in field if row.covers(material.tasks)]
    if len(whole) >= 2:
        first, second = sorted(whole, key=lambda row: -row.overall().mean)[:2]
        apart = _difference(first, second, material.tasks)
        clear = "clearly" if apart.low > 0 else "not clearly"
        told = (
            f"over all {len(material.tasks)} tasks `{first.method}` has the highest interquartile mean, "
            f"{figure(first.overall())}, {clear} above `{second.method}` (mean difference {figure(apart)})"
        )
    else:
        some = "none" if not whole else "only one"
        told = f"over all {len(material.tasks)} tasks nothing can be told, as {some} of them covers these"
    by_task = [text for task in material.tasks if (text := _first(field, task))]
    named = "methods with a place" if field[0].rank is not None else "methods with figures, none of which has a place"
    return f"of {len(field)} {named}, {told}; " + "; ".join(by_task) + "."


def _first(field: Sequence[Row], task: str) -> str:
    there = sorted((row for row in field if task in row.scores), key=lambda row: -_mean(row, task))
    if len(there) < 2:
        return f"{short(task)}: {_count(len(there), 'method')}, nothing to compare"
    first, second = there[:2]
    apart = _difference(first, second, (task,))
    told = f"{short(task)}: `{first.method}` {_mean(first, task):.1f}"
    return f"{told}, clear of `{second.method}`" if apart.low > 0 else f"{told}, not clear of `{second.method}`"


def _mean(row: Row, task: str) -> float:
    values = row.values(task)
    return sum(values) / len(values)


def _difference(ours: Row, theirs: Row, tasks: Sequence[str]) -> Interval:
    return mean_difference([ours.values(task) for task in tasks], [theirs.values(task) for task in tasks])


def papers_say(material: Material) -> str:
    """Returns who is first in papers, beside who is first here among the same methods."""
    reported = {one.task for one in material.orders}
    silent = [short(task) for task in material.tasks if task not in reported]
    if not reported:
        return "no paper reports any of the tasks."
    told = "; ".join(_reported(one) for one in material.orders)
    return told + (f"; no paper reports {' or '.join(silent)}." if silent else ".")


def _reported(one: Agreement) -> str:
    told = f"on {short(one.task)} {one.paper} has {one.leader} first"
    if len(one.ours) < 2:
        return f"{told}, and here {_count(len(one.ours), 'method')} of its table has figures"
    best = max(one.ours, key=lambda name: one.ours[name])
    top = next(iter(one.published))
    among = f"{told}; of the {len(one.ours)} methods in common it has `{top}` first"
    return f"{among}, and so have we" if best == top else f"{among}, we have `{best}`"


def order(material: Material) -> str:
    """Returns the rank correlation over all tasks with its interval, or what it would take."""
    found = pooled(material.orders, material.rows)
    short_of = [one for one in material.orders if one.correlation is None]
    if found is None or found.correlation is None:
        most = max((len(one.ours) for one in material.orders), default=0)
        return f"cannot be told: a task needs {FEWEST} methods in common with a paper, and none has more than {most}."
    count = len(material.orders) - len(short_of)
    verdict = "it agrees" if found.clear else "so it cannot be told whether it agrees"
    if found.correlation.high < 0:
        verdict = "it does not agree"
    return (
        f"Spearman's correlation between published and our scores, mean over {_count(count, 'task')} with {FEWEST} or "
        f"more methods in common, is {figure(found.correlation, 2)} over our seeds, and {found.chance:.0%} of all "
        f"orders would do as well by chance: {verdict}."
    )


def robustness(material: Material) -> str:
    """Returns between what methods keep of their clean scores under the hardest conditions, and what that costs."""
    field = field_of(material.rows)
    told = [_range(field, condition) for condition in TOLD]
    if not any(_kept(field, condition) for condition in TOLD):
        names = ", ".join(cell_name(*condition) for condition in TOLD)
        return f"cannot be told: no method has figures of today's grid ({names}) and a clean score above 10."
    return "of the clean score " + "; ".join(told) + _price(field, material.tasks) + "."


def _range(field: Sequence[Row], condition: tuple[str, float]) -> str:
    found = sorted(_kept(field, condition), key=lambda pair: pair[1].share.mean)
    name = cell_name(*condition)
    if not found:
        return f"under {name} nothing is known"
    (least, low), (most, high) = found[0], found[-1]
    if len(found) == 1:
        return f"under {name} `{most.method}` keeps {share(high.share)}"
    return (
        f"under {name} between {share(low.share)} (`{least.method}`) and {share(high.share)} (`{most.method}`) is kept"
    )


def _kept(field: Sequence[Row], condition: tuple[str, float]) -> list[tuple[Row, Kept]]:
    return [(row, found) for row in field if (found := kept(row, condition)) is not None]


def _price(field: Sequence[Row], tasks: Sequence[str]) -> str:
    """Returns what the method that keeps most, in the mean of the table, scores less than the best clean one."""
    whole = [row for row in field if row.covers(tasks) and all(kept(row, condition) for condition in TABLE)]
    if len(whole) < 2:
        return "; what keeping more costs in clean score takes two methods with all tasks and cells"
    sums = {row.name: sum(kept_share(row, condition) for condition in TABLE) for row in whole}
    robust = max(whole, key=lambda row: sums[row.name])
    best = max(whole, key=lambda row: row.overall().mean)
    if robust is best:
        return f"; `{best.method}`, which keeps most over the table, also has the best clean score"
    lost = _difference(best, robust, tasks)
    return (
        f"; `{robust.method}`, which keeps most over the table, scores {figure(lost)} less clean than `{best.method}`"
    )


def kept_share(row: Row, condition: tuple[str, float]) -> float:
    """Returns the share that is kept; 0 where there is none to speak of."""
    found = kept(row, condition)
    return 0.0 if found is None else found.share.mean


def gap(material: Material) -> str:
    """Returns how what methods gain over the target's rows alone goes with the true gap of the dynamics."""
    fit = material.fit
    if not fit.gains:
        return "cannot be told: no method that learned from the target's rows alone (`--set data=target`) is there."
    if fit.correlation is None:
        told = _count(len(fit.tasks), "task")
        return f"cannot be told: {told} with a gap, a target-only reference and another method, {FEWEST} are needed."
    low, high = fit.correlation.low, fit.correlation.high
    verdict = "methods gain less where the gap is larger" if high < 0 else "methods gain more where the gap is larger"
    verdict = verdict if low > 0 or high < 0 else "no relation can be told"
    return (
        f"Spearman's correlation between the exact gap of a task and what a method scores above the target-only "
        f"reference is {figure(fit.correlation, 2)}, mean of {_count(fit.methods, 'method')} over "
        f"{_count(len(fit.tasks), 'task')}: {verdict}."
    )


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
