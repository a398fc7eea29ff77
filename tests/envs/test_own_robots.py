"""Robots that somebody else wrote: registered, simulated alone and in batches, and refused in one line."""

import copy
import pickle
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

import offdyn_envs
from offdyn_envs import (
    Damping,
    Delay,
    Field,
    GoalPart,
    Gravity,
    Kinematic,
    Local,
    Mass,
    Measure,
    Morphology,
    Noise,
    OffDynError,
    Robot,
    vector,
)
from offdyn_envs.datasets.checking.check import verify
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.collecting.collect import RandomBehaviour, collect
from offdyn_envs.models import compile_model, model_hash, published_hash
from offdyn_envs.robots import WALKERS, State, get_robot, registry
from offdyn_envs.robots.examples import HUMANOID, PUSHER, SHADOW_HAND, Humanoid
from offdyn_envs.tasks import DatasetId
from offdyn_envs.vector import OffDynVectorEnv
from offdyn_envs.verification.robot_checks import extra_missing, robot_checks
from offdyn_envs.verification.subjects import find_subject

pytestmark = pytest.mark.usefixtures("own_robots")
EXAMPLES = (HUMANOID, PUSHER, SHADOW_HAND)
PENDULUM = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body name="arm">
      <joint name="turn" type="hinge" axis="0 1 0" damping="0.1"/>
      <geom type="capsule" fromto="0 0 0 0 0 -1" size="0.05"/>
    </body>
  </worldbody>
  <actuator><motor name="turn" joint="turn" ctrlrange="-3 1" ctrllimited="true"/></actuator>
