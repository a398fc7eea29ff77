"""How far a finished run's policies get in the model they learned from, and in the simulator, from the same states.

    offdyn diagnose rollouts runs/hopper-gravity-0.5-medium/morec

Where a model's errors are what a policy has learned to use, it gets further in the model. States are those of source
and target rows; with merged rows rollouts in training start in both, too. Actions are the policy's deterministic ones.
For diagnosis, never for training.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from offdyn_agents.algorithms.registry import agent_class
from offdyn_agents.engine.products import rounded_products, threads_inside
from offdyn_agents.engine.rollouts import RunView
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.settings import build, flat
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.engine.termination import termination
from offdyn_agents.engine.training.supplies import TaskRuns, digest, packed_tables
from offdyn_agents.models.ensemble.rollouts import RolloutModel
from offdyn_agents.runs.plans import ENDED, finishing_command, read_run, sound_seeds
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_envs.datasets.store.spec import Dataset
    from offdyn_envs.vector import OffDynVectorEnv

__all__ = ["Walks", "judge_rollouts", "lines", "walk_in_model", "walk_in_simulator"]

STARTS = 200
Policy = Callable[[Any], Any]
"""Maps observations [N, |S|] to actions [N, |A|], both float32 arrays."""


@dataclass(frozen=True)
class Walks:
    """What became of N rollouts.

    Attributes:
        steps: Steps of each, [N].
        returns: Rewards of each added, without any penalty, [N].
        fell: Whether it ended because the robot fell, or in the simulator because the simulation blew up, bool [N].
        refused: Whether it ended because no candidate was good enough, bool [N].
    """

    steps: Tensor
    returns: Tensor
    fell: Tensor
    refused: Tensor

    def figures(self) -> dict[str, float]:
        """Return mean steps, mean reward of a step, and shares that ended early."""
        return {
            "steps": float(self.steps.mean()),
            "reward": float(self.returns.sum() / self.steps.sum()),
            "fell": float(self.fell.float().mean()),
            "refused": float(self.refused.float().mean()),
            "refused_at_once": float((self.refused & (self.steps == 1)).float().mean()),
        }


def walk_in_simulator(
    env: OffDynVectorEnv, policy: Policy, qpos: Any, qvel: Any, horizon: int, goal: Any = None
) -> Walks:
    """Let a policy act from N simulator states.

    Args:
        env: The target's dynamics, N rows, without resets of its own.
        policy: The policy.
        qpos: Positions, [N, nq].
        qvel: Velocities, [N, nv].
        horizon: Most steps.
        goal: Goals, [N, G], of a robot that has one.
    """
    env.reset(seed=0)
    observations = env.set_state(qpos, qvel, goal=goal)
    count = len(observations)
    walks = _none(count)
    live = np.ones(count, dtype=bool)
    for _ in range(horizon):
        actions = np.clip(policy(observations.astype(np.float32)), -1.0, 1.0)
        observations, rewards, terminations, _, _ = env.step(actions)
        walks.steps[live] += 1.0
        walks.returns[live] += torch.from_numpy(rewards[live]).float()
        walks.fell[live] = torch.from_numpy(terminations[live])
        live &= ~terminations
        if not live.any():
            break
        if not live.all():
            # All rows are stepped: put back, those that have ended stay where the simulation is sound.
            observations = env.set_state(qpos, qvel, ~live, goal=goal)
    return walks


def walk_in_model(model: RolloutModel, policy: Policy, starts: Tensor, horizon: int, seed: int = 0) -> Walks:
    """Let a policy act in a model from N observations.

    Args:
        model: The world of its rollouts.
        policy: The policy.
        starts: Observations, [N, |S|].
        horizon: Most steps.
        seed: Of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    # Every step of every rollout is wanted, and rewards as the model gives them.
    model = replace(model, penalty=0.0, drop_refused=False)
    walks, live, observations = _none(len(starts)), torch.arange(len(starts)), starts
    for _ in range(horizon):
        if not len(live):
            break
        actions = torch.from_numpy(np.clip(policy(observations.numpy()), -1.0, 1.0))
        with torch.no_grad():
            rows, following = model.step(observations, actions, generator)
        _, _, reached, rewards, continues = Layout(observations.shape[-1], actions.shape[-1]).split(rows)
        fell = model.terminated(reached)
        walks.steps[live] += 1.0
        walks.returns[live] += rewards
        walks.fell[live] = fell
        walks.refused[live] = (continues == 0.0) & ~fell
        live, observations = live[continues > 0.0], following
    return walks


def _none(count: int) -> Walks:
    zeros, no = torch.zeros(count), torch.zeros(count, dtype=torch.bool)
    return Walks(zeros.clone(), zeros.clone(), no.clone(), no.clone())


