"""How well fitted Q evaluation ranks policies: its values beside true discounted returns.

    for settings in "bc 500" "td3-bc 500" "iql 500" "bc 3000" "td3-bc 3000" "iql 3000"; do set -- $settings
        offdyn train $1 hopper-gravity-0.5-medium --seeds 2 --updates $2 --variant u$2
    done  # and for walker2d-gravity-5.0-medium "bc 500" "bc 3000" "td3-bc 1000" "td3-bc 4000" "iql 1000" "iql 4000"
    tasks="hopper-gravity-0.5-medium halfcheetah-gravity-0.5-medium walker2d-gravity-5.0-medium"
    python benchmarks/offline.py $tasks --runs runs --out docs/results/offline-evaluation

Policies are those of the leaderboard's entries, of the runs, and some behaviours of the suite: those of the target and
of the source. All of a task are evaluated side by side on its target dataset of 5,000 rows. What is in DIR/TASK.json is
not computed again. Agents' policies are told apart from behaviours, of which those of the
source are far from the data.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.models.fqe import CAUTION, FQESettings, evaluate_policies, logged_returns
from offdyn_envs import load_dataset
from offdyn_envs.atomic import write_json
from offdyn_envs.batching.threads import usable_threads
from offdyn_envs.benchmark.gate.onnx_policy import load_policy
from offdyn_envs.benchmark.scoring.rollouts import population_returns
from offdyn_envs.figures import new_figure, save_figure
from offdyn_envs.policies import BehaviourPolicy
from offdyn_envs.report import print_table
from offdyn_envs.tasks import get_dynamics, get_task

ROOT = Path(__file__).parents[1]
BEHAVIOURS = ("medium", "expert", "replay-00", "replay-04", "replay-08", "replay-12")
EPISODES, SEED = 10, 30_000

Policy = Callable[[Any], Any]


def policies(task: str, runs: Path | None) -> dict[str, Policy]:
    """Return the policies of a task by name; behaviours begin with "behaviour"."""
    found: dict[str, Policy] = {}
    for path in sorted((ROOT / "leaderboard/submissions").glob(f"*/policies/{task}/[0-9].onnx")):
        found[f"{path.parts[-4]} {path.stem}"] = load_policy(path)
    for path in sorted(runs.glob(f"{task}/*/seeds/*/policy.onnx")) if runs else ():
        found[f"{path.parts[-4]} {path.parts[-2]}"] = load_policy(path)
    known = get_task(task)
    for dynamics in (known.scoring, "nominal"):
        for name in BEHAVIOURS:
            path = ROOT / "datasets/behaviours" / known.robot / dynamics / f"{name}.safetensors"
            if path.exists():
                found[f"behaviour {dynamics} {name}"] = BehaviourPolicy.load(path).act
    return found


def compare(task: str, size: str, runs: Path | None, threads: int) -> dict[str, Any]:
    """Return values, from a target dataset of some size, and true returns of all policies of a task."""
    known, named = get_task(task), policies(task, runs)
    target, settings = load_dataset(replace(known.target, rows=size)), FQESettings()
    rows, layout = pack(target, task), Layout(target.observations.shape[1], target.actions.shape[1])
    lengths = target.arrays.lengths
    begun = time.monotonic()
    values = evaluate_policies(list(named.values()), rows, layout, lengths, settings, threads=threads, quiet=False)
    seconds = time.monotonic() - begun

    def act(observations: Any) -> Any:
        return np.stack([policy(some) for policy, some in zip(named.values(), observations, strict=True)])

    shifts = get_dynamics(known.robot, known.scoring)
    returns = population_returns(
        act, len(named), known.robot, shifts, EPISODES, SEED, num_threads=threads, discount=settings.discount
    )
    copies = values.starts[:, :, values.held].mean(2)
    logged = logged_returns(rows, layout, lengths, settings.discount)[np.cumsum(lengths) - lengths]
    found = {
        name: {"true": float(true.mean()), "copies": some.tolist(), "error": float(error)}
        for name, true, some, error in zip(named, returns, copies, values.error, strict=True)
    }
    return {
        "task": f"{task} {size}",
        "discount": settings.discount,
        "episodes": {"true": EPISODES, "logged": len(lengths), "held_out": int(values.held.sum())},
        "logged": float(logged.mean()),
        "seconds": round(seconds, 1),
        "policies": found,
    }


def correlation(left: Any, right: Any) -> float:
    """Return Spearman's rank correlation of two vectors without ties."""
    first, second = (np.argsort(np.argsort(values)) for values in (left, right))
    return float(np.corrcoef(first, second)[0, 1])


def table(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each task and group of policies."""
    rows: list[dict[str, Any]] = []
    for result in results:
        for group, member in (("all", lambda name: True), ("agents", lambda name: not name.startswith("behaviour"))):
            some = [told for name, told in result["policies"].items() if member(name)]
            true, copies = np.array([told["true"] for told in some]), np.array([told["copies"] for told in some])
            mean, spread = copies.mean(1), copies.std(1)
            cautious = mean - CAUTION * spread
            rows.append(
                {
                    "task": result["task"],
                    "policies": f"{len(some)} {group}",
                    "rank, mean": round(correlation(mean, true), 2),
                    "rank, cautious": round(correlation(cautious, true), 2),
                    "mean error": round(float(np.abs(mean - true).mean()), 1),
                    "true": f"{true.min():.0f} to {true.max():.0f}",
                    "chosen": round(float(true[np.argmax(cautious)]), 1),
                }
            )
    return rows


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw values over true returns, agents' policies apart from behaviours."""
    figure = new_figure(figsize=(4.2 * len(results), 4.0), layout="constrained")
    for place, result in enumerate(results):
        axes = figure.add_subplot(1, len(results), place + 1)
        for label, colour, behaviours in (("agents", "#1f77b4", False), ("behaviours", "#bbbbbb", True)):
            some = [told for name, told in result["policies"].items() if name.startswith("behaviour") == behaviours]
            true, copies = np.array([told["true"] for told in some]), np.array([told["copies"] for told in some])
            mean, spread = copies.mean(1), copies.std(1)
            axes.errorbar(true, mean, spread, fmt="o", color=colour, label=label, markersize=4, linewidth=1)
        top = max(axes.get_xlim()[1], axes.get_ylim()[1])
        axes.plot([0, top], [0, top], color="black", linewidth=0.7)
        axes.axhline(result["logged"], color="black", linewidth=0.7, linestyle=":", label="logged returns")
        axes.set(title=result["task"], xlabel="true discounted return", ylabel="fitted Q evaluation")
        axes.legend(fontsize=8)
    save_figure(figure, path, {"Software": None})


def main() -> None:
    """Compare, print the table, draw."""
    parser = argparse.ArgumentParser(description="Fitted Q evaluation beside true returns.")
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--runs", type=Path, help="folder of runs whose policies are added")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of results")
    parser.add_argument("--sizes", nargs="+", default=["5k"], help="sizes of the target dataset, for instance 5k 100k")
    parser.add_argument("--threads", type=int, default=usable_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    results: list[dict[str, Any]] = []
    for task in asked.tasks:
        for size in asked.sizes:
            path = asked.out / f"{task}-{size}.json"
            if not path.exists():
                write_json(path, compare(task, size, asked.runs, asked.threads))
            results.append(json.loads(path.read_text(encoding="utf-8")))
    print_table("Fitted Q evaluation", table(results), False)
    draw(results, asked.out / "values.png")


if __name__ == "__main__":
    main()
