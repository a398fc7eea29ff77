"""What `offdyn leaderboard verify` takes of the processor for one policy, by robot: physics, attack, policy, the rest.

    python benchmarks/verify.py                     # one policy on a task of core-6 for each robot, all cells; minutes
    python benchmarks/verify.py --robots hopper --episodes 2 --json

What the sandbox runs is run here, in one process on one thread, with timers around the simulator, the attack and the
policy: everything but the isolation itself. The policies are made of the expert of each task's scoring environment, so
that episodes are as long as those of a good entry. Prints a row a task: the total, of which docs/protocol.md
has one for each robot, and its parts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from offdyn_agents.engine.provenance import processor_name
from offdyn_envs.attacks import MinQAttack
from offdyn_envs.benchmark.entries.reruns import Source, asks, job
from offdyn_envs.benchmark.gate.onnx_policy import OnnxPolicy
from offdyn_envs.benchmark.sandbox import worker
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.cells import Cell, full_grid
from offdyn_envs.benchmark.scoring.critics import find_critic
from offdyn_envs.benchmark.scoring.grid import HELD_OUT
from offdyn_envs.policies import BehaviourPolicy
from offdyn_envs.shipped import behaviour_path
from offdyn_envs.tasks import TRACKS, Task, get_task
from offdyn_envs.vector import OffDynVectorEnv

TRACK = "core-6"
PARTS: tuple[str, ...] = ("physics", "attack", "policy")
WATCHED: dict[str, tuple[Any, str]] = {
    "physics": (OffDynVectorEnv, "step"),
    "attack": (MinQAttack, "perturb"),
    "policy": (OnnxPolicy, "__call__"),
}
"""What is timed; a policy that an attack asks counts as the attack's."""


@contextmanager
def watched(seconds: dict[str, float]) -> Iterator[None]:
    """Add what each part takes of the processor, that of an outer part only."""
    inside: list[str] = []

    def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*words: Any, **named: Any) -> Any:
            if inside:
                return call(*words, **named)
            inside.append(part)
            begun = time.process_time()
            try:
                return call(*words, **named)
            finally:
                seconds[part] += time.process_time() - begun
                inside.pop()

        return run

    before = {part: getattr(owner, name) for part, (owner, name) in WATCHED.items()}
    for part, (owner, name) in WATCHED.items():
        setattr(owner, name, timed(part, before[part]))
    try:
        yield
    finally:
        for part, (owner, name) in WATCHED.items():
            setattr(owner, name, before[part])


def as_onnx(policy: BehaviourPolicy) -> bytes:
    """Return what a policy does without noise, as an entry has it."""
    layers = [*policy.hidden, policy.mean]
    nodes, constants, seen = [], [], "observation"
    for number, (weights, bias) in enumerate(layers):
        last = number == len(layers) - 1
        constants += [numpy_helper.from_array(np.ascontiguousarray(weights), f"w{number}")]
        constants += [numpy_helper.from_array(np.ascontiguousarray(bias), f"b{number}")]
        nodes.append(helper.make_node("Gemm", [seen, f"w{number}", f"b{number}"], [f"h{number}"]))
        seen = "action" if last else f"a{number}"
        # The clipped kind is clipped by whoever runs it.
        kind = "Identity" if last and policy.distribution == "clipped-gaussian" else policy.activation.capitalize()
        nodes.append(helper.make_node("Tanh" if last and kind != "Identity" else kind, [f"h{number}"], [seen]))
    sides = [("observation", policy.observation_dim), ("action", policy.action_dim)]
    given, told = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name, width in sides)
    graph = helper.make_graph(nodes, "policy", [given], [told], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def job_of(task: Task, policy: Path, episodes: int, cell_episodes: int) -> dict[str, Any]:
    """Return what the sandbox is asked for one policy: the clean episodes, the whole grid and held-out dynamics."""
    critic = find_critic(task.name)
    source = Source() if critic is None else Source(str(critic.path), list(critic.sigma))
    asked = asks(episodes, (*full_grid(task.name), Cell(HELD_OUT, 1.0)), cell_episodes, seed=0)
    return job(task, [{"name": "expert", "policy": str(policy), "critic": None}], source, asked)


def measure(task: Task, episodes: int, cell_episodes: int) -> dict[str, Any]:
    """Return what one policy of a task takes."""
    seconds = dict.fromkeys(PARTS, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy.onnx"
        policy.write_bytes(as_onnx(BehaviourPolicy.load(behaviour_path(task.robot, task.scoring, "expert"))))
        told = job_of(task, policy, episodes, cell_episodes)
        with watched(seconds):
            begun = time.process_time()
            worker.run(told)
            total = time.process_time() - begun
    attacked = any(cell["family"] == protocol.MIN_Q for cell in told["cells"])
    return {
        "task": task.name,
        "robot": task.robot,
        "attacked": attacked,
        "seconds": seconds | {"rest": total - sum(seconds.values()), "total": total},
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return a row a task: the total and its parts, "no critic" where the task has none to attack with."""
    kinds = ("total", *PARTS, "rest")
    rows = ["| task | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    for one in results:
        told = [f"{one['seconds'][kind]:.1f}" for kind in kinds]
        told[2] = told[2] if one["attacked"] else "no critic"
        rows.append(f"| `{one['task']}` | " + " | ".join(told) + " |")
    return "\n".join(rows)


def main() -> None:
    tasks = [get_task(name) for name in TRACKS[TRACK]]
    robots = list(dict.fromkeys(task.robot for task in tasks))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robots", nargs="+", default=robots, choices=robots, metavar="ROBOT")
    parser.add_argument("--episodes", type=int, default=protocol.CLEAN_EPISODES)
    parser.add_argument("--cell-episodes", type=int, default=protocol.CELL_EPISODES)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    # Of each robot a task that is attacked, where there is one.
    attacked = sorted(tasks, key=lambda task: find_critic(task.name) is None)
    wanted = [next(task for task in attacked if task.robot == robot) for robot in chosen.robots]
    results = [measure(task, chosen.episodes, chosen.cell_episodes) for task in wanted]
    if chosen.json:
        print(json.dumps({"processor": processor_name(), **vars(chosen), "results": results}, indent=2))
        return
    print(f"Seconds of one core of {processor_name()} for one policy, {chosen.episodes} clean episodes and")
    print(f"{chosen.cell_episodes} a cell:\n\n{table(results)}")


if __name__ == "__main__":
    main()
