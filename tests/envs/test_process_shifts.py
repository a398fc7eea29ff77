"""Delays, noise and local shifts: what the environments do, scalar and batched."""

import copy
import json
import math
import pickle

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode

from offdyn_envs import Delay, Field, Friction, Gravity, Local, Mass, Noise, OffDynError, sample_shifts
from offdyn_envs.models import compile_model, model_hash
from offdyn_envs.robots import WALKERS, State
from offdyn_envs.shifts import parse_shifts, shifts_to_json
from offdyn_envs.vector import OffDynVectorEnv
from offdyn_envs.verification import divergence, states
from offdyn_envs.verification.results import CheckFailed
from offdyn_envs.verification.robot_checks import robot_checks
from offdyn_envs.verification.subjects import robot_subject

LISTS = (
    None,
    [Delay(1)],
    [Delay(3), Gravity(0.5)],
    [Noise(0.1)],
    [Noise(0.1, (0, 2)), Delay(1), Noise(0.05), Delay(1)],
    [Local(Gravity(0.2), above=0.0)],
    [Mass(2.0), Local([Friction(0.2), Field("opt.viscosity", add=1.0)], on=1, below=0.0), Delay(2)],
)


def test_json_round_trip():
    for shifts in LISTS[1:]:
        assert parse_shifts(json.loads(json.dumps(shifts_to_json(shifts)))) == tuple(shifts)
    assert Delay(torch.tensor(2)) == Delay(np.int64(2)) == Delay(2)
    env = gymnasium.make("OffDyn/Hopper-v0", shifts=LISTS[-1])
    assert gymnasium.make(EnvSpec.from_json(env.spec.to_json())).unwrapped.shifts == tuple(LISTS[-1])


def actions_of(robot, steps, rows=1, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (steps, rows, robot.action_dim)).astype(np.float32)


@pytest.mark.parametrize("name", tuple(WALKERS))
def test_a_delayed_action_is_the_same_action_later(name):
    """States under a delay of d steps are those of the nominal robot that gets d zeros first."""
    robot, late = WALKERS[name], 3
    actions = actions_of(robot, 30)[:, 0]
    nominal, delayed = (
        gymnasium.make(f"OffDyn/{robot.title}-v0", shifts=shifts).unwrapped for shifts in (None, [Delay(2), Delay(1)])
    )
    np.testing.assert_array_equal(nominal.reset(seed=2)[0], delayed.reset(seed=2)[0])
    for step in range(30):
        sent = actions[step]
        before = State(delayed.data.qpos.copy(), delayed.data.qvel.copy())
        expected = nominal.step(np.zeros_like(sent) if step < late else actions[step - late])
        got = delayed.step(sent)
        np.testing.assert_array_equal(expected[0], got[0])
        reward = robot.reward(before, State(delayed.data.qpos, delayed.data.qvel), sent)
        assert got[1] == float(reward)  # It is the action sent that costs.
        np.testing.assert_array_equal(delayed.queue[-1], sent)
    assert model_hash(delayed.model) == model_hash(nominal.model)


@pytest.mark.parametrize("name", tuple(WALKERS))
@pytest.mark.parametrize("threads", (1, 3))
def test_scalar_equals_batched_with_mixed_rows(name, threads):
    robot, rows = WALKERS[name], len(LISTS)
    common = {"max_episode_steps": 40}
    batch = OffDynVectorEnv(name, rows, row_shifts=LISTS, num_threads=threads, autoreset_mode="same_step", **common)
    scalars = [gymnasium.make(f"OffDyn/{robot.title}-v0", shifts=shifts, **common) for shifts in LISTS]
    ours = np.stack([env.reset(seed=7 + row)[0] for row, env in enumerate(scalars)])
    observations = batch.reset(seed=7)[0]
    for actions in actions_of(robot, 100, rows):
        np.testing.assert_array_equal(observations, ours)
        observations, rewards, terminations, truncations, infos = batch.step(actions)
        for row, env in enumerate(scalars):
            ours[row], reward, terminated, truncated, _ = env.step(actions[row])
            assert (reward, terminated, truncated) == (rewards[row], terminations[row], truncations[row])
            if terminated or truncated:
                np.testing.assert_array_equal(infos["final_obs"][row], ours[row])
                ours[row] = env.reset()[0]


