"""`offdyn evaluate`, `offdyn runs`, `offdyn compare` and `offdyn agents`: what is done with runs and told of agents."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offdyn_agents.algorithms import registry
from offdyn_agents.runs.console import QuietOption, ThreadsOption, quiet_waiting
from offdyn_envs.commands.options import Json
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_agents.runs.evaluation import EvaluationPlan

__all__ = ["agents", "compare", "evaluate", "runs"]


def agents(json_output: Json = False) -> None:
    """List all agents, including those of other packages, with a short description."""
    from offdyn_agents.algorithms.table import described
    from offdyn_envs.report import print_table

    rows = [{"agent": name, "what it is": described(name)} for name in registry.names()]
    print_table("Agents", rows, json_output)
    if not json_output:
        print("settings of one: offdyn train AGENT --settings")


def runs(
    folder: Annotated[Path, typer.Argument(help="Where to look; runs by default.")] = Path("runs"),
    json_output: Json = False,
) -> None:
    """List the runs in a folder, with their progress and score."""
    from offdyn_envs.report import print_table

    rows = [_run_row(found, folder) for found in run_folders([folder])]
    if json_output:
        print_table("Runs", rows, True)
        return
    shown = ("run", "status", "seeds", "updates", "score", "evaluated")
    print_table(
        f"{len(rows)} run{'s' if len(rows) != 1 else ''} in {folder}",
        [{key: row[key] if key != "evaluated" else ("yes" if row[key] else "no") for key in shown} for row in rows],
        False,
    )


def run_folders(places: Sequence[Path]) -> list[Path]:
    """Return the run folders among and below some folders, each once.

    Raises:
        OffDynError: One of them does not exist, or holds no run.
    """
    from offdyn_agents.runs.plans import read_run

    found: dict[Path, None] = {}
    for place in places:
        below = sorted(path.parent for path in place.rglob("run.json")) if place.is_dir() else []
        if not below:
            read_run(place)  # It says what is missing.
        found.update(dict.fromkeys(below))
    return list(found)


def _run_row(run: Path, folder: Path) -> dict[str, Any]:
    """Return the row of one run; of a damaged one what is wrong."""
    from offdyn_agents.runs.plans import read_run

    name = str(run.relative_to(folder))
    row: dict[str, Any] = {
        "run": name,
        "status": "damaged",
        "seeds": 0,
        "updates": 0,
        "score": None,
        "evaluated": False,
    }
    try:
        facts = read_run(run)
    except OffDynError as error:
        return {**row, "where": str(run), "problem": str(error)}
    evaluated, score = _score(run, facts)
    row |= {"status": facts["status"], "seeds": len(facts["seeds"]), "updates": facts["updates"]}
    return {**row, "score": score, "evaluated": evaluated, "where": str(run), "problem": ""}


def _score(run: Path, facts: Mapping[str, Any]) -> tuple[bool, float | None]:
    """Return whether a run is evaluated, and its score: of that, else of the last evaluations during training."""
    from offdyn_agents.runs.evaluation import read_evaluation, summarise

    try:
        clean = summarise(read_evaluation(run))[0]["score"]
        return True, float(clean) if isinstance(clean, float) else None
    except (OffDynError, ValueError, KeyError):
        late = facts.get("late") or {}
        return False, round(late["score"], 1) if "score" in late else None


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one task; each is compared with the first.")],
    episodes: Annotated[int, typer.Option(min=1, help="Clean episodes per policy; stored results are reused.")] = 100,
    json_output: Json = False,
) -> None:
    """Compare runs of one task: scores, and differences to the first run, with 95% intervals over seeds."""
    quiet_waiting()
    from offdyn_agents.runs.plans import read_run

    if len(runs) < 2:
        raise OffDynError(f"compare takes two runs or more, not {len(runs)}; `offdyn runs` lists them")
    tasks = {str(read_run(folder)["task"]) for folder in runs}
    if len(tasks) > 1:
        raise OffDynError(f"runs of {', '.join(sorted(tasks))} cannot be compared; runs of one task are needed")
    from offdyn_agents.api.comparing import compare as compare_all
    from offdyn_envs.report import print_table

    rows = compare_all(*runs, episodes=episodes)
    if json_output:
        print_table("Comparison", rows, True)
    else:
        print_table(f"{tasks.pop()}, 95% intervals over seeds", [_compared(row) for row in rows], False)


def _compared(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a comparison for people: figures with one decimal, intervals in brackets."""
    what = "score" if "score" in row else "return"

    def interval(low: str, high: str) -> str:
        return f"[{row[low]:.1f}, {row[high]:.1f}]" if row.get(low) is not None else "-"

    difference = row.get("difference")
    return {
        "run": row["run"],
        "seeds": row["seeds"],
        what: f"{row[what]:.1f}",
        "95% interval": interval("low", "high"),
        "difference": "-" if difference is None else f"{difference:+.1f}",
        "its interval": interval("difference_low", "difference_high"),
    }


