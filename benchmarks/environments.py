"""Speed of the batched environment beside a bare rollout loop, a thread pool, Gymnasium and EnvPool, in one run.

    python benchmarks/environments.py                                  # the walkers and Humanoid, 64 and 256 rows
    python benchmarks/environments.py --rows 1 16 64 256 1024 --json

Peers take turns in short rounds, in another order each time, so that a busy machine slows all of them alike; a ratio is
the median over rounds of the ratio within a round. "x sync" compares with `gymnasium.make_vec` of the stock robot,
where there is one, "x bare" with a loop that does nothing but `mujoco.rollout` on the very states, controls and goals
that the batched environment meets in that round. Rows with "own models" simulate another dynamics in every row
(gravity, friction, kinematic and morphology), and so does the bare loop that they are compared with.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import mujoco
import numpy as np
from environment_peers import (
    BareRollout,
    EnvPool,
    GymnasiumVector,
    OffDyn,
    Peer,
    ThreadPool,
    Unavailable,
    different_rows,
    record,
)

from offdyn_envs.batching.threads import threads_for
from offdyn_envs.robots import ROBOTS, WALKERS, Robot, register_robot
from offdyn_envs.robots.examples import HUMANOID

SYNC, BARE, OWN = "gymnasium sync", "bare rollout", ", own models"


def make_peers(robot: Robot, actions: np.ndarray, threads: int) -> tuple[dict[str, Peer], dict[str, str]]:
    """Return the peers by name, and why the others cannot run here."""
    rows = actions.shape[1]
    equal = record(robot, [()] * rows, actions, threads)
    own = record(robot, different_rows(robot, rows), actions, threads)
    makers: dict[str, Callable[[], Peer]] = {
        "offdyn": lambda: OffDyn(equal),
        BARE: lambda: BareRollout(equal),
        "thread pool": lambda: ThreadPool(equal),
        "offdyn" + OWN: lambda: OffDyn(own),
        BARE + OWN: lambda: BareRollout(own),
        "thread pool" + OWN: lambda: ThreadPool(own),
        SYNC: lambda: GymnasiumVector(equal, "sync"),
        "gymnasium async": lambda: GymnasiumVector(equal, "async"),
        "envpool": lambda: EnvPool(equal),
    }
    made = {name: peer_or_reason(make) for name, make in makers.items()}
    peers = {name: peer for name, peer in made.items() if isinstance(peer, Peer)}
    return peers, {name: reason for name, reason in made.items() if isinstance(reason, str)}


def peer_or_reason(make: Callable[[], Peer]) -> Peer | str:
    """Return a peer, or why it cannot run here."""
    try:
        return make()
    except Unavailable as reason:
        return str(reason)


def take_turns(peers: dict[str, Peer], steps: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each peer in each round; a first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    order, shuffled = list(peers.items()), random.Random(0)
    for number in range(rounds + 1):
        shuffled.shuffle(order)
        for name, peer in order:
            peer.set_timers()
            begun = time.perf_counter()
            for step in range(number * steps, (number + 1) * steps):
                peer.step(step)
            seconds[name].append(time.perf_counter() - begun)
    for name, peer in peers.items():
        if not peer.agrees():
            raise SystemExit(f"{name}: did not compute the recorded states")
    return {name: values[1:] for name, values in seconds.items()}


def measure(robot: Robot, rows: int, threads: int, rounds: int, turn: int) -> dict[str, Any]:
    """Return control steps per second (rows x steps, median over rounds) and ratios by peer, and what was skipped."""
    steps = max(2, turn // rows)
    shape = ((rounds + 1) * steps, rows, robot.action_dim)
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    peers, skipped = make_peers(robot, actions, threads)
    seconds = take_turns(peers, steps, rounds)
    for peer in peers.values():
        peer.close()

    def ratio(name: str, reference: str) -> float | None:
        if reference not in seconds:
            return None
        pairs = zip(seconds[reference], seconds[name], strict=True)
        return statistics.median(theirs / own for theirs, own in pairs)

    figures = {
        name: {
            "steps/s": rows * steps / statistics.median(values),
            "x sync": ratio(name, SYNC),
            "x bare": ratio(name, BARE + OWN if name.endswith(OWN) else BARE),
        }
        for name, values in seconds.items()
    }
    return {"robot": robot.name, "rows": rows, "threads": threads, "peers": figures, "skipped": skipped}


def print_table(result: dict[str, Any]) -> None:
    """Print one result of `measure`."""
    print(f"{result['robot']}, {result['rows']} rows, {result['threads']} threads")
    print(f"  {'':<28}{'steps/s':>10}{'x sync':>9}{'x bare':>9}")
    for name, figures in result["peers"].items():
        ratios = "".join(f"{'-' if (x := figures[key]) is None else f'{x:.2f}':>9}" for key in ("x sync", "x bare"))
        print(f"  {name:<28}{figures['steps/s']:>10,.0f}{ratios}")
    for name, reason in result["skipped"].items():
        print(f"  {name:<28}skipped: {reason}")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    register_robot(HUMANOID)  # An example of a robot from outside.
    walkers = [*WALKERS, HUMANOID.name]
    parser.add_argument("--robots", nargs="+", default=walkers, choices=list(ROBOTS), metavar="ROBOT")
    parser.add_argument("--rows", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--threads", type=int, help="of every peer; where left out the batched environment's default")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--turn", type=int, default=1000, help="row steps of one peer in one round, about")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    # Stock HalfCheetah asks for its mass through a deprecated attribute: one warning for each of its environments.
    logging.getLogger("offdyn.mujoco").setLevel(logging.ERROR)
    machine = {"cores": os.cpu_count(), "mujoco": mujoco.__version__, "gymnasium": gymnasium.__version__}
    if not arguments.json:
        print(", ".join(f"{name} {value}" for name, value in machine.items()), end="\n\n")
    results = []
    for name in arguments.robots:
        for rows in arguments.rows:
            threads = arguments.threads or threads_for(rows)
            results.append(measure(ROBOTS[name], rows, threads, arguments.rounds, arguments.turn))
            if not arguments.json:
                print_table(results[-1])
    if arguments.json:
        print(json.dumps({"machine": machine, "results": results}, indent=2))


if __name__ == "__main__":
    main()
