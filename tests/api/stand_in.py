"""A task of the suite as `load_task` gives it, of small random data, and agents of small sizes."""

import numpy as np

from offdyn_envs.robots import get_robot
from tests.agents.synthetic import dataset


def task(name):
    """Return env, source and target of a task; only the rows are others."""
    import gymnasium

    from offdyn_envs.datasets.task import Task
    from offdyn_envs.tasks import get_task

    found = get_task(name)
    return Task(gymnasium.make(found.env_id), _data(found.source, 300, 0), _data(found.target, 100, 1))


def _data(id, rows, seed):
    from offdyn_envs.datasets.store.spec import Arrays, Dataset

    robot = get_robot(id.robot)
    found = dataset(rows, seed, observation_dim=robot.observation_dim, action_dim=robot.action_dim)
    found.truncations = ~found.terminations
    empty, ones = np.zeros((2 * rows, 1)), np.ones(rows, dtype=np.int64)
    made = {name: part for name, part in vars(found).items() if name != "gap"}
    arrays = Arrays(**made, qpos=empty, qvel=empty, lengths=ones, seeds=ones)
    # Behaviours of no policy that is here: learned models are trained, and not judged in the simulator.
    card = {"robot": id.robot, "behaviour": [{"name": "nobody", "policy_sha256": ""}]}
    return Dataset(id, {"offdyn": card}, arrays, None)


def install(patch):
    """Let every way to a task's data lead here.

    Args:
        patch: A `pytest.MonkeyPatch`.
    """
    import offdyn
    import offdyn_envs
    from offdyn_agents.engine import execution
    from tests.agents.stand_ins import available

    for package in (offdyn, offdyn_envs):
        patch.setattr(package, "load_task", task)
    patch.setattr("offdyn_envs.datasets.load_dataset", lambda name: _data(name, 100, 1))
    patch.setattr("offdyn_envs.datasets.task.available", available)
    # Compiling takes longer than these runs.
    patch.setattr(execution, "can_compile", lambda _: False)
    patch.setattr("offdyn_agents.models.ensemble.training.can_compile", lambda _: False)


def shrink(patch):
    """Let presets be of small networks, too."""
    from offdyn_agents import presets
    from offdyn_agents.testing.sizes import small_settings

    preset = presets.preset
    patch.setattr(presets, "preset", lambda kind, *more: preset(kind, *more) | small_settings(kind.settings_class))
