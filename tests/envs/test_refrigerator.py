"""The refrigerator: its transition, its door, its data; scalar, batched and collected are one thing."""

import json
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offdyn_envs.errors import OffDynError
from offdyn_envs.refrigerator import (
    EPISODE_STEPS,
    MAX_POWER,
    OPEN_STEPS,
    SENSOR_NOISE,
    Refrigerator,
    RefrigeratorVectorEnv,
    ThermostatPolicy,
    collect,
    step_temperature,
)

NAME = "OffDyn/Refrigerator-v0"
TEMPERATURES = st.floats(-50, 50)


def make():
    return gymnasium.make(NAME)


def test_golden_transitions():
    """Worked out by hand from the two lines of the source."""
    np.testing.assert_allclose(
        step_temperature([10.0, -2.0, -2.0], [2.75, 0.35, 0.35], [0, 0, 1]), [7.405, -2.003, -0.962]
    )
    np.testing.assert_allclose(step_temperature(15.0, 0.0, [False, True]), 15.0)


@given(TEMPERATURES, st.floats(0, MAX_POWER), st.booleans())
def test_transition_is_linear_and_never_passes_the_outdoor_temperature(temperature, action, door_open):
    after = step_temperature(temperature, action, door_open)
    kept = 0.92 if door_open else 0.98
    assert after == pytest.approx(15.0 + kept * (temperature - action - 15.0), abs=1e-9)
    assert after.dtype == np.float64
    if temperature <= 15:
        assert after <= 15 + 1e-9


@given(
    arrays(np.float64, 5, elements=TEMPERATURES),
    arrays(np.float32, (5, 1), elements=st.floats(-5, 2 * MAX_POWER, width=32)),
    arrays(np.int64, 5, elements=st.integers(-5, OPEN_STEPS - 1)),
)
def test_environment_follows_the_transition_and_clips_the_power(temperature, actions, clock):
    env = RefrigeratorVectorEnv(5)
    env.reset(seed=0)
    observations = env.set_state(temperature, clock)
    np.testing.assert_array_equal(observations[:, 1], clock >= 0)
    _, rewards, _, _, _ = env.step(actions)
    executed = np.clip(actions[:, 0].astype(np.float64), 0.0, MAX_POWER)
    np.testing.assert_array_equal(env.temperature, step_temperature(temperature, executed, clock >= 0))
    np.testing.assert_array_equal(rewards, -np.abs(env.temperature + 2.0))
    scalar = make().unwrapped
    scalar.reset(seed=0)
    scalar.set_state(float(temperature[0]), int(clock[0]))
    assert scalar.step(actions[0])[1] == rewards[0]
    assert scalar.state[0] == env.temperature[0]


def test_thermometer_error_has_the_declared_size():
    env = RefrigeratorVectorEnv(4000)
    observations, _ = env.reset(seed=1)
    errors = observations[:, 0] - env.temperature
    assert abs(errors.mean()) < 5 * SENSOR_NOISE / np.sqrt(4000)
    assert errors.std() == pytest.approx(SENSOR_NOISE, rel=5 / np.sqrt(2 * 4000))


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_door_opens_for_twenty_steps_at_most_once_per_two_hundred(seed):
    data = collect(0.2, 1, seed)
    door = np.append(data.observations[:, 1], data.next_observations[-1, 1]).astype(int)
    starts, ends = np.flatnonzero(np.diff(door, prepend=0) == 1), np.flatnonzero(np.diff(door) == -1) + 1
    np.testing.assert_array_equal((ends - starts[: len(ends)]), OPEN_STEPS)
    assert 5 <= len(starts) <= 10
    assert starts[0] < 200 and (np.diff(starts) >= 200).all() and (np.diff(starts) < 400).all()
    assert np.convolve(door, np.ones(200, int), "valid").max() <= OPEN_STEPS


@pytest.mark.parametrize("p", (0.05, 0.1, 0.2, 0.5, 1.0, 1.5))
def test_collected_data(p):
    data = collect(p, 3, seed=5)
    rows = 3 * EPISODE_STEPS
    layout = {
        "observations": (np.float32, (rows, 2)),
        "actions": (np.float32, (rows, 1)),
        "next_observations": (np.float32, (rows, 2)),
        "rewards": (np.float32, (rows,)),
        "terminations": (np.bool_, (rows,)),
        "truncations": (np.bool_, (rows,)),
        "temperatures": (np.float64, (rows,)),
        "next_temperatures": (np.float64, (rows,)),
    }
    for name, (dtype, shape) in layout.items():
        assert getattr(data, name).dtype == dtype and getattr(data, name).shape == shape, name
    np.testing.assert_array_equal(np.flatnonzero(data.truncations), np.arange(1, 4) * EPISODE_STEPS - 1)
    assert not data.terminations.any()
    # The rows fit together, and nothing that the controller asked for was cut at the upper bound.
    truth = step_temperature(data.temperatures, data.actions[:, 0].astype(np.float64), data.observations[:, 1])
    np.testing.assert_array_equal(truth, data.next_temperatures)
    inside = ~data.truncations[:-1]
    np.testing.assert_array_equal(data.next_observations[:-1][inside], data.observations[1:][inside])
    np.testing.assert_array_equal(data.rewards, (-np.abs(data.next_temperatures + 2)).astype(np.float32))
    assert data.actions.min() >= 0 and data.actions.max() < MAX_POWER
    asked = p * (data.observations[:, 0] + 3.75)
    free = data.actions[:, 0] > 0
    assert np.std(data.actions[free, 0] - asked[free]) < 0.11


