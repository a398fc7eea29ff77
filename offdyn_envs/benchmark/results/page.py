"""The results page as Markdown: sentences, the forest plot, tables. A page of the site, and readable as a file."""

from collections.abc import Iterable, Sequence

from offdyn_envs.benchmark.entries.perturbed import CLAIM
from offdyn_envs.benchmark.entries.published import lost_shares, papers, published_scores
from offdyn_envs.benchmark.results.claims import HOLDS, Outcome, judge, known_claims
from offdyn_envs.benchmark.results.order import Agreement, pooled, target_only
from offdyn_envs.benchmark.results.plan import Planned
from offdyn_envs.benchmark.results.rows import RUN, Row, field_of, short
from offdyn_envs.benchmark.results.sentences import Answer, Material, figure, sentences, share
from offdyn_envs.benchmark.results.shares import TABLE, kept, score_under
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.cells import cell_name
from offdyn_envs.benchmark.scoring.statistics import Interval
from offdyn_envs.progress import duration

__all__ = ["BEGINS", "DROCO_TABLE", "page"]

BEGINS = "Made by `offdyn leaderboard results`"
"""By which pages of this command are known."""
DROCO_TABLE = ("droco", "iql", "igdf", "otdf")
"""The methods whose robustness is held beside each other; others follow where they have figures."""
MARKS = {RUN: " (run)", CLAIM: " (claimed)"}


def page(material: Material, *, command: str, latest: str, version: str) -> str:
    """Returns the page.

    Args:
        material: The figures.
        command: What makes it again.
        latest: Day of the latest entry or re-run; "" where there is none.
        version: Version of the suite.
    """
    count = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}.get(len(material.tasks), "many")
    placed = [row for row in material.rows if row.rank is not None]
    within = "" if material.name == material.track else f" in division {material.division}"
    title = f"Which method wins on the {count} tasks of {material.track}{within}?"
    lines = [
        f"# {title}",
        "",
        "Each answer below is made from the figures under it; where a figure is missing, it says which.",
        "",
        f"{BEGINS}. {_methods(len(placed))} a place, of {len({row.key for row in material.rows})} with figures. "
        f"Protocol {protocol.PROTOCOL}, division {material.division}, version {version}"
        + (f", as of {latest}" if latest else "")
        + ".",
        "",
        *(line for number, found in enumerate(sentences(material), 1) for line in _answer(number, *found)),
        f"![Scores with intervals]({material.name}/forest.png)",
        "",
        "Dots: mean over seeds; first the interquartile mean over seeds and tasks. Bars: 95% intervals, Student's t "
        "for a task, a stratified bootstrap over all. Filled: with a place. Hollow: without one. Grey: reference.",
        "",
        "## Scores",
        "",
        *_scores(material),
        "",
        "## Under perturbations",
        "",
        *_robustness(material),
        "",
        "## Claims of DROCO's paper",
        "",
        *_claims([judge(claim, material.rows) for claim in known_claims()]),
        "",
        "## Beside the papers",
        "",
        *_papers(material),
        "",
        "## The true gap",
        "",
        *_gaps(material),
        "",
        "## Precision",
        "",
        *_precision(material),
        "",
        "## What is missing",
        "",
        *_missing(material),
        "",
        "## Cite",
        "",
        *_cite(title, material.name, latest, version),
        "",
        "## Again",
        "",
        f"All figures are in [figures.csv]({material.name}/figures.csv). One command makes this page, the plot "
        "and that file, the same from the same entries:",
        "",
        "<!-- not run: it writes this page -->",
        "```",
        command,
        "```",
    ]
    return "\n".join(lines) + "\n"


