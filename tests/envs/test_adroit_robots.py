"""The Adroit hand through the protocol of robots: its batches are its scalar environments, bit for bit."""

import copy
import pickle
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import offdyn_envs
from offdyn_envs import environment
from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model
from offdyn_envs.robots import HANDS, GoalPart, Measure, Robot, get_robot
from offdyn_envs.shifts import (
    KINDS,
    Actuator,
    Armature,
    BrokenJoint,
    Damping,
    Delay,
    Field,
    Friction,
    Frictionloss,
    Gravity,
    Local,
    Mass,
    Noise,
    Payload,
    ShrinkFinger,
)
from offdyn_envs.vector import OffDynVectorEnv

DYNAMICS = ("nominal", "broken-joint-medium", "shrink-finger-hard")


def scalars(name, slug, rows):
    return [gymnasium.make(f"OffDyn/{HANDS[name].title}-v0", dynamics=slug).unwrapped for _ in range(rows)]


def actions_of(name, steps, rows, seed=0):
    size = (steps, rows, HANDS[name].action_dim)
    return np.random.default_rng(seed).uniform(-1.2, 1.2, size).astype(np.float32)


@pytest.mark.parametrize("slug", DYNAMICS)
@pytest.mark.parametrize("name", HANDS)
def test_batch_equals_scalars(name, slug):
    rows = 2
    batch = OffDynVectorEnv(name, rows, dynamics=slug, autoreset_mode="disabled", num_threads=2)
    alone = scalars(name, slug, rows)
    for step, actions in enumerate(actions_of(name, 60, rows)):
        if step % 25 == 0:
            seed = 5 if step == 0 else None
            first = [env.reset(seed=None if seed is None else seed + row)[0] for row, env in enumerate(alone)]
            np.testing.assert_array_equal(batch.reset(seed=seed)[0], first)
        observations, rewards, terminations, _, infos = batch.step(actions)
        told = [env.step(action) for env, action in zip(alone, actions, strict=True)]
        np.testing.assert_array_equal(observations, [each[0] for each in told])
        np.testing.assert_array_equal(rewards, [each[1] for each in told])
        np.testing.assert_array_equal(terminations, [each[2] for each in told])
        np.testing.assert_array_equal(batch.qpos, [env.data.qpos for env in alone])
        assert not infos
    goals = [env.get_state().goal for env in alone]
    np.testing.assert_array_equal(batch.goal[:, : len(goals[0])], goals)


@pytest.mark.parametrize("name", HANDS)
def test_a_state_says_everything(name):
    first, second = (OffDynVectorEnv(name, 2, autoreset_mode="disabled") for _ in range(2))
    first.reset(seed=0)
    for actions in actions_of(name, 12, 2):
        shown = first.step(actions)[0]
    second.reset(seed=9)
    goal = first.goal
    np.testing.assert_array_equal(second.set_state(first.qpos, first.qvel, goal=goal), shown)
    np.testing.assert_array_equal(first.robot.observe(first.qpos, first.qvel, goal), shown)
    for actions in actions_of(name, 3, 2, seed=1):
        one, two = first.step(actions), second.step(actions)
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
    # Without what was measured it is measured anew, as the scalar environment does.
    fresh = second.set_state(
        first.qpos, first.qvel, goal=goal[:, : goal.shape[1] - sum(m.size for m in HANDS[name].measures)]
    )
    (alone,) = scalars(name, "nominal", 1)
    state = (first.qpos[0], first.qvel[0], second.goal[0, : len(alone.get_state().goal)])
    np.testing.assert_array_equal(fresh[0], alone.reset(options={"state": state})[0])


def test_all_kinds_of_shifts_hold_and_copies_go_on():
    lists = [[{"kind": "mass", "scale": 1.5}], [{"kind": "damping", "scale": 2.0}, {"kind": "delay", "steps": 2}], None]
    batch = OffDynVectorEnv("adroit-pen", 3, row_shifts=lists, autoreset_mode="disabled")
    alone = [environment.AdroitPen(shifts=shifts) for shifts in lists]
    first = [env.reset(seed=row)[0] for row, env in enumerate(alone)]
    np.testing.assert_array_equal(batch.reset(seed=0)[0], first)
    copies = [copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))]
    for actions in actions_of("adroit-pen", 15, 3):
        shown, rewards, *_ = batch.step(actions)
        told = [env.step(action) for env, action in zip(alone, actions, strict=True)]
        np.testing.assert_array_equal(shown, [each[0] for each in told])
        np.testing.assert_array_equal(rewards, [each[1] for each in told])
        for other in copies:
            np.testing.assert_array_equal(other.step(actions)[0], shown)


