"""`offdyn train`, and where all the agents' commands stand; torch is imported only once a command runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offdyn_agents.algorithms import registry
from offdyn_agents.engine.settings import DEFAULT_UPDATES, parse_overrides
from offdyn_agents.presets import chosen
from offdyn_agents.runs.console import (
    DEFAULT_EVERY,
    DEFAULT_SEEDS,
    DeviceOption,
    EveryOption,
    PrecisionOption,
    QuietOption,
    ScheduleOption,
    SeedsOption,
    SetOption,
    ThreadsOption,
    UpdatesOption,
    missing_agent,
    own_pair,
    quiet_waiting,
    refuse_without_data,
    several_agents,
    task_names,
)
from offdyn_agents.runs.variants import REFERENCES, named, settings_of
from offdyn_envs.commands import envs
from offdyn_envs.commands.options import SHARE, TRAIN, Json, complete, examples, group
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_agents.runs.plans import Plan
    from offdyn_agents.runs.track import Trained
    from offdyn_envs.datasets.describing.states import Remedy

__all__ = ["register"]

# Typer reads brackets as markup, and another package may call its agent anything.
_AGENTS = ", ".join(registry.names()).replace("[", "\\[")


def register(app: typer.Typer) -> None:
    """Add the agents' commands to `offdyn`."""
    from offdyn_agents import diagnosing, run_commands
    from offdyn_agents.ablations.report import ablate
    from offdyn_agents.behaviour.commands import app as behaviour
    from offdyn_agents.judging.report import judge_command
    from offdyn_agents.runs.curves import curves_command

    envs.time_of = _time_of
    app.command("agents", rich_help_panel=TRAIN)(run_commands.agents)
    app.command("train", rich_help_panel=TRAIN, epilog=_EXAMPLES)(train)
    app.command("evaluate", rich_help_panel=TRAIN, epilog=examples("offdyn evaluate runs"))(run_commands.evaluate)
    app.command("runs", rich_help_panel=TRAIN)(run_commands.runs)
    app.command("compare", rich_help_panel=TRAIN, epilog=examples(_COMPARED))(run_commands.compare)
    app.command("curves", rich_help_panel=TRAIN)(curves_command)
    app.command("ablate", rich_help_panel=SHARE)(ablate)
    diagnose = group(app, "diagnose")
    diagnose.command("judge")(judge_command)
    diagnose.command("rows")(diagnosing.rows)
    diagnose.command("reward")(diagnosing.reward)
    diagnose.command("rollouts")(diagnosing.rollouts)
    dev = group(app, "dev")
    dev.add_typer(behaviour, name="behaviour")
    dev.command("agents-table")(diagnosing.agents_table)
    dev.command("rates")(diagnosing.rates)
    for name, example in diagnosing.EXAMPLES.items():
        group(app, "examples").command(name, add_help_option=False, context_settings=diagnosing.PASSED_ON)(example)
    # Earlier spellings.
    app.command("judge", hidden=True)(judge_command)
    app.add_typer(behaviour, name="behaviour", hidden=True)


def _time_of(missing: Remedy) -> str:
    from offdyn_agents.behaviour.reports import time_told

    return time_told(missing)


_COMPARED = "offdyn compare runs/hopper-gravity-0.5-medium/iql runs/hopper-gravity-0.5-medium/bc"
_EXAMPLES = examples(
    "offdyn train iql hopper-gravity-0.5-medium",
    "offdyn train droco hopper-gravity-0.5-medium --seeds 3 --updates 100k",
    "offdyn train iql --track core-12 --seeds 3",
    "offdyn train --agents all --track core-6 --updates 100k --plan",
    "offdyn train droco hopper-gravity-0.5-medium --settings",
)
_OWN = "Own data"
_OUTPUT = "Output"


def _task_names() -> list[str]:
    from offdyn_envs.tasks import list_tasks

    return [task.name for task in list_tasks()]