def test_behaviour_holds_the_set_point_and_others_go_where_it_does_not():
    """The fixed point of the closed line under u = p (T + 3.75): T = (.3 - .98 * 3.75 p) / (.02 + .98 p)."""
    settled = {}
    for p in (0.05, 0.1, 0.2, 0.5):
        data = collect(p, 4, seed=2)
        closed = (data.observations[:, 1] == 0) & (np.arange(len(data.rewards)) % EPISODE_STEPS > 200)
        settled[p] = np.median(data.temperatures[closed])
        assert settled[p] == pytest.approx((0.3 - 3.675 * p) / (0.02 + 0.98 * p), abs=0.15)
    assert settled[0.2] == pytest.approx(-2.0, abs=0.1)
    behaviour, strong = collect(0.2, 4, seed=2), collect(1.5, 4, seed=2)
    assert strong.actions.max() > 5 * behaviour.actions.max()
    assert strong.temperatures.min() < behaviour.temperatures.min() - 5


def test_the_observed_door_makes_the_transition_a_function_up_to_noise():
    """Why the door is observed: with it a straight line explains the next reading down to the thermometer's noise."""
    data = collect(0.2, 5, seed=0)
    inputs = np.column_stack((data.observations[:, :1], data.actions, np.ones(len(data.rewards)))).astype(np.float64)
    target = data.next_observations[:, 0].astype(np.float64)

    def residual(rows):
        weights = np.linalg.lstsq(inputs[rows], target[rows])[0]
        return (target[rows] - inputs[rows] @ weights).std()

    door = data.observations[:, 1] == 1
    readings = np.hypot(SENSOR_NOISE, 0.98 * SENSOR_NOISE)
    assert residual(~door) < 1.1 * readings and residual(door) < 1.1 * readings
    assert residual(np.ones(len(door), bool)) > 1.5 * readings


def test_episodes_do_not_depend_on_their_number_and_seeds_share_none():
    many, few, other = (
        collect(0.2, 3, seed=4, steps=50),
        collect(0.2, 2, seed=4, steps=50),
        collect(0.2, 3, 5, steps=50),
    )
    np.testing.assert_array_equal(many.observations[:100], few.observations)
    assert not set(many.seeds) & set(other.seeds)
    assert not np.array_equal(many.observations, other.observations)


def test_scalar_environment_replays_a_collected_episode():
    data = collect(0.5, 2, seed=8)
    env = make()
    for episode in range(2):
        part = slice(episode * EPISODE_STEPS, (episode + 1) * EPISODE_STEPS)
        observation, info = env.reset(seed=int(data.seeds[episode]))
        for row in range(part.start, part.stop):
            np.testing.assert_array_equal(observation.astype(np.float32), data.observations[row])
            assert info["temperature"] == data.temperatures[row]
            observation, reward, terminated, truncated, info = env.step(data.actions[row])
            assert np.float32(reward) == data.rewards[row] and info["temperature"] == data.next_temperatures[row]
            assert (terminated, truncated) == (data.terminations[row], data.truncations[row])


# The thermometer has no bound, and the action is a physical power: the checker remarks on both.
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized space:UserWarning")
@pytest.mark.filterwarnings("ignore:.*A Box observation space (min|max)imum value is.*infinity:UserWarning")
def test_check_env_spec_pickle_and_twins():
    env = make()
    check_env(env.unwrapped, skip_render_check=True)
    assert json.loads(env.spec.to_json())["id"] == NAME and env.spec.max_episode_steps == EPISODE_STEPS
    twins = [gymnasium.make(EnvSpec.from_json(env.spec.to_json())), pickle.loads(pickle.dumps(env.unwrapped))]
    start = env.reset(seed=11)[0]
    for twin in twins:
        np.testing.assert_array_equal(start, twin.reset(seed=11)[0])
    env.action_space.seed(0)
    for step in range(500):
        if step == 250:  # In the middle of an episode a copy goes on as the original does.
            twins.append(pickle.loads(pickle.dumps(env.unwrapped)))
        action = env.action_space.sample()
        expected = env.step(action)
        for twin in twins:
            got = twin.step(action)
            np.testing.assert_array_equal(expected[0], got[0])
            assert expected[1:3] == got[1:3]


