"""The results page as Markdown: sentences, the forest plot, tables. A page of the site, and readable as a file."""

from collections import Counter
from collections.abc import Iterable, Sequence

from offdyn_envs.benchmark.entries.perturbed import CLAIM
from offdyn_envs.benchmark.entries.published import lost_shares, papers, published_scores
from offdyn_envs.benchmark.results.claims import FAILS, HOLDS, UNKNOWN, Outcome, judge, known_claims
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
PRECISION_NOTE = (
    "Score in bf16 minus score in fp32, with 95% intervals over seeds: of final policies, and of the mean over all "
    "evaluations during training. Methods that are not named have no figures in bf16. Where two runs cannot be "
    "compared, train the one in bf16 anew, too."
)
PUBLISHED_PAIR = (
    "TD3-BC's published form has [a run in fp32 on Ant](ant-gravity-5.0-medium/td3-bc@paper-fp32/metrics.csv): "
    "[rounding is not why it runs away](runaway-values.md#td3-bc-runs-away-upwards)."
)
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
        "for a task, a stratified bootstrap over all. Filled: with a place. Hollow: without one. Grey: reference. "
        "Below a name: how many tasks it has where not all, and whether its protocol is retired.",
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
            + (f" ({row.retired})" if row.retired else "")
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
    rows = [
        [
            _code(key) + (MARKS.get(own[key].source, "") if key in own else ""),
            _counted(own[key]) if key in own else "",
            *(_cell(own.get(key), condition) for condition in TABLE),
        ]
        for key in (*DROCO_TABLE, *others)
    ]
    reported = {row.method.lower() for row in lost_shares()}
    rows += [[f"{key.upper()} (paper)", "", *_reported(key)] for key in DROCO_TABLE if key in reported]
    note = (
        "Share of the clean score that is kept, sum over sum of the tasks with a clean score above "
        f"{protocol.DEGRADATION_FLOOR:g}, never below 0, with 95% bootstrap intervals over seeds. In brackets: the "
        "mean score, tasks with a lower clean score included. Tasks: how many the shares are over; rows of other "
        "tasks are not to be compared. The paper's tasks and scale are others: compare the order, not the figures."
    )
    return [*_table(["method", "tasks", *(cell_name(*condition) for condition in TABLE)], rows), "", note]


def _counted(row: Row) -> str:
    """Returns over how many tasks a row's shares are, by family where that differs."""
    found = {condition: len(share.tasks) for condition in TABLE if (share := kept(row, condition)) is not None}
    families: dict[int, dict[str, None]] = {}
    for (family, _), count in found.items():
        families.setdefault(count, {})[family] = None
    if len(families) == 1:
        return str(*families)
    return ", ".join(f"{count} ({', '.join(names)})" for count, names in families.items())


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
    count = Counter(one.verdict for one in outcomes)
    told = (
        f"Of {len(outcomes)} claims {count[HOLDS]} hold here, {count[FAILS]} do not hold, and {count[UNKNOWN]} cannot "
        "be told. A claim holds where the interval of the difference is above 0, and does not where it is below."
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
    both = f"--updates {material.division} --eval-every 5k"
    lines = [
        "A place in bf16 needs bf16 to be held against fp32 on one task of the method "
        "([the protocol](../protocol.md)). This trains and evaluates the other side of `runs/TASK/AGENT`:",
        "",
        "<!-- not run: it trains for hours -->",
        "```",
        f"offdyn train AGENT TASK --seeds {protocol.RANKED_SEEDS} {both} --precision fp32 --variant fp32",
        "offdyn evaluate runs/TASK/AGENT@fp32",
        "```",
        "",
    ]
    rows = _compared(material)
    if rows:
        lines += [*_table(["method", "task", "updates", "final policies", "whole curve"], rows), "", PRECISION_NOTE]
    else:
        lines += ["No figures here say that they are in bf16."]
    return [*lines, "", PUBLISHED_PAIR]


def _compared(material: Material) -> list[list[str]]:
    """Returns the pairs of runs in bf16 and fp32, then those that cannot be compared, then methods without a pair."""
    held = [one for one in material.held if one.task in material.tasks]
    rows = [
        [_code(one.method), short(one.task), f"{one.updates:,}", figure(one.final), figure(one.curve)] for one in held
    ]
    rows += [[_code(one.method), short(one.task), "", f"cannot be compared: {one.why}", ""] for one in material.unlike]
    known = {one.method for one in (*held, *material.unlike)}
    asked = {row.key.partition("@")[0] for row in material.rows if row.bf16 and not row.reference}
    rows += [[_code(method), "", "", "not held against fp32 yet", ""] for method in sorted(asked - known)]
    return rows


def _missing(material: Material) -> list[str]:
    known = {row.key for row in material.rows}
    planned = [one for one in material.plan if one.method.lower() not in known]
    left = [*_unplaced(material.rows), *((one, "no figures yet") for one in planned)]
    rows = [
        [_code(one.method), why, f"{one.left:,}" if one.left else "", _time(one) if one.left else ""]
        for one, why in left
    ]
    rows += [_total([one for one, _ in left])] if len(left) > 1 else []
    note = (
        "Seed-updates: of seeds and tasks that are not there. Runs without policies cannot become an entry and do not "
        "count. Time: as fast as the method was trained so far"
    )
    note += "; without figures, as `offdyn train --plan` estimates." if planned else "."
    asked = [*DROCO_TABLE, *(name for one in material.orders for name in (*one.published, *one.unknown))]
    absent = sorted({name.lower() for name in asked} - known - {one.method.lower() for one in planned})
    lines = [*_table(["method", "lacks", "seed-updates left", "time left"], rows), "", note] if rows else []
    lines += ["", f"No figures at all of {', '.join(absent)}, which papers have on these tasks."] if absent else []
    return lines or ["Nothing: every method has all tasks and seeds."]


def _unplaced(rows: Sequence[Row]) -> list[tuple[Planned, str]]:
    """Returns what each method without a place lacks, by that of its rows which is nearest to one; a line a method."""
    found: list[tuple[Planned, str]] = []
    for key in dict.fromkeys(row.key for row in rows if not row.reference):
        own = [row for row in rows if row.key == key and not row.reference]
        nearest = min(own, key=_distance)
        # The row with most tasks knows best how long one takes, and that of today's protocol how long today.
        measured = (row for row in own if row.seconds is not None)
        timed = max(measured, key=lambda row: (len(row.scores), row.retired is None), default=nearest)
        if nearest.lacks:
            seconds = None if timed.seconds is None else timed.seconds * nearest.left
            found.append((Planned(key, nearest.left, seconds), "; ".join(nearest.lacks)))
    return found


def _distance(row: Row) -> tuple[bool, bool, float, str]:
    """Returns what orders rows of a method: a place, today's protocol, then how many seeds are missing."""
    return row.rank is None, row.retired is not None, row.left / max(row.updates.values()), row.name


def _total(left: Sequence[Planned]) -> list[str]:
    seconds = sum(one.seconds or 0.0 for one in left)
    unknown = sum(one.left > 0 and one.seconds is None for one in left)
    told = f"{duration(seconds)}, one after the other" + (f"; {unknown} not measured" if unknown else "")
    return ["all", "", f"{sum(one.left for one in left):,}", told]


def _time(one: Planned) -> str:
    return "not measured yet" if one.seconds is None else duration(one.seconds)
