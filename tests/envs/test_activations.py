"""Motors with states of their own (activations): alone and in batches, stored, set, and simulated again."""

import copy
import pickle
from dataclasses import replace

import gymnasium
import numpy as np
import pytest

import offdyn_envs
from offdyn_envs import Actuator, Delay, Field, GoalPart, Local, Mass, Measure, Robot
from offdyn_envs.datasets import load_dataset
from offdyn_envs.datasets.checking.check import verify
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.gap.counterfactuals import counterfactual
from offdyn_envs.tasks import DatasetId
from offdyn_envs.vector import OffDynVectorEnv
from offdyn_envs.verification.robot_checks import robot_checks
from offdyn_envs.verification.subjects import find_subject

pytestmark = pytest.mark.usefixtures("own_robots")
MJCF = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body name="target" pos="0.5 0 0"/>
    <body name="arm">
      <joint name="turn" type="hinge" axis="0 1 0" damping="0.1"/>
      <geom type="capsule" fromto="0 0 0 0 0 -1" size="0.05"/>
      <site name="tip" pos="0 0 -1"/>
    </body>
  </worldbody>
  <actuator>
    <general name="slow" joint="turn" dyntype="filter" dynprm="0.2" gainprm="30" ctrlrange="-1 1" ctrllimited="true"/>
    <general name="sum" joint="turn" dyntype="integrator" gainprm="5" ctrlrange="-1 1" ctrllimited="true"/>
  </actuator>
  <sensor><actuatorfrc name="pull" actuator="slow"/></sensor>
