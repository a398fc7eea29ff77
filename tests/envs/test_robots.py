"""State-level and observation-level functions, and where they agree."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, model_hash
from offdyn_envs.robots import HANDS, WALKERS, Robot, State, get_robot
from offdyn_envs.robots.completing import complete
from offdyn_envs.robots.mjcf import missing_package

TABLE = {  # dims and seconds per step
    "halfcheetah": (17, 6, 0.05),
    "hopper": (11, 3, 0.008),
    "walker2d": (17, 6, 0.008),
    "ant": (27, 8, 0.05),
}


@pytest.mark.parametrize("name", tuple(WALKERS))
def test_table_agrees_with_the_compiled_model(name):
    robot, model = WALKERS[name], compile_model(WALKERS[name], ())
    assert (robot.observation_dim, robot.action_dim, pytest.approx(robot.dt)) == TABLE[name]
    assert (model.nq, model.nv, model.nu) == (robot.nq, robot.nv, robot.action_dim)
    assert model.opt.timestep == robot.timestep
    np.testing.assert_array_equal(model.actuator_ctrlrange, [[-1.0, 1.0]] * robot.action_dim)


@pytest.mark.parametrize("name", (*WALKERS, *HANDS))
def test_tables_are_what_registering_would_find(name):
    """The suite's own are written down so that they stay lazy; completed from their models they are the same."""
    table = get_robot(name)
    if missing := missing_package(table.mjcf):
        pytest.skip(f"{missing} is not installed")
    numbers = dict.fromkeys(("observation_dim", "action_dim", "nq", "nv", "timestep"), 0)
    found = complete(replace(table, **numbers, control_range=None))
    assert found.model_sha256 == model_hash(compile_model(table, ()))
    assert replace(found, control_range=None, model_sha256="") == table
    for action in np.random.default_rng(0).uniform(-1.0, 1.0, (5, table.action_dim)):
        np.testing.assert_array_equal(found.control(action), table.control(action))
        np.testing.assert_array_equal(Robot.control(found, action), table.control(action))


@pytest.mark.parametrize("name", tuple(WALKERS))
@given(data=st.data())
def test_termination_from_observation_agrees_within_the_clip(name, data):
    """Where no velocity is clipped and positions stay under 100, both functions say the same."""
    robot = WALKERS[name]
    bound = 9.5
    qpos = data.draw(arrays(np.float64, (4, robot.nq), elements=st.floats(-2.5, 2.5)))
    qvel = data.draw(arrays(np.float64, (4, robot.nv), elements=st.floats(-bound, bound)))
    observation = robot.observe(qpos, qvel)
    assert observation.shape == (4, robot.observation_dim)
    np.testing.assert_array_equal(robot.terminated(qpos, qvel), robot.terminated_from_observation(observation))


def test_hopper_velocity_bound_is_void_on_observations():
    robot = WALKERS["hopper"]
    qpos, qvel = np.array([0, 1.25, 0, 0, 0, 0.0]), np.array([0, 0, 0, 101.0, 0, 0])
    assert robot.terminated(qpos, qvel)
    assert not robot.terminated_from_observation(robot.observe(qpos, qvel))


@pytest.mark.parametrize("name", tuple(WALKERS))
@given(data=st.data())
def test_batches_equal_rows(name, data):
    robot = WALKERS[name]
    state = data.draw(arrays(np.float64, (5, robot.nq + robot.nv), elements=st.floats(-3, 3)))
    action = data.draw(arrays(np.float32, (5, robot.action_dim), elements=st.floats(-1, 1, width=32)))
    qpos, qvel = state[:, : robot.nq], state[:, robot.nq :]
    before, after = State(0.0 * qpos, qvel), State(qpos, qvel)
    rewards, ends = robot.judge(before, after, action)
    np.testing.assert_array_equal(rewards, robot.reward(before, after, action))
    for row in range(5):
        one = robot.judge(*(State(*(part[row] for part in state)) for state in (before, after)), action[row])
        assert one == (rewards[row], ends[row])


def test_alive_bonus_is_paid_on_healthy_steps_alone():
    robot = WALKERS["walker2d"]
    qpos = np.zeros((2, robot.nq))
    qpos[:, 1] = (1.25, 0.5)
    before, after = (State(each, np.zeros((2, robot.nv))) for each in (0.0 * qpos, qpos))
    rewards = robot.reward(before, after, np.zeros((2, 6), np.float32))
    assert rewards.tolist() == [1.0, 0.0]


def test_unknown_robot_names_the_nearest():
    with pytest.raises(OffDynError, match="unknown robot 'hoper'; did you mean 'hopper'"):
        get_robot("hoper")
