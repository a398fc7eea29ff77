"""The tensors' termination is the robots' own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offdyn_agents.engine.termination import termination
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import WALKERS
from offdyn_envs.robots.hands import DROP_HEIGHT
from offdyn_envs.vector import OffDynVectorEnv

LIMITS = [0.0, 0.2, -0.2, 0.7, 0.8, 1.0, -1.0, 2.0, 100.0, -100.0, np.inf, -np.inf, np.nan]


def around(value, kind):
    value = kind(value)
    return [np.nextafter(value, kind(-np.inf)), value, np.nextafter(value, kind(np.inf))]


@pytest.mark.parametrize("name", WALKERS)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@given(data=st.data())
def test_equal_to_numpy(name, kind, data):
    robot = WALKERS[name]
    edges = st.sampled_from([near for limit in LIMITS for near in around(limit, kind)])
    width = 32 if kind is np.float32 else 64
    numbers = edges | st.floats(width=width)
    calm = st.floats(-0.5, 1.5, width=width)
    size = robot.observation_dim
    # Whole rows of wild numbers end always: most entries are calm, a few are not.
    rows = data.draw(st.lists(st.lists(calm, min_size=size, max_size=size), min_size=1, max_size=4))
    observations = np.array(rows, dtype=kind)
    for _ in range(data.draw(st.integers(0, 4))):
        row, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, min(3, size - 1)))
        observations[row, column] = data.draw(numbers)
    found = termination(name)(torch.from_numpy(observations)[:, None])
    assert found.dtype == torch.bool
    np.testing.assert_array_equal(found[:, 0], robot.terminated_from_observation(observations))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_hands_is_asked_in_numpy(kind):
    height = np.array([*around(DROP_HEIGHT, kind), 1.0, -np.inf, np.nan], dtype=kind)
    observations = np.zeros((2, len(height), 45), dtype=kind)
    observations[..., 26] = height  # Of the pen, behind 24 joints and two coordinates.
    found = termination("adroit-pen")(torch.from_numpy(observations).requires_grad_())
    assert found.dtype == torch.bool
    assert found.tolist() == [[True, False, False, False, True, False]] * 2
    assert termination("adroit-door")(torch.full((2, 3, 39), torch.nan)).tolist() == [[False] * 3] * 2


def test_a_hands_observations_end_where_its_states_do():
    env, rng = OffDynVectorEnv("adroit-pen", 8, autoreset_mode="disabled"), np.random.default_rng(0)
    env.reset(seed=0)
    ended = np.zeros(8, dtype=bool)
    for _ in range(60):
        observations, _, terminated, *_ = env.step(rng.uniform(-1, 1, (8, 24)).astype(np.float32))
        assert termination("adroit-pen")(torch.from_numpy(observations)).tolist() == terminated.tolist()
        ended |= terminated
    assert ended.any() and not terminated.all()


def test_limits_are_met_on_both_sides():
    observation = torch.zeros(2, 11)
    observation[:, 0] = 1.2
    observation[1, 1] = 0.2
    assert termination("hopper")(observation).tolist() == [False, True]
    assert termination("halfcheetah")(torch.full((3, 17), torch.nan)).tolist() == [False] * 3
    assert termination(None)(torch.full((3, 17), torch.nan)).tolist() == [False] * 3
    with pytest.raises(OffDynError, match="unknown robot 'hoper'"):
        termination("hoper")
