"""What a run is worth without a simulator: fitted Q evaluation, and its dynamics on target rows that were held out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from offdyn_agents.algorithms.registry import agent_class
from offdyn_agents.engine.export import CONTRACT
from offdyn_agents.engine.resources import Hardware
from offdyn_agents.engine.rows import Layout, last_rows, pack
from offdyn_agents.engine.settings import to_json
from offdyn_agents.judging.held_out import held_out_errors
from offdyn_agents.judging.stages import learned_model
from offdyn_agents.models.fqe import CAUTION, FQESettings, Policy, Values, evaluate_policies, logged_returns
from offdyn_agents.runs.own_pairs import OwnPair, problem_of
from offdyn_agents.runs.plans import ENDED, finishing_command, read_run, run_label, run_settings, sound_seeds
from offdyn_envs.atomic import write_json
from offdyn_envs.errors import OffDynError

__all__ = ["FILE", "OfflinePlan", "evaluate_offline", "load_data", "load_target", "summarise_offline"]

FILE = "offline.json"
REPLICATES, LEVEL = 2000, 0.95
EVALUATION_SEED = 20_000
"""First reset seed of the episodes whose true returns are compared."""


@dataclass(frozen=True)
class OfflinePlan:
    """How much to do.

    Attributes:
        settings: How policies are evaluated.
        seed: Decides which episodes are held out, and all that is drawn.
        episodes: Episodes of each policy in the simulator, where there is one, to compare with; 0 for none.
        dynamics: Whether to train the agent's dynamics again without the rows held out, and examine them.
        threads: CPU threads.
        quiet: Show no progress.
    """

    settings: FQESettings = field(default_factory=FQESettings)
    seed: int = 0
    episodes: int = 0
    dynamics: bool = True
    threads: int = 1
    quiet: bool = False


def load_data(facts: Mapping[str, Any], what: str) -> Any:
    """Return the "source" or "target" dataset of a run.json.

    Raises:
        OffDynError: The run says of none, or it is not on this machine.
    """
    from offdyn_envs import datasets

    problem = problem_of(facts)
    if isinstance(problem, OwnPair):
        return problem.pair[what == "target"]
    name = facts.get("data", {}).get(what)
    if not isinstance(name, str):
        raise OffDynError(f"run.json names no {what} dataset under data.{what}")
    return datasets.load_dataset(name)


def load_target(facts: Mapping[str, Any]) -> Any:
    """Return the target dataset of a run.json; as `load_data`."""
    return load_data(facts, "target")


def evaluate_offline(folder: Path, plan: OfflinePlan | None = None) -> dict[str, Any]:
    """Evaluate the exported policies of a run that has ended on its target data, and write `offline.json`.

    Args:
        folder: The run's folder.
        plan: How much to do.

    Returns:
        What was written, plain JSON. "discount"; "settings"; "target": "rows", "episodes" and "held_out" ones;
        "value": "held_out" and "all", each the "mean" of Q(s0, pi(s0)) over first states of such episodes, copies and
        seeds, its 95% t interval over "seeds" (None for one) and its 95% "bootstrap" interval over copies and episodes;
        "logged": the mean discounted return of these episodes themselves; "seeds": for each its values, those of its
        "copies", "cautious", their mean less two standard deviations, to compare policies by
        (docs/results/offline-evaluation.md), and the "error", see `Values`; "true": mean discounted returns in the
        simulator, by seed, where there is one and episodes were asked for; "dynamics": see `held_out_errors`, for
        agents that learn any; or "skipped", why there are none.

    Raises:
        OffDynError: The folder holds no run that has ended or has a sound seed, its target data are not here, or there
            is one target episode only.
    """
    plan = plan or OfflinePlan()
    facts = read_run(folder)
    if facts["status"] not in ENDED:
        raise OffDynError(f"run '{folder}' is not complete; finish it with: {finishing_command(folder, facts)}")
    seeds = sound_seeds(facts)
    if not seeds:
        raise OffDynError(f"run '{folder}' diverged in every seed; there is no policy to evaluate")
    target = load_target(facts)
    rows = pack(target, "target")
    layout = Layout(target.observations.shape[1], target.actions.shape[1])
    lengths = np.diff(np.flatnonzero(last_rows(target)), prepend=-1)
    policies = [_policy(folder / "seeds" / str(seed), layout) for seed in seeds]
    values = evaluate_policies(
        policies,
        rows,
        layout,
        lengths,
        plan.settings,
        seed=plan.seed,
        threads=plan.threads,
        quiet=plan.quiet,
        title=f"offline {facts['task']} {run_label(facts)}",
    )
    logged = logged_returns(rows, layout, lengths, plan.settings.discount)[np.cumsum(lengths) - lengths]
    result: dict[str, Any] = {
        "task": facts["task"],
        "agent": facts["agent"],
        "discount": plan.settings.discount,
        "settings": to_json(plan.settings),
        "target": {"rows": len(rows), "episodes": len(lengths), "held_out": int(values.held.sum())},
        "value": {"held_out": _estimate(values, values.held), "all": _estimate(values, np.ones(len(lengths), bool))},
        "logged": {"held_out": float(logged[values.held].mean()), "all": float(logged.mean())},
        "seeds": {str(seed): _of_seed(values, place) for place, seed in enumerate(seeds)},
    }
    true = _true(facts, policies, seeds, plan)
    result |= {"true": true} if true else {}
    write_json(folder / FILE, result)
    if plan.dynamics and (found := _dynamics(folder, facts, rows, layout, np.repeat(values.held, lengths), plan)):
        result["dynamics"] = found
        write_json(folder / FILE, result)
    return result


def _policy(home: Path, layout: Layout) -> Policy:
    """Return a seed's policy; where it answers in units of its own, these are mapped back to [-1, 1].

    Raises:
        OffDynError: The file breaks a rule of the gate, or is of other dimensions.
    """
    from offdyn_envs.benchmark.gate.onnx_policy import load_policy

    path = home / "policy.onnx"
    policy = load_policy(path, observation_dim=layout.observation_dim, action_dim=layout.action_dim)
    if not (home / CONTRACT).is_file():
        return policy
    actions = json.loads((home / CONTRACT).read_text(encoding="utf-8"))["actions"]
    low, high = (np.array([action[bound] for action in actions]) for bound in ("low", "high"))
    return lambda observations: (policy(observations) - low) * (2.0 / (high - low)) - 1.0


def _estimate(values: Values, episodes: NDArray[np.bool_]) -> dict[str, Any]:
    """Return mean and intervals over some episodes, see `evaluate_offline`."""
    from offdyn_envs.benchmark.scoring.statistics import t_interval

    starts = values.starts[:, :, episodes]
    by_seed = starts.mean((1, 2))
    interval = t_interval(by_seed, LEVEL) if len(by_seed) > 1 else None
    # Copies and episodes are common to all seeds, and are drawn once for all of them.
    common = starts.mean(0)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, size, (REPLICATES, size)) for size in common.shape]
    means = common[drawn[0][:, :, None], drawn[1][:, None, :]].mean((1, 2))
    low, high = np.quantile(means, [0.5 - LEVEL / 2.0, 0.5 + LEVEL / 2.0])
    return {
        "mean": float(by_seed.mean()),
        "seeds": None if interval is None else [interval.low, interval.high],
        "bootstrap": [float(low), float(high)],
    }


def _of_seed(values: Values, place: int) -> dict[str, Any]:
    starts = values.starts[place]
    copies = starts[:, values.held].mean(1)
    return {
        "held_out": float(copies.mean()),
        "all": float(starts.mean()),
        "copies": copies.tolist(),
        "cautious": float(copies.mean() - CAUTION * copies.std()),
        "error": float(values.error[place]),
    }


def _true(facts: Mapping[str, Any], policies: list[Policy], seeds: list[int], plan: OfflinePlan) -> dict[str, Any]:
    """Return the true discounted returns where the task is one of this suite; else nothing."""
    from offdyn_envs.benchmark.scoring.rollouts import population_returns
    from offdyn_envs.tasks import get_dynamics, get_task

    try:
        task = get_task(facts["task"])
    except OffDynError:
        return {}
    if not plan.episodes:
        return {}

    def act(observations: NDArray[Any]) -> NDArray[Any]:
        return np.stack([policy(rows) for policy, rows in zip(policies, observations, strict=True)])

    returns = population_returns(
        act,
        len(policies),
        task.robot,
        get_dynamics(task.robot, task.scoring),
        plan.episodes,
        EVALUATION_SEED,
        num_threads=plan.threads,
        discount=plan.settings.discount,
    )
    means = {str(seed): float(row.mean()) for seed, row in zip(seeds, returns, strict=True)}
    return {"mean": float(returns.mean()), "seeds": means, "episodes": plan.episodes}


def _dynamics(
    folder: Path, facts: Mapping[str, Any], target: torch.Tensor, layout: Layout, held: NDArray[Any], plan: OfflinePlan
) -> dict[str, Any]:
    """Return the errors of a run's dynamics on held-out rows; nothing for agents without dynamics."""
    kind, sizes = agent_class(facts["agent"]), (layout.observation_dim, layout.action_dim)
    if not learned_model(kind(kind.settings_class(), *sizes)):
        return {}
    try:
        agent = kind(run_settings(folder, facts), *sizes)
        name = learned_model(agent)
        needs_source = name not in ("alone", "target")
        source = pack(load_data(facts, "source"), "source") if needs_source else target[:0]
        precision = facts.get("precision", "fp32")
        # A processor has no tf32.
        hardware = Hardware("cpu", "fp32" if precision == "tf32" else precision, plan.threads)
        return held_out_errors(
            agent,
            layout,
            source,
            target,
            torch.from_numpy(held),
            facts["seeds"],
            hardware,
            folder.resolve().parent.parent / ".stages",
            quiet=plan.quiet,
        )
    except OffDynError as error:
        return {"skipped": str(error)}


