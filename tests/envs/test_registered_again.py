"""Robots that are registered again with another model, as in a notebook: the new one is simulated, everywhere."""

import os
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import offdyn_envs
from offdyn_envs import Delay, Friction, Gravity, Local, Mass, OffDynError, Robot
from offdyn_envs.models import _compile, compile_model
from offdyn_envs.robots import get_robot
from offdyn_envs.robots.examples import HUMANOID
from offdyn_envs.vector import OffDynVectorEnv
from offdyn_envs.verification.divergence import long_divergence
from offdyn_envs.verification.subjects import find_subject
from tests.envs.test_own_robots import PENDULUM, Pendulum, pendulum

pytestmark = pytest.mark.usefixtures("own_robots")
TIPPED = PENDULUM.replace("</body>", '<body name="tip" pos="0 0 -1"/></body>')


def cell(armature=0.0, length=1.0, **changes):
    """Define and register a robot, as a notebook's cell does; one class a call, all of one name."""

    class Arm(Robot):
        """Hold the tip up."""

        def edit(self, spec):
            spec.joint("turn").armature = armature
            spec.body("tip").pos = [0.0, 0.0, -length]
            spec.body("tip").add_body(name="bell", pos=[0.0, 0.0, -0.5])

        def reward(self, before, after, action):
            return self.bodies(after.qpos, "tip")[..., 0, 2]

    return offdyn_envs.register_robot(Arm(**{"name": "arm", "title": "Arm", "mjcf": TIPPED, "frame_skip": 2} | changes))


def simulated():
    """Return the models that environments made now have, single and batched, without and with a shift."""
    single = gymnasium.make("OffDyn/Arm-v0").unwrapped
    shifted = gymnasium.make("OffDyn/Arm-v0", shifts=Mass(2.0)).unwrapped
    batch = gymnasium.make_vec("OffDyn/Arm-v0", 2, row_shifts=[None, Gravity(0.5)]).unwrapped
    return [single.model, shifted.model, *batch.models]


def test_another_edit_is_simulated():
    for armature in (1.0, 2.0, 1.0):
        cell(armature)
        assert [float(model.dof_armature[0]) for model in simulated()] == [armature] * 4


def test_another_file_is_simulated(tmp_path):
    path = tmp_path / "arm.xml"
    for damping, controls in (("0.1", "-3 1"), ("0.7", "-9 9")):
        path.write_text(TIPPED.replace('damping="0.1"', f'damping="{damping}"').replace("-3 1", controls))
        robot = cell(mjcf=path)
        assert [float(model.dof_damping[0]) for model in simulated()] == [float(damping)] * 4
        assert robot.control(np.ones(1)).tolist() == [float(controls.split()[1])]
    second = '<body><joint type="slide"/><geom size="0.1"/></body>'
    path.write_text(TIPPED.replace("</worldbody>", f"{second}</worldbody>"))
    assert cell(mjcf=path).nq == 2
    assert gymnasium.make("OffDyn/Arm-v0").reset(seed=0)[0].shape == (4,)
    assert {model.nq for model in simulated()} == {2}


def test_another_text_is_simulated():
    cell()
    cell(mjcf=TIPPED.replace('damping="0.1"', 'damping="0.4"'))
    assert [float(model.dof_damping[0]) for model in simulated()] == [0.4] * 4


def test_the_same_definition_stays():
    first = offdyn_envs.register_robot(pendulum())
    offdyn_envs.register_dynamics("pendulum", "heavy", Mass(2.0))
    compile_model(first, (Mass(2.0),))
    compiled = _compile.cache_info().misses
    again = offdyn_envs.register_robot(pendulum())
    assert again == first
    compile_model(again, (Mass(2.0),))
    gymnasium.make("OffDyn/Pendulum-heavy-v0")
    assert _compile.cache_info().misses == compiled


def test_named_dynamics_follow():
    cell()
    offdyn_envs.register_dynamics("arm", "heavy", Mass(2.0))
    cell(3.0, max_episode_steps=7)
    env = gymnasium.make("OffDyn/Arm-heavy-v0")
    assert float(env.unwrapped.model.dof_armature[0]) == 3.0
    assert env.spec.max_episode_steps == 7
    assert gymnasium.spec("OffDyn/Hopper-v0").max_episode_steps == 1000


def test_environments_made_before_keep_their_model():
    old, heavy = cell(1.0), {"kind": "mass", "scale": 2.0}
    env = gymnasium.make("OffDyn/Arm-v0").unwrapped
    schedule = {"unit": "episode", "points": [{"at": 1, "shifts": heavy}]}
    changing = gymnasium.make("OffDyn/Arm-v0", schedule=schedule).unwrapped
    batch = gymnasium.make_vec("OffDyn/Arm-v0", 1, schedule=schedule).unwrapped
    for one in (env, changing, batch):
        one.reset(seed=0)
    cell(2.0)
    env.reset(seed=0)
    env.step(np.ones(1, np.float32))
    assert float(env.model.dof_armature[0]) == 1.0
    for one in (changing, batch):
        with pytest.raises(OffDynError, match="registered again with another model; make the environment anew"):
            one.reset(seed=1)
    with pytest.raises(OffDynError, match="robot 'arm': it has been registered again"):
        gymnasium.make_vec("OffDyn/Arm-v0", 1).unwrapped.__class__(old, 1, shifts=Mass(3.0))


