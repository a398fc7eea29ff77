"""The table of agents in docs/methods/README.md, from the registry and what modules say of themselves: `make docs`."""

from __future__ import annotations

import ast
from pathlib import Path

from offdyn_agents.algorithms.registry import AGENTS
from offdyn_envs.atomic import write_text
from offdyn_envs.marks import between

__all__ = ["agents_table", "described", "main", "with_table"]

BEGIN, END = "<!-- agents: written by `make docs` -->", "<!-- agents end -->"


def agents_table() -> str:
    """Return the table in Markdown: one row a module, with the agents that it holds and the page of the first."""
    held: dict[str, list[str]] = {}
    for name, path in AGENTS.items():
        held.setdefault(path.partition(":")[0], []).append(name)
    rows = ["| agent | what it is | file |", "|---|---|---|"]
    for module, names in held.items():
        file = f"{module.replace('.', '/')}.py"
        shown = ", ".join(f"[`{name}`]({names[0]}.md)" for name in names)
        rows.append(f"| {shown} | {described(names[0])} | [{Path(file).name}](../../{file}) |")
    return "\n".join(rows)


def described(name: str) -> str:
    """Return what an agent is, as the first line of its module says; nothing of it is imported.

    Args:
        name: Name of an agent; of one that is not of this package where it comes from is told.
    """
    if name not in AGENTS:
        return "of another package or of this program"
    file = Path(__file__).parent.joinpath(*AGENTS[name].partition(":")[0].split(".")[2:]).with_suffix(".py")
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return said.partition("\n")[0].rstrip(".")


def with_table(page: str) -> str:
    """Return a page with the table between its two marks, whatever stood there.

    Raises:
        OffDynError: The page lacks a mark.
    """
    return between(page, BEGIN, END, agents_table())


def main(path: Path) -> None:
    """Bring a file's table up to date.

    Args:
        path: A Markdown file with the two marks, written atomically.
    """
    page = with_table(path.read_text(encoding="utf-8"))
    write_text(path, page)
