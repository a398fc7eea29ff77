"""Dynamics that change: between episodes, at a step; scalar and batched alike."""

import json
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from hypothesis import given
from hypothesis import strategies as st

from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, model_hash, start_qpos
from offdyn_envs.robots import WALKERS
from offdyn_envs.schedule import Schedule, make_schedule
from offdyn_envs.shifts import Damping, Friction, Gravity, Kinematic, Morphology, Payload
from offdyn_envs.vector import OffDynVectorEnv

WEAR = {
    "unit": "episode",
    "interpolate": True,
    "points": [
        {"at": 1, "shifts": [{"kind": "friction", "scale": 1.0}]},
        {"at": 5, "shifts": [{"kind": "friction", "scale": 0.2}]},
    ],
}
GROWTH = {
    "unit": "episode",
    "points": [{"at": 1, "shifts": [{"kind": "morphology", "part": "foot", "level": 3}]}, {"at": 2, "shifts": None}],
}
BREAK = {
    "unit": "step",
    "points": [
        {"at": 10, "shifts": [{"kind": "kinematic", "joints": {"foot_joint": 0.05}}]},
        {"at": 15, "shifts": [{"kind": "gravity", "scale": 2.0}]},
    ],
}


def test_shifts_over_time():
    schedule = make_schedule(WEAR, WALKERS["hopper"])
    scales = [[shift.scale for shift in schedule.shifts_at(episode)] for episode in range(7)]
    assert scales[0] == []
    assert np.concatenate(scales[1:]) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    held = make_schedule(WEAR | {"interpolate": False}, WALKERS["hopper"])
    assert [held.shifts_at(episode) for episode in (0, 4, 5, 9)] == [(), (Friction(1.0),), *[(Friction(0.2),)] * 2]


@pytest.mark.parametrize("value", (WEAR, GROWTH, BREAK))
def test_json_round_trip(value):
    schedule = make_schedule(value, WALKERS["hopper"])
    assert make_schedule(json.loads(json.dumps(schedule.to_json())), WALKERS["hopper"]) == schedule


def test_between_episodes_the_scalar_model_is_that_of_the_shifts():
    env = gymnasium.make("OffDyn/Hopper-gravity-0.5-v0", schedule=WEAR).unwrapped
    for episode in range(7):
        env.reset(seed=episode)
        wanted = (Gravity(0.5), *make_schedule(WEAR, env.robot).shifts_at(episode))
        assert model_hash(env.model) == model_hash(compile_model(env.robot, wanted))
    env.reset(options={"episode": 2})
    assert model_hash(env.model) == model_hash(compile_model(env.robot, (Gravity(0.5), Friction(0.8))))


def test_a_body_that_changes_starts_at_its_own_height():
    env = gymnasium.make("OffDyn/Hopper-v0", schedule=GROWTH).unwrapped
    heights = [env.reset(seed=0)[0][0] for _ in range(3)]
    grown = start_qpos(env.robot, (Morphology("foot", 3),))[1] - start_qpos(env.robot, ())[1]
    assert heights[1] - heights[0] == pytest.approx(grown, abs=1e-12)
    assert heights[2] == heights[0]


def test_at_a_step_the_model_changes_within_the_episode_and_back_at_reset():
    env = gymnasium.make("OffDyn/Hopper-v0", schedule=BREAK).unwrapped
    robot, broken = env.robot, (Kinematic(joints={"foot_joint": 0.05}),)
    for _ in range(2):
        env.reset(seed=0)
        assert model_hash(env.model) == model_hash(compile_model(robot, ()))
        for step in range(20):
            env.step(np.zeros(3))
            wanted = () if step < 10 else broken if step < 15 else (Gravity(2.0),)
            assert model_hash(env.model) == model_hash(compile_model(robot, wanted)), step


@pytest.mark.parametrize("schedule", (WEAR, GROWTH, BREAK))
def test_batched_rows_do_what_scalar_environments_do(schedule):
    rows, steps = 5, 260
    batch = OffDynVectorEnv("hopper", rows, schedule=schedule, num_threads=2, autoreset_mode="same_step")
    scalars = [gymnasium.make("OffDyn/Hopper-v0", schedule=schedule).unwrapped for _ in range(rows)]
    observations, _ = batch.reset(seed=7)
    assert np.array_equal(observations, [env.reset(seed=7 + row)[0] for row, env in enumerate(scalars)])
    rng = np.random.default_rng(0)
    episodes = 0
    for _ in range(steps):
        actions = rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
        observations, rewards, terminations, _, _ = batch.step(actions)
        for row, env in enumerate(scalars):
            observation, reward, terminated, _, _ = env.step(actions[row])
            assert (reward, terminated) == (rewards[row], terminations[row])
            if terminated:
                episodes += 1
                observation, _ = env.reset()
            assert np.array_equal(observation, observations[row])
    assert episodes > 3 * rows


def test_spec_and_pickle_keep_the_schedule():
    env = gymnasium.make("OffDyn/Hopper-v0", schedule=WEAR)
    for twin in (gymnasium.make(EnvSpec.from_json(env.spec.to_json())), pickle.loads(pickle.dumps(env.unwrapped))):
        assert twin.unwrapped.schedule == env.unwrapped.schedule


@given(st.integers(0, 10), st.integers(1, 10), st.floats(0.1, 2.0), st.floats(0.1, 2.0), st.integers(0, 30))
def test_interpolation_stays_between_its_points(start, length, low, high, count):
    points = [
        {"at": at, "shifts": [{"kind": "gravity", "scale": scale}]}
        for at, scale in ((start, low), (start + length, high))
    ]
    schedule = make_schedule({"unit": "episode", "points": points, "interpolate": True}, WALKERS["ant"])
    shifts = schedule.shifts_at(count)
    assert bool(shifts) == (count >= start)
    for shift in shifts:
        assert min(low, high) - 1e-12 <= shift.scale <= max(low, high) + 1e-12


