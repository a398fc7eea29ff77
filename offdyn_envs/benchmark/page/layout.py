"""What all pages share: the frame with its strict policy, sections, tables, badges, and the looks of entries.

The content security policy admits exactly the page's own style sheet and script, by their hashes, and pictures that lie
beside it; nothing inline besides them could run even if an escape were forgotten. Without a script the pages show the
same figures, unsorted and without tabs.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from offdyn_envs.benchmark.entries.standings import CLAIM, RERUN
from offdyn_envs.benchmark.page.charts import Look, key, looks_of
from offdyn_envs.benchmark.page.markup import Html, element, join, number

__all__ = [
    "FOLDER",
    "GENERATOR",
    "TITLE",
    "Json",
    "badge",
    "claimed",
    "command",
    "document",
    "entry_link",
    "facts",
    "grid",
    "legend",
    "looks",
    "mark",
    "score",
    "section",
    "task_link",
]

Json = dict[str, Any]
_HERE = Path(__file__).parent
FOLDER = "pages"
"""Beside index.html, the folder of the other pages and of the tables."""
TITLE, GENERATOR = "offdyn leaderboard", '<meta name="generator" content="offdyn leaderboard page">'
"""By which pages are known, near their beginning."""
BADGES = {
    "reproduced": ("ok", "score reproduced"),
    "self-reported": ("self", "self-reported"),
    "not reproduced": ("no", "not reproduced"),
    "refused": ("no", "refused"),
}
LINKS = (
    ("index.html#standings", "Standings"),
    ("index.html#how", "How to read"),
    ("index.html#tasks", "Tasks"),
    ("index.html#downloads", "Tables"),
    ("index.html#submit", "Submit"),
)


def document(standings: Json, content: Iterable[Html], *, title: str | None = None) -> str:
    """Returns a whole page.

    Args:
        standings: The figures, for versions and the day.
        content: Its sections.
        title: What it is about; None for the front page, which lies one folder above the others.
    """
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src 'self'; media-src 'self'; base-uri 'none'; form-action 'none'"
    )
    root = "" if title is None else "../"
    made = f"protocol {standings['protocol']}, verifier {standings['verifier']}, offdyn {standings['version']}"
    template = Template((_HERE / "page_template.html").read_text(encoding="utf-8"))
    return template.substitute(
        generator=GENERATOR,
        policy=policy,
        title=join([title, " \N{MIDDLE DOT} ", TITLE] if title else [TITLE]),
        style=style,
        script=script,
        root=root,
        navigation=join(element("a", label, href=root + place) for place, label in LINKS),
        content=join(content, "\n"),
        made=join([f"As of {standings['latest']}: " if standings["latest"] else "", made]),
    )


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")


def section(name: str, title: object, *children: object) -> Html:
    """Returns a section with a heading that names it."""
    return element(
        "section", element("h2", title, id=f"{name}-title"), *children, id=name, aria_labelledby=f"{name}-title"
    )


def grid(label: str, heads: Sequence[object], rows: Iterable[Sequence[object]], *, class_: str | None = None) -> Html:
    """Returns a plain table in a frame that scrolls by itself.

    Args:
        label: Its name for screen readers.
        heads: Heads of the columns.
        rows: The cells of each row; the first is its head.
        class_: Class of the table.
    """
    head = element(
        "tr", *(element("th", text, scope="col", class_=None if k else "method") for k, text in enumerate(heads))
    )
    body = (
        element("tr", element("th", first, scope="row"), *(element("td", c) for c in rest)) for first, *rest in rows
    )
    table = element("table", element("thead", head), element("tbody", *body), class_=class_)
    return element("div", table, class_="sheet", tabindex=0, role="region", aria_label=label)


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Returns a list of names and values; those without a value are left out."""
    shown = ((name, value) for name, value in pairs if value not in (None, ""))
    return element("dl", *(join([element("dt", name), element("dd", value)]) for name, value in shown), class_="plain")


def command(text: str) -> Html:
    """Returns commands to copy; long ones are broken, so nothing scrolls."""
    return element("div", element("pre", text), class_="command")


def badge(status: str) -> Html:
    """Returns the badge of an entry's state; states differ in words and border, not only in colour."""
    kind, label = BADGES.get(status, ("plain", status))
    return element("span", label, class_=f"badge {kind}")


def claimed(source: str) -> Html | None:
    """Returns the mark of a figure that is only the submitter's, and nothing for a re-run one."""
    return element("span", "claimed", class_="claimed") if source == CLAIM else None


def mark(source: str) -> Html | None:
    """Returns the same as a line under a figure."""
    found = claimed(source)
    return None if found is None else element("span", found, class_="sub")


def score(interval: Mapping[str, float], source: str = RERUN, digits: int = 1) -> Html:
    """Returns a figure with its interval below."""
    limits = f"{number(interval['low'], digits)} to {number(interval['high'], digits)}"
    shown = element("b", number(interval["mean"], digits))
    return element("span", shown, element("span", limits, class_="sub"), mark(source))


def looks(standings: Json) -> dict[str, Look]:
    """Returns the look of every entry, which follows from its name."""
    return looks_of(entry["name"] for entry in standings["entries"])


def legend(entries: Sequence[Json], sources: Sequence[str], looked: Mapping[str, Look]) -> Html:
    """Returns the legend of plots; a script makes its items buttons that bring an entry forward."""
    items = [
        element(
            "li",
            key(looked[entry["name"]]),
            element("span", entry["method"], class_="name"),
            claimed(source),
            data_entry=entry["name"],
        )
        for entry, source in zip(entries, sources, strict=True)
    ]
    return element("ul", *items, class_="legend")


def entry_link(entry: Json, *, root: bool = False) -> Html:
    """Returns a link to an entry's page, from the front page or from one beside it."""
    return element("a", entry["method"], href=f"{FOLDER + '/' if root else ''}entry-{entry['name']}.html")


def task_link(task: str, *, root: bool = False) -> Html:
    """Returns a link to a task's page, from the front page or from one beside it."""
    return element("a", task, href=f"{FOLDER + '/' if root else ''}task-{task}.html")
