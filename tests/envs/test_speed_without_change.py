"""What makes the batched environment fast changes no number: no search for islands, no step timers."""

import copy

import mujoco
import numpy as np
import pytest

from offdyn_envs.batching.step_timers import start_step_timers, stop_step_timers
from offdyn_envs.models import compile_model
from offdyn_envs.robots import WALKERS
from offdyn_envs.tasks import dynamics_of
from offdyn_envs.vector import OffDynVectorEnv


@pytest.mark.parametrize("name", WALKERS)
def test_every_dynamics_moves_as_with_the_stock_options(name):
    """The batched environment against `mj_step` on the plain compiled model, all named dynamics, bit for bit."""
    robot = WALKERS[name]
    dynamics = list(dynamics_of(name).values())
    env = OffDynVectorEnv(name, len(dynamics), row_shifts=[shifts or None for shifts in dynamics], num_threads=2)
    models = [compile_model(robot, shifts) for shifts in dynamics]
    assert all(model.opt.disableflags == 0 for model in models), "the shared models must stay as they are"
    datas = [mujoco.MjData(model) for model in models]
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    touched = 0
    for _ in range(60):
        qpos, qvel = env.qpos, env.qvel
        actions = rng.uniform(-1, 1, (len(dynamics), robot.action_dim)).astype(np.float32)
        env.step(actions)
        for row, (model, data) in enumerate(zip(models, datas, strict=True)):
            data.qpos[:], data.qvel[:], data.ctrl[:] = qpos[row], qvel[row], actions[row]
            data.qacc_warmstart[:] = 0.0
            mujoco.mj_step(model, data, nstep=robot.frame_skip)
            touched += data.ncon > 0
        np.testing.assert_array_equal(env.last_qpos, np.stack([data.qpos for data in datas]))
        np.testing.assert_array_equal(env.last_qvel, np.stack([data.qvel for data in datas]))
    assert touched > len(dynamics)
    env.close()


def test_rows_of_equal_dynamics_share_a_model():
    env = OffDynVectorEnv("hopper", 3, row_shifts=[None, [{"kind": "gravity", "scale": 0.5}], None])
    assert env.models[0] is env.models[2] and env.models[0] is not env.models[1]


def test_a_robot_is_one_tree():
    """Why islands need no search; a second tree would need one."""
    for robot in WALKERS.values():
        assert compile_model(robot, ()).ntree == 1


@pytest.mark.skipif(not hasattr(mujoco.mjtDisableBit, "mjDSBL_ISLAND"), reason="this MuJoCo searches only when asked")
def test_only_the_search_for_islands_is_off():
    env = OffDynVectorEnv("ant", 1)
    stock, ours = compile_model(WALKERS["ant"], ()), copy.copy(env.models[0])
    assert ours.opt.disableflags == int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
    ours.opt.disableflags = 0
    for name in dir(stock.opt):
        if not name.startswith("_"):
            np.testing.assert_array_equal(getattr(stock.opt, name), getattr(ours.opt, name), err_msg=name)


def test_step_timers_stop_and_start():
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    data = mujoco.MjData(model)

    def counted():
        data.timer[0].duration = 0.0
        mujoco.mj_step(model, data, 1000)
        return data.timer[0].duration

    start_step_timers()
    try:
        before = counted()
        assert stop_step_timers(), mujoco.get_mjcb_time()
        assert counted() == 0.0
        start_step_timers()
        assert (counted() != 0.0) == (before != 0.0)
    finally:
        stop_step_timers()


def test_a_clock_of_the_user_stays():
    ticks = iter(range(1_000_000))
    mujoco.set_mjcb_time(lambda: float(next(ticks)))
    try:
        assert not stop_step_timers()
        OffDynVectorEnv("hopper", 1)
        mujoco.mj_step(compile_model(WALKERS["hopper"], ()), mujoco.MjData(compile_model(WALKERS["hopper"], ())))
        assert next(ticks) > 0
    finally:
        mujoco.set_mjcb_time(None)
        stop_step_timers()