def _cite(title: str, key: str, latest: str, version: str) -> list[str]:
    """Returns the BibTeX of the page; without a day it has no year."""
    fields = {
        "title": f"{{{title}}}",
        "author": "{The offdyn maintainers}",
        "year": latest[:4],
        "note": f"offdyn {version}, protocol {protocol.PROTOCOL}" + (f", as of {latest}" if latest else ""),
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return ["```bibtex", f"@misc{{offdyn-{key},", *lines, "}", "```"]


def _answer(number: int, title: str, answer: Answer) -> list[str]:
    """Returns an item of the list: the question, the sentence, what it is made of."""
    details = [f"   - {one}" for one in answer.details]
    return [f"{number}. **{title}**", "", f"   {answer.sentence}", "", *details, *([""] if details else [])]


def _methods(number: int) -> str:
    return "No method has" if not number else "1 method has" if number == 1 else f"{number} methods have"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a table; no cell may end one."""
    body = [[cell.replace("|", "\\|").replace("\n", " ") or "-" for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *body)]


def _named(row: Row) -> str:
    return _code(row.method)


def _code(name: str) -> str:
    """Returns a method's name as plain text in code, whoever chose it."""
    return f"`{name.replace('`', '')}`"


def _scores(material: Material) -> list[str]:
    ordered = sorted(material.rows, key=lambda row: (-len(row.scores), -row.overall().mean, row.name))
    entries = [row.key for row in ordered if row.source != RUN]
    rows = [
        [
            _named(row)
            + (f" ({row.name})" if row.source != RUN and entries.count(row.key) > 1 else "")
            + MARKS.get(row.source, "")
            + (" (reference)" if row.reference else "")
            + _fewer(row),
            "" if row.rank is None else str(row.rank),
            figure(row.overall()) if row.covers(material.tasks) else "",
            *("" if (score := row.score(task)) is None else figure(score) for task in material.tasks),
        ]
        for row in ordered
    ]
    heads = ["method", "place", "all tasks (IQM)", *(short(task) for task in material.tasks)]
    note = (
        "Normalised scores: 0 is random actions, 100 the expert of the target. Re-run by this suite unless a row says "
        "claimed (the submitter's figures) or run (of a run that is no entry)."
    )
    if any(row.source == RUN for row in ordered):
        note += " Runs have the settings of their time, which need not be today's."
    if any(map(_fewer, ordered)):
        note += " Behind a name: its updates, where they are fewer than the division allows."
    return [*_table(heads, rows), "", note]


def _fewer(row: Row) -> str:
    """Returns how many updates a row has had, where that is less than its division allows."""
    least, most = min(row.updates.values()), max(row.updates.values())
    if row.division is None or least >= protocol.DIVISIONS[row.division]:
        return ""
    return f" ({least:,} updates)" if least == most else f" ({least:,} to {most:,} updates)"


def _robustness(material: Material) -> list[str]:
    own = {row.key: row for row in field_of(material.rows)}
    others = [key for key in sorted(own) if key not in DROCO_TABLE and own[key].cells]
    rows = [[_code(key), *(_cell(own.get(key), condition) for condition in TABLE)] for key in (*DROCO_TABLE, *others)]
    reported = {row.method.lower() for row in lost_shares()}
    rows += [[f"{key.upper()} (paper)", *_reported(key)] for key in DROCO_TABLE if key in reported]
    note = (
        "Share of the clean score that is kept, sum over sum of the tasks with a clean score above "
        f"{protocol.DEGRADATION_FLOOR:g}, never below 0, with 95% bootstrap intervals over seeds. In brackets: the "
        "mean score. The paper's tasks and scale are others: compare the order, not the figures."
    )
    return [*_table(["method", *(cell_name(*condition) for condition in TABLE)], rows), "", note]


def _cell(row: Row | None, condition: tuple[str, float]) -> str:
    found = None if row is None else kept(row, condition)
    score = None if row is None else score_under(row, condition)
    if score is None:
        return ""
    return f"{'nothing to lose' if found is None else share(found.share)} ({score.mean:.1f})"


def _reported(key: str) -> list[str]:
    found = {(row.family, row.level): row for row in lost_shares() if row.method.lower() == key}
    words = {"": "", "about": "about ", "more than": "less than "}
    return [
        f"{words[found[condition].told]}{100 - found[condition].lost:.0f} %" if condition in found else ""
        for condition in TABLE
    ]


def _claims(outcomes: Sequence[Outcome]) -> list[str]:
    rows = [[one.claim.text, one.verdict, _evidence(one)] for one in outcomes]
    holding = sum(one.verdict == HOLDS for one in outcomes)
    told = (
        f"{holding} of {len(outcomes)} claims hold here. A claim holds where the interval of the difference is above 0."
    )
    return [told, "", *_table(["claim", "here", "difference"], rows)]


def _evidence(one: Outcome) -> str:
    if one.difference is None:
        return one.why
    shown = figure(one.difference)
    if one.claim.condition is not None:
        shown = f"{figure(Interval(*(100 * value for value in one.difference)), 0)} % of the clean score"
    return f"{shown} over {one.tasks} task{'' if one.tasks == 1 else 's'}"


def _papers(material: Material) -> list[str]:
    rows = [_agreement(one) for one in material.orders]
    together = pooled(material.orders, material.rows)
    if together is not None:
        rows.append(["all together", "", "", *_correlation(together)])
    sources = [f"- [{paper.name}]({paper.link}): {paper.table}; scale: {paper.scale}." for paper in papers()]
    heads = ["task and paper", "published (best first)", "here", "Spearman's correlation", "chance"]
    note = (
        "Published scores are on scales of their own: only orders are compared. Interval: bootstrap over our seeds. "
        "Chance: share of all orders of these methods that agree as well or better."
    )
    return [*_table(heads, rows), "", note, "", *sources]


def _agreement(one: Agreement) -> list[str]:
    (published,) = (found for found in published_scores(one.task) if found.paper.name == one.paper)
    ordered = sorted(published.figures.items(), key=lambda pair: (-pair[1], pair[0]))
    told = ", ".join(f"{name} {value:g}" for name, value in ordered)
    here = ", ".join(f"{name} {value:.1f}" for name, value in sorted(one.ours.items(), key=lambda pair: -pair[1]))
    return [f"{short(one.task)}, {one.paper}", told, here, *_correlation(one)]


def _correlation(one: Agreement) -> list[str]:
    if one.correlation is None or one.chance is None:
        return [f"needs 4 methods in common, has {len(one.ours)}", ""]
    return [figure(one.correlation, 2), f"{one.chance:.0%}"]


def _gaps(material: Material) -> list[str]:
    reference = target_only(material.rows)
    fit = material.fit
    methods = sorted(fit.gains)
    rows: list[list[str]] = []
    for task in sorted(material.gaps, key=lambda name: material.gaps[name]):
        alone = "" if reference is None or (score := reference.score(task)) is None else figure(score)
        place = fit.tasks.index(task) if task in fit.tasks else None
        gains = ["" if place is None else _signed(fit.gains[name][place]) for name in methods]
        rows.append([short(task), f"{material.gaps[task]:.3g}", alone, *gains])
    named = {row.name: row for row in material.rows}
    alone = "target rows alone" if reference is None else f"target rows alone: {_named(reference)}"
    note = (
        "Gap: mean distance of the next state in source and target from the same state and action, in standard "
        "deviations (`offdyn diagnose gap`). Methods: score minus that of the target's rows alone."
    )
    return [*_table(["Task", "gap", alone, *(_named(named[name]) for name in methods)], rows), "", note]


def _signed(value: float) -> str:
    return "" if value != value else f"{value:+.1f}"


def _precision(material: Material) -> list[str]:
    rule = (
        "bf16 should be held against fp32 on one task of the method "
        "([the protocol](../protocol.md)). `offdyn train AGENT TASK --variant fp32` trains the other side."
    )
    if not material.held:
        return [rule, "", "No figures here say that they are in bf16."]
    rows = [
        [
            _code(one.method),
            "not held against fp32 yet" if one.final is None else figure(one.final),
            "" if one.curve is None else figure(one.curve),
            ", ".join(map(short, one.tasks)),
        ]
        for one in material.held
    ]
    note = (
        "Score in bf16 minus score in fp32, with 95% intervals over seeds: of final policies, and of the mean over all "
        "evaluations during training. Methods that are not named have no figures that say so."
    )
    return [rule, "", *_table(["method", "final policies", "whole curve", "tasks"], rows), "", note]


def _missing(material: Material) -> list[str]:
    known = {row.key for row in material.rows}
    rows = [
        [f"{_named(row)} ({row.name})", "; ".join(row.lacks), *_left(row.left, row.seconds)]
        for row in material.rows
        if row.lacks and not row.reference
    ]
    planned = [one for one in material.plan if one.method.lower() not in known]
    rows += [[_code(one.method), "no figures yet", *_planned(one)] for one in planned]
    note = "Seed-updates: of seeds and tasks that are not there. Time: as fast as the method was trained so far"
    note += "; without figures, as `offdyn train --plan` estimates." if planned else "."
    asked = [*DROCO_TABLE, *(name for one in material.orders for name in (*one.published, *one.unknown))]
    absent = sorted({name.lower() for name in asked} - known - {one.method.lower() for one in planned})
    lines = [*_table(["method", "lacks", "seed-updates left", "time left"], rows), "", note] if rows else []
    lines += ["", f"No figures at all of {', '.join(absent)}, which papers have on these tasks."] if absent else []
    return lines or ["Nothing: every method has all tasks and seeds."]


def _left(updates: int, seconds: float | None) -> list[str]:
    """Returns the cells of the seed-updates that are left and of the time that they take, given that of one."""
    return [f"{updates:,}" if updates else "", duration(seconds * updates) if updates and seconds is not None else ""]


def _planned(one: Planned) -> list[str]:
    return [f"{one.left:,}", "not measured yet" if one.seconds is None else duration(one.seconds)]