@pytest.mark.parametrize("mode", (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED))
def test_autoreset_follows_gymnasium(mode):
    rows = len(LISTS)
    ours = OffDynVectorEnv("hopper", rows, row_shifts=LISTS, max_episode_steps=20, autoreset_mode=mode)
    makers = [lambda s=shifts: gymnasium.make("OffDyn/Hopper-v0", shifts=s, max_episode_steps=20) for shifts in LISTS]
    peer = gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=mode)
    np.testing.assert_array_equal(ours.reset(seed=5)[0], peer.reset(seed=5)[0])
    for actions in actions_of(WALKERS["hopper"], 60, rows):
        got, expected = ours.step(actions), peer.step(actions)
        for left, right in zip(got[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(left, right)
        done = got[2] | got[3]
        if mode == AutoresetMode.DISABLED and done.any():
            options = {"reset_mask": done}
            np.testing.assert_array_equal(
                ours.reset(options=dict(options))[0][done], peer.reset(options=dict(options))[0][done]
            )


@pytest.mark.parametrize("shifts", LISTS[1:])
@pytest.mark.parametrize("twin", (copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))))
def test_copies_go_on_where_they_are(shifts, twin):
    robot = WALKERS["halfcheetah"]
    scalar = gymnasium.make("OffDyn/HalfCheetah-v0", shifts=shifts).unwrapped
    batch = OffDynVectorEnv("halfcheetah", 2, row_shifts=[shifts, None], autoreset_mode="disabled")
    scalar.reset(seed=0), batch.reset(seed=0)
    actions = actions_of(robot, 40, 2)
    for step in range(20):
        scalar.step(actions[step, 0]), batch.step(actions[step])
    others = twin(scalar), twin(batch)
    for step in range(20, 40):
        np.testing.assert_array_equal(others[0].step(actions[step, 0])[0], scalar.step(actions[step, 0])[0])
        np.testing.assert_array_equal(others[1].step(actions[step])[0], batch.step(actions[step])[0])


def test_the_queue_is_part_of_the_state():
    """Put into a state with its queue, both environments go on as the one that it comes from; without, otherwise."""
    rows = [[Delay(2)], None]
    source, twin, bare = (OffDynVectorEnv("ant", 2, row_shifts=rows, autoreset_mode="disabled") for _ in range(3))
    scalar = gymnasium.make("OffDyn/Ant-v0", shifts=rows[0]).unwrapped
    for env in (source, twin, bare):
        env.reset(seed=0)
    scalar.reset(seed=0)
    actions = actions_of(WALKERS["ant"], 30, 2)
    for step in range(10):
        source.step(actions[step])
    assert source.queue.shape == (2, 2, 8)
    np.testing.assert_array_equal(source.queue[0], actions[8:10, 0])
    twin.set_state(source.qpos, source.qvel, queue=source.queue)
    bare.set_state(source.qpos, source.qvel)
    scalar.set_state(source.qpos[0], source.qvel[0])
    scalar.queue = source.queue[0]
    for step in range(10, 30):
        expected, *_ = source.step(actions[step])
        np.testing.assert_array_equal(twin.step(actions[step])[0], expected)
        np.testing.assert_array_equal(scalar.step(actions[step, 0])[0], expected[0])
        other = bare.step(actions[step])[0]
        assert not np.array_equal(other[0], expected[0]) and np.array_equal(other[1], expected[1])
    before = source.queue
    for wrong in (before[:, :1], np.full_like(before, np.nan), before.astype(str), "queue"):
        with pytest.raises(OffDynError, match="queue must be finite numbers of shape"):
            twin.set_state(source.qpos, source.qvel, queue=wrong)
        with pytest.raises(OffDynError, match="queue must be finite numbers of shape"):
            scalar.queue = np.asarray(wrong)[0] if not isinstance(wrong, str) else wrong
    twin.reset(seed=1)
    assert not twin.queue.any()


