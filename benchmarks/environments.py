"""Speed of the batched environment against Gymnasium's sync vector environment and a bare rollout loop, in one run.

    python benchmarks/environments.py --rows 64 --threads 2

Peers alternate in short rounds, so that a busy machine slows all of them alike; a ratio is the median over rounds of
the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable

import gymnasium
import mujoco
import mujoco.rollout
import numpy as np

from offdyn_envs.models import compile_model
from offdyn_envs.robots import ROBOTS, Robot
from offdyn_envs.vector import OffDynVectorEnv

Step = Callable[[np.ndarray], object]


def bare_rollout(robot: Robot, rows: int, threads: int) -> Step:
    """A loop over `mujoco.rollout` that computes nothing else: the physical limit."""
    model = compile_model(robot, ())
    datas = [mujoco.MjData(model) for _ in range(threads)]
    pool = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)
    size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS.value)
    start = np.zeros((rows, size))
    start[:, 1 : 1 + robot.nq] = model.qpos0
    trajectory, control = (
        np.zeros((rows, robot.frame_skip, size)),
        np.zeros((rows, robot.frame_skip, robot.action_dim)),
    )
    state, steps = start.copy(), 0

    def step(actions: np.ndarray) -> None:
        nonlocal state, steps
        control[:] = actions[:, None]
        pool.rollout(
            [model] * rows,
            datas,
            state,
            control,
            control_spec=mujoco.mjtState.mjSTATE_CTRL.value,
            skip_checks=True,
            nstep=robot.frame_skip,
            state=trajectory,
            chunk_size=max(1, rows // (8 * threads)),
        )
        steps += 1
        # Falling robots are cheaper to simulate than walking ones: start over as often as the environments do.
        state = start.copy() if robot.z_range is not None and steps % 20 == 0 else trajectory[:, -1].copy()

    return step


def make_peers(robot: Robot, rows: int, threads: int) -> dict[str, Step]:
    ours = OffDynVectorEnv(robot, rows, num_threads=threads)
    mixed = [[{"kind": "gravity", "scale": 0.5 + row / rows}] for row in range(rows)]
    different = OffDynVectorEnv(robot, rows, row_shifts=mixed, num_threads=threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sync = gymnasium.make_vec(f"{robot.title}-v5", rows, vectorization_mode="sync", **robot.stock_kwargs)
    for env in (ours, different, sync):
        env.reset(seed=0)
    return {
        "offdyn": ours.step,
        "offdyn, different dynamics per row": different.step,
        "gymnasium sync": sync.step,
        "bare rollout": bare_rollout(robot, rows, threads),
    }


def measure(robot: Robot, rows: int, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median control steps per second (rows x steps) of each peer, and median ratio to the sync environment."""
    peers = make_peers(robot, rows, threads)
    rng = np.random.default_rng(0)
    steps = max(4, 1500 // rows)
    actions = rng.uniform(-1, 1, (steps, rows, robot.action_dim)).astype(np.float32)
    speeds: dict[str, list[float]] = {name: [] for name in peers}
    for round_number in range(rounds + 1):
        for name, step in peers.items():
            begun = time.perf_counter()
            for action in actions:
                step(action)
            if round_number:  # The first round warms up.
                speeds[name].append(rows * steps / (time.perf_counter() - begun))
    sync = speeds["gymnasium sync"]
    return {
        name: {
            "steps/s": statistics.median(values),
            "x sync": statistics.median(ours / peer for ours, peer in zip(values, sync, strict=True)),
        }
        for name, values in speeds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robots", nargs="+", default=["halfcheetah", "hopper"], choices=list(ROBOTS))
    parser.add_argument("--rows", nargs="+", type=int, default=[64])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = []
    for name in arguments.robots:
        for rows in arguments.rows:
            speeds = measure(ROBOTS[name], rows, arguments.threads, arguments.rounds)
            results.append({"robot": name, "rows": rows, "threads": arguments.threads, "peers": speeds})
            if not arguments.json:
                print(f"{name}, {rows} rows, {arguments.threads} threads, {os.cpu_count()} cores")
                for peer, figures in speeds.items():
                    print(f"  {peer:<36}{figures['steps/s']:>10,.0f} steps/s   {figures['x sync']:5.2f} x sync")
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