@pytest.mark.parametrize(
    ("value", "words"),
    (
        (5, "must be an object"),
        ({}, "unit of the schedule"),
        (WEAR | {"unit": "episodes"}, "did you mean 'episode'"),
        (WEAR | {"every": 3}, "parameter of the schedule 'every'"),
        (WEAR | {"points": []}, "rising 'at'"),
        (WEAR | {"points": "x"}, "rising 'at'"),
        (WEAR | {"points": WEAR["points"][::-1]}, "rising 'at'"),
        (WEAR | {"points": [3]}, "points[0] must be an object"),
        (WEAR | {"points": [{"at": -1, "shifts": None}]}, "points[0].at"),
        (WEAR | {"points": [{"at": 1.5, "shifts": None}]}, "points[0].at"),
        (WEAR | {"points": [{"at": 1, "shift": 3}]}, "did you mean 'shifts'"),
        (WEAR | {"interpolate": 1}, "interpolate must be true or false"),
        (WEAR | {"unit": "step"}, "between episodes"),
        (GROWTH | {"unit": "step"}, "can change between episodes"),
        (GROWTH | {"interpolate": True}, "same shifts at every point"),
        (WEAR | {"points": [{"at": 0, "shifts": [{"kind": "kinematic", "part": "hip", "scale": 0.5}]}]}, "of Hopper"),
    ),
)
def test_malformed_schedules_are_refused_in_one_line(value, words):
    for make in (
        lambda: gymnasium.make("OffDyn/Hopper-v0", schedule=value),
        lambda: OffDynVectorEnv("hopper", 1, schedule=value),
    ):
        with pytest.raises(OffDynError) as refused:
            make()
        assert words in str(refused.value)


@pytest.mark.parametrize(
    ("shifts", "points", "words"),
    (
        ([{"kind": "morphology", "part": "foot", "level": 1}], GROWTH["points"], "both reshape foot_geom"),
        ([{"kind": "gravity", "scale": 1e5}], [{"at": 9, "shifts": [{"kind": "gravity", "scale": 1e5}]}], "product"),
    ),
)
def test_what_excludes_the_standing_shifts_is_refused_before_the_first_episode(shifts, points, words):
    schedule = {"unit": "episode", "points": points}
    make_schedule(schedule, WALKERS["hopper"])
    for make in (
        lambda: gymnasium.make("OffDyn/Hopper-v0", shifts=shifts, schedule=schedule),
        lambda: OffDynVectorEnv("hopper", 1, shifts=shifts, schedule=schedule),
        lambda: OffDynVectorEnv("hopper", 2, row_shifts=[None, shifts], schedule=schedule),
    ):
        with pytest.raises(OffDynError, match=words):
            make()


@pytest.mark.parametrize(
    ("value", "words"),
    (
        (Schedule("epsiode", ((0, (Gravity(2.0),)),)), "did you mean 'episode'"),
        (Schedule("step", ((-1, (Gravity(2.0),)),)), "points[0].at"),
        (Schedule("step", ()), "rising 'at'"),
        (Schedule("episode", ((0, (Gravity(2.0),)),), interpolate=1), "true or false"),
    ),
)
def test_a_schedule_given_as_a_value_is_checked_too(value, words):
    with pytest.raises(OffDynError) as refused:
        gymnasium.make("OffDyn/Hopper-v0", schedule=value)
    assert words in str(refused.value)


def test_a_state_that_is_set_starts_the_schedule_of_steps_anew():
    batch = OffDynVectorEnv("hopper", 2, schedule=BREAK, autoreset_mode="disabled")
    batch.reset(seed=0)
    qpos, qvel, steps = batch.qpos, batch.qvel, 12
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 2, 3)).astype(np.float32)
    first = [batch.step(action)[0] for action in actions]
    batch.set_state(qpos, qvel)
    for action, observations in zip(actions, first, strict=True):
        np.testing.assert_array_equal(batch.step(action)[0], observations)


def test_droco_profile_runs_at_its_own_timestep():
    env = gymnasium.make("OffDyn/HalfCheetah-kinematic-severe-v0", profile="droco").unwrapped
    assert (env.dt, env.robot.dt, env.metadata["render_fps"]) == (0.01, 0.01, 100)
    batch = OffDynVectorEnv("halfcheetah", 2, dynamics="kinematic-severe", profile="droco")
    env.reset(seed=0)
    batch.reset(seed=0)
    for _ in range(20):
        action = env.action_space.sample()
        one, many = env.step(action), batch.step(np.stack([action, action]))
        assert np.array_equal(one[0], many[0][0])
        assert one[1] == many[1][0]
    mixed = [None, [{"kind": "kinematic", "preset": "severe"}]]
    with pytest.raises(OffDynError, match="one timestep"):
        OffDynVectorEnv("halfcheetah", 2, row_shifts=mixed, profile="droco")


def test_loads_and_joints_grow_between_episodes():
    points = [{"at": at, "shifts": [Payload(at, "torso"), Damping(add=0.1 * at)]} for at in (0, 4)]
    schedule = make_schedule({"unit": "episode", "interpolate": True, "points": points}, WALKERS["hopper"])
    assert schedule.shifts_at(1) == (Payload(1.0, "torso"), Damping(add=0.1))