def train(
    ctx: typer.Context,
    agent: Annotated[
        str | None, typer.Argument(metavar="AGENT", help=f"One of {_AGENTS}.", autocompletion=complete(registry.names))
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TASK]...", help="`offdyn tasks` lists them.", autocompletion=complete(_task_names)),
    ] = None,
    agents: Annotated[
        str | None,
        typer.Option(
            metavar="all|A,B,...",
            help="Train several agents one after the other, most requested first, and report how much is left "
            "and how long it takes. iql@data-target is IQL with --set data=target; all includes these references.",
        ),
    ] = None,
    track: Annotated[str | None, typer.Option(metavar="TRACK", help="All tasks of a track instead.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what is left and how long it takes, and train nothing.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Your own source data instead of a task: imported/NAME, or a file. Agents that use only target rows "
            "need none.",
            rich_help_panel=_OWN,
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="DATA", help="Your own target data, likewise.", rich_help_panel=_OWN)
    ] = None,
    env: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Environment to evaluate policies of your own data: a Gymnasium id, or module:Class.",
            rich_help_panel=_OWN,
        ),
    ] = None,
    termination: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="When episodes end inside models learned from your own data: a robot's name, learned, never, or "
            "module:function. The default is learned if the data contain terminations.",
            rich_help_panel=_OWN,
        ),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(help="YAML or JSON file that describes the columns of your files.", rich_help_panel=_OWN),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Folder name for your own data; by default taken from the data.", rich_help_panel=_OWN)
    ] = "",
    seeds: SeedsOption = DEFAULT_SEEDS,
    updates: UpdatesOption = DEFAULT_UPDATES,
    settings: SetOption = None,
    show_settings: Annotated[
        bool,
        typer.Option("--settings", help="Show the agent's settings (with a task, the preset for that task) and exit."),
    ] = False,
    target_rows: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="Size of the target dataset: 500, 5k, 50k or 100k; by default the task's.",
            rich_help_panel="Training",
        ),
    ] = "",
    variant: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Store the run in RUNS/TASK/AGENT@NAME, next to runs with other settings. With --set data or "
            "--target-rows, NAME is data-... or target-... by default.",
            rich_help_panel=_OUTPUT,
        ),
    ] = "",
    judge: Annotated[
        bool | None,
        typer.Option(
            "--judge/--no-judge",
            help="Agents that learn a model report its error in run.json (stages.judged) and judged.png. --judge also "
            "trains a model of merged rows and one of target rows to compare with; --no-judge skips all of it.",
            show_default=False,
            rich_help_panel="Training",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs.", rich_help_panel=_OUTPUT)] = Path("runs"),
    eval_every: EveryOption = DEFAULT_EVERY,
    schedule: ScheduleOption = "cosine",
    precision: PrecisionOption = "fp32",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    together: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of tasks trained at once. By default all tasks of equal dimensions on a GPU, and as "
            "many as there are threads for on a CPU.",
            rich_help_panel="Machine",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of a Ray cluster to train on, or auto or local.",
            rich_help_panel="Machine",
        ),
    ] = None,
    quiet: QuietOption = False,
    json_output: Json = False,
) -> None:
    """Train an agent on tasks. Repeat the command to resume an interrupted training."""
    # What is misspelt is told before torch is imported, which takes seconds.
    if agents is not None:
        # Without the agent's name the first word is a task.
        tasks, agent = [*([agent] if agent else []), *(tasks or [])], ""
        several = _several(agents, {"--set": settings, "--settings": show_settings, "--source": source})
    else:
        several = ()
        agent = registry.check_name(agent or missing_agent())
    quiet_waiting()
    if show_settings:
        _show_settings(
            agent or "", task_names(tasks or [], track) if tasks or track else [], settings or [], json_output
        )
        return
    overrides = parse_overrides(settings or [])
    if overrides:
        # Before data are read and Lightning is imported, both of which take seconds.
        chosen(registry.agent_class(agent or ""), overrides=overrides)
    instead = {"the name of a task": tasks, "--track": track, "--target-rows": target_rows, "--judge": judge}
    pair = own_pair(source, target, {"env": env, "termination": termination, "name": name, "spec": spec}, instead)
    if pair is None:
        names = task_names(tasks or [], track)
        refuse_without_data(names, target_rows, _time_of)
    else:
        names = [pair.title]
    from offdyn_agents.engine.training.module import Hardware, choose_device
    from offdyn_agents.runs.cluster import connected
    from offdyn_agents.runs.plans import Plan
    from offdyn_agents.runs.runs import refuse_stopped, train_tasks
    from offdyn_envs.batching.threads import usable_threads

    with ExitStack() as stack:
        cluster = stack.enter_context(connected(ray, quiet)) if ray else None
        if cluster is None:
            hardware = Hardware(choose_device(device), precision, threads or usable_threads())
        else:
            hardware = cluster.hardware(device, precision, threads)
        budget = hardware.budget(updates, eval_every, schedule)

        def plans_of(name: str) -> list[Plan]:
            more: Any = {"judge": judge, "pair": pair, "typed": str(ctx.obj or "")}
            called, _, rows = name.partition("@")
            changed = overrides | (settings_of(rows) if rows else {})
            # Beside the agent as it is, not in its place.
            own = f"{variant}+{rows}" if variant and rows else variant
            return [
                named(Plan(called, title, seeds, changed, budget, hardware, out, quiet, target_rows, **more), own)
                for title in names
            ]

        def train_all(plans: Sequence[Plan]) -> list[Trained]:
            train_these = train_tasks if cluster is None else cluster.train
            return train_these(plans, together or 0, (lambda outcome: None) if json_output else _report)

        if plan:
            _show_plan(several or (agent or "",), plans_of, cluster is None, json_output)
            return
        outcomes = (
            _train_several(several, agents == "all", plans_of, cluster is None, train_all)
            if several
            else train_all(plans_of(agent or ""))
        )
    if json_output:
        found = [_plain(outcome) for outcome in outcomes]
        # One task is one object; several are one list, whichever way they were named.
        print(json.dumps(found if several or len(names) > 1 else found[0], indent=2, allow_nan=False))
    refuse_stopped(outcomes)


