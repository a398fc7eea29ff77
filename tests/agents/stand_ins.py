"""Small datasets in the place of the real ones, for whole commands and for the worker processes of a cluster."""

import numpy as np

from tests.agents.synthetic import dataset


def install():
    """Put them in place for the rest of the process."""
    import offdyn_envs
    from offdyn_agents.engine import execution
    from offdyn_agents.runs import problems
    from offdyn_envs import datasets
    from offdyn_envs.datasets import task as task_module

    offdyn_envs.load_task = load_task
    datasets.load_dataset = load_dataset
    task_module.available = available
    problems.target_returns = target_returns
    # Compiling takes longer than these runs.
    execution.can_compile = lambda _: False


def available(dataset):
    """Say that every dataset is here."""
    return True


def load_task(name):
    import gymnasium

    from offdyn_envs.tasks import get_task

    task = get_task(name)
    env = gymnasium.make(task.env_id)
    sizes = {"observation_dim": env.observation_space.shape[0], "action_dim": env.action_space.shape[0]}
    seed = sum(map(ord, name))
    return env, dataset(500, seed, **sizes), dataset(200, seed + 1, **sizes)


def load_dataset(name):
    """Return the target rows of the first task that has them, as `load_task` does."""
    from offdyn_envs.tasks import list_tasks

    return load_task(next(task.name for task in list_tasks() if str(task.target) == str(name)))[2]


def target_returns(robot, dynamics, episodes, threads):
    """Score without a simulator: HalfCheetah never falls, and its episodes would take longer than all the rest."""
    from offdyn_envs.robots import get_robot

    observations = np.random.default_rng(0).standard_normal((episodes, get_robot(robot).observation_dim))
    return lambda act, members: act(np.stack([observations] * members)).sum(axis=2)
