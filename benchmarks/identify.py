"""How far `offdyn data identify` lands from shifts that are known.

    python benchmarks/identify.py                            # the table of docs/identify.md
    python benchmarks/identify.py --cases 1 2 --json
    python benchmarks/identify.py --coverage 20 --rows 500   # how often 95% intervals hold the truth, under noise

Rows are collected here, with the shipped medium policy of the nominal robot in the shifted environment, seeded. Gravity
and friction are always free, beside whatever was shifted: what was left alone must come out as 1.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from offdyn_envs.datasets import identify
from offdyn_envs.policies import BehaviourPolicy
from offdyn_envs.shifts import Noise, parse_shifts
from offdyn_envs.shifts.sampling import read_key
from offdyn_envs.shipped import behaviour_path
from offdyn_envs.vector import OffDynVectorEnv

EPISODES_AT_ONCE = 25


class Case(NamedTuple):
    """A known shift: the robot, and the true value of each parameter."""

    robot: str
    truth: dict[str, float]


CASES = (
    Case("hopper", {"gravity": 0.7}),
    Case("hopper", {"friction": 0.4}),
    Case("hopper", {"mass:torso": 1.5}),
    Case("hopper", {"damping": 2.0}),
    Case("hopper", {"gravity": 1.3, "friction": 2.0}),
    Case("walker2d", {"gravity": 1.4}),
    Case("walker2d", {"friction": 0.5}),
    Case("walker2d", {"actuator": 0.8}),
    Case("walker2d", {"payload:torso": 1.5}),
    Case("walker2d", {"gravity": 0.8, "friction": 1.7}),
    Case("hopper", {"delay": 2, "mass": 1.2}),
    Case("hopper", {"kinematic:leg": 0.8}),
)
"""Ten known shifts, a delay, and one that little of the data can tell."""


def shifts_of(truth: dict[str, float]) -> list[Any]:
    """Return the shifts of parameters by name."""
    return list(parse_shifts([{**read_key(key)[0], read_key(key)[1]: value} for key, value in truth.items()]))


def collect(robot: str, shifts: Sequence[Any], rows: int, seed: int) -> dict[str, np.ndarray]:
    """Collect transitions with the medium policy of the nominal robot, with simulator states before each step."""
    env = OffDynVectorEnv(robot, EPISODES_AT_ONCE, shifts=shifts, autoreset_mode="same_step")
    policy, rng = BehaviourPolicy.load(behaviour_path(robot, "nominal", "medium")), np.random.default_rng(seed)
    observations, kept = env.reset(seed=seed)[0], []
    for step in range(-(-rows // EPISODES_AT_ONCE)):
        qpos, qvel = env.qpos, env.qvel
        actions = policy.act(observations, rng)
        following, rewards, terminated, truncated, infos = env.step(actions)
        after = infos.get("final_obs", following)
        shown = np.where((terminated | truncated)[:, None], after, following)
        truncated |= ~terminated & (step == -(-rows // EPISODES_AT_ONCE) - 1)
        kept.append((observations, actions, rewards, shown, terminated, truncated, qpos, qvel))
        observations = following
    env.close()
    names = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations", "qpos", "qvel")
    columns = (np.stack(column, axis=1) for column in zip(*kept, strict=True))
    return {name: column.reshape(-1, *column.shape[2:])[:rows] for name, column in zip(names, columns, strict=True)}


def fit(case: Case, rows: int, seed: int, noise: float, states: bool, threads: int | None) -> dict[str, Any]:
    """Fit one case and return what came out beside the truth.

    Noise is on all observations, or, where the states are known, on what came of each step.
    """
    disturbed = [Noise(noise)] if noise and not states else []
    data = collect(case.robot, shifts_of(case.truth) + disturbed, rows, seed)
    if states and noise:
        data["next_observations"] += noise * np.random.default_rng(seed).normal(size=data["next_observations"].shape)
    if not states:
        del data["qpos"], data["qvel"]
    begun = time.perf_counter()
    free = list(dict.fromkeys(("gravity", "friction", *case.truth)))
    found = identify(data, case.robot, free, rows=rows, quiet=True, num_threads=threads)
    values = [{**item.to_json(), "truth": case.truth.get(item.name, 1.0)} for item in found.estimates]
    return {
        "robot": case.robot,
        "from": "states" if states else "observations",
        "noise": noise,
        "rows": found.rows,
        "values": values,
        "before": found.before.steps[0],
        "after": found.after.steps[0],
        "seconds": round(time.perf_counter() - begun, 1),
    }


HEAD = (
    "| robot | from | rows | parameter truth: value (95% interval) | worst error | before | left |\n" + "|---" * 7 + "|"
)


def shown(result: dict[str, Any]) -> str:
    """Return one row of the table."""
    cells = [
        f"{item['name']} {item['truth']:g}: {item['value']:.5g}"
        + (f" ({item['low']:.5g} to {item['high']:.5g})" if item["told"] else f" cannot tell ({item['note']})")
        for item in result["values"]
    ]
    worst = max((abs(item["value"] / item["truth"] - 1.0) for item in result["values"] if item["told"]), default=0.0)
    return (
        f"| {result['robot']} | {result['from']} | {result['rows']:,} | {'; '.join(cells)} | {worst:.2g} | "
        f"{result['before']:.3g} | {result['after']:.2g} |"
    )


def coverage(case: Case, times: int, rows: int, noise: float, states: bool, threads: int | None) -> str:
    """Fit many data sets of one shift and count the intervals that hold the truth."""
    fits = [fit(case, rows, 100 + number, noise, states, threads)["values"] for number in range(times)]
    cells: list[str] = []
    for items in zip(*fits, strict=True):
        held = sum(item["low"] <= item["truth"] <= item["high"] for item in items)
        off = [item["value"] / item["truth"] - 1.0 for item in items]
        width = np.median([item["high"] / item["low"] - 1.0 for item in items])
        cells.append(f"{held} of {times} | {np.mean(off):+.2%} | {np.std(off):.2%} | {width:.2%}")
    noisy = "the outcome" if states else "all observations"
    rows_ = (f"| {noise:g} on {noisy} | {item['name']} | {cell} |" for item, cell in zip(fits[0], cells, strict=True))
    return "\n".join(rows_)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", type=int, default=list(range(1, len(CASES) + 1)), help="1 to 12")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.001, 0.01], help="of --coverage")
    parser.add_argument("--coverage", type=int, default=0, metavar="TIMES")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.coverage:
        case = Case("hopper", {"gravity": 0.8, "friction": 0.7})
        print("| noise | parameter | intervals that hold it | bias | spread | median width |\n" + "|---" * 6 + "|")
        for states in (True, False):
            for noise in arguments.noise:
                print(coverage(case, arguments.coverage, arguments.rows, noise, states, arguments.threads), flush=True)
        return
    results = []
    if not arguments.json:
        print(HEAD)
    for number in arguments.cases:
        for states in (True, False):
            results.append(fit(CASES[number - 1], arguments.rows, number, 0.0, states, arguments.threads))
            if not arguments.json:
                print(shown(results[-1]), flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