def _several(text: str, not_with: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the agents that --agents names, and their variants; "all" has the references too.

    Raises:
        OffDynError: No such agent or variant, or an option that belongs to one agent.
    """
    plain = several_agents(",".join(word.partition("@")[0] for word in text.split(",")), not_with)
    if text == "all":
        return (*plain, *REFERENCES)
    return tuple(dict.fromkeys(_variant(word.strip()) for word in text.split(",")))


def _variant(text: str) -> str:
    """Return an agent, or an agent and its variant, as its folder is called."""
    name, at, rows = text.partition("@")
    if at:
        settings_of(rows)
    return f"{registry.check_name(name)}{at}{rows}"


def _train_several(
    agents: Sequence[str],
    everyone: bool,
    make: Callable[[str], Sequence[Plan]],
    here: bool,
    train_all: Callable[[Sequence[Plan]], list[Trained]],
) -> list[Trained]:
    from offdyn_agents.runs.campaign import need_data, outlook, parts, total, train_campaign, with_data

    found = parts(agents, make, _tell)
    if here:  # Workers of a cluster have data of their own.
        found = with_data(found, _tell) if everyone else found
        need_data(found)
    for row in outlook(found):
        _tell(", ".join(f"{name} {value}" for name, value in row.items()))
    _tell(total(found))
    return train_campaign(found, train_all, _tell)


def _show_plan(agents: Sequence[str], make: Callable[[str], Sequence[Plan]], here: bool, json_output: bool) -> None:
    from offdyn_agents.runs.campaign import figures, need_data, outlook, parts, total
    from offdyn_envs.report import print_table

    found = parts(agents, make, _tell)
    if json_output:
        print(json.dumps(figures(found), indent=2, allow_nan=False))
    else:
        print_table("What is left", outlook(found), False)
        print(total(found))
    try:
        if here:
            need_data(found)
    except OffDynError as error:
        _tell(str(error))


def _tell(line: str) -> None:
    typer.echo(f"offdyn: {line}", err=True)


def _show_settings(agent: str, tasks: list[str], by_hand: list[str], json_output: bool) -> None:
    from offdyn_agents.runs.settings_page import setting_rows
    from offdyn_envs.report import print_table

    if len(tasks) > 1:
        raise OffDynError(f"--settings shows those of one task, not of {len(tasks)}")
    rows = setting_rows(agent, "".join(tasks), parse_overrides(by_hand))
    print_table(f"Settings of {agent}{''.join(f' on {task}' for task in tasks)}", rows, json_output)


def _plain(outcome: Trained) -> dict[str, Any]:
    return outcome.facts | {"folder": str(outcome.plan.folder), "trained": outcome.fresh}


def _report(outcome: Trained) -> None:
    from offdyn_agents.runs.plans import run_title, sound_seeds
    from offdyn_agents.runs.references import score_lines

    facts, folder = outcome.facts, outcome.plan.folder
    if not outcome.fresh:
        print(f"{folder}: already {facts['status']}")
        return
    speed, seeds = facts["seed_updates_per_second"], len(sound_seeds(facts))
    told = f"{facts['updates']:,} updates of {seeds} seed{'s' if seeds != 1 else ''}"
    print(f"{folder}: {told}, {speed:,.0f} seed-updates/s")
    lines = score_lines(folder, facts, run_title(facts))
    if lines:
        print(f"score on {facts['task']}:", *lines, sep="\n")
    if facts["status"] == "complete":
        scored = facts.get("pair", {"env": True})["env"]
        print(f"next: offdyn evaluate {folder}{'' if scored else ' --offline'}")