</mujoco>
"""


class Slow(Robot):
    """Stand still; what the motors are about to do is seen."""

    def observe(self, qpos, qvel, goal):
        return np.concatenate((qpos, qvel, goal), axis=-1)

    def reward(self, before, after, action):
        return -np.square(after.qvel[..., 0]) - 0.1 * np.sum(np.square(after.goal[..., self.acts]), axis=-1)

    def terminated(self, qpos, qvel, goal):
        return np.abs(qpos[..., 0]) > 9.0


class Aiming(Slow):
    """The same with a target that is elsewhere in every episode."""

    def sample_reset(self, rng, init_qpos):
        return (*super().sample_reset(rng, init_qpos), rng.uniform(-1.0, 1.0, 3))


SLOW = Slow(name="slow", title="Slow", mjcf=MJCF, frame_skip=2, max_episode_steps=20)
AIMING = Aiming(
    name="aiming",
    title="Aiming",
    mjcf=MJCF,
    frame_skip=2,
    max_episode_steps=20,
    goal=(GoalPart("body_pos", "target"),),
    measures=(Measure("site_pos", "tip"), Measure("sensor", "pull")),
)
BOTH = pytest.mark.parametrize("example", (SLOW, AIMING), ids=lambda robot: robot.name)


def test_the_third_part_of_the_state():
    slow, aiming = offdyn_envs.register_robot(SLOW), offdyn_envs.register_robot(AIMING)
    assert (slow.na, slow.goal_dim, slow.acts, slow.observation_dim) == (2, 2, slice(0, 2), 4)
    assert (aiming.na, aiming.goal_dim, aiming.acts, aiming.observation_dim) == (2, 9, slice(3, 5), 11)
    env = gymnasium.make("OffDyn/Aiming-v0").unwrapped
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.array([1.0, -0.5], np.float32))
    np.testing.assert_array_equal(env.goal[3:5], env.data.act)
    # A filter of 0.2 s after 0.06 s, and the integral.
    assert env.goal[3] == pytest.approx(1.0 - 0.95**6)
    assert env.goal[4] == pytest.approx(-0.5 * 0.06)
    # What is felt is of the last physics step's beginning, the states of the motors of its end.
    assert env.goal[-1] == pytest.approx(30.0 * (1.0 - 0.95**5))
    env.reset(seed=1)
    assert env.data.act.tolist() == env.goal[3:5].tolist() == [0.0, 0.0]


@BOTH
@pytest.mark.parametrize("shifts", (None, [Mass(1.5), Delay(1)], Actuator(0.5), Local(Mass(2.0), on=0, above=0.0)))
@pytest.mark.parametrize("mode", ("same_step", "next_step"))
def test_scalar_equals_batched(example, shifts, mode):
    robot = offdyn_envs.register_robot(example)
    batch = OffDynVectorEnv(robot, 3, row_shifts=[Mass(0.5), shifts, None], autoreset_mode=mode, num_threads=2)
    scalar, rng = gymnasium.make(f"OffDyn/{robot.title}-v0", shifts=shifts), np.random.default_rng(0)
    seen, one = batch.reset(seed=6)[0], scalar.reset(seed=7)[0]
    for _ in range(45):
        np.testing.assert_array_equal(seen[1], one)
        np.testing.assert_array_equal(batch.goal[1], scalar.unwrapped.goal)
        actions = rng.uniform(-1, 1, (3, 2)).astype(np.float32)
        got, expected = batch.step(actions), scalar.step(actions[1])
        assert (got[1][1], got[2][1], got[3][1]) == expected[1:4]
        seen, one = got[0], expected[0]
        if expected[2] or expected[3]:
            one = scalar.reset()[0]
            seen = batch.step(actions)[0] if mode == "next_step" else seen


@BOTH
def test_states_come_back(example):
    robot = offdyn_envs.register_robot(example)
    batch, action = OffDynVectorEnv(robot, 4, autoreset_mode="disabled"), np.full((4, 2), 0.5, np.float32)
    batch.reset(seed=0)
    for _ in range(4):
        batch.step(action * np.arange(-1, 3)[:, None] / 2)
    state = {"qpos": batch.qpos, "qvel": batch.qvel, "goal": batch.goal}
    assert len(np.unique(state["goal"][:, robot.acts], axis=0)) == 4
    expected = batch.step(action)
    other = OffDynVectorEnv(robot, 4, autoreset_mode="disabled")
    other.set_state(**{name: part[::-1] for name, part in state.items()})
    for mine, theirs in zip(expected[:4], other.step(action)[:4], strict=True):
        np.testing.assert_array_equal(mine, theirs[::-1])
    scalar = gymnasium.make(f"OffDyn/{robot.title}-v0").unwrapped
    scalar.reset(seed=9)
    scalar.goal = state["goal"][2]
    scalar.set_state(state["qpos"][2], state["qvel"][2])
    for env in (copy.deepcopy(scalar), pickle.loads(pickle.dumps(scalar)), scalar):
        one = env.step(action[2])
        np.testing.assert_array_equal(one[0], expected[0][2])
        assert one[1] == expected[1][2]


@BOTH
def test_a_goal_without_the_rest_lets_motors_begin_anew(example):
    robot = offdyn_envs.register_robot(example)
    batch = OffDynVectorEnv(robot, 2, autoreset_mode="disabled")
    batch.reset(seed=0)
    batch.step(np.ones((2, 2), np.float32))
    qpos, qvel, goal = batch.qpos, batch.qvel, batch.goal
    scalar = gymnasium.make(f"OffDyn/{robot.title}-v0").unwrapped
    scalar.reset(seed=0)
    for told in (goal[:, : robot.acts.stop], goal[:, : robot.acts.start]):
        batch.set_state(qpos, qvel, goal=told)
        scalar.goal = told[1]
        scalar.set_state(qpos[1], qvel[1])
        np.testing.assert_array_equal(batch.goal[1], scalar.goal)
        kept = told.shape[1] == robot.acts.stop
        np.testing.assert_array_equal(batch.goal[:, robot.acts], goal[:, robot.acts] if kept else np.zeros((2, 2)))
        np.testing.assert_array_equal(batch.step(np.ones((2, 2)))[0][1], scalar.step(np.ones(2))[0])
    # Where nothing is said they stay as they are.
    before = batch.goal[:, robot.acts]
    batch.set_state(qpos, qvel)
    np.testing.assert_array_equal(batch.goal[:, robot.acts], before)


@BOTH
def test_a_row_that_blows_up_keeps_its_motors(example):
    robot = offdyn_envs.register_robot(replace(example, max_episode_steps=1000))
    wild = Field("dof_damping", add=-1e6)
    batch = OffDynVectorEnv(robot, 2, row_shifts=[wild, None], autoreset_mode="disabled")
    scalar = gymnasium.make(f"OffDyn/{robot.title}-v0", shifts=wild)
    batch.reset(seed=0)
    scalar.reset(seed=0)
    for _ in range(50):
        before = batch.goal
        got, expected = batch.step(np.ones((2, 2), np.float32)), scalar.step(np.ones(2, np.float32))
        np.testing.assert_array_equal(got[0][0], expected[0])
        np.testing.assert_array_equal(batch.goal[0], scalar.unwrapped.goal)
        if expected[4]["diverged"]:
            np.testing.assert_array_equal(batch.goal[0, robot.acts], before[0, robot.acts])
            return
    pytest.fail("it did not blow up")


@BOTH
def test_verification(example):
    offdyn_envs.register_robot(example)
    checks = robot_checks(find_subject(example.title))
    for name in ("fields", "hash", "effect", "batched", "checker", "twins", "re-simulation"):
        checks[name]()


@BOTH
def test_datasets_hold_them(example, tmp_path, monkeypatch):
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path))
    robot = offdyn_envs.register_robot(example)
    offdyn_envs.register_dynamics(robot.name, "weak", Actuator(0.5))
    built = build(DatasetId.parse(f"{robot.name}/nominal/random-500"), quiet=True)
    report = verify(built.path, rows=200)
    assert (report.mode, report.largest_gap) == ("exact", 0.0)
    data = load_dataset(built.id)
    assert np.abs(data.goal[:, robot.acts]).min(axis=0).tolist() == [0.0, 0.0]
    own, weak = (counterfactual(data, dynamics, quiet=True) for dynamics in ("nominal", "weak"))
    late = counterfactual(data, Delay(1), quiet=True)
    for key in ("next_observations", "rewards", "terminations"):
        np.testing.assert_array_equal(getattr(own, key), getattr(data, key))
    assert (own.next_observations != weak.next_observations)[:, :2].any(axis=0).all()
    # A weaker motor follows its control as fast as before.
    np.testing.assert_array_equal(own.next_goal[:, robot.acts], weak.next_goal[:, robot.acts])
    assert (late.next_goal[1:, robot.acts] != own.next_goal[1:, robot.acts]).any()


def test_sizes_that_a_robot_says_are_checked():
    with pytest.raises(offdyn_envs.OffDynError, match="na is 2 in its model, and the robot says 3"):
        offdyn_envs.register_robot(replace(SLOW, na=3))


@pytest.mark.parametrize("method", ["observe", "terminated"])
def test_a_robot_has_to_take_the_third_part(method):
    deaf = type("Slow", (Slow,), {method: getattr(Robot, method)})
    with pytest.raises(offdyn_envs.OffDynError, match=rf"third part .* a method {method}\(self, qpos, qvel, goal\)$"):
        offdyn_envs.register_robot(deaf(name="slow", title="Slow", mjcf=MJCF, frame_skip=2))


class Quadruped(Robot):
    """Walk, as dm_control's quadruped does: filtered motors pull tendons."""

    def edit(self, spec):
        for thing in (spec.geom("terrain"), spec.site("target"), spec.body("ball"), *spec.sensors):
            spec.delete(thing)
        for wall in ("wall_px", "wall_py", "wall_nx", "wall_ny"):
            spec.delete(spec.geom(wall))

    def observe(self, qpos, qvel, goal):
        return np.concatenate((qpos[..., self.skipped_qpos :], qvel, goal), axis=-1)

    def reward(self, before, after, action):
        return (after.qpos[..., 0] - before.qpos[..., 0]) / self.dt

    def terminated(self, qpos, qvel, goal):
        return qpos[..., 2] < 0.2