@pytest.mark.parametrize("mode", tuple(AutoresetMode))
def test_batched_rows_equal_scalar_environments(mode):
    rows = 3
    ours = gymnasium.make_vec(NAME, rows, autoreset_mode=mode)
    assert isinstance(ours, RefrigeratorVectorEnv) and ours.max_episode_steps == EPISODE_STEPS
    ours = RefrigeratorVectorEnv(rows, max_episode_steps=150, autoreset_mode=mode.name.lower())
    makers = [lambda: gymnasium.make(NAME, max_episode_steps=150)] * rows
    peer = gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=mode)
    rng = np.random.default_rng(2)
    np.testing.assert_array_equal(ours.reset(seed=5)[0], peer.reset(seed=5)[0])
    for step in range(500):
        if mode == AutoresetMode.DISABLED and step % 150 == 70:  # Rows get out of phase.
            mask = np.array([True, False, step > 200])
            options = {"reset_mask": mask}
            got, expected = ours.reset(options=dict(options))[0], peer.reset(options=dict(options))[0]
            np.testing.assert_array_equal(got, expected)
        actions = rng.uniform(0, 3, (rows, 1)).astype(np.float32)
        got, expected = ours.step(actions), peer.step(actions)
        for left, right in zip(got[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(left, right)
        done = got[2] | got[3]
        if mode == AutoresetMode.SAME_STEP and done.any():
            np.testing.assert_array_equal(got[4]["_final_obs"], expected[4]["_final_obs"])
            np.testing.assert_array_equal(got[4]["final_obs"], np.stack(list(expected[4]["final_obs"])))
        if mode == AutoresetMode.DISABLED and done.any():
            options = {"reset_mask": done}
            np.testing.assert_array_equal(
                ours.reset(options=dict(options))[0][done], peer.reset(options=dict(options))[0][done]
            )


def test_stepping_on_after_the_time_limit_keeps_the_door_rule():
    env = make().unwrapped
    env.reset(seed=3)
    door = np.array([env.step(np.ones(1, np.float32))[0][1] for _ in range(3 * EPISODE_STEPS)])
    assert np.convolve(door, np.ones(200), "valid").max() <= OPEN_STEPS and door.sum() > 12 * OPEN_STEPS


@pytest.mark.parametrize(
    ("call", "words"),
    (
        (lambda: ThermostatPolicy(-0.1), "p must be a finite number, 0 or above, got -0.1"),
        (lambda: ThermostatPolicy(True), "p must be"),
        (lambda: ThermostatPolicy("0.2"), "p must be"),
        (lambda: collect(float("nan"), 1, 0), "p must be"),
        (lambda: collect(0.2, 0, 0), "episodes must be a whole number, 1 or above, got 0"),
        (lambda: collect(0.2, 1, -1), "seed must be a whole number, 0 or above"),
        (lambda: collect(0.2, 1, 0, steps=1.5), "steps must be a whole number"),
        (lambda: Refrigerator(render_mode="human"), "render_mode must be None, got 'human'"),
        (lambda: RefrigeratorVectorEnv(2, render_mode="human"), "render_mode must be None, got 'human'"),
        (lambda: RefrigeratorVectorEnv(0), "num_envs must be a whole number above 0"),
        (lambda: RefrigeratorVectorEnv(2, autoreset_mode="same_stpe"), "did you mean 'same_step'"),
        (lambda: RefrigeratorVectorEnv(2).reset(seed=[1]), "seed must be one number or 2, got 1"),
        (lambda: RefrigeratorVectorEnv(2).reset(options={"reset_mask": [1, 0]}), "reset_mask must be 2 booleans"),
        (lambda: RefrigeratorVectorEnv(2).step(np.zeros(2)), "actions must be finite numbers of shape"),
        (lambda: RefrigeratorVectorEnv(1).step(np.array([[np.nan]])), "actions must be finite"),
        (lambda: RefrigeratorVectorEnv(2).set_state([1.0, np.inf], [0, 0]), "temperature must be 2 finite numbers"),
        (
            lambda: RefrigeratorVectorEnv(2).set_state([1.0, 2.0], [0, 20]),
            "door_clock must be 2 whole numbers below 20",
        ),
        (lambda: Refrigerator().set_state(1.0, 0.5), "door_clock must be 1 whole numbers"),
    ),
)
def test_bad_input(call, words):
    with pytest.raises(OffDynError) as refused:
        call()
    assert words in str(refused.value) and "\n" not in str(refused.value)