def test_an_action_that_is_refused_is_not_sent():
    env = gymnasium.make("OffDyn/Hopper-v0", shifts=Delay(1)).unwrapped
    env.reset(seed=0)
    with pytest.raises(OffDynError, match="action must be finite"):
        env.step(np.full(3, np.nan))
    with pytest.raises(ValueError, match="Action dimension mismatch"):
        env.step(np.ones(2))
    assert not env.queue.any()


def test_noise_has_its_strength_and_its_own_stream():
    robot, steps = WALKERS["halfcheetah"], 1000
    shifts = [Noise(0.5, (0, 3)), Noise(0.25)]
    clean, noisy, again = (
        gymnasium.make("OffDyn/HalfCheetah-v0", shifts=each).unwrapped for each in (None, shifts, shifts)
    )
    gaps = [noisy.reset(seed=3)[0] - clean.reset(seed=3)[0]]
    again.reset(seed=3)
    for action in actions_of(robot, steps)[:, 0]:
        exact, got, twin = (env.step(action) for env in (clean, noisy, again))
        assert exact[1:3] == got[1:3]
        np.testing.assert_array_equal(got[0], twin[0])
        gaps.append(got[0] - exact[0])
    wide = math.hypot(0.5, 0.25)
    expected = np.where(np.isin(np.arange(17), (0, 3)), wide, 0.25)
    np.testing.assert_allclose(np.std(gaps, axis=0), expected, rtol=0.1)
    np.testing.assert_allclose(np.mean(gaps, axis=0), 0.0, atol=0.1)
    correlation = np.corrcoef(np.array(gaps[:-1])[:, 5], np.array(gaps[1:])[:, 5])[0, 1]
    assert abs(correlation) < 0.15
    # Other seeds, other noise; an attack on top of it keeps its own stream.
    starts = [env.reset(seed=seed)[0] for seed in (4, 5) for env in (noisy, clean)]
    assert not np.array_equal(starts[0] - starts[1], starts[2] - starts[3])
    assert not np.array_equal(noisy.step(np.zeros(6))[0], noisy.step(np.zeros(6))[0])


def test_neutral_values_change_nothing():
    env = OffDynVectorEnv("hopper", 4, row_shifts=[None, Delay(0), Noise(0.0), Local(Gravity(1.0), above=0.0)])
    env.reset(seed=[0] * 4)
    for actions in actions_of(WALKERS["hopper"], 30):
        observations = env.step(np.tile(actions, (4, 1)))[0]
        assert len(np.unique(observations, axis=0)) == 1


def test_a_local_shift_holds_where_it_says():
    """The robot is put before, on and beyond the line: there its steps are those of the shifted robot, bit for bit."""
    local = [Gravity(2.0), Local([Gravity(0.1), Friction(0.5)], above=5.0, below=7.0)]
    inside = [Gravity(2.0), Gravity(0.1), Friction(0.5)]
    xs = np.array([4.99, 5.0, 6.0, 6.99, 7.0])
    envs = [
        OffDynVectorEnv("walker2d", 5, shifts=shifts, autoreset_mode="disabled")
        for shifts in (local, inside, local[:1])
    ]
    for env in envs:
        env.reset(seed=0)
    qpos, qvel = envs[0].qpos, envs[0].qvel
    qpos[:, 0] = xs
    scalar = gymnasium.make("OffDyn/Walker2d-v0", shifts=local).unwrapped
    scalar.reset(seed=0)
    actions = actions_of(WALKERS["walker2d"], 1, 5)[0]
    results = []
    for env in envs:
        env.set_state(qpos, qvel)
        results.append(env.step(actions)[0])
    held = (xs >= 5.0) & (xs < 7.0)
    np.testing.assert_array_equal(results[0], np.where(held[:, None], results[1], results[2]))
    assert (results[1] != results[2]).any(axis=1).all()
    # The scalar environment, going in and out.
    for row in (1, 0, 2, 4, 3):
        scalar.set_state(qpos[row], qvel[row])
        np.testing.assert_array_equal(scalar.step(actions[row])[0], results[0][row])
        expected = inside if held[row] else local[:1]
        assert model_hash(scalar.model) == model_hash(compile_model(WALKERS["walker2d"], tuple(expected)))
    scalar.reset()
    assert scalar.model.opt.gravity[2] == -19.62


