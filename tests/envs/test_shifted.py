"""Shifts of environments that others wrote: Gymnasium's Humanoid and Pusher."""

import copy
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

import offdyn_envs
from offdyn_envs import Actuator, Armature, Damping, Field, Friction, Frictionloss, Gravity, Mass, OffDynError, Payload
from offdyn_envs.models import model_hash
from offdyn_envs.shifts import BaseShift, registry

BODIES = {"Humanoid-v5": ("torso", "abdomen_z"), "Pusher-v5": ("r_forearm_link", "r_elbow_flex_joint")}
IDS = tuple(BODIES)


def make(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gymnasium.make(name, max_episode_steps=100)


def path(env, steps=40):
    """Observations and rewards under fixed actions."""
    rng, seen = np.random.default_rng(0), [env.reset(seed=1)[0]]
    rewards = []
    low, high = env.action_space.low, env.action_space.high
    for _ in range(steps):
        observation, reward, *_ = env.step(rng.uniform(low, high).astype(np.float32))
        seen.append(observation)
        rewards.append(reward)
    return np.array(seen), np.array(rewards)


@pytest.mark.parametrize("name", IDS)
def test_every_kind_changes_the_model_and_the_path(name):
    body, joint = BODIES[name]
    gravity = Gravity(0.5) if name == "Humanoid-v5" else Field("opt.gravity", add=-9.81, index=2)
    shifts = [
        *(gravity, Friction(2.0), Mass(2.0), Mass(2.0, body), Damping(2.0), Damping(2.0, joint=joint)),
        *(Actuator(0.5), Actuator(0.5, actuator=joint), Actuator(limit=0.1), Payload(1.0, body)),
        *(Armature(add=0.1), Frictionloss(add=0.1), Field("opt.viscosity", add=1.0), Payload(1.0, body, (0, 0.1, 0))),
    ]
    nominal = make(name)
    paths, hashes = [path(nominal)[0]], [model_hash(nominal.unwrapped.model)]
    for shift in shifts:
        env = make(name)
        model, space = env.unwrapped.model, env.observation_space
        assert offdyn_envs.shifted(env, shift) is env
        assert env.unwrapped.model is model and env.observation_space == space
        paths.append(path(env)[0])
        hashes.append(model_hash(model))
        assert np.isfinite(paths[-1]).all()
    assert len(set(hashes)) == len(hashes)
    alike = [shift for shift, seen in zip(shifts, paths[1:], strict=True) if np.array_equal(paths[0], seen)]
    assert alike == ([Friction(2.0)] if name == "Pusher-v5" else [])  # The arm does not touch anything in these steps.


@pytest.mark.parametrize("name", IDS)
def test_what_changes(name):
    body, joint = BODIES[name]
    env, nominal = make(name), make(name).unwrapped.model
    gravity = {"kind": "gravity", "scale": 0.5}
    if name == "Pusher-v5":
        with pytest.raises(OffDynError, match="gravity shift: PusherEnv has no gravity, which no scale changes"):
            offdyn_envs.shifted(env, gravity)
        with pytest.raises(OffDynError, match=r"field shift: opt\.gravity has 0, which no scale changes; give add"):
            offdyn_envs.shifted(env, Field("opt.gravity", scale=0.5))
        gravity = {"kind": "field", "field": "opt.gravity", "add": 0.0}
    shifts = [gravity, Friction(2.0), Mass(3.0, body), Damping(2.0), Actuator(0.5)]
    model = offdyn_envs.shifted(env, shifts).unwrapped.model
    np.testing.assert_array_equal(model.opt.gravity, nominal.opt.gravity * 0.5)
    np.testing.assert_array_equal(model.geom_friction, nominal.geom_friction * 2.0)
    np.testing.assert_array_equal(model.actuator_gainprm, nominal.actuator_gainprm * 0.5)
    index = nominal.body(body).id
    expected = nominal.body_mass.copy()
    expected[index] *= 3.0
    np.testing.assert_allclose(model.body_mass, expected, rtol=1e-12)
    assert model.body_subtreemass[0] == pytest.approx(expected.sum())
    dof = nominal.joint(joint).dofadr[0]
    assert model.dof_damping[dof] == 2.0 * nominal.dof_damping[dof] > 0.0


@pytest.mark.parametrize("name", IDS)
def test_calls_multiply_and_nothing_is_nominal(name):
    nominal = make(name)
    before = model_hash(nominal.unwrapped.model)
    env = make(name)
    assert model_hash(offdyn_envs.shifted(env, []).unwrapped.model) == before
    offdyn_envs.shifted(offdyn_envs.shifted(env, Friction(0.5)), [Mass(0.5), Damping(4.0)])
    offdyn_envs.shifted(env, Friction(0.5))
    once = offdyn_envs.shifted(make(name), [Mass(0.5), Damping(4.0), Friction(0.25)])
    assert model_hash(env.unwrapped.model) == model_hash(once.unwrapped.model) != before
    np.testing.assert_array_equal(path(env)[0], path(once)[0])
    back = offdyn_envs.shifted(env, [Friction(4.0), Mass(2.0), Damping(0.25)])
    assert model_hash(back.unwrapped.model) == before
    for ours, theirs in zip(path(back), path(nominal), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_the_environment_writes_into_its_model_stays():
    env = make("Pusher-v5")
    model = env.unwrapped.model
    model.body_gravcomp[1] = 0.5
    offdyn_envs.shifted(env, Damping(2.0))
    model.body_gravcomp[1] = 0.75
    offdyn_envs.shifted(env, Damping(2.0))
    assert model.body_gravcomp[1] == 0.75
    model = make("Pusher-v5").unwrapped.model
    env = make("Pusher-v5")
    env.unwrapped.model.dof_damping[0] = 7.0
    with pytest.raises(OffDynError, match="PusherEnv has set 'dof_damping' of its model itself"):
        offdyn_envs.shifted(env, Damping(2.0))
    assert env.unwrapped.model.dof_damping[0] == 7.0


def test_nothing_half_done_after_a_refusal():
    env = offdyn_envs.shifted(make("Humanoid-v5"), Gravity(0.5))
    before = model_hash(env.unwrapped.model)
    with pytest.raises(OffDynError):
        offdyn_envs.shifted(env, [Mass(2.0), Mass(2.0, "torsoo")])
    assert model_hash(env.unwrapped.model) == before
    assert offdyn_envs.shifted(env, Gravity(2.0)).unwrapped.model.opt.gravity[2] == -9.81


@pytest.mark.parametrize(
    ("shifts", "words"),
    (
        (
            {"kind": "kinematic", "part": "foot", "scale": 0.5},
            "kinematic shift: needs a robot of this suite, and Human",
        ),
        ({"kind": "morphology", "part": "torso", "level": 1}, "morphology shift: needs a robot of this suite"),
        (Mass(2.0, "torsoo"), "unknown body of HumanoidEnv .* did you mean 'torso'"),
        (Damping(2.0, joint="abdomen"), "names that begin so: abdomen_"),
        (Actuator(0.5, actuator="abdomen"), "unknown actuator of HumanoidEnv"),
        (Frictionloss(2.0), "every joint of HumanoidEnv has 0"),
        (Field("geom_frictoin", 2.0), "did you mean 'geom_friction'"),
        ([Gravity(1e-6), Gravity(0.5)], "product of all scales"),
        ("gravity", "must be a list"),
    ),
)
def test_malformed_shifts_are_refused_in_one_line(shifts, words):
    with pytest.raises(OffDynError, match=words) as refused:
        offdyn_envs.shifted(make("Humanoid-v5"), shifts)
    assert "\n" not in str(refused.value)


class Modelled(gymnasium.Env):
    """Has a model, but no file."""

    model = mujoco.MjModel.from_xml_string("<mujoco/>")


@pytest.mark.parametrize(
    ("env", "words"),
    (
        (lambda: gymnasium.make("OffDyn/Hopper-v0"), "Hopper takes shifts itself: make it with shifts="),
        (lambda: gymnasium.make("CartPole-v1"), "CartPoleEnv has not"),
        (Modelled, "as 'fullpath', which Modelled has not; give the file, or MJCF as text, as shifted\\(..., mjcf="),
        (lambda: 3, "env must be a Gymnasium environment, got 'int'"),
    ),
)
def test_other_environments_are_refused_in_one_line(env, words):
    with pytest.raises(OffDynError, match=words) as refused:
        offdyn_envs.shifted(env(), Gravity(0.5))
    assert "\n" not in str(refused.value)


@dataclass(frozen=True)
class Tail(BaseShift):
    """Wind that the robot's own numbers go into."""

    speed: float
    asks: str = "dt"
    kind = "tail"
    amount = "speed"

    def apply(self, spec, robot, profile):
        spec.option.wind = [self.speed, float(getattr(robot, self.asks)), 0.0]

    def describe(self, robot):
        return "wind"


@pytest.fixture
def tail(monkeypatch):
    monkeypatch.setitem(registry._KINDS, "tail", Tail)


@pytest.mark.parametrize(
    ("asks", "value"), (("dt", 0.015), ("timestep", 0.003), ("nq", 24), ("nv", 23), ("action_dim", 17))
)
def test_a_kind_of_ones_own_may_ask_the_robot(tail, asks, value):
    model = offdyn_envs.shifted(make("Humanoid-v5"), Tail(2.0, asks)).unwrapped.model
    np.testing.assert_allclose(model.opt.wind, [2.0, value, 0.0])


def test_what_a_stranger_does_not_know_is_refused_in_one_line(tail):
    env = make("Humanoid-v5")
    with pytest.raises(
        OffDynError, match=r"asks for robot.observation_dim, which HumanoidEnv has not: .*dt"
    ) as refused:
        offdyn_envs.shifted(env, Tail(2.0, "observation_dim"))
    assert "\n" not in str(refused.value) and not env.unwrapped.model.opt.wind.any()


def test_a_model_that_is_given():
    """A file or a text stands for the path that an environment does not have, also in later calls and copies."""
    pytest.importorskip("gymnasium_robotics")
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    env, again = (gymnasium.make("PointMaze_UMaze-v3") for _ in range(2))
    file = env.unwrapped.tmp_xml_file_path
    nominal = env.unwrapped.model.body_mass.copy()
    with pytest.raises(OffDynError, match=r"give the file, or MJCF as text, as shifted.*mjcf=") as refused:
        offdyn_envs.shifted(env, Mass(2.0))
    assert "\n" not in str(refused.value)
    offdyn_envs.shifted(offdyn_envs.shifted(env, Mass(2.0), mjcf=file), Mass(3.0))
    offdyn_envs.shifted(again, Mass(6.0), mjcf=Path(file).read_text(encoding="utf-8"))
    for each in (env, again, copy.deepcopy(env), pickle.loads(pickle.dumps(again))):
        np.testing.assert_allclose(each.unwrapped.model.body_mass, 6.0 * nominal)
        each.reset(seed=0)
        each.step(each.action_space.sample())


@pytest.mark.parametrize(
    ("mjcf", "words"),
    (
        (3, "mjcf must be the path of a model's file, or MJCF as text, got 3"),
        ("", "mjcf must be the path"),
        ("nowhere.xml", "there is no model file nowhere.xml"),
        ("<mujoco", "its model cannot be read"),
        ("<mujoco/>", "lead to models of other shapes"),
    ),
)
def test_bad_models_are_refused_in_one_line(mjcf, words):
    with pytest.raises(OffDynError, match=words) as refused:
        offdyn_envs.shifted(make("Humanoid-v5"), Gravity(0.5), mjcf=mjcf)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("twin", (copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))))
def test_copies_keep_the_shifts(twin):
    env, nominal = offdyn_envs.shifted(make("Humanoid-v5"), [Gravity(0.5), Mass(2.0)]), make("Humanoid-v5")
    other = twin(env)
    assert other is not env and other.unwrapped.model is not env.unwrapped.model
    assert model_hash(other.unwrapped.model) == model_hash(env.unwrapped.model)
    for ours, theirs in zip(path(env), path(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert model_hash(offdyn_envs.shifted(other, Gravity(0.5)).unwrapped.model) != model_hash(env.unwrapped.model)
    assert env.unwrapped.model.opt.gravity[2] == -4.905 == 2.0 * other.unwrapped.model.opt.gravity[2]
    plain = twin(nominal)  # Of the same class, without shifts.
    assert model_hash(plain.unwrapped.model) == model_hash(nominal.unwrapped.model)
