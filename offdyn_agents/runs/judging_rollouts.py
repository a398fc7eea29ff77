"""How far a finished run's policies get from states of source rows, of target rows, and from resets.

    offdyn diagnose rollouts runs/hopper-gravity-0.5-medium/morec

A policy that does well from target rows and not from resets has not learned how an episode begins. Where speed builds
up, the data's own return is what resets are to be held against. Agents with rollouts
in an ensemble are run in that model, too: where its errors are what a policy has learned to use, it gets further there
than in the simulator. Actions are the policy's deterministic ones. For diagnosis, never for training.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
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
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.engine.termination import termination
from offdyn_agents.engine.training.supplies import TaskRuns, digest, packed_tables
from offdyn_agents.models.ensemble.rollouts import RolloutModel
from offdyn_agents.runs.plans import ENDED, finishing_command, read_run, run_settings, sound_seeds
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_envs.datasets.store.spec import Dataset
    from offdyn_envs.vector import OffDynVectorEnv

__all__ = ["Begin", "Walks", "judge_rollouts", "lines", "walk_in_model", "walk_in_simulator"]

STARTS = 200
HORIZON = 100
"""Most steps of a rollout where the agent has no horizon of its own."""
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


@dataclass(frozen=True)
class Begin:
    """Simulator states in which N rollouts begin.

    Attributes:
        qpos: Positions, [N, nq].
        qvel: Velocities, [N, nv].
        goal: Goals, [N, G], of a robot that has one.
        queue: Actions under way, [N, K, |A|], under a delay; none have been sent where left out.
    """

    qpos: Any
    qvel: Any
    goal: Any = None
    queue: Any = None

    def put(self, env: OffDynVectorEnv, mask: Any = None) -> Any:
        """Put rows of a batch there, all or some [N], and return its observations [N, |S|]."""
        return env.set_state(self.qpos, self.qvel, mask, self.queue, self.goal)


def walk_in_simulator(env: OffDynVectorEnv, policy: Policy, begin: Begin, horizon: int) -> Walks:
    """Let a policy act from N simulator states.

    Args:
        env: The target's dynamics, N rows, without resets of its own.
        policy: The policy.
        begin: The states.
        horizon: Most steps.
    """
    env.reset(seed=0)
    observations = begin.put(env)
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
            observations = begin.put(env, ~live)
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


def judge_rollouts(
    folder: Path, starts: int = STARTS, threads: int = 1, quiet: bool = False, horizon: int | None = None
) -> dict[str, Any]:
    """Run every seed's policy of a finished run on a task's own datasets.

    Args:
        folder: The run. Its models are found in the cache of stages beside it; what is not there is trained again.
        starts: Rollouts from rows of each dataset, and from resets.
        threads: CPU threads.
        quiet: Show no progress.
        horizon: Most steps of a rollout; by default the agent's own, and 100 where it has none.

    Returns:
        "task", "agent", "horizon", "starts" and, under "seeds", for each seed whose training went well, starts
        ("source", "target", "resets") and place ("simulator", and "model" where there is one) what `Walks.figures`
        says.

    Raises:
        OffDynError: No finished run, or one whose model learned from other data than the task has now.
    """
    import offdyn_envs
    from offdyn_envs.vector import OffDynVectorEnv

    facts = read_run(folder)
    if facts["status"] not in ENDED:
        raise OffDynError(f"run '{folder}' is {facts['status']}; finish it with: {finishing_command(folder, facts)}")
    env, source, target = offdyn_envs.load_task(facts["task"])
    env.close()
    kind = agent_class(facts["agent"])
    layout = Layout(source.observations.shape[1], source.actions.shape[1])
    settings = run_settings(folder, facts)
    agent: Any = kind(settings, layout.observation_dim, layout.action_dim)
    steps: int = horizon or getattr(settings, "horizon", HORIZON)
    policies = _policies(folder, facts, layout)
    models = _models(agent, folder, facts, source, target, layout, threads, quiet)
    env = OffDynVectorEnv(
        target.id.robot,
        starts,
        shifts=target.card["shifts"] or None,
        profile=target.card["profile"],
        num_threads=threads,
        autoreset_mode="disabled",
    )
    with closing(env), threads_inside(threads):
        begins = _begins(source, target, env)
        found = [
            {"seed": seed}
            | {name: _compare(models.get(seed), policy, begin, env, steps) for name, begin in begins.items()}
            for seed, policy in policies.items()
        ]
    return {"task": facts["task"], "agent": facts["agent"], "horizon": steps, "starts": starts, "seeds": found}


def _models(
    agent: Any,
    folder: Path,
    facts: dict[str, Any],
    source: Dataset,
    target: Dataset,
    layout: Layout,
    threads: int,
    quiet: bool,
) -> dict[int, RolloutModel]:
    """Return the model of each sound seed, none of an agent without rollouts in an ensemble."""
    if not hasattr(agent, "world"):
        return {}
    seeds, ended = tuple(facts["seeds"]), termination(source.id.robot)
    tables = packed_tables(agent, TaskRuns(source, target, seeds, folder), layout)
    if facts["data"]["sha256"] != digest(*tables):
        raise OffDynError(f"run '{folder}' learned from other rows than task '{facts['task']}' has now")
    context = StageContext(
        layout,
        *tables,
        seeds=seeds,
        updates=facts["updates"],
        cache=folder.resolve().parent.parent / ".stages",
        robot=source.id.robot,
        terminated=ended,
        threads=threads,
        quiet=quiet,
        precision=facts["precision"],
    )
    products = partial(rounded_products, "cpu", facts["precision"])
    with threads_inside(threads):
        results = zip(seeds, agent.stages(context).results, strict=True)
        return {
            seed: agent.world(RunView(seed, context.updates, {}, result, *tables, layout, ended, products=products))
            for seed, result in results
            if seed in sound_seeds(facts)
        }


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


def _begins(source: Dataset, target: Dataset, env: OffDynVectorEnv) -> dict[str, Begin]:
    """Draw the states of rows of both datasets, and those of resets in the target."""
    found = dict[str, Begin]()
    for name, dataset in (("source", source), ("target", target)):
        rows = np.random.default_rng(0).integers(0, len(dataset), env.num_envs)
        goal = None if dataset.goal is None else dataset.goal[rows]
        queue = dataset.arrays.under_way(rows, env.queue.shape[1])
        found[name] = Begin(dataset.qpos[rows], dataset.qvel[rows], goal, queue)
    env.reset(seed=0)
    return found | {"resets": Begin(env.qpos, env.qvel, None if target.goal is None else env.goal)}


def _compare(
    model: RolloutModel | None, policy: Policy, begin: Begin, env: OffDynVectorEnv, horizon: int
) -> dict[str, dict[str, float]]:
    real = walk_in_simulator(env, policy, begin, horizon).figures()
    if model is None:
        return {"simulator": real}
    observations = torch.from_numpy(begin.put(env).astype(np.float32))
    return {"model": walk_in_model(model, policy, observations, horizon).figures(), "simulator": real}


def lines(record: dict[str, Any]) -> list[str]:
    """Return a record as a table for a terminal."""
    head = f"{'seed':<5}{'starts':<8}{'where':<11}{'steps':>7}{'reward':>8}{'fell':>7}{'refused':>9}{'at once':>9}"
    found = [f"{record['task']} {record['agent']}: {record['starts']} rollouts of {record['horizon']} steps", head]
    for seed in record["seeds"]:
        for name in ("source", "target", "resets"):
            for where, f in seed[name].items():
                shares = f"{f['fell']:>7.1%}{f['refused']:>9.1%}{f['refused_at_once']:>9.1%}"
                found.append(f"{seed['seed']:<5}{name:<8}{where:<11}{f['steps']:>7.1f}{f['reward']:>8.2f}{shares}")
    return found


if __name__ == "__main__":
    # An earlier spelling.
    from offdyn_envs.cli import main

    main(["diagnose", "rollouts", *sys.argv[1:]])
