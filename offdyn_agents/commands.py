"""`offdyn train`, `offdyn evaluate` and the agents' other commands; torch is imported only once a command runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from offdyn_agents.algorithms import registry
from offdyn_agents.engine.settings import parse_overrides
from offdyn_agents.runs.console import (
    DEFAULT_EVERY,
    DEFAULT_SEEDS,
    DEFAULT_UPDATES,
    EveryOption,
    ScheduleOption,
    SeedsOption,
    UpdatesOption,
    own_pair,
    quiet_waiting,
    task_names,
)
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_agents.runs.plans import Plan
    from offdyn_agents.runs.track import Trained

__all__ = ["register"]

# Typer reads brackets as markup, and another package may call its agent anything.
_AGENTS = ", ".join(registry.names()).replace("[", "\\[")
_Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the agents' commands to `offdyn`."""
    from offdyn_agents.ablations.report import ablate
    from offdyn_agents.behaviour.commands import app as behaviour
    from offdyn_agents.judging.report import judge_command
    from offdyn_agents.judging.rows_report import rows_command
    from offdyn_agents.runs.curves import curves_command

    app.command("train")(train)
    app.command("evaluate")(evaluate)
    app.command("curves")(curves_command)
    app.command("ablate")(ablate)
    app.command("judge")(judge_command)
    diagnose = typer.Typer(help="What is learned or said before a policy, beside the truth.", no_args_is_help=True)
    diagnose.command("rows")(rows_command)
    app.add_typer(diagnose, name="diagnose")
    app.add_typer(behaviour, name="behaviour")