</mujoco>
"""


class Pendulum(Robot):
    """Stand still."""

    def reward(self, before, after, action):
        return -np.square(after.qvel[..., 0])


def pendulum(kind=Pendulum, **changes):
    return kind(**{"name": "pendulum", "title": "Pendulum", "mjcf": PENDULUM, "frame_skip": 2, **changes})


def refused(call, *given, **named):
    with pytest.raises(OffDynError) as caught:
        call(*given, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("robot", EXAMPLES, ids=lambda robot: robot.name)
@pytest.mark.parametrize("shifts", (None, [Mass(1.5), Delay(1)], [Damping(2.0), Noise(0.1)]))
def test_scalar_equals_batched(robot, shifts):
    robot = offdyn_envs.register_robot(robot)
    steps, rng = 25, np.random.default_rng(3)
    batch = OffDynVectorEnv(
        robot.name, 3, row_shifts=[Mass(0.5), shifts, None], autoreset_mode="same_step", num_threads=2
    )
    scalar = gymnasium.make(f"OffDyn/{robot.title}-v0", shifts=shifts)
    rows, one = batch.reset(seed=6)[0], scalar.reset(seed=7)[0]
    for _ in range(steps):
        np.testing.assert_array_equal(rows[1], one)
        actions = rng.uniform(-1, 1, (3, robot.action_dim)).astype(np.float32)
        got, expected = batch.step(actions), scalar.step(actions[1])
        assert (got[1][1], got[2][1], got[3][1]) == expected[1:4]
        rows, one = got[0], scalar.reset()[0] if expected[2] or expected[3] else expected[0]


def stock(robot, **kwargs):
    """Return Gymnasium's own environment with the solver's warm start zeroed and poses brought up to date."""
    env = gymnasium.make(f"{robot.title}-v5", **kwargs).unwrapped

    def step(ctrl, n_frames):
        env.data.ctrl[:] = ctrl
        env.data.qacc_warmstart[:] = 0.0
        mujoco.mj_step(env.model, env.data, nstep=n_frames)
        mujoco.mj_forward(env.model, env.data)

    env._step_mujoco_simulation = step
    return env


FORCES = [f"include_{what}_in_observation" for what in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")]
STOCK = {"pusher": {}, "humanoid": {**dict.fromkeys(FORCES, False), "contact_cost_weight": 0.0}}


@pytest.mark.parametrize("robot", (HUMANOID, PUSHER), ids=lambda robot: robot.name)
def test_equals_gymnasiums_own_class(robot):
    robot = offdyn_envs.register_robot(robot)
    theirs, ours = stock(robot, **STOCK[robot.name]), gymnasium.make(f"OffDyn/{robot.title}-v0").unwrapped
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(theirs.reset(seed=4)[0], ours.reset(seed=4)[0])
    for _ in range(60):
        action = rng.uniform(-1, 1, robot.action_dim).astype(np.float32)
        expected, got = theirs.step(robot.control(action)), ours.step(action)
        np.testing.assert_array_equal(expected[0], got[0])
        np.testing.assert_allclose(got[1], expected[1], rtol=1e-14)
        assert got[2] == expected[2]
        for name, part in got[4].items():
            if name.startswith("reward"):
                np.testing.assert_allclose(part, expected[4][name], rtol=1e-14)
        if got[2]:
            np.testing.assert_array_equal(theirs.reset()[0], ours.reset()[0])


@pytest.mark.parametrize("robot", EXAMPLES, ids=lambda robot: robot.name)
def test_small_datasets_are_simulated_again(robot, tmp_path, monkeypatch):
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path))
    offdyn_envs.register_robot(robot)
    report = verify(build(DatasetId.parse(f"{robot.name}/nominal/random-500"), quiet=True).path, rows=500)
    assert (report.mode, report.largest_gap, report.rows) == ("exact", 0.0, 500)


def test_functions_take_any_leading_dimensions():
    for example in EXAMPLES:
        robot = offdyn_envs.register_robot(example)
        rng = np.random.default_rng(1)
        init = gymnasium.make(f"OffDyn/{robot.title}-v0").unwrapped.init_qpos
        qpos, qvel = (
            np.stack(part).reshape(2, 3, -1)
            for part in zip(*(robot.sample_reset(rng, init) for _ in range(6)), strict=True)
        )
        actions = rng.uniform(-1, 1, (2, 3, robot.action_dim)).astype(np.float32)
        state, still = State(qpos, qvel), State(qpos[::-1], qvel)
        whole = robot.observe(*state), robot.reward(still, state, actions)
        for at in np.ndindex(2, 3):
            one = State(qpos[at], qvel[at])
            np.testing.assert_array_equal(robot.observe(*one), whole[0][at])
            assert robot.reward(State(still.qpos[at], still.qvel[at]), one, actions[at]) == whole[1][at]


def test_actions_become_controls():
    robot = offdyn_envs.register_robot(pendulum())
    assert (robot.nq, robot.nv, robot.action_dim, robot.observation_dim, robot.dt) == (1, 1, 1, 2, 0.02)
    assert robot.control(np.array([-1.0, 0.0, 1.0])[:, None]).tolist() == [[-3.0], [-1.0], [1.0]]
    env = gymnasium.make("OffDyn/Pendulum-v0")
    env.reset(seed=0)
    env.step(np.array([0.5], np.float32))
    assert env.unwrapped.data.ctrl.tolist() == [0.0]
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)


def test_copies_go_on_where_they_are():
    offdyn_envs.register_robot(PUSHER)
    env = gymnasium.make("OffDyn/Pusher-v0", shifts=Mass(2.0, "object")).unwrapped
    env.reset(seed=0)
    env.step(np.full(7, 0.3, np.float32))
    twins = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    action = np.full(7, -0.7, np.float32)
    expected = env.step(action)
    for twin in twins:
        got = twin.step(action)
        np.testing.assert_array_equal(got[0], expected[0])
        assert got[1:] == expected[1:]


def test_gymnasiums_batches_are_ours():
    offdyn_envs.register_robot(pendulum())
    envs = gymnasium.make_vec(
        "OffDyn/Pendulum-v0", 2, vectorization_mode="vector_entry_point", row_shifts=[None, Mass(2.0)]
    )
    assert isinstance(envs, OffDynVectorEnv) and envs.reset(seed=0)[0].shape == (2, 2)


@pytest.mark.parametrize("check", ("fields", "hash", "effect", "batched", "checker", "twins"))
def test_verification(check):
    offdyn_envs.register_robot(pendulum(max_episode_steps=100))
    offdyn_envs.register_dynamics("pendulum", "mass-2.0", Mass(2.0))
    for name in ("Pendulum", "Pendulum-mass-2.0"):
        checks = robot_checks(find_subject(name))
        assert set(checks) == {"fields", "hash", "effect", "batched", "checker", "twins"}
        facts = checks[check]()
        if check == "effect":
            assert facts["share_changed"] == (1.0 if name.endswith("2.0") else 0.0)


def test_steps_of_a_robot_with_goals_are_verified():
    offdyn_envs.register_robot(REACHER)
    checks = robot_checks(find_subject("Reacher"))
    assert {"re-simulation", "twins"} <= set(checks) and "friction" not in checks
    assert checks["re-simulation"]() == {}


def test_a_walker_under_another_name_is_an_own_robot():
    jumper = offdyn_envs.register_robot(replace(WALKERS["hopper"], name="jumper", title="Jumper"))
    assert jumper.height_index == 1 and pendulum().height_index is None
    assert find_subject("Jumper").height == 0.0
    ours, suite = (
        gymnasium.make(f"OffDyn/{title}-v0", shifts=Local(Mass(2.0), above=0.0)) for title in ("Jumper", "Hopper")
    )
    np.testing.assert_array_equal(ours.reset(seed=0)[0], suite.reset(seed=0)[0])
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32):
        got, expected = ours.step(action), suite.step(action)
        np.testing.assert_array_equal(got[0], expected[0])
        assert got[1:3] == expected[1:3]


def test_environments_may_be_published_by_another_model():
    class Plain(Pendulum):
        """Published without the changes of `edit`."""

        def edit(self, spec):
            spec.joint("turn").armature = 3.0

        def published_spec(self):
            return mujoco.MjSpec.from_string(PENDULUM)

    bare = offdyn_envs.register_robot(pendulum(name="bare", title="Bare"))
    plain = offdyn_envs.register_robot(pendulum(Plain))
    hashes = []
    for shifts in ((), (Mass(2.0),), (Field("dof_damping", scale=2.0),)):
        assert published_hash(plain, shifts) == published_hash(bare, shifts)
        assert published_hash(plain, shifts) != model_hash(compile_model(plain, shifts))
        hashes.append(published_hash(plain, shifts))
    assert len(set(hashes)) == 3


def test_a_missing_package_is_named_by_verification():
    assert extra_missing(pendulum(mjcf="no_such_package:arm.xml")) == "package not installed: no_such_package"
    assert not any(
        extra_missing(robot) for robot in (pendulum(), HUMANOID, pendulum(mjcf=Path("no_such_package:arm.xml")))
    )


def test_the_same_robot_may_come_again():
    first = offdyn_envs.register_robot(pendulum())
    again = offdyn_envs.register_robot(pendulum(max_episode_steps=7))
    assert (first.max_episode_steps, get_robot("pendulum")) == (1000, again)
    assert gymnasium.spec("OffDyn/Pendulum-v0").max_episode_steps == 7
    assert offdyn_envs.register_dynamics("pendulum", "heavy", Mass(2.0)) == "OffDyn/Pendulum-heavy-v0"
    assert offdyn_envs.register_dynamics("pendulum", "heavy", Mass(2.0)) == "OffDyn/Pendulum-heavy-v0"


class Reacher(Robot):
    """Bring the end of the arm to a target that is elsewhere in every episode; the arm bumps into it."""

    def observe(self, qpos, qvel, goal):
        places = self.bodies(qpos, "tip", "target", goal=goal)
        return np.concatenate((qpos, qvel, places.reshape(*places.shape[:-2], 6)), axis=-1)

    def reward(self, before, after, action):
        tip = self.bodies(after.qpos, "tip")[..., 0, :]
        return -np.sqrt(np.sum(np.square(tip - after.goal), axis=-1))

    def terminated(self, qpos, qvel, goal):
        return np.abs(qvel[..., 0]) > 25.0

    def sample_reset(self, rng, init_qpos):
        return init_qpos + rng.uniform(-1, 1, 1), np.zeros(1), np.array([0.9, 0.0, rng.uniform(-0.5, 0.5)])


REACHER = PENDULUM.replace(
    "</body>", '<body name="tip" pos="0 0 -1"/></body><body name="target"><geom size="0.1"/></body>'
)
REACHER = Reacher(
    name="reacher",
    title="Reacher",
    mjcf=REACHER,
    frame_skip=2,
    max_episode_steps=30,
    goal=(GoalPart("body_pos", "target"),),
)


@pytest.mark.parametrize("mode", ("same_step", "next_step"))
def test_goals_are_a_part_of_the_state(mode):
    robot = offdyn_envs.register_robot(REACHER)
    rows = [Mass(0.5), None, Damping(3.0)]
    batch = OffDynVectorEnv(robot.name, 3, row_shifts=rows, autoreset_mode=mode, num_threads=2)
    scalar, rng = gymnasium.make("OffDyn/Reacher-v0"), np.random.default_rng(0)
    seen, one = batch.reset(seed=0)[0], scalar.reset(seed=1)[0]
    goals = [batch.goal]
    for _ in range(70):
        np.testing.assert_array_equal(seen[1], one)
        np.testing.assert_array_equal(batch.goal[1], scalar.unwrapped.goal)
        np.testing.assert_array_equal(batch.models[1].body("target").pos, scalar.unwrapped.goal)
        actions = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        got, expected = batch.step(actions), scalar.step(actions[1])
        assert (got[1][1], got[2][1], got[3][1]) == expected[1:4]
        seen, one = got[0], expected[0]
        if expected[3]:
            one = scalar.reset()[0]
            seen = batch.step(actions)[0] if mode == "next_step" else seen
            goals.append(batch.goal)
    assert len(goals) == 3 and len(np.unique(np.concatenate(goals), axis=0)) == 9


def test_states_with_goals_come_back():
    robot = offdyn_envs.register_robot(REACHER)
    batch = OffDynVectorEnv(robot, 4, autoreset_mode="disabled")
    batch.reset(seed=0)
    action = np.full((4, 1), 0.5, np.float32)
    batch.step(action)
    state = {"qpos": batch.qpos, "qvel": batch.qvel, "goal": batch.goal}
    expected = batch.step(action)
    other = OffDynVectorEnv(robot, 4, autoreset_mode="disabled")
    other.set_state(**{name: part[::-1] for name, part in state.items()})
    got = other.step(action)
    for mine, theirs in zip(expected[:4], got[:4], strict=True):
        np.testing.assert_array_equal(mine, theirs[::-1])
    scalar = gymnasium.make("OffDyn/Reacher-v0").unwrapped
    scalar.reset(seed=9)
    scalar.goal = state["goal"][2]
    scalar.set_state(state["qpos"][2], state["qvel"][2])
    for env in (copy.deepcopy(scalar), pickle.loads(pickle.dumps(scalar)), scalar):
        one = env.step(action[2])
        np.testing.assert_array_equal(one[0], expected[0][2])
        assert one[1] == expected[1][2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"goal": (GoalPart("body_pos", "targt"),)}, "the model has no body 'targt'"),
        ({"goal": (GoalPart("body_mass", "target"),)}, "unknown field of a goal 'body_mass'"),
        ({"measures": (Measure("place", "tip"),)}, "unknown kind of a measure 'place'"),
        ({"goal": (GoalPart("body_quat", "target"),)}, "sample_reset must return qpos [1] and qvel [1] and goal [4]"),
    ],
)
def test_bad_goals(changes, words):
    assert words in refused(offdyn_envs.register_robot, replace(REACHER, **changes))


def test_goals_are_stored():
    robot = offdyn_envs.register_robot(REACHER)
    data = collect("reacher", "nominal", RandomBehaviour(), 10)
    assert data.goal is not None
    assert data.goal.shape == (10 + len(data.lengths), robot.goal_dim)
    shown = robot.observe(*data.states(data.state_rows)).astype(np.float32)
    np.testing.assert_array_equal(shown, data.observations)


@dataclass(frozen=True, kw_only=True)
class Loaded(Pendulum):
    """A robot with a number of its own."""

    load: object


def failing(**methods):
    return type("Pendulum", (Pendulum,), methods)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mjcf": "<mujoco><worldbody><body><geom/></body></worldbody></mujoco>"}, "its model does not compile: Error"),
        ({"mjcf": "<mujoco><worldbody>"}, "its model cannot be read: XML parse error"),
        ({"mjcf": "<mujoco/>"}, "its model has no motors"),
        ({"mjcf": "no_such.xml"}, "there is no model file no_such.xml"),
        ({"mjcf": Path("/nowhere/arm.xml")}, "there is no model file /nowhere/arm.xml"),
        ({"mjcf": "no_such_package:arm.xml"}, "the package 'no_such_package', which is not installed"),
        ({"name": "Pendulum 1"}, "its name must be small letters"),
        ({"title": "my-arm"}, "its title must be letters"),
        ({"name": "hopper"}, "robot 'hopper': the name is taken, by offdyn_envs.robots.walkers.Walker"),
        ({"title": "Hopper"}, "the title is taken, by the environment OffDyn/Hopper-v0"),
        ({"frame_skip": 0}, "frame_skip must be a whole number, 1 or above, got 0"),
        ({"max_episode_steps": 2.5}, "max_episode_steps must be a whole number"),
        ({"nq": 3}, "nq is 1 in its model, and the robot says 3"),
        ({"control_range": ((1.0, -1.0),)}, "control_range must be 1 pairs of a lower and a higher number"),
        ({"observation_dim": 5}, "observe returns shape [2] for one state, not [5]"),
        ({"kind": failing(reward=lambda *given: np.zeros(2))}, "reward returns float64 [2]; numbers [] are needed"),
        (
            {"kind": failing(reward=lambda self, before, after, action: action.sum())},
            "reward returns float32 []; numbers [3] are needed",
        ),
        ({"kind": Robot}, "the class has no method 'reward'"),
        ({"kind": failing(reward=lambda *given: 1 / 0)}, "reward fails: ZeroDivisionError: division by zero"),
        (
            {"kind": failing(terminated=lambda self, qpos, qvel: qpos[..., 0])},
            "terminated returns float64 []; booleans [] are needed",
        ),
        ({"kind": failing(sample_reset=lambda *given: np.zeros(2))}, "sample_reset must return qpos [1] and qvel [1]"),
        ({"kind": failing(observe=lambda self, qpos, qvel: self.bodies(qpos, "leg"))}, "unknown body of robot"),
        ({"mjcf": 3}, "mjcf must be a path or MJCF as text, got 3"),
        ({"mjcf": None}, "mjcf must be a path or MJCF as text, got None"),
        ({"mjcf": Path("/tmp")}, "there is no model file /tmp"),
        ({"control_range": (("a", "b"),)}, "control_range must be 1 pairs of a lower and a higher number, got (('a'"),
        ({"control_range": ((0.0,), (1.0, 2.0))}, "control_range must be 1 pairs"),
        ({"control_range": 3.0}, "control_range must be 1 pairs"),
        ({"control_range": ((0.0, float("nan")),)}, "control_range must be 1 pairs"),
        ({"goal": "x"}, "goal must be a tuple of offdyn_envs.GoalPart, got 'x'"),
        ({"goal": GoalPart("body_pos", "arm")}, "goal must be a tuple of offdyn_envs.GoalPart"),
        ({"measures": ("arm",)}, "measures must be a tuple of offdyn_envs.Measure"),
        ({"measures": (Measure("site_pos", "tip"),)}, "its model does not compile"),
        ({"skipped_qpos": 2}, "its model has 1 positions, and skipped_qpos is 2"),
        ({"reset_noise": "x"}, "sample_reset fails: "),
        ({"kind": failing(edit=lambda self, spec: 1 / 0)}, "edit fails: ZeroDivisionError"),
        ({"kind": failing(info=lambda *given: 1 / 0)}, "info fails: ZeroDivisionError"),
        ({"kind": failing(info=lambda *given: 3)}, "info must return numbers by name, got 3"),
        ({"kind": failing(control=lambda self, action: action[..., 0])}, "control returns float32 []"),
        ({"kind": failing(judge=lambda *given: 1.0)}, "judge must return what reward and terminated say"),
        (
            {"kind": failing(reward=lambda self, before, after, action: np.nan * after.qpos[..., 0])},
            "reward returns numbers that are not finite",
        ),
        (
            {"kind": failing(observe=lambda self, qpos, qvel: np.inf * np.ones_like(qpos))},
            "observe returns numbers that are not finite",
        ),
        (
            {"kind": failing(sample_reset=lambda self, rng, init: (init * np.nan, np.zeros(1)))},
            "sample_reset must return qpos [1] and qvel [1], of finite numbers",
        ),
        ({"kind": Loaded, "load": [1.0]}, "it must be a value, with tuples for lists and arrays"),
    ],
)
def test_bad_robots(changes, words):
    name = changes.get("name", "pendulum")
    before = dict(registry.ROBOTS)
    said = refused(lambda: offdyn_envs.register_robot(pendulum(**changes)))
    assert words in said and name in said
    assert dict(registry.ROBOTS) == before and "OffDyn/Pendulum-v0" not in gymnasium.registry


@pytest.mark.skipif(not hasattr(mujoco.MjModel, "nhistory"), reason="this MuJoCo knows neither delays nor sleep")
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('joint="turn" ctrl', 'joint="turn" delay="0.02" nsample="3" ctrl', "motors or sensors that remember (delay)"),
        (
            "</mujoco>",
            '<sensor><jointpos joint="turn" delay="0.02" nsample="3"/></sensor></mujoco>',
            "motors or sensors that remember (delay)",
        ),
        (
            '<option timestep="0.01"/>',
            '<option><flag sleep="enable"/></option>',
            "bodies that fall asleep (flag sleep)",
        ),
    ],
)
def test_states_that_nobody_stores_are_refused(old, new, words):
    said = refused(lambda: offdyn_envs.register_robot(pendulum(mjcf=PENDULUM.replace(old, new))))
    assert said.startswith(f"robot 'pendulum': its model has {words}")
    assert "state of a robot" in said


def test_no_measure_tells_the_time():
    clock = pendulum(mjcf=PENDULUM.replace("</mujoco>", '<sensor><clock name="t"/></sensor></mujoco>'))
    said = refused(offdyn_envs.register_robot, replace(clock, measures=(Measure("sensor", "t"),)))
    assert said.startswith("robot 'pendulum': its model has a clock among its measures; only qpos")
    assert offdyn_envs.register_robot(clock).goal_dim == 0


def test_gravity_is_told_of_robots_with_another():
    moon = PENDULUM.replace('timestep="0.01"', 'timestep="0.01" gravity="0 0 -1.62"')
    robot = offdyn_envs.register_robot(pendulum(mjcf=moon))
    assert compile_model(robot, (Gravity(0.5),)).opt.gravity[2] == -0.81
    assert Gravity(0.5).describe(robot) == "gravity multiplied by 0.5"


@pytest.mark.parametrize(
    ("slug", "shifts", "words"),
    [
        ("Heavy!", Mass(2.0), "small letters, digits, - and ."),
        ("nominal", Mass(2.0), "the name 'nominal' is taken"),
        ("heavy", {"kind": "mass", "scale": 2.0, "body": "arms"}, "unknown body of Pendulum for the mass shift 'arms'"),
        ("late", {"kind": "delay", "steps": 51}, "steps must be a whole number from 0 to 50 control steps, got"),
        ("late", [Delay(50), Delay(1)], "must be at most 50, got 51"),
        ("odd", Field("dof_dampin", scale=2.0), "did you mean 'dof_damping'"),
        ("odd", Kinematic("foot", 0.5), "a kinematic shift needs a walker of the suite"),
        ("odd", Morphology("torso", 1.0), "a morphology shift needs a walker of the suite"),
        (
            "odd",
            Local(Mass(2.0), above=1.0),
            "Pendulum has no x, since its skipped_qpos is 0; use the number of an entry",
        ),
        ("odd", Local(Mass(2.0), on=2, above=1.0), "go from 0 to 1, got 2"),
    ],
)
def test_bad_dynamics(slug, shifts, words):
    offdyn_envs.register_robot(pendulum())
    assert words in refused(offdyn_envs.register_dynamics, "pendulum", slug, shifts)
    assert "did you mean 'pendulum'" in refused(offdyn_envs.register_dynamics, "pendulm", "heavy", Mass(2.0))


NOMINAL = "offdyn/pendulum/nominal/medium-5k-v0"


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("t", "offdyn/hopper/nominal/medium-5k-v0", "source is a hopper and target a pendulum; one robot is needed"),
        ("hopper-nominal-medium", NOMINAL, "the name is taken"),
        ("t/u", NOMINAL, "small letters"),
        ("t", "offdyn/pendulum/heavy/medium-5k-v0", "unknown dataset"),
    ],
)
def test_bad_tasks(name, source, words):
    offdyn_envs.register_robot(pendulum())
    assert words in refused(offdyn_envs.register_task, name, source, NOMINAL)


@pytest.mark.parametrize(
    ("robot", "behaviours", "words"),
    [
        ("arm", None, "an offdyn_envs.Robot is needed, got 'arm'"),
        (Humanoid(**vars(pendulum())), None, "the name is taken, by tests.envs.test_own_robots.Pendulum"),
        (pendulum(title="Arm"), None, "its title is Pendulum in this process, got Arm"),
        (pendulum(title="Hopper"), None, "its title is Pendulum in this process, got Hopper"),
        (pendulum(), {"best": len}, "unknown quality of a scripted policy"),
        (pendulum(), {"medium": 3}, "must be a function, got 3"),
        (pendulum(), [1], "behaviours must be policies by quality (medium, expert), got [1]"),
    ],
)
def test_bad_registrations(robot, behaviours, words):
    offdyn_envs.register_robot(pendulum())
    assert words in refused(offdyn_envs.register_robot, robot, behaviours)


def test_walkers_are_robots_that_do_not_change():
    with pytest.raises(OffDynError, match="the name is taken"):
        offdyn_envs.register_robot(Humanoid(name="ant", title="Ant", mjcf="ant.xml", frame_skip=5))
    assert set(offdyn_envs.ROBOTS) >= {"halfcheetah", "hopper", "walker2d", "ant"}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lay a package with robots on the path, as an installation would."""
    monkeypatch.syspath_prepend(tmp_path)

    def lay(points, code):
        monkeypatch.delitem(sys.modules, "arms", raising=False)
        info = tmp_path / "arms-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: arms\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[offdyn.robots]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
        (tmp_path / "arms.py").write_text(code)
        registry._points.cache_clear()
        registry.find_others.cache_clear()

    return lay


