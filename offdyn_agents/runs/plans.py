"""What `offdyn train` was asked for, and what a run's `run.json` says about it; reading one imports no torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offdyn_agents.algorithms.registry import agent_class
from offdyn_agents.engine.provenance import git_commit, package_versions, processor_name
from offdyn_agents.engine.settings import build, flat, setting_names, to_json
from offdyn_agents.presets import tuning
from offdyn_agents.runs.console import seeds_text
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_agents.engine.agent import Agent
    from offdyn_agents.engine.resources import Budget, Hardware
    from offdyn_agents.engine.training.extras import Extras
    from offdyn_agents.runs.own_pairs import OwnPair
    from offdyn_agents.runs.problems import Problem
    from offdyn_envs.tasks import DatasetId

__all__ = [
    "ENDED",
    "FORMAT",
    "Plan",
    "already",
    "finishing_command",
    "initial_facts",
    "marked",
    "needed",
    "read_run",
    "run_label",
    "run_settings",
    "run_title",
    "sound_seeds",
]

FORMAT = 1
ENDED = ("complete", "diverged")
"""Statuses of runs that do not go on."""
DEFAULTS = {"schedule": "cosine"}
"""What a run.json does not tell of a run that has it so."""
NEEDED = {"agent": str, "task": str, "seeds": list, "updates": int, "settings": dict, "status": str}
"""What everything that reads a `run.json` relies on."""


@dataclass(frozen=True)
class Plan:
    """What `offdyn train` was asked for, for one task.

    Attributes:
        agent: Name of the agent.
        task: Name of the task, or of the pair.
        seeds: Seeds of the runs, trained as one population.
        overrides: Settings given by hand, dotted names and text.
        budget: How long.
        hardware: Where.
        out: Folder of all runs.
        quiet: Show no progress.
        target_rows: Size of the target dataset where it is not the task's own, for instance "500".
        variant: What tells the run's folder from that of the agent as it is, for instance "no-filter".
        judge: Whether what the stages learn is judged, before the first update: None for the runs' own models, True for
            those of merged and of target rows beside them, False for nothing.
        pair: Own data in the place of a task; `task` is then its title.
        extras: Lightning callbacks, loggers and arguments of the trainer, from Python.
        typed: The command as it was typed; "" from Python.
    """

    agent: str
    task: str
    seeds: tuple[int, ...]
    overrides: dict[str, str]
    budget: Budget
    hardware: Hardware
    out: Path
    quiet: bool = False
    target_rows: str = ""
    variant: str = ""
    judge: bool | None = None
    pair: OwnPair | None = None
    extras: Extras | None = None
    typed: str = ""

    @property
    def label(self) -> str:
        """The agent, and which variant of it."""
        return f"{self.agent}@{self.variant}" if self.variant else self.agent

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.out / self.task / self.label

    @property
    def problem(self) -> Problem:
        """The data that are learned from, and the environment that scores."""
        from offdyn_agents.runs.problems import NamedTask

        return self.pair or NamedTask(self.task, self.target_rows)

    @property
    def command(self) -> str:
        """The command that makes this run from nothing."""
        words = ["offdyn", "train", self.agent, *self.problem.words(), "--seeds", seeds_text(self.seeds)]
        words += ["--updates", str(self.budget.updates), "--precision", self.hardware.precision]
        words += ["--schedule", self.budget.schedule] if self.budget.schedule != DEFAULTS["schedule"] else []
        for key, value in self.overrides.items():
            words += ["--set", f"{key}={value}"]
        words += ["--judge"] if self.judge else []
        words += ["--variant", self.variant] if self.variant else []
        if self.problem.other_target:
            words += ["--target-rows", self.target_rows]
        return shlex.join(words)


def needed(plan: Plan, agent: Agent) -> Sequence[DatasetId]:
    """Return the suite's datasets that a plan's training has to find.

    Raises:
        OffDynError: As `Problem.needed`.
    """
    return plan.problem.needed(agent.settings.data, agent.needs_source or bool(plan.judge))


def run_label(facts: Mapping[str, Any]) -> str:
    """Return the agent of a run.json, and which variant of it, as its folder is called."""
    return f"{facts['agent']}@{facts['variant']}" if facts.get("variant") else str(facts["agent"])


def run_title(facts: Mapping[str, Any]) -> str:
    """Return what tables and pictures call a run.json's run: its label, and what there is to say behind it."""
    return f"{run_label(facts)}{marked(facts)}"


def marked(facts: Mapping[str, Any]) -> str:
    """Return what tables say behind the name of a run.json's method: " (our reading)", or nothing."""
    return f" ({facts['reading']})" if facts.get("reading") else ""