def test_verification_follows():
    found = []
    for armature in (0.0, 5.0):
        cell(armature, max_episode_steps=50)
        offdyn_envs.register_dynamics("arm", "heavy", Mass(2.0))
        subject = find_subject("Arm-heavy")
        found.append(long_divergence(subject.robot, subject.shifts, "default"))
    assert found[0] != found[1] == long_divergence(get_robot("arm"), (Mass(2.0),), "default")


def test_bodies_are_those_of_the_edited_model():
    for length in (1.0, 5.0):
        robot = cell(length=length)
        env = gymnasium.make("OffDyn/Arm-v0").unwrapped
        env.reset(seed=0)
        env.step(np.ones(1, np.float32))
        env.set_state(env.data.qpos.copy(), env.data.qvel.copy())
        for body in ("tip", "bell"):
            np.testing.assert_array_equal(robot.bodies(env.data.qpos, body)[0], env.data.body(body).xpos)


def test_the_mass_centre_is_that_of_the_edited_model():
    class Weighted(Pendulum):
        """With a stone beside the arm."""

        def edit(self, spec):
            spec.body("arm").add_geom(size=[0.1, 0.0, 0.0], pos=[2.0, 0.0, 0.0], mass=1e6)

    robot = offdyn_envs.register_robot(pendulum(Weighted))
    np.testing.assert_allclose(robot.mass_centre(np.zeros(1)), [2.0, 0.0, 0.0], atol=1e-3)


def test_a_relative_path_lasts(tmp_path, monkeypatch):
    (tmp_path / "arm.xml").write_text(TIPPED)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/arm.xml").write_text(TIPPED)
    for mjcf in (Path("arm.xml"), "arm.xml", "sub/arm.xml"):
        monkeypatch.chdir(tmp_path)
        robot = cell(mjcf=mjcf)
        assert isinstance(robot.mjcf, str) == isinstance(mjcf, str) and Path(robot.mjcf) == tmp_path / mjcf
        monkeypatch.chdir(os.sep)
        assert gymnasium.make("OffDyn/Arm-v0", shifts=Gravity(0.5)).reset(seed=0)[0].shape == (2,)
    assert cell(mjcf=TIPPED).mjcf == TIPPED


def test_late_actions_wait_in_the_middle_of_the_range():
    cell()
    env = gymnasium.make("OffDyn/Arm-v0", shifts=Delay(1)).unwrapped
    env.reset(seed=0)
    env.step(np.ones(1, np.float32))
    assert env.data.ctrl.tolist() == [-1.0]


@pytest.mark.parametrize("skipped", (0, 1, 2))
def test_places_are_those_that_a_robot_leaves_out(skipped):
    rail = '<joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 1 0"/>'
    text = TIPPED.replace('<body name="arm">', f'<body name="arm">{rail}')
    cell(mjcf=text, skipped_qpos=skipped)
    for number, axis in enumerate("xy"):
        shift = Local(Gravity(0.5), on=axis, above=1.0)
        if number >= skipped:
            with pytest.raises(OffDynError, match=f"Arm has no {axis}, since its skipped_qpos is {skipped}; use"):
                gymnasium.make("OffDyn/Arm-v0", shifts=shift)
            continue
        env = gymnasium.make("OffDyn/Arm-v0", shifts=shift).unwrapped
        env.reset(seed=0)
        for place, gravity in ((0.5, -9.81), (1.5, -9.81 / 2)):
            qpos = np.zeros(3)
            qpos[number] = place
            env.set_state(qpos, np.zeros(3))
            env.step(np.zeros(1, np.float32))
            assert env.model.opt.gravity[2] == gravity


def test_humanoid_slips_beyond_five_metres():
    offdyn_envs.register_robot(HUMANOID)
    shift = Local(Friction(0.2), above=5.0)
    env = gymnasium.make("OffDyn/Humanoid-v0", shifts=shift).unwrapped
    batch = OffDynVectorEnv("humanoid", 2, shifts=shift, autoreset_mode="disabled")
    env.reset(seed=0)
    batch.reset(seed=0)
    qpos, qvel = np.tile(env.data.qpos, (2, 1)), np.tile(env.data.qvel, (2, 1))
    qpos[1, 0] = 6.0
    nominal = float(env.model.geom_friction[0, 0])
    batch.set_state(qpos, qvel)
    actions = np.zeros((2, 17), np.float32)
    seen = batch.step(actions)[0]
    for row, factor in ((0, 1.0), (1, 0.2)):
        env.set_state(qpos[row], qvel[row])
        np.testing.assert_array_equal(env.step(actions[row])[0], seen[row])
        assert env.model.geom_friction[0, 0] == batch.models[row].geom_friction[0, 0] == factor * nominal