def train(
    agent: Annotated[str | None, typer.Argument(help=f"One of {_AGENTS}.")] = None,
    tasks: Annotated[list[str] | None, typer.Argument(help="Tasks; `offdyn tasks` lists them.")] = None,
    agents: Annotated[
        str | None,
        typer.Option(
            metavar="all|A,B,...",
            help="Several agents, one after the other, those whose figures are asked for most first; says what is left "
            "and how long it takes.",
        ),
    ] = None,
    track: Annotated[str | None, typer.Option(help="All tasks of a track instead.")] = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Own source data instead of a task: imported/NAME, or a file; agents of target rows alone need none.",
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="DATA", help="Own target data, likewise.")] = None,
    env: Annotated[
        str | None,
        typer.Option(metavar="ID", help="What scores policies of own data: a Gymnasium id, or module:Class."),
    ] = None,
    termination: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="What ends episodes inside learned models of own data: a robot's name, learned, never, or "
            "module:function. By default learned where the data hold terminations.",
        ),
    ] = None,
    spec: Annotated[Path | None, typer.Option(help="What the columns of own files are: a YAML file.")] = None,
    name: Annotated[str, typer.Option(help="What own data are called in folders; by default after them.")] = "",
    seeds: SeedsOption = DEFAULT_SEEDS,
    updates: UpdatesOption = DEFAULT_UPDATES,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the agent; may be repeated.")
    ] = None,
    show_settings: Annotated[
        bool, typer.Option("--settings", help="Show the agent's settings, with a task those of its preset, and stop.")
    ] = False,
    target_rows: Annotated[
        str, typer.Option(metavar="SIZE", help="Size of the target dataset: 500, 5k, 50k, 100k; the task's by default.")
    ] = "",
    variant: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Train into RUNS/TASK/AGENT@NAME, so that runs of other settings stand side by side; where --set data "
            "or --target-rows choose other rows than the preset, NAME is data-... or target-... by default.",
        ),
    ] = "",
    judge: Annotated[
        bool | None,
        typer.Option(
            "--judge/--no-judge",
            help="Agents with a learned model say in run.json (stages.judged) and judged.png how far it is from the "
            "true target, MOREC also how its reward goes with the error. --judge also trains a model of merged rows "
            "and one of target rows to compare with; --no-judge leaves all of it out.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    eval_every: EveryOption = DEFAULT_EVERY,
    schedule: ScheduleOption = "cosine",
    precision: Annotated[str, typer.Option(help="fp32, bf16, or tf32 on a GPU.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    together: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most tasks trained side by side; by default all of equal dimensions on a GPU, and on a CPU as many "
            "as keep its threads busy.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Ray cluster to spread populations over, or auto, local."),
    ] = None,
    quiet: _Quiet = False,
    json_output: _Json = False,
) -> None:
    """Train an agent on tasks; the same command goes on where an interrupted one stopped."""
    # What is misspelt is told before torch is imported, which takes seconds.
    if agents is not None:
        # Without the agent's name the first word is a task.
        tasks, agent = [*([agent] if agent else []), *(tasks or [])], ""
        several = _several(agents, {"--set": settings, "--settings": show_settings, "--source": source})
    else:
        several = ()
        registry.check_name(agent or _missing_agent())
    quiet_waiting()
    if show_settings:
        _show_settings(
            agent or "", task_names(tasks or [], track) if tasks or track else [], settings or [], json_output
        )
        return
    overrides = parse_overrides(settings or [])
    instead = {"the name of a task": tasks, "--track": track, "--target-rows": target_rows, "--judge": judge}
    pair = own_pair(source, target, {"env": env, "termination": termination, "name": name, "spec": spec}, instead)
    names = task_names(tasks or [], track) if pair is None else [pair.title]
    from offdyn_agents.engine.training.module import Hardware, choose_device
    from offdyn_agents.runs.cluster import connected
    from offdyn_agents.runs.plans import Plan
    from offdyn_agents.runs.runs import refuse_stopped, train_tasks
    from offdyn_agents.runs.variants import named
    from offdyn_envs.batching.threads import usable_threads

    with ExitStack() as stack:
        cluster = stack.enter_context(connected(ray, quiet)) if ray else None
        if cluster is None:
            hardware = Hardware(choose_device(device), precision, threads or usable_threads())
        else:
            hardware = cluster.hardware(device, precision, threads)
        budget = hardware.budget(updates, eval_every, schedule)

        def plans_of(name: str) -> list[Plan]:
            more: Any = {"judge": judge, "pair": pair}
            return [
                named(Plan(name, title, seeds, overrides, budget, hardware, out, quiet, target_rows, **more), variant)
                for title in names
            ]

        def train_all(plans: Sequence[Plan]) -> list[Trained]:
            train_these = train_tasks if cluster is None else cluster.train
            return train_these(plans, together or 0, (lambda outcome: None) if json_output else _report)

        outcomes = _train_several(several, plans_of, train_all) if several else train_all(plans_of(agent or ""))
    if json_output:
        found = [_plain(outcome) for outcome in outcomes]
        # One task is one object; several are one list, whichever way they were named.
        print(json.dumps(found if several or len(names) > 1 else found[0], indent=2, allow_nan=False))
    refuse_stopped(outcomes)


def _missing_agent() -> NoReturn:
    raise OffDynError(f"name an agent, one of {', '.join(registry.names())}, or several with --agents")


def _several(text: str, not_with: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the agents that --agents names.

    Raises:
        OffDynError: No such agent, or an option that belongs to one agent.
    """
    for option, value in not_with.items():
        if value:
            raise OffDynError(f"{option} belongs to one agent; --agents trains several, each as its preset has it")
    if text == "all":
        return registry.names()
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for name in found:
        registry.check_name(name)
    return found


def _train_several(
    agents: Sequence[str], make: Callable[[str], Sequence[Plan]], train_all: Callable[[Sequence[Plan]], list[Trained]]
) -> list[Trained]:
    from offdyn_agents.runs.campaign import outlook, parts, total, train_campaign

    def tell(line: str) -> None:
        typer.echo(f"offdyn: {line}", err=True)

    found = parts(agents, make, tell)
    for row in outlook(found):
        tell(", ".join(f"{name} {value}" for name, value in row.items()))
    tell(total(found))
    return train_campaign(found, train_all, tell)


def _show_settings(agent: str, tasks: list[str], by_hand: list[str], json_output: bool) -> None:
    from offdyn_agents.runs.settings_page import setting_rows
    from offdyn_envs.report import print_table

    if len(tasks) > 1:
        raise OffDynError(f"--settings shows those of one task, not of {len(tasks)}")
    rows = setting_rows(agent, "".join(tasks), parse_overrides(by_hand))
    print_table(f"Settings of {agent}{''.join(f' on {task}' for task in tasks)}", rows, json_output)


def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, runs/<task>/<agent>.")],
    episodes: Annotated[int | None, typer.Option(min=1, help="Clean episodes per seed; 100 by default.")] = None,
    cell_episodes: Annotated[int | None, typer.Option(min=1, help="Episodes per cell; 20 by default.")] = None,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Without a simulator: fitted Q evaluation on the target data and the error of the agent's dynamics on "
            "target episodes held out, into offline.json; --episodes N also takes true discounted returns.",
        ),
    ] = False,
    own_critics: Annotated[
        bool, typer.Option("--own-critics", help="Attack with the runs' own critics too, beside the suite's.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    quiet: _Quiet = False,
    json_output: _Json = False,
) -> None:
    """Score finished runs: clean, under shifts of every family, and under the min-Q attack."""
    quiet_waiting()
    from offdyn_agents.runs.plans import read_run, run_label

    # All of them first: a folder that is no run is told before torch is imported, and before another is evaluated.
    labels = [run_label(read_run(folder)) for folder in runs]
    if offline:
        _evaluate_offline(runs, episodes or 0, threads, quiet, json_output)
        return
    from offdyn_agents.runs.evaluation import EvaluationPlan, evaluate_run, has_critics, summarise
    from offdyn_envs.batching.threads import usable_threads
    from offdyn_envs.benchmark.scoring import protocol
    from offdyn_envs.report import print_table

    plan = EvaluationPlan(
        episodes or protocol.CLEAN_EPISODES,
        cell_episodes or protocol.CELL_EPISODES,
        threads or usable_threads(),
        quiet,
        own_critics,
    )
    found: list[dict[str, Any]] = []
    for folder, label in zip(runs, labels, strict=True):
        result = evaluate_run(folder, plan)
        rows = summarise(result)
        found.append({"folder": str(folder), "task": result["task"], "agent": label, "rows": rows})
        if not json_output:
            print_table(f"{result['task']} {label}", rows, False)
            if own_critics and not has_critics(folder):
                print(f"{result['agent']} has no critic of its own to attack with")
            if "env" not in result and not any(cell["family"] == protocol.MIN_Q for cell in result["perturbed"]):
                print(f"the suite has no reference critic of {result['task']}: no min-Q attack")
    if json_output:
        # As with training: one run is one object, several are one list.
        print(json.dumps(found if len(runs) > 1 else found[0], indent=2, allow_nan=False))


def _evaluate_offline(runs: list[Path], episodes: int, threads: int | None, quiet: bool, json_output: bool) -> None:
    from offdyn_agents.runs.offline import OfflinePlan, evaluate_offline, summarise_offline
    from offdyn_agents.runs.plans import read_run, run_label
    from offdyn_envs.batching.threads import usable_threads
    from offdyn_envs.report import print_table

    plan = OfflinePlan(episodes=episodes, threads=threads or usable_threads(), quiet=quiet)
    found: list[dict[str, Any]] = []
    for folder in runs:
        result = evaluate_offline(folder, plan)
        found.append({"folder": str(folder), **result})
        if not json_output:
            print_table(f"{result['task']} {run_label(read_run(folder))}", summarise_offline(result), False)
    if json_output:
        print(json.dumps(found if len(runs) > 1 else found[0], indent=2, allow_nan=False))


def _plain(outcome: Trained) -> dict[str, Any]:
    return outcome.facts | {"folder": str(outcome.plan.folder), "trained": outcome.fresh}


def _report(outcome: Trained) -> None:
    from offdyn_agents.runs.plans import sound_seeds

    facts, folder = outcome.facts, outcome.plan.folder
    if not outcome.fresh:
        print(f"{folder}: already {facts['status']}")
        return
    speed = facts["seed_updates_per_second"]
    print(f"{folder}: {facts['updates']:,} updates of {len(sound_seeds(facts))} seeds, {speed:,.0f} seed-updates/s")
    if facts["status"] == "complete":
        scored = facts.get("pair", {"env": True})["env"]
        print(f"next: offdyn evaluate {folder}{'' if scored else ' --offline'}")
