"""Identity equals stock Gymnasium, scalar equals batched: bit for bit."""

import pickle
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode

import offdyn_envs
from offdyn_envs.robots import WALKERS
from offdyn_envs.vector import OffDynVectorEnv

ROBOT_NAMES = tuple(WALKERS)
MIXED_SHIFTS = (
    None,
    [{"kind": "gravity", "scale": 0.5}],
    [{"kind": "friction", "scale": 2.0}],
    [{"kind": "gravity", "scale": 2.0}, {"kind": "friction", "scale": 0.1}],
)


def stock_environment(robot):
    """The v5 class with D4RL/ODRL settings, its solver's warm start zeroed before every control step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = gymnasium.make(f"{robot.title}-v5", **robot.stock_kwargs).unwrapped

    def step(ctrl, n_frames):
        env.data.ctrl[:] = ctrl
        env.data.qacc_warmstart[:] = 0.0
        mujoco.mj_step(env.model, env.data, nstep=n_frames)
        mujoco.mj_rnePostConstraint(env.model, env.data)

    env._step_mujoco_simulation = step
    return env


@pytest.mark.parametrize("name", ROBOT_NAMES)
def test_identity_equals_stock(name):
    robot = WALKERS[name]
    # Ours first: it sends MuJoCo's warnings to a logger, where stock HalfCheetah would write a file.
    ours = gymnasium.make(f"OffDyn/{robot.title}-v0").unwrapped
    stock = stock_environment(robot)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(stock.reset(seed=3)[0], ours.reset(seed=3)[0])
    reward_gap = 0.0
    for _ in range(1000):
        action = rng.uniform(-1, 1, robot.action_dim).astype(np.float32)
        expected, got = stock.step(action), ours.step(action)
        np.testing.assert_array_equal(expected[0], got[0])
        assert expected[2] == got[2]
        reward_gap = max(reward_gap, abs(expected[1] - got[1]))
        if got[2]:
            np.testing.assert_array_equal(stock.reset()[0], ours.reset()[0])
    # Stock Ant measures its speed on a body position that lags one physics step (contract).
    assert reward_gap <= (0.1 if name == "ant" else 0.0)


@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize("name", ROBOT_NAMES)
def test_scalar_equals_batched_with_mixed_shifts(name, threads):
    robot = WALKERS[name]
    rows = len(MIXED_SHIFTS)
    batched = OffDynVectorEnv(name, rows, row_shifts=MIXED_SHIFTS, num_threads=threads, autoreset_mode="same_step")
    scalars = [gymnasium.make(f"OffDyn/{robot.title}-v0", shifts=shifts) for shifts in MIXED_SHIFTS]
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(
        batched.reset(seed=7)[0], np.stack([env.reset(seed=7 + row)[0] for row, env in enumerate(scalars)])
    )
    for _ in range(1050):  # Past the time limit, so that truncation is compared too.
        actions = rng.uniform(-1, 1, (rows, robot.action_dim)).astype(np.float32)
        observations, rewards, terminations, truncations, infos = batched.step(actions)
        for row, env in enumerate(scalars):
            observation, reward, terminated, truncated, _ = env.step(actions[row])
            assert (reward, terminated, truncated) == (rewards[row], terminations[row], truncations[row])
            if terminated or truncated:
                assert infos["_final_obs"][row]
                np.testing.assert_array_equal(observation, infos["final_obs"][row])
                observation = env.reset()[0]
            np.testing.assert_array_equal(observation, observations[row])


@pytest.mark.parametrize("mode", tuple(AutoresetMode))
def test_batched_autoreset_follows_gymnasium(mode):
    """Hopper under random actions falls every 20 steps or so: every mode sees many resets."""
    rows = 3
    ours = OffDynVectorEnv("hopper", rows, max_episode_steps=30, autoreset_mode=mode)
    makers = [lambda: gymnasium.make("OffDyn/Hopper-v0", max_episode_steps=30)] * rows
    peer = gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=mode)
    rng = np.random.default_rng(2)
    np.testing.assert_array_equal(ours.reset(seed=5)[0], peer.reset(seed=5)[0])
    resets = 0
    for _ in range(120):
        actions = rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
        got, expected = ours.step(actions), peer.step(actions)
        for left, right in zip(got[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(left, right)
        done = got[2] | got[3]
        resets += int(done.sum())
        if mode == AutoresetMode.SAME_STEP and done.any():
            np.testing.assert_array_equal(got[4]["_final_obs"], expected[4]["_final_obs"])
            for row in np.flatnonzero(done):
                np.testing.assert_array_equal(got[4]["final_obs"][row], expected[4]["final_obs"][row])
        if mode == AutoresetMode.DISABLED and done.any():
            options = {"reset_mask": done}
            np.testing.assert_array_equal(
                ours.reset(options=dict(options))[0][done], peer.reset(options=dict(options))[0][done]
            )
    assert resets > 5


def test_shifts_survive_spec_and_pickle():
    env = gymnasium.make("OffDyn/Hopper-gravity-0.5-v0", shifts=[{"kind": "friction", "scale": 2.0}])
    assert [shift.kind for shift in env.unwrapped.shifts] == ["gravity", "friction"]
    for twin in (gymnasium.make(EnvSpec.from_json(env.spec.to_json())), pickle.loads(pickle.dumps(env.unwrapped))):
        assert twin.unwrapped.shifts == env.unwrapped.shifts


def test_make_vec_uses_the_batched_environment():
    env = gymnasium.make_vec("OffDyn/Ant-friction-5.0-v0", 2, num_threads=2)
    assert isinstance(env, OffDynVectorEnv)
    assert env.max_episode_steps == 1000
    assert env.row_shifts == (offdyn_envs.tasks.get_dynamics("hopper", "friction-5.0"),) * 2


def test_diverging_simulation_ends_alike_and_leaves_no_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scalar = gymnasium.make("OffDyn/Hopper-v0").unwrapped
    batched = OffDynVectorEnv("hopper", 2, autoreset_mode="disabled")
    scalar.reset(seed=0)
    batched.reset(seed=0)
    qpos, qvel = batched.qpos, batched.qvel
    qvel[0, 3] = 1e12
    scalar.set_state(qpos[0], qvel[0])
    batched.set_state(qpos, qvel)
    action = np.zeros((2, 3), np.float32)
    observation, reward, terminated, _, info = scalar.step(action[0])
    observations, rewards, terminations, _, infos = batched.step(action)
    assert terminated and terminations[0] and not terminations[1]
    assert info["diverged"] and infos["diverged"].tolist() == [True, False]
    np.testing.assert_array_equal(observation, observations[0])
    assert reward == rewards[0]
    assert not list(tmp_path.iterdir())
    # A step is judged alone: from a good state both go on.
    scalar.set_state(qpos[1], qvel[1])
    batched.set_state(np.stack([qpos[1]] * 2), np.stack([qvel[1]] * 2))
    onward, onwards = scalar.step(action[0]), batched.step(action)
    assert not onward[2] and onward[4]["diverged"] is False and "diverged" not in onwards[4]
    np.testing.assert_array_equal(onward[0], onwards[0][0])
