"""The suite's critic of each task, by which the ranked min-Q attack judges actions: merged IQL, one run, fp16 weights.

What is written beside the benchmark's code is frozen with the protocol's version: every entry is attacked by the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offdyn_agents.engine.settings import parse_overrides
from offdyn_agents.engine.training.module import Hardware, choose_device
from offdyn_agents.runs.plans import Plan
from offdyn_agents.runs.runs import train_tasks
from offdyn_agents.runs.track import Trained
from offdyn_envs.atomic import write_bytes, write_json
from offdyn_envs.benchmark.gate.gate import inspect_model, read_model
from offdyn_envs.benchmark.gate.half import halved
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.critics import CRITICS, INDEX, read_index
from offdyn_envs.benchmark.scoring.rollouts import target_sigma
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import get_task

__all__ = ["AGENT", "CriticPlan", "make_critics"]

AGENT, SEED = "iql", 0
_DATA = "data=merged"
_SAID = ("agent", "updates", "settings", "data", "precision", "commit")
"""What the index takes over from a run.json."""


@dataclass(frozen=True)
class CriticPlan:
    """How reference critics are trained.

    Attributes:
        updates: Updates of each.
        runs: Folder of the runs; the same plan goes on there where it stopped.
        out: Folder of the critics.
        settings: Settings by hand, "key=value"; for tests.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads.
        quiet: Show no progress.
    """

    updates: int
    runs: Path
    out: Path = CRITICS
    settings: Sequence[str] = ()
    device: str = "auto"
    threads: int = 1
    quiet: bool = False


def make_critics(tasks: Sequence[str], plan: CriticPlan, say: Callable[[str], None] = print) -> list[str]:
    """Train the critics that are missing and put each beside the others as soon as it is there.

    Args:
        tasks: Names of the tasks.
        plan: How.
        say: Called with a line for each task.

    Returns:
        The tasks whose critics were made now.

    Raises:
        OffDynError: An unknown task, data that are not there, or a critic of other updates in the index: a critic is
            not replaced within a version of the protocol.
    """
    index = read_index(plan.out)
    for task in tasks:
        had = index.get(get_task(task).name, {}).get("updates", plan.updates)
        if had != plan.updates:
            raise OffDynError(
                f"'{task}' has a reference critic of {had:,} updates, and {plan.updates:,} are asked for; it is part "
                f"of protocol {protocol.PROTOCOL}: remove it from {plan.out / INDEX} to make another"
            )
    left = [task for task in tasks if task not in index]
    for task in tasks:
        if task not in left:
            say(f"{task}: there already")
    if left:
        hardware = Hardware(choose_device(plan.device), "fp32", plan.threads)
        budget = hardware.budget(plan.updates, plan.updates)
        overrides = parse_overrides([_DATA, *plan.settings])
        train_tasks(
            [
                Plan(AGENT, task, (SEED,), overrides, budget, hardware, plan.runs, plan.quiet, judge=False)
                for task in left
            ],
            report=lambda trained: say(_publish(trained, plan.out)),
        )
    return left


def _publish(trained: Trained, out: Path) -> str:
    """Write the critic of an ended run and its line of the index, the file first."""
    facts, folder = trained.facts, trained.plan.folder
    task = get_task(trained.plan.task)
    if facts["status"] != "complete":
        return f"{task.name}: {facts['status']}, no critic"
    robot = get_robot(task.robot)
    source = folder / "seeds" / str(SEED) / "critic.onnx"
    data = halved(read_model(source))
    found = inspect_model(
        data, "critic", observation_dim=robot.observation_dim, action_dim=robot.action_dim, label=f"critic '{source}'"
    )
    name = f"{task.name}.onnx"
    write_bytes(out / name, data)
    told: dict[str, Any] = {"file": name, "sha256": found.sha256, "seed": SEED}
    told |= {key: facts[key] for key in _SAID if key in facts}
    told["sigma"] = [round(float(value), 9) for value in target_sigma(task)]
    critics = dict(sorted({**read_index(out), task.name: told}.items()))
    write_json(out / INDEX, {"protocol": protocol.PROTOCOL, "critics": critics})
    return f"{task.name}: {len(data):,} bytes, SHA-256 {found.sha256[:12]}..."