def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, runs/<task>/<agent>, or folders of runs.")],
    episodes: Annotated[int | None, typer.Option(min=1, help="Clean episodes per seed; 100 by default.")] = None,
    cell_episodes: Annotated[int | None, typer.Option(min=1, help="Episodes per cell; 20 by default.")] = None,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Evaluate without a simulator: fitted Q evaluation on the target data, and the error of the agent's "
            "dynamics on held-out episodes. Results go to offline.json. --episodes N adds true discounted returns.",
        ),
    ] = False,
    own_critics: Annotated[bool, typer.Option("--own-critics", help="Also attack with the runs' own critics.")] = False,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
    json_output: Json = False,
) -> None:
    """Evaluate finished runs: on the task itself, under further shifts, and under the min-Q attack.

    Results that are there, of the same policies, are shown again, but with --offline. Delete evaluation.json to make
    them anew. Runs that are not finished are named at the end.
    """
    quiet_waiting()
    # A folder that is no run is told before torch is imported, and before another is evaluated.
    runs = run_folders(runs) if any(not (folder / "run.json").is_file() for folder in runs) else runs
    if offline:
        _each(runs, _offline(episodes or 0, threads, quiet, json_output), json_output)
        return
    from offdyn_agents.runs.evaluation import EvaluationPlan
    from offdyn_envs.batching.threads import usable_threads
    from offdyn_envs.benchmark.scoring import protocol

    plan = EvaluationPlan(
        episodes or protocol.CLEAN_EPISODES,
        cell_episodes or protocol.CELL_EPISODES,
        threads or usable_threads(),
        quiet,
        own_critics,
    )
    _each(runs, _online(plan, json_output), json_output)


def _each(runs: Sequence[Path], evaluated: Callable[[Path], dict[str, Any]], json_output: bool) -> None:
    """Evaluate run after run; those that are refused are told at the end, a line each, with exit status 2.

    As with training, one run is one object in JSON, several are one list.
    """
    found: list[dict[str, Any]] = []
    refused: list[OffDynError] = []
    for folder in runs:
        try:
            found.append(evaluated(folder))
        except OffDynError as error:  # noqa: PERF203 - minutes lie between two of them
            refused.append(error)
    if json_output and found:
        print(json.dumps(found if len(runs) > 1 else found[0], indent=2, allow_nan=False))
    for error in refused:
        typer.echo(f"offdyn: {error}", err=True)
    if refused:
        raise typer.Exit(2)


def _online(plan: EvaluationPlan, json_output: bool) -> Callable[[Path], dict[str, Any]]:
    from offdyn_agents.runs.evaluation import evaluate_run, has_critics, left_out, summarise
    from offdyn_agents.runs.plans import read_run, run_label, run_title
    from offdyn_envs.report import print_table

    def evaluated(folder: Path) -> dict[str, Any]:
        facts, result = read_run(folder), evaluate_run(folder, plan)
        rows, lacking = summarise(result), left_out(result)
        if not json_output:
            print_table(f"{result['task']} {run_title(facts)}", rows, False)
            if plan.own_critics and not has_critics(folder):
                print(f"{result['agent']} has no critic of its own to attack with")
            for line in lacking:
                print(line)
        told = {"folder": str(folder), "task": result["task"], "agent": run_label(facts)}
        return told | {"rows": rows, "left_out": lacking}

    return evaluated


def _offline(episodes: int, threads: int | None, quiet: bool, json_output: bool) -> Callable[[Path], dict[str, Any]]:
    from offdyn_agents.runs.offline import OfflinePlan, evaluate_offline, summarise_offline
    from offdyn_agents.runs.plans import read_run, run_title
    from offdyn_envs.batching.threads import usable_threads
    from offdyn_envs.report import print_table

    plan = OfflinePlan(episodes=episodes, threads=threads or usable_threads(), quiet=quiet)

    def evaluated(folder: Path) -> dict[str, Any]:
        result = evaluate_offline(folder, plan)
        if not json_output:
            print_table(f"{result['task']} {run_title(read_run(folder))}", summarise_offline(result), False)
        return {"folder": str(folder), **result}

    return evaluated
