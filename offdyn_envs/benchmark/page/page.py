"""Writes the leaderboard's pages: static files, nothing requested from outside, every text escaped.

`index.html` and `standings.json` lie in the leaderboard's folder; beside them, in `pages/`, a page for each entry and
each task, and every table as CSV. The same submissions give the same bytes.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offdyn_envs.atomic import json_text, refuse_foreign, write_together
from offdyn_envs.benchmark.entries.comparisons import compare
from offdyn_envs.benchmark.entries.history import load_history
from offdyn_envs.benchmark.entries.precision import load_held
from offdyn_envs.benchmark.entries.standings import Json, compute_standings, load_board
from offdyn_envs.benchmark.page.entry_page import entry_page
from offdyn_envs.benchmark.page.films import Picture, find_pictures
from offdyn_envs.benchmark.page.front import front
from offdyn_envs.benchmark.page.layout import FOLDER, GENERATOR, TITLE, document, looks
from offdyn_envs.benchmark.page.shown import retired
from offdyn_envs.benchmark.page.tables import HEADS, raw_returns, table_files
from offdyn_envs.benchmark.page.task_page import task_page
from offdyn_envs.errors import OffDynError

__all__ = ["render", "write_page"]

FIRST = [b"{", b'"entries":']
"""By which standings are known, near their beginning."""


def write_page(board: Path, *, table: Mapping[str, Any] | None = None) -> tuple[Json, list[str]]:
    """Writes `standings.json`, `index.html` and `pages/`, all or none, and removes pages of what is no longer there.

    Args:
        board: The leaderboard's folder.
        table: Contents of a references.json to use instead of the package's.

    Returns:
        The standings, and one line for each refused entry or verdict.

    Raises:
        OffDynError: The folder does not exist, holds files of these names that are somebody else's, or its history of
            places or list of methods in bf16 is damaged.
    """
    if not board.is_dir():
        raise OffDynError(f"leaderboard '{board}' does not exist; make one with: offdyn leaderboard add")
    judged, refusals = load_board(board)
    standings = compute_standings(judged, table=table, past=load_history(board), held=load_held(board))
    # The first file gets its name last: index.html, when all that it links to is there.
    texts = render(standings, find_pictures(board)) | {"standings.json": json_text(standings)}
    texts |= {f"{FOLDER}/returns-{one.entry.name}.csv": raw_returns(one) for one in judged}
    for name in texts:
        _refuse_foreign(board / name)
    write_together({board / name: text for name, text in texts.items()})
    for stale in (board / FOLDER).glob("*"):
        if f"{FOLDER}/{stale.name}" not in texts and stale.is_file() and _known(stale.read_bytes()[:4096]):
            stale.unlink()
    return standings, refusals


def _refuse_foreign(path: Path) -> None:
    if path.suffix == ".json":
        refuse_foreign(path, lambda begins: begins.split()[:2] == FIRST, "a file of this command")
    else:
        refuse_foreign(path, _known, "a page of this command")


def _known(begins: bytes) -> bool:
    """Says whether a file begins as a page or a table of this command, also one of an earlier version."""
    page = GENERATOR.encode() in begins or f"<title>{TITLE}</title>".encode() in begins
    return page or begins.startswith(HEADS)


def render(standings: Json, pictures: Mapping[str, Picture] | None = None) -> dict[str, str]:
    """Returns all pages and tables by their places in the leaderboard's folder; the same standings give the same bytes.

    Args:
        standings: The figures.
        pictures: Pictures and films by name, without the ending.
    """
    looked, comparisons, drawn = looks(standings), compare(standings), pictures or {}
    tables = table_files(standings, comparisons)
    standings = _told_apart(standings)
    files = {"index.html": document(standings, front(standings))}
    for entry in standings["entries"]:
        against = [one for one in comparisons if one.ours == entry["name"]]
        content = entry_page(entry, standings, looked, against, drawn)
        files[f"{FOLDER}/entry-{entry['name']}.html"] = document(standings, content, title=entry["method"])
    for name in standings["tasks"]:
        content = task_page(name, standings, looked, drawn)
        files[f"{FOLDER}/task-{name}.html"] = document(standings, content, title=name)
    return files | {f"{FOLDER}/{name}": text for name, text in tables.items()}


def _told_apart(standings: Json) -> Json:
    """Returns standings in which retired entries say so, and entries of one method have their own names behind it."""
    methods = [entry["method"] + (" (retired)" if retired(entry) else "") for entry in standings["entries"]]
    counts = Counter(method.casefold() for method in methods)
    entries = [
        entry | {"method": f"{method} ({entry['name']})" if counts[method.casefold()] > 1 else method}
        for entry, method in zip(standings["entries"], methods, strict=True)
    ]
    return standings | {"entries": entries}