def judge_rollouts(folder: Path, starts: int = STARTS, threads: int = 1, quiet: bool = False) -> dict[str, Any]:
    """Compare model and simulator for every seed of a finished run on a task's own datasets.

    Args:
        folder: The run. Its models are found in the cache of stages beside it; what is not there is trained again.
        starts: Rollouts from rows of each dataset.
        threads: CPU threads.
        quiet: Show no progress.

    Returns:
        "task", "agent", "horizon", "starts" and, under "seeds", for each seed whose training went well, dataset
        ("source", "target") and place ("model", "simulator") what `Walks.figures` says.

    Raises:
        OffDynError: No finished run of an agent with rollouts in an ensemble, or its data are not the task's of now.
    """
    import offdyn_envs

    facts = read_run(folder)
    kind = agent_class(facts["agent"])
    if not hasattr(kind, "world"):
        raise OffDynError(
            f"run '{folder}' is of agent '{facts['agent']}'; agents with rollouts in an ensemble are wanted"
        )
    if facts["status"] not in ENDED:
        raise OffDynError(f"run '{folder}' is {facts['status']}; finish it with: {finishing_command(folder, facts)}")
    env, source, target = offdyn_envs.load_task(facts["task"])
    env.close()
    settings = build(kind.settings_class, flat(facts["settings"]))
    layout = Layout(source.observations.shape[1], source.actions.shape[1])
    agent: Any = kind(settings, layout.observation_dim, layout.action_dim)
    seeds, robot = tuple(facts["seeds"]), source.id.robot
    tables = packed_tables(agent, TaskRuns(source, target, seeds, folder), layout)
    if facts["data"]["sha256"] != digest(*tables):
        raise OffDynError(f"run '{folder}' learned from other rows than task '{facts['task']}' has now")
    policies = _policies(folder, facts, layout)
    context = StageContext(
        layout,
        *tables,
        seeds=seeds,
        updates=facts["updates"],
        cache=folder.resolve().parent.parent / ".stages",
        robot=robot,
        terminated=termination(robot),
        threads=threads,
        quiet=quiet,
        precision=facts["precision"],
    )
    products = partial(rounded_products, "cpu", facts["precision"])
    found: list[dict[str, Any]] = []
    with threads_inside(threads):
        results = dict(zip(seeds, agent.stages(context).results, strict=True))
        for seed, policy in policies.items():
            view = RunView(
                seed, context.updates, {}, results[seed], *tables, layout, termination(robot), products=products
            )
            figures = {
                name: _compare(agent.world(view), policy, dataset, target, starts, settings.horizon, threads)
                for name, dataset in (("source", source), ("target", target))
            }
            found.append({"seed": seed, **figures})
    facts = {name: facts[name] for name in ("task", "agent")}
    return {**facts, "horizon": settings.horizon, "starts": starts, "seeds": found}


def _policies(folder: Path, facts: dict[str, Any], layout: Layout) -> dict[int, Policy]:
    """Load the policies of seeds that were not stopped."""
    from offdyn_envs.benchmark.gate.onnx_policy import load_policy

    return {
        seed: load_policy(
            folder / "seeds" / str(seed) / "policy.onnx",
            observation_dim=layout.observation_dim,
            action_dim=layout.action_dim,
        )
        for seed in sound_seeds(facts)
    }


def _compare(
    model: RolloutModel, policy: Policy, dataset: Dataset, target: Dataset, starts: int, horizon: int, threads: int
) -> dict[str, dict[str, float]]:
    from offdyn_envs.vector import OffDynVectorEnv

    rows = np.random.default_rng(0).integers(0, len(dataset), starts)
    env = OffDynVectorEnv(
        target.id.robot,
        starts,
        shifts=target.card["shifts"] or None,
        profile=target.card["profile"],
        num_threads=threads,
        autoreset_mode="disabled",
    )
    try:
        goal = None if dataset.goal is None else dataset.goal[rows]
        real = walk_in_simulator(env, policy, dataset.qpos[rows], dataset.qvel[rows], horizon, goal)
    finally:
        env.close()
    observations = torch.from_numpy(np.ascontiguousarray(dataset.observations[rows]))
    return {"model": walk_in_model(model, policy, observations, horizon).figures(), "simulator": real.figures()}


def lines(record: dict[str, Any]) -> list[str]:
    """Return a record as a table for a terminal."""
    head = f"{'seed':<5}{'starts':<8}{'where':<11}{'steps':>7}{'reward':>8}{'fell':>7}{'refused':>9}{'at once':>9}"
    found = [f"{record['task']} {record['agent']}: {record['starts']} rollouts of {record['horizon']} steps", head]
    for seed in record["seeds"]:
        for name in ("source", "target"):
            for where, f in seed[name].items():
                shares = f"{f['fell']:>7.1%}{f['refused']:>9.1%}{f['refused_at_once']:>9.1%}"
                found.append(f"{seed['seed']:<5}{name:<8}{where:<11}{f['steps']:>7.1f}{f['reward']:>8.2f}{shares}")
    return found


if __name__ == "__main__":
    # An earlier spelling.
    from offdyn_envs.cli import main

    main(["diagnose", "rollouts", *sys.argv[1:]])
