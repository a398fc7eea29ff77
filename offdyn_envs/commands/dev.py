"""`offdyn dev`: what maintainers of the suite need and users do not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offdyn_envs.marks import between

__all__ = ["environments_page", "task_gaps", "tracks_page", "tracks_table"]

BEGIN, END = "<!-- tracks: written by `make docs` -->", "<!-- tracks end -->"
PURPOSES = {
    "core-6": "one mild and one severe shift each way, small enough for two cores; start here",
    "core-12": "tasks with published results",
    "mobody-32": "gravity and friction, as in MOBODY",
    "odrl-48": "kinematic and morphology levels, as in ODRL",
    "droco-32": "severe sources, as in DROCO",
    "single-12": "a single domain, without a shift",
}
"""What tracks are for, in the order in which the page has them."""


def environments_page(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The page, for instance docs/environments.md.")],
) -> None:
    """Write the page of all environments from the published figures of `offdyn envs verify`."""
    from offdyn_envs.verification.page import main

    main(file)
    typer.echo(file)


def task_gaps(
    tasks: Annotated[list[str], typer.Argument(metavar="TASK...", help="Tasks whose source data are here.")],
) -> None:
    """Measure the true gaps that the leaderboard's pages of tasks tell."""
    from offdyn_envs.benchmark.entries.task_facts import GAP_ROWS, add_gap
    from offdyn_envs.datasets.gap.report import task_gap

    for task in tasks:
        summary = task_gap(task, GAP_ROWS).summary()
        add_gap(task, summary)
        typer.echo(f"{task}: {summary['mean']:.3g}")


def tracks_table() -> str:
    """Return the table of all tracks in Markdown; a track without a purpose stands at the end."""
    from offdyn_envs.tasks import TRACKS

    names = sorted(TRACKS, key=lambda name: [*PURPOSES, name].index(name))
    rows = [f"| `{name}` | {len(TRACKS[name])} | {PURPOSES.get(name, '')} |" for name in names]
    return "\n".join(["| track | tasks | purpose |", "|---|---|---|", *rows])


def tracks_page(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A Markdown file with the table's two marks.")],
) -> None:
    """Update a page's table of tracks."""
    from offdyn_envs.atomic import write_text

    page = file.read_text(encoding="utf-8")
    write_text(file, between(page, BEGIN, END, tracks_table(), f"{file}:"))
    typer.echo(file)
