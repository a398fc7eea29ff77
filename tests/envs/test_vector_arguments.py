"""What the environments refuse besides shifts: one line each, never a traceback of another kind."""

import gymnasium
import numpy as np
import pytest

from offdyn_envs.errors import OffDynError
from offdyn_envs.vector import OffDynVectorEnv


def batch(**kwargs):
    return OffDynVectorEnv("hopper", 2, **kwargs)


def scalar(**kwargs):
    return gymnasium.make("OffDyn/Hopper-v0", **kwargs).unwrapped


STATE = np.zeros((2, 6))
BAD_STATE = np.array([[np.nan] * 6, [0.0] * 6])


@pytest.mark.parametrize(
    ("call", "words"),
    (
        (lambda: batch(dynamics=["nominal"]), "unknown dynamics of hopper"),
        (lambda: scalar(dynamics=["nominal"]), "unknown dynamics of hopper"),
        (lambda: OffDynVectorEnv(["hopper"], 2), "unknown robot"),
        (lambda: batch(autoreset_mode=[]), "unknown autoreset mode"),
        (lambda: batch(row_shifts=5), "row_shifts must be a list"),
        (lambda: batch(row_shifts=[None]), "one entry per row: 2"),
        (lambda: gymnasium.make_vec("OffDyn/Hopper-v0", 2, thread=3), "did you mean 'num_threads'"),
        (lambda: batch(num_threads=0), "num_threads must be a whole number above 0"),
        (lambda: scalar(width="a"), "width must be a whole number above 0, got 'a'"),
        (lambda: scalar(height=0), "height must be a whole number above 0"),
        (lambda: scalar().reset(options={"episode": "x"}), "'episode' must be a whole number, 0 or above, got 'x'"),
        (lambda: batch().reset(options={"episode": 1.5}), "got 1.5"),
        (lambda: batch().reset(options={"episode": -3}), "got -3"),
        (lambda: scalar().reset(options={"episod": 1}), "did you mean 'episode'"),
        (lambda: batch().reset(options={"foo": 1}), "unknown reset option 'foo'"),
        (lambda: batch().reset(options={"reset_mask": [1, 0]}), "reset_mask must be 2 booleans"),
        (lambda: batch().reset(seed=-1), "seed must be a whole number, 0 or above, got -1"),
        (lambda: batch().reset(seed=[1, 2, 3]), "seed must be one number or 2"),
        (lambda: batch().reset(seed="a"), "seed must be a whole number, 0 or above, got 'a'"),
        (lambda: batch().set_state(BAD_STATE, STATE), "qpos must be finite numbers of shape (2, 6)"),
        (lambda: batch().set_state([[1.0], [1.0, 2.0]], STATE), "qpos must be finite numbers of shape (2, 6)"),
        (lambda: batch().set_state(STATE, STATE[:, :5]), "qvel must be finite numbers of shape (2, 6)"),
        (lambda: batch().set_state(STATE, STATE, mask=np.ones(3, bool)), "mask must be 2 booleans"),
        (lambda: batch().step([["a"] * 3] * 2), "actions must be finite numbers of shape (2, 3)"),
        (lambda: batch().step(np.full((2, 3), np.inf)), "actions must be finite numbers of shape (2, 3)"),
    ),
)
def test_bad_input_is_refused_in_one_line(call, words):
    with pytest.raises(OffDynError) as refused:
        call()
    assert words in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_row_that_is_not_set_may_hold_anything():
    env = batch()
    env.reset(seed=0)
    before = env.qpos[0]
    env.set_state(BAD_STATE, STATE, mask=np.array([False, True]))
    assert np.array_equal(env.qpos[0], before)
    assert not env.qpos[1].any()


def test_numpy_counts_are_counts():
    env = batch(num_threads=np.int64(2), schedule={"unit": "episode", "points": [{"at": np.int64(3), "shifts": None}]})
    env.reset(seed=np.int64(3), options={"episode": np.int32(4)})


@pytest.mark.parametrize("name", ["Hopper", "Ant", "Refrigerator"])
@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_a_step_before_reset_is_refused_as_gymnasium_does(name, mode):
    env = gymnasium.make_vec(f"OffDyn/{name}-v0", num_envs=3, autoreset_mode=mode)
    actions = np.zeros(env.action_space.shape, np.float32)
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"step\(\) before calling env\.reset\(\)"):
        env.step(actions)
    env.reset(seed=0, options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(actions)
    env.reset(options={"reset_mask": np.array([False, True, False])})
    for _ in range(1001):
        env.step(actions)
    env.close()


def test_set_state_starts_rows_too():
    env = batch()
    env.set_state(STATE, STATE, mask=np.array([True, False]))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros((2, 3)))
    env.set_state(STATE, STATE, mask=np.array([False, True]))
    env.step(np.zeros((2, 3)))