def test_local_shifts_of_an_observation_and_of_y():
    env = OffDynVectorEnv("ant", 2, shifts=Local(Gravity(0.1), on="y", below=-1.0), autoreset_mode="disabled")
    env.reset(seed=0)
    qpos, qvel = env.qpos, env.qvel
    qpos[:, 1] = (-1.5, -0.5)
    env.set_state(qpos, qvel)
    env.step(np.zeros((2, 8), np.float32))
    assert [model.opt.gravity[2] for model in env.models] == pytest.approx([-0.981, -9.81])
    env = OffDynVectorEnv("hopper", 2, shifts=Local(Gravity(0.1), on=0, above=1.3), autoreset_mode="disabled")
    env.reset(seed=0)
    qpos, qvel = env.qpos, env.qvel
    qpos[:, 1] = (1.2, 1.4)  # The height, entry 0 of Hopper's observation.
    env.set_state(qpos, qvel)
    env.step(np.zeros((2, 3), np.float32))
    assert [model.opt.gravity[2] for model in env.models] == pytest.approx([-9.81, -0.981])


def test_with_a_schedule():
    schedule = {"unit": "step", "points": [{"at": 10, "shifts": Friction(0.5)}]}
    shifts = [Local(Gravity(0.2), on=1, above=0.0), Noise(0.01), Delay(1)]
    scalar = gymnasium.make("OffDyn/Hopper-v0", shifts=shifts, schedule=schedule)
    batch = OffDynVectorEnv("hopper", 2, shifts=shifts, schedule=schedule, autoreset_mode="same_step")
    observation, observations = scalar.reset(seed=3)[0], batch.reset(seed=3)[0]
    for actions in actions_of(WALKERS["hopper"], 60, 2):
        np.testing.assert_array_equal(observation, observations[0])
        observation, _, terminated, _, _ = scalar.step(actions[0])
        observations, *_ = batch.step(actions)
        if terminated:
            observation = scalar.reset()[0]


def test_drawn_and_observed():
    draws = sample_shifts("hopper", {"delay": (0, 3), "noise": (0.0, 0.2)}, seed=0, count=200)
    counts = np.bincount([draw[0].steps for draw in draws], minlength=4)
    assert len(counts) == 4 and counts.min() > 25
    env = OffDynVectorEnv("hopper", 200, row_shifts=draws, observe_shifts=True)
    assert env.context_names == ("delay", "noise")
    np.testing.assert_array_equal(env.reset(seed=0)[0][:, 11], [draw[0].steps for draw in draws])


@pytest.fixture(scope="module")
def few_states():
    """Effects are measured on 320 states instead of 2,000."""
    caches = (states.random_states, states.policy_states, divergence._nominal_next, divergence._nominal_long_run)
    for cached in caches:
        cached.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "STEPS", 160)
        yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("few_states")
@pytest.mark.parametrize("check", ("fields", "hash", "effect", "batched", "checker", "twins"))
def test_verification(check):
    shifts = (Delay(2), Noise(0.01), Local((Gravity(0.5),), on=1, above=0.0))
    robot_checks(robot_subject(WALKERS["hopper"], shifts))[check]()


@pytest.mark.parametrize(
    ("shifts", "words"),
    (
        ((Gravity(0.5), Delay(2), Delay(0)), "actions arrive 0 control steps late .*: no transition differs"),
        ((Local(Gravity(0.5), above=1000.0),), "where 1000 <= x: .* no transition differs, neither at random nor on"),
        ((Noise(0.0),), "standard deviation 0 .*: an observation is the exact one"),
        ((Local(Friction(0.2), above=1.0),), None),  # Hopper comes that far with its medium policy, not at random.
    ),
)
@pytest.mark.usefixtures("few_states")
def test_verification_finds_what_does_not_matter(shifts, words):
    effect = robot_checks(robot_subject(WALKERS["hopper"], shifts))["effect"]
    if words is None:
        effect()
        return
    with pytest.raises(CheckFailed, match=words):
        effect()


