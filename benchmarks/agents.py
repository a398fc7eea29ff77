"""Seed-updates per second of every agent beside IQL's, in one run.

    python benchmarks/agents.py                      # all agents of the registry, Hopper's dimensions
    python benchmarks/agents.py --agents cql otdf --seeds 5 --threads 2 --json

The policy stage as `offdyn train` runs it, on made rows of a robot's dimensions. What comes before it is trained too,
but only until its results have the right shapes: networks that the policy's loss reads have their real sizes. Turns of
a few seconds, each agent's followed by one of IQL's; a ratio is the median over rounds. Refills of model rollouts are
not in it (benchmarks/costs.py has them).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from typing import Any

from training import Turn, speeds

from offdyn_agents.algorithms.registry import agent_class, names
from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.resources import Hardware
from offdyn_agents.engine.settings import build
from offdyn_agents.engine.training.module import PopulationModule
from offdyn_agents.presets import preset
from offdyn_agents.testing.data import dataset
from offdyn_agents.testing.sizes import small_settings
from offdyn_envs.batching.threads import usable_threads
from offdyn_envs.robots import get_robot

SOURCE, TARGET = 20_000, 5_000
TURN = 50
"""Updates between two looks at the clock."""
REAL = ("members", "elites", "width", "samples")
"""Sizes that the policy's loss reads, wherever they stand."""
YARDSTICK = "iql"


def agent_of(name: str, robot: str, form: str = "") -> Agent:
    """Return an agent whose stages are short and whose policy is of full size, in the form that is named."""
    kind, body = agent_class(name), get_robot(robot)
    published = preset(kind, robot, "medium", form=form) if form else {}
    short = {
        key: value
        for key, value in small_settings(kind.settings_class, published).items()
        if ("." in key or key.startswith(("rollouts", "starts", "iterations"))) and key.rpartition(".")[2] not in REAL
    }
    return kind(build(kind.settings_class, published, short), body.observation_dim, body.action_dim)


def turn_of(
    name: str, robot: str, seeds: int, hardware: Hardware, folder: str, *, updates: int = TURN, form: str = ""
) -> Turn:
    """Return a function that does a turn of updates of all seeds and returns how many seed-updates that was.

    Args:
        name: Name of the agent.
        robot: Whose dimensions its rows have.
        seeds: Number of seeds.
        hardware: What it runs on.
        folder: For files of model rollouts.
        updates: Updates of a turn.
        form: A published form, "" for this suite's with the settings of its class.
    """
    agent = agent_of(name, robot, form)
    sizes = {"observation_dim": agent.observation_dim, "action_dim": agent.action_dim}
    source, target = (dataset(rows, seed, **sizes) for seed, rows in enumerate((SOURCE, TARGET)))
    module = PopulationModule.from_data(
        agent,
        source,
        target,
        seeds,
        folder=f"{folder}/{name}",
        terminated=lambda observations: observations[..., 0] > 1e9,
        hardware=hardware,
    )
    with module.computing():
        executor = module._make_executor()
        if module.refill is not None:
            module.refill(module.population.readable(), module.live, 0, executor.workers, executor.inside)

    def turn() -> int:
        with module.computing():
            executor.run(module.sampler.draw(updates))
        return updates * seeds

    return turn


def measure(name: str, turn: Turn, yardstick: Turn, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return an agent's speed, and how many times as long as IQL's an update of it takes."""
    pairs = [tuple(speeds(one, chosen.seconds)[0] for one in (turn, yardstick)) for _ in range(chosen.rounds)]
    return {
        "agent": name,
        "seed_updates_per_second": statistics.median(ours for ours, _ in pairs),
        "times_iql": statistics.median(theirs / ours for ours, theirs in pairs),
        "rounds": pairs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rankable = [name for name in names() if not agent_class(name).diagnosis]
    parser.add_argument("--agents", nargs="+", default=rankable, choices=rankable, metavar="AGENT")
    parser.add_argument("--robot", default="hopper")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "tf32"))
    parser.add_argument("--threads", type=int, default=usable_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given = chosen.robot, chosen.seeds, Hardware(precision=chosen.precision, threads=chosen.threads), folder
        yardstick = turn_of(YARDSTICK, *given)
        yardstick()
        found: list[dict[str, Any]] = []
        for name in chosen.agents:
            print(f"{name}: preparing", file=sys.stderr, flush=True)
            turn = turn_of(name, *given)
            turn()
            found.append(measure(name, turn, yardstick, chosen))
            if not chosen.json:
                one = found[-1]
                print(f"{name:<14} {one['seed_updates_per_second']:8.0f} seed-updates/s  {one['times_iql']:6.2f} x IQL")
    if chosen.json:
        print(json.dumps({**vars(chosen), "results": found}, indent=2))


if __name__ == "__main__":
    main()