ONE_OF_EACH_KIND = (
    Gravity(0.5),
    Friction(0.3),
    Mass(2.0, body="forearm"),
    Payload(0.5, body="palm"),
    Damping(3.0),
    Armature(add=0.01),
    Frictionloss(add=0.05),
    Actuator(0.5),
    Field("opt.viscosity", add=1.0),
    BrokenJoint(0.25),
    ShrinkFinger(0.5),
    Delay(2),
    Noise(0.01),
    Local([Gravity(0.1), ShrinkFinger(0.5)], on=1, above=0.0),
)


def test_every_kind_that_fits_is_tried():
    assert {shift.kind for shift in ONE_OF_EACH_KIND} == {*KINDS} - {"kinematic", "morphology"}
    with pytest.raises(OffDynError, match="morphology"):
        gymnasium.make("OffDyn/AdroitDoor-v0", shifts={"kind": "morphology", "part": "torso", "level": 1.0})


@pytest.mark.parametrize("shift", ONE_OF_EACH_KIND, ids=lambda shift: shift.kind)
def test_every_kind_holds_on_the_scalar_hand_as_in_a_batch(shift):
    name, observed = "OffDyn/AdroitPen-v0", bool(type(shift).amount)
    alone = gymnasium.make(name, shifts=[shift], observe_shifts=observed)
    again = gymnasium.make(EnvSpec.from_json(alone.spec.to_json()))
    assert again.unwrapped.shifts == (shift,)
    nominal = gymnasium.make(name)
    batch = OffDynVectorEnv("adroit-pen", 2, shifts=[shift], observe_shifts=observed, autoreset_mode="disabled")
    differs = False
    for step, actions in enumerate(actions_of("adroit-pen", 24, 2)):
        if step % 12 == 0:
            seen = [env.reset(seed=step)[0] for env in (alone, again)]
            np.testing.assert_array_equal(batch.reset(seed=step)[0][0], seen[0])
            np.testing.assert_array_equal(*seen)
            nominal.reset(seed=step)
        shown, rewards, terminations, *_ = batch.step(actions)
        told = alone.step(actions[0])
        np.testing.assert_array_equal(shown[0], told[0])
        assert (rewards[0], terminations[0]) == told[1:3]
        np.testing.assert_array_equal(batch.goal[0], alone.unwrapped.goal)
        np.testing.assert_array_equal(again.step(actions[0])[0], told[0])
        differs |= not np.array_equal(nominal.step(actions[0])[0], told[0][:45])
    assert differs


@pytest.mark.parametrize("unit", ["episode", "step"])
def test_dynamics_of_the_hand_that_change(unit):
    points = [{"at": 0, "shifts": []}, {"at": 1 if unit == "episode" else 5, "shifts": [ShrinkFinger(0.5).to_json()]}]
    schedule = {"unit": unit, "points": points}
    alone = gymnasium.make("OffDyn/AdroitPen-v0", schedule=schedule).unwrapped
    batch = OffDynVectorEnv("adroit-pen", 2, schedule=schedule, autoreset_mode="disabled")
    for step, actions in enumerate(actions_of("adroit-pen", 20, 2)):
        if step % 10 == 0:
            np.testing.assert_array_equal(batch.reset(seed=step)[0][0], alone.reset(seed=step)[0])
        shown, rewards, *_ = batch.step(actions)
        told = alone.step(actions[0])
        np.testing.assert_array_equal(shown[0], told[0])
        assert rewards[0] == told[1]
    assert alone.model.body("ffmiddle").pos[2] == 0.0225


def test_states_go_on_where_a_local_shift_holds():
    """A state of the hand brings back what it sees, whatever held there before."""
    shift = Local([ShrinkFinger(0.5)], on=1, above=-10.0)
    first, second = (gymnasium.make("OffDyn/AdroitPen-v0", shifts=shift).unwrapped for _ in range(2))
    first.reset(seed=0)
    for actions in actions_of("adroit-pen", 5, 1):
        first.step(actions[0])
    state = first.get_state()
    batch = OffDynVectorEnv("adroit-pen", 1, shifts=shift, autoreset_mode="disabled")
    seen = [env.reset(options={"state": state})[0] for env in (first, second)]
    batch.reset(seed=3)
    batch.step(np.zeros((1, 24)))
    seen.append(batch.set_state(state.qpos[None], state.qvel[None], goal=state.goal[None])[0])
    told = [env.step(np.ones(24))[0] for env in (first, second)] + [batch.step(np.ones((1, 24)))[0][0]]
    for rows in (seen, told):
        np.testing.assert_array_equal(rows[0], rows[1])
        np.testing.assert_array_equal(rows[0], rows[2])