def test_dm_controls_quadruped():
    pytest.importorskip("dm_control")
    robot = offdyn_envs.register_robot(
        Quadruped(
            name="quadruped", title="Quadruped", mjcf="dm_control:suite/quadruped.xml", frame_skip=4, skipped_qpos=2
        )
    )
    assert (robot.nq, robot.nv, robot.na, robot.action_dim, robot.observation_dim) == (23, 22, 12, 12, 55)
    shifts = [Actuator(0.7), Mass(1.2)]
    batch = OffDynVectorEnv(robot, 3, row_shifts=[None, shifts, None], autoreset_mode="disabled", num_threads=2)
    scalar, rng = gymnasium.make("OffDyn/Quadruped-v0", shifts=shifts), np.random.default_rng(0)
    seen, one = batch.reset(seed=6)[0], scalar.reset(seed=7)[0]
    for _ in range(50):
        np.testing.assert_array_equal(seen[1], one)
        actions = rng.uniform(-1, 1, (3, 12)).astype(np.float32)
        (seen, rewards, *_), (one, reward, *_) = batch.step(actions), scalar.step(actions[1])
        assert rewards[1] == reward
    assert np.abs(batch.goal).max() > 0.1
    assert robot_checks(find_subject("Quadruped"))["re-simulation"]() == {}