PACKAGE = f'''
import numpy as np
import offdyn_envs

class Arm(offdyn_envs.Robot):
    def reward(self, before, after, action):
        return -np.square(after.qvel[..., 0])

ARM = Arm(name="arm", title="Arm", mjcf="""{PENDULUM}""", frame_skip=2)

def register():
    offdyn_envs.register_robot(ARM)
    offdyn_envs.register_dynamics("arm", "heavy", offdyn_envs.Mass(2.0))
'''


def test_robots_of_packages_are_found(install):
    install({"arm": "arms:register", "broken": "arms:nothing"}, PACKAGE)
    assert "arms" not in sys.modules and "arm" not in offdyn_envs.ROBOTS
    assert get_robot("arm").action_dim == 1
    assert "OffDyn/Arm-heavy-v0" in offdyn_envs.list_env_ids()
    assert "robot 'broken' cannot be loaded from arms:nothing: AttributeError" in refused(get_robot, "broken")


def test_a_robot_of_a_package_is_registered_for_it(install):
    install({"arm": "arms:ARM", "leg": "arms:ARM"}, PACKAGE)
    assert "OffDyn/Arm-v0" in offdyn_envs.list_env_ids()
    assert "registers no robot of this name" in refused(get_robot, "leg")


@pytest.mark.parametrize("name", ["torch", "Hopper", "_own", "hopper-v0"])
def test_a_name_of_no_robot_is_no_attribute_of_the_batches(name):
    """Pickle and torch's cache of compiled updates look for names in every module that is loaded."""
    assert not hasattr(vector, name) and hasattr(vector, "hopper")


def test_the_unit_of_a_force_is_that_of_its_joint():
    """What turns a hinge is limited in N m, what pushes a slide in N."""
    slide = PENDULUM.replace("hinge", "slide")
    both = slide.replace("</body>", '<body><joint name="j"/><geom size="0.1"/></body></body>').replace(
        "</actuator>", '<motor name="k" joint="j"/></actuator>'
    )
    for mjcf, actuator, unit in (
        (PENDULUM, None, "N m"),
        (slide, None, "N"),
        (both, None, "N m or N"),
        (both, "k", "N m"),
    ):
        robot = pendulum(mjcf=mjcf)
        said = offdyn_envs.Actuator(limit=2.0, actuator=actuator).describe(robot)
        assert said.endswith(f"at most 2 {unit}"), said