def test_a_batch_scores_only_what_it_is_the_same_as():
    make = partial(gymnasium.make, "OffDyn/AdroitPen-v0")
    assert make(shifts=Delay(1)).unwrapped.is_plain and make(terminate_on_drop=True).unwrapped.is_plain
    for other in ({"reward": "sparse"}, {"terminate_on_drop": False}, {"profile": "odrl"}, {"observe_shifts": True}):
        assert make(**{"shifts": Delay(1)} | other).unwrapped.is_plain is False


def test_gymnasium_makes_the_batch():
    batch = gymnasium.make_vec("OffDyn/AdroitDoor-broken-joint-medium-v0", 2)
    assert isinstance(batch.unwrapped, OffDynVectorEnv)
    assert batch.unwrapped.row_shifts[0] == offdyn_envs.tasks.get_dynamics("adroit-door", "broken-joint-medium")


@pytest.mark.parametrize("name", HANDS)
def test_the_model_is_that_of_the_scalar_environment(name):
    ours, theirs = compile_model(HANDS[name], ()), scalars(name, "nominal", 1)[0].model
    for field in ("actuator_gainprm", "actuator_biasprm", "body_mass", "geom_size", "jnt_range", "dof_damping"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))


def test_observations_tell_where_the_pen_has_dropped():
    pen = get_robot("adroit-pen")
    observation = np.zeros((2, 45))
    observation[:, 26] = 0.0749, 0.0751
    assert pen.terminated_from_observation(observation).tolist() == [True, False]
    assert not get_robot("adroit-door").terminated_from_observation(np.zeros((3, 39))).any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: OffDynVectorEnv("hopper", 1, shifts={"kind": "broken-joint", "scale": 0.5}),
            "broken-joint shift needs",
        ),
        (lambda: OffDynVectorEnv("adroit-pen", 1, shifts={"kind": "shrink-finger", "scale": 0.0}), "0.0001 to 10"),
        (lambda: OffDynVectorEnv("adroit-pen", 1, dynamics="broken-joint-esy"), "broken-joint-easy"),
        (
            lambda: OffDynVectorEnv("adroit-pen", 1).set_state(
                np.zeros((1, 30)), np.zeros((1, 30)), goal=np.zeros((1, 5))
            ),
            "goal",
        ),
        (lambda: get_robot("adroit-pin"), "adroit-pen"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, words):
    with pytest.raises(OffDynError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


MJCF = """<mujoco><option gravity="0 0 0"/><worldbody>
<body name="ball" pos="0 0 1"><joint name="x" type="slide" axis="1 0 0"/>
<geom size="0.1"/></body><body name="target"><geom size="0.1" contype="0" conaffinity="0"/></body></worldbody>
<actuator><motor joint="x" gear="5"/></actuator></mujoco>"""


class Reacher(Robot):
    """Bring a ball to a target, with a place that is one physics step old."""

    def observe(self, qpos, qvel, goal):
        return np.concatenate((qpos, qvel, goal), axis=-1)

    def reward(self, before, after, action):
        return -np.abs(after.goal[..., 3] - after.goal[..., 0]) - 0.0 * before.goal[..., 3]

    def terminated(self, qpos, qvel, goal):
        return qpos[..., 0] > 100.0

    def sample_reset(self, rng, init_qpos):
        return init_qpos.copy(), np.zeros(1), rng.uniform(-1.0, 1.0, 3)


@pytest.mark.usefixtures("own_robots")
def test_an_own_robot_measures():
    aim, place = (GoalPart("body_pos", "target"),), (Measure("body_pos", "ball"),)
    robot = Reacher(name="measuring", title="Measuring", mjcf=MJCF, frame_skip=3, goal=aim, measures=place)
    robot = offdyn_envs.register_robot(robot)
    assert robot.observation_dim == 8
    batch = OffDynVectorEnv(robot, 2, autoreset_mode="disabled")
    alone = gymnasium.make("OffDyn/Measuring-v0")
    np.testing.assert_array_equal(batch.reset(seed=1)[0][0], alone.reset(seed=1)[0])
    for _ in range(5):
        shown, rewards, *_ = batch.step(np.ones((2, 1)))
        told = alone.step(np.ones(1))
        np.testing.assert_array_equal(shown[0], told[0])
        assert rewards[0] == told[1]
    late = shown[0, 5] - (shown[0, 0] - shown[0, 1] * robot.timestep)
    assert abs(late) < 1e-9
    assert shown[0, 0] != shown[0, 5]


@pytest.mark.usefixtures("own_robots")
@pytest.mark.parametrize(
    "measure", [Measure("body_pos", "bal"), Measure("sensor", "touch"), Measure("body_size", "ball")]
)
def test_a_measure_of_nothing_is_refused(measure):
    robot = Reacher(name="measuring_nothing", title="MeasuringNothing", mjcf=MJCF, frame_skip=3, measures=(measure,))
    with pytest.raises(OffDynError):
        offdyn_envs.register_robot(robot)