def summarise_offline(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the table of an offline evaluation.

    Args:
        result: What `evaluate_offline` returned.
    """
    held, logged = result["value"]["held_out"], result["logged"]
    what = f"discounted by {result['discount']:g}"
    rows = [
        _row(f"fitted Q evaluation, held-out episodes, {what}", held["mean"], held["seeds"], held["bootstrap"]),
        _row("less two deviations of its copies, to compare policies by", _mean_of(result, "cautious")),
        _row(f"logged returns of these episodes, {what}", logged["held_out"]),
    ]
    if "true" in result:
        rows.append(_row(f"true returns in the simulator, {what}", result["true"]["mean"]))
    found = result.get("dynamics", {})
    if "errors" in found:
        states = np.array([each["state"] for each in found["errors"]])
        rows.append(_row("dynamics, squared error of s' in units of a change, held-out rows", float(states.mean())))
    elif "skipped" in found:
        rows.append({"what": f"dynamics: {found['skipped']}", "mean": "-", "seeds": "-", "bootstrap": "-"})
    return rows


def _mean_of(result: Mapping[str, Any], name: str) -> float:
    """Return the mean of a number over the seeds."""
    return float(np.mean([told[name] for told in result["seeds"].values()]))


def _row(what: str, mean: float, seeds: Any = None, bootstrap: Any = None) -> dict[str, Any]:
    def shown(interval: Any) -> str:
        return "-" if interval is None else f"[{interval[0]:.1f}, {interval[1]:.1f}]"

    digits = 1 if abs(mean) >= 10.0 else 3
    return {"what": what, "mean": round(mean, digits), "seeds": shown(seeds), "bootstrap": shown(bootstrap)}