def read_run(folder: Path) -> dict[str, Any]:
    """Read a run's run.json.

    Raises:
        OffDynError: There is none, or it is damaged, or of another format.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise OffDynError(f"'{folder}' is no run: it has no run.json; make one with: offdyn train")
    try:
        facts: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OffDynError(f"run '{folder}': run.json is no JSON: {error}") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise OffDynError(f"run '{folder}': run.json is not of format {FORMAT}")
    for key, kind in NEEDED.items():
        if not isinstance(facts.get(key), kind):
            raise OffDynError(f"run '{folder}': run.json has no {key} that is a {kind.__name__}; it is damaged")
    return facts


def run_settings(folder: Path, facts: Mapping[str, Any]) -> Any:
    """Return the settings with which a run.json's agent was trained.

    Raises:
        OffDynError: It does not name one that the agent has now, or names one that it has no more: an older version
            trained the run, and what it did there is not for today's default to say.
    """
    kind = agent_class(facts["agent"])
    told, known = flat(facts["settings"]), setting_names(kind.settings_class)
    silent, gone = ([name for name in ours if name not in theirs] for ours, theirs in ((known, told), (told, known)))
    if silent or gone:
        parts = [f"does not say what {', '.join(silent)} was, which came later"] if silent else []
        parts += [f"has {', '.join(gone)}, which agent '{kind.name}' has no more"] if gone else []
        raise OffDynError(f"run '{folder}': run.json {' and '.join(parts)}; train it again")
    return build(kind.settings_class, told)


def sound_seeds(facts: Mapping[str, Any]) -> list[int]:
    """Return the seeds of a run.json that were not stopped."""
    return [seed for seed in facts["seeds"] if str(seed) not in facts.get("stopped", {})]


def finishing_command(folder: Path, facts: Mapping[str, Any]) -> str:
    """Return the command with which a run that was interrupted goes on in its place."""
    return f"{facts.get('command', 'offdyn train')} --out {folder.parent.parent}"


def initial_facts(plan: Plan, agent: Agent) -> dict[str, Any]:
    """Return what `run.json` says before training."""
    variant = {"variant": plan.variant} if plan.variant else {}
    # Of an agent without annealed networks it decides nothing.
    other = agent.annealed and plan.budget.schedule != DEFAULTS["schedule"]
    schedule = {"schedule": plan.budget.schedule} if other else {}
    family = {"family": agent.family} if agent.family else {}
    diagnosis = {"diagnosis": True} if agent.diagnosis else {}
    reading = {"reading": agent.reading} if agent.reading else {}
    return {
        "format": FORMAT,
        "agent": plan.agent,
        "task": plan.task,
        "seeds": list(plan.seeds),
        "updates": plan.budget.updates,
        "settings": to_json(agent.settings),
        "status": "running",
        "wall_clock_s": 0.0,
        "device": _device(plan.hardware),
        "precision": plan.hardware.precision,
        "parameters": agent.parameters,
        "versions": package_versions("offdyn", "torch", "lightning", "mujoco", "numpy"),
        "commit": git_commit(),
        **tuning(type(agent)),
        **plan.problem.facts(),
        **variant,
        **schedule,
        **diagnosis,
        **reading,
        **family,
        "command": plan.command,
        **({"typed": plan.typed} if plan.typed else {}),
    }


def already(folder: Path, facts: dict[str, Any], grows: bool) -> bool:
    """Say whether the folder holds this run with nothing left to do.

    Args:
        folder: The run folder.
        facts: What `initial_facts` says of the run that is wanted, with all seeds that the folder has.
        grows: Whether a run of this kind may go on beyond its last update.

    Raises:
        OffDynError: It holds a run of other settings, or of more updates, which is never continued or overwritten; or
            one of fewer, which cannot go on; or a damaged one.
    """
    if not (folder / "run.json").exists():
        return False
    found = read_run(folder)
    if grows and found["updates"] < facts["updates"]:
        found = {**found, "updates": facts["updates"], "status": "running"}
    for key in ("updates", "precision", "settings", "target_rows", "pair", "schedule"):
        had, wanted = (told.get(key, DEFAULTS.get(key)) for told in (found, facts))
        if had != wanted:
            what, old, new = _difference(key, had, wanted)
            more = ": its rates fall to 0 over them; --schedule constant is for runs that may go on"
            raise OffDynError(
                f"'{folder}' holds a run with {what} {old}, not {new}"
                f"{more if key == 'updates' and had < wanted else ''}; take another --out, "
                "or --variant of offdyn train, or remove that folder"
            )
    return found["status"] in ENDED and found["seeds"] == facts["seeds"]


def _device(hardware: Hardware) -> str:
    """Return the name of the processor that trains."""
    if hardware.device == "cuda":
        import torch

        # A machine that only plans for a cluster need not have one.
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cuda"
    return f"{processor_name()}, {hardware.threads} threads"


def _difference(key: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    while isinstance(old, dict) and isinstance(new, dict):
        inner = next(name for name in sorted({*old, *new}) if old.get(name) != new.get(name))
        key, old, new = inner, old.get(inner), new.get(inner)
    return key, old, new