@pytest.mark.parametrize(
    ("shifts", "words"),
    (
        (
            {"kind": "delay", "steps": 51},
            "delay shift: steps must be a whole number from 0 to 50 control steps, got 51",
        ),
        ({"kind": "delay", "steps": -1}, "from 0 to 50"),
        ({"kind": "delay", "steps": 1.5}, "from 0 to 50"),
        ({"kind": "delay", "steps": True}, "from 0 to 50"),
        ({"kind": "delay"}, "'steps' is missing"),
        ([{"kind": "delay", "steps": 30}] * 2, "all steps together must be at most 50, got 60"),
        ({"kind": "noise", "std": -0.1}, "std must be a finite number from 0 to 1000"),
        ({"kind": "noise", "std": 0.1, "entries": []}, "entries must be different whole numbers"),
        ({"kind": "noise", "std": 0.1, "entries": [1, 1]}, "entries must be different whole numbers"),
        ({"kind": "noise", "std": 0.1, "entries": 3}, "entries must be different whole numbers"),
        ({"kind": "noise", "std": 0.1, "entries": [11]}, "entries of Hopper go from 0 to 10, got 11"),
        ({"kind": "local", "shifts": Gravity(0.5)}, "give above, below or both"),
        ({"kind": "local", "above": 5.0}, "'shifts' is missing"),
        ({"kind": "local", "shifts": [], "above": 5.0}, "at least one shift"),
        ({"kind": "local", "shifts": Delay(1), "above": 5.0}, "a delay shift cannot hold in a part of the world"),
        ({"kind": "local", "shifts": {"kind": "morphology", "preset": "severe"}, "above": 5.0}, "a morphology shift"),
        ({"kind": "local", "shifts": Local(Gravity(0.5), above=1.0), "above": 5.0}, "a local shift cannot"),
        ({"kind": "local", "shifts": {"kind": "gravty"}, "above": 5.0}, "did you mean 'gravity'"),
        ({"kind": "local", "shifts": Mass(2.0, "trso"), "above": 5.0}, "did you mean 'torso'"),
        ({"kind": "local", "shifts": Gravity(0.5), "above": 5.0, "below": 4.0}, "above must be less than below"),
        ({"kind": "local", "shifts": Gravity(0.5), "above": math.inf}, "above must be a finite number"),
        ({"kind": "local", "shifts": Gravity(0.5), "above": 5.0, "on": "z"}, "on must be 'x', 'y' or the number"),
        (
            {"kind": "local", "shifts": Gravity(0.5), "above": 5.0, "on": "y"},
            "Hopper has no y, since its skipped_qpos is 1; use 'x' or",
        ),
        ({"kind": "local", "shifts": Gravity(0.5), "above": 5.0, "on": 11}, "go from 0 to 10, got 11"),
        ([Gravity(1e-4), Local(Gravity(1e-4), above=5.0)], "product of all scales"),
        ({"kind": "local", "shifts": {"kind": "frictionloss", "scale": 2.0}, "above": 5.0}, "has 0, which no scale"),
    ),
)
def test_malformed_shifts_are_refused_in_one_line(shifts, words):
    for make in (
        lambda: gymnasium.make("OffDyn/Hopper-v0", shifts=shifts),
        lambda: OffDynVectorEnv("hopper", 2, row_shifts=[None, shifts]),
    ):
        with pytest.raises(OffDynError, match=words) as refused:
            make()
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize("shift", (Delay(1), Noise(0.1), Local(Gravity(0.5), above=1.0)))
def test_where_they_cannot_be_they_are_refused(shift):
    import offdyn_envs

    with pytest.raises(OffDynError, match="needs a robot of this suite"):
        offdyn_envs.shifted(gymnasium.make("Hopper-v5"), shift)
    schedule = {"unit": "step", "points": [{"at": 3, "shifts": shift}]}
    with pytest.raises(OffDynError, match=f"a {shift.kind} shift cannot change in time"):
        gymnasium.make("OffDyn/Hopper-v0", schedule=schedule)


def test_simulators_are_left_as_they_are():
    """A delayed and noisy environment has the nominal model, whose hash and state say so."""
    env = gymnasium.make("OffDyn/Hopper-v0", shifts=[Delay(3), Noise(0.1)]).unwrapped
    assert model_hash(env.model) == model_hash(compile_model(WALKERS["hopper"], ()))
    assert mujoco.mj_stateSize(env.model, mujoco.mjtState.mjSTATE_FULLPHYSICS.value) == 13
