"""`offdyn leaderboard`: add, verify, page, results."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from offdyn_envs.commands.options import Json
from offdyn_envs.errors import OffDynError

__all__ = ["app"]

app = typer.Typer(help="Leaderboard: create entries, verify them, write the page.", no_args_is_help=True)

Board = Annotated[Path, typer.Option("--leaderboard", help="Folder of submissions, verdicts, standings and page.")]

DEFAULT_BOARD = Path("leaderboard")


@app.command("add")
def add(
    name: Annotated[str, typer.Option(help="Name of the entry: a-z, 0-9, dots, dashes, underscores.")],
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Finished and evaluated run folders (runs/<task>/<agent>).")
    ] = None,
    from_entry: Annotated[
        str | None,
        typer.Option(help="Instead of runs: an entry of an earlier protocol, whose policies are evaluated anew."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Name of the method on the page; the agent's by default.")] = None,
    family: Annotated[
        str | None, typer.Option(help="Kind of the method, by which the page filters; what the runs say by default.")
    ] = None,
    author: Annotated[list[str] | None, typer.Option(help="An author; repeatable.")] = None,
    code: Annotated[str | None, typer.Option(help="https link to the code.")] = None,
    commit: Annotated[str | None, typer.Option(help="Commit of the code; the runs' own by default.")] = None,
    paper: Annotated[str | None, typer.Option(help="https link to the paper.")] = None,
    command: Annotated[str | None, typer.Option(help="The command that reproduces the training.")] = None,
    reference: Annotated[bool, typer.Option("--reference", help="Show as a reference row, without a rank.")] = False,
    critics: Annotated[
        bool, typer.Option("--critics", help="Add the runs' own critics, for the attack with an entry's own critic.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an entry of the same name.")] = False,
    leaderboard: Board = DEFAULT_BOARD,
) -> None:
    """Create an entry from finished runs: returns, policies and training cost."""
    from offdyn_envs.benchmark.entries.entries_from_runs import Details, add_entry
    from offdyn_envs.benchmark.entries.renewal import renew_entry

    details = Details(method, family, tuple(author or ()), code, commit, paper, command, reference, critics)
    if from_entry is None:
        folder = add_entry(runs or [], name, leaderboard, details=details, replace=replace)
    elif runs or details != Details():
        raise OffDynError(f"--from-entry {from_entry} keeps what the entry says; only --name and --replace go with it")
    else:
        folder = renew_entry(from_entry, name, leaderboard, replace=replace)
    board = "" if leaderboard == DEFAULT_BOARD else f" --leaderboard {shlex.quote(str(leaderboard))}"
    verify = f"offdyn leaderboard verify {shlex.quote(str(folder))}{board}"
    typer.echo(f"added {folder}; next: {verify} && offdyn leaderboard page{board}")


@app.command("verify")
def verify(
    folders: Annotated[list[Path] | None, typer.Argument(help="Entries; all submissions when left out.")] = None,
    episodes: Annotated[int | None, typer.Option(help="Episodes per policy; the protocol's 100 by default.")] = None,
    perturbed: Annotated[
        bool,
        typer.Option(
            "--perturbed/--no-perturbed",
            help="Also run the whole robustness grid and held-out dynamics; without it there is no place.",
        ),
    ] = True,
    salt: Annotated[
        str | None,
        typer.Option(help="Mixed into the seeds; drawn when left out. A verdict's own repeats its re-run."),
    ] = None,
    leaderboard: Board = DEFAULT_BOARD,
    json_output: Json = False,
) -> None:
    """Run the policies of entries again in a sandbox and write a verdict for each entry."""
    from offdyn_envs.benchmark.entries.reruns import drawn_salt
    from offdyn_envs.benchmark.entries.verification import Plan, verify_entries
    from offdyn_envs.benchmark.page.report import print_verdicts
    from offdyn_envs.benchmark.scoring.protocol import CLEAN_EPISODES

    plan = Plan(CLEAN_EPISODES if episodes is None else episodes, perturbed, drawn_salt() if salt is None else salt)
    found = verify_entries(folders or None, leaderboard, plan, lambda note: typer.echo(f"offdyn: {note}", err=True))
    print_verdicts(found.verdicts, json_output)
    _end(found.refusals)


@app.command("page")
def page(
    films: Annotated[
        bool, typer.Option("--films", help="First render a short film of each entry that has none; needs OpenGL.")
    ] = False,
    leaderboard: Board = DEFAULT_BOARD,
    json_output: Json = False,
) -> None:
    """Write standings.json, index.html and a page per entry and task."""
    from offdyn_envs.benchmark.page.films import make_films
    from offdyn_envs.benchmark.page.page import write_page
    from offdyn_envs.benchmark.page.report import print_standings

    if films:
        make_films(leaderboard, lambda line: typer.echo(line, err=json_output))
    standings, refusals = write_page(leaderboard)
    print_standings(standings, leaderboard, json_output)
    _end(refusals)


@app.command("results")
def results(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Evaluated runs that are no entries yet, or folders of them.")
    ] = None,
    track: Annotated[str, typer.Option(help="The track; `offdyn tasks` names them.")] = "core-6",
    division: Annotated[str, typer.Option(help="Division by policy updates: 100k or 1m.")] = "100k",
    plan: Annotated[
        Path | None,
        typer.Option(
            help="What `offdyn train --agents all --track TRACK --plan --json` printed: methods without figures are "
            "named with the time that they would take.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where TRACK.md and the folder TRACK go, in division 1m TRACK-1m.")] = Path(
        "docs/results"
    ),
    leaderboard: Board = DEFAULT_BOARD,
) -> None:
    """Write the results page of a track: sentences, forest plot, tables, CSV."""
    from offdyn_envs.benchmark.results.publish import write_results

    words = ["offdyn", "leaderboard", "results", *map(str, runs or [])]
    for option, value, usual in (
        ("--track", track, "core-6"),
        ("--division", division, "100k"),
        ("--plan", str(plan or ""), ""),
        ("--leaderboard", str(leaderboard), str(DEFAULT_BOARD)),
    ):
        words += [option, value] if value != usual else []
    files, refusals = write_results(
        leaderboard, runs or [], out, track=track, division=division, plan=plan, command=shlex.join(words)
    )
    for path in files:
        typer.echo(path)
    _end(refusals)


def _end(refusals: list[str]) -> None:
    """One line for each refused entry, after the others are done."""
    for line in refusals:
        typer.echo(f"offdyn: {line}", err=True)
    if refusals:
        raise typer.Exit(2)
