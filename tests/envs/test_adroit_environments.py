"""The Adroit environments: identity to stock, exact re-simulation, every named one."""

import itertools
import json
import pickle
import subprocess
import sys

import gymnasium
import gymnasium_robotics.envs.adroit_hand as stock_hand
import mujoco
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from offdyn_envs.errors import OffDynError
from offdyn_envs.report import describe_environment
from offdyn_envs.robots import HANDS
from offdyn_envs.tasks import dynamics_of, list_env_ids

HAND_TASKS = {hand.task: hand for hand in HANDS.values()}
TASKS = tuple(HAND_TASKS)
NAMED = {name: found for name, found in list_env_ids().items() if found[0].name in HANDS}


def make(task, **kwargs):
    return gymnasium.make(f"OffDyn/{HAND_TASKS[task].title}-v0", **kwargs)


def stock_environment(task):
    """Gymnasium-robotics' environment, its solver's warm start zeroed before every control step."""
    env = getattr(stock_hand, f"AdroitHand{task.capitalize()}Env")()

    def step(ctrl, n_frames):
        env.data.ctrl[:] = ctrl
        env.data.qacc_warmstart[:] = 0.0
        mujoco.mj_step(env.model, env.data, nstep=n_frames)
        mujoco.mj_rnePostConstraint(env.model, env.data)

    env._step_mujoco_simulation = step
    return env


def approach_distance(task, data):
    """Palm to handle, hammer or ball: the term whose sign gymnasium-robotics flipped."""
    aim = {"door": lambda: data.site("S_handle"), "pen": lambda: data.site("S_grasp")}
    return np.linalg.norm(data.site("S_grasp").xpos - aim.get(task, lambda: data.body("Object"))().xpos)


@pytest.mark.parametrize("task", TASKS)
def test_identity_equals_stock(task):
    stock, ours = stock_environment(task), make(task, reward="stock", terminate_on_drop=None).unwrapped
    d4rl = make(task).unwrapped
    rng = np.random.default_rng(0)
    for episode in range(2):
        expected = stock.reset(seed=episode)[0]
        np.testing.assert_array_equal(expected, ours.reset(seed=episode)[0])
        d4rl.reset(seed=episode)
        for _ in range(200):
            action = rng.uniform(-1.2, 1.2, HAND_TASKS[task].action_dim).astype(np.float32)
            left, right, signed = stock.step(action), ours.step(action), d4rl.step(action)
            np.testing.assert_array_equal(left[0], right[0])
            assert left[1] == right[1]
            assert left[4]["success"] == right[4]["success"]
            assert signed[1] == pytest.approx(left[1] - 0.2 * approach_distance(task, d4rl.data), abs=1e-9)
            dropped = task == "pen" and ours.data.body("Object").xpos[2] < 0.075
            assert right[2] is bool(dropped)


def bonus_states(task, state):
    """States in which the bonuses of the dense reward are paid."""
    qpos, qvel, goal = (array.copy() for array in state)
    if task == "door":
        for angle in (0.5, 1.2, 1.34, 1.5):
            qpos[28] = angle
            yield qpos, qvel, goal
    elif task == "hammer":
        for depth in (0.05, 0.075, 0.085, 0.089):
            qpos[26], qpos[29] = depth, 0.2
            yield qpos, qvel, goal
    elif task == "relocate":
        for gap in (0.2, 0.09, 0.04):
            yield qpos, qvel, np.concatenate((goal[3:] + np.array((0.0, 0.0, gap)), goal[3:]))
    else:
        # The pen lies along x: a target turned likewise, then one a little off.
        for angle in (1.57, 1.2, 1.1, 0.5):
            yield qpos, qvel, np.array([np.cos(angle / 2), 0.0, np.sin(angle / 2), 0.0])


@pytest.mark.parametrize("task", TASKS)
def test_bonuses_equal_stock(task):
    stock, ours = stock_environment(task), make(task, reward="stock").unwrapped
    stock.reset(seed=0)
    ours.reset(seed=0)
    rewards = []
    for qpos, qvel, goal in bonus_states(task, ours.get_state()):
        ours.set_state(qpos, qvel, goal)
        for field in ("body_pos", "body_quat", "site_pos"):
            getattr(stock.model, field)[:] = getattr(ours.model, field)
        stock.set_state(qpos, qvel)
        action = np.zeros(HAND_TASKS[task].action_dim)
        left, right = stock.step(action), ours.step(action)
        assert left[4]["success"] == right[4]["success"]
        rewards.append((left[1], right[1]))
    if task != "pen":  # Stock divides by the target's length at reset, which turns with the target in the last bit.
        assert [left for left, _ in rewards] == [right for _, right in rewards]
    np.testing.assert_allclose(*np.array(rewards).T, rtol=1e-12)
    assert np.ptp([left for left, _ in rewards]) > {"pen": 50, "door": 15, "hammer": 90, "relocate": 25}[task]


@pytest.mark.parametrize("reward", ("dense", "sparse"))
def test_sparse_reward_is_success(reward):
    env = make("door", reward=reward).unwrapped
    env.reset(seed=0)
    qpos, qvel, goal = env.get_state()
    results = []
    for angle in (0.0, 1.5):
        qpos[28] = angle
        env.set_state(qpos, qvel, goal)
        _, paid, _, _, info = env.step(np.zeros(28))
        results.append((paid, info["success"]))
    assert [success for _, success in results] == [False, True]
    assert ([paid for paid, _ in results] == [-0.1, 10.0]) is (reward == "sparse")


@pytest.mark.parametrize("slug", ("nominal", "broken-joint-hard", "shrink-finger-easy"))
@pytest.mark.parametrize("task", TASKS)
def test_resimulation_from_qpos_qvel_and_goal_is_exact(task, slug):
    env = make(task, dynamics=slug, terminate_on_drop=False if task == "pen" else None).unwrapped
    rng = np.random.default_rng(1)
    rows = []
    for episode in range(2):
        env.reset(seed=episode)
        for _ in range(60):
            state, action = env.get_state(), rng.uniform(-1, 1, HAND_TASKS[task].action_dim)
            rows.append((state, action, env.step(action), env.get_state()))
    assert any(not np.array_equal(rows[0][0].goal, row[0].goal) for row in rows)
    # A new environment that has never been reset, and one in the middle of another episode.
    fresh = make(task, dynamics=slug, terminate_on_drop=False if task == "pen" else None).unwrapped
    for index, other in zip(rng.permutation(len(rows)), itertools.cycle((fresh, env))):
        state, action, expected, after = rows[index]
        other.set_state(*state)
        got = other.step(action)
        np.testing.assert_array_equal(expected[0], got[0])
        assert expected[1:] == got[1:]
        for left, right in zip(after, other.get_state(), strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("task", TASKS)
def test_reset_into_a_state(task):
    env, twin = make(task), make(task)
    env.reset(seed=3)
    env.action_space.seed(0)
    for _ in range(10):
        env.step(env.action_space.sample())
    state = env.unwrapped.get_state()
    plain = json.loads(json.dumps([array.tolist() for array in state]))
    twin.reset(seed=8, options={"state": plain})
    for left, right in zip(state, twin.unwrapped.get_state(), strict=True):
        np.testing.assert_array_equal(left, right)
    for _ in range(10):
        action = env.action_space.sample()
        left, right = env.step(action), twin.step(action)
        np.testing.assert_array_equal(left[0], right[0])
        assert left[1:3] == right[1:3]


def test_states_are_copies():
    env = make("relocate").unwrapped
    env.reset(seed=0)
    state = env.get_state()
    before = [array.copy() for array in state]
    env.step(np.ones(30))
    env.reset(seed=1)
    for left, right in zip(before, state, strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(env.get_state().goal, state.goal)


def test_poses_lag_one_physics_step():
    """What the stock environments do, and why an observation is no function of the state it comes with."""
    env = make("pen").unwrapped
    env.reset(seed=0)
    observation = env.step(np.ones(24))[0]
    state = env.get_state()
    env.set_state(*state)
    restored = env.reset(options={"state": state})[0]
    np.testing.assert_array_equal(observation[:24], restored[:24])
    moved = np.abs(observation[24:27] - restored[24:27]).max()
    assert 0 < moved < 2.1 * 0.002 * np.abs(state.qvel[24:27]).max() + 1e-6


# Observations are unbounded on the hand, and the checker says so of every such environment.
@pytest.mark.filterwarnings("ignore:.*A Box observation space (min|max)imum value is.*infinity:UserWarning")
@pytest.mark.parametrize("name", NAMED)
def test_every_named_environment(name):
    """check_env, JSON round trip of the spec, pickle, and twin rollouts bit for bit."""
    env = gymnasium.make(name)
    check_env(env.unwrapped, skip_render_check=True)
    task = NAMED[name][0]
    assert env.observation_space.shape == (task.observation_dim,)
    assert env.action_space.shape == (task.action_dim,)
    assert env.spec.max_episode_steps == 200
    assert env.unwrapped.dt == pytest.approx(0.01)
    twins = [gymnasium.make(EnvSpec.from_json(env.spec.to_json())), pickle.loads(pickle.dumps(env.unwrapped))]
    start = env.reset(seed=11)[0]
    for twin in twins:
        np.testing.assert_array_equal(start, twin.reset(seed=11)[0])
    env.action_space.seed(0)
    for _ in range(30):
        action = env.action_space.sample()
        expected = env.step(action)
        for twin in twins:
            got = twin.step(action)
            np.testing.assert_array_equal(expected[0], got[0])
            assert expected[1:3] == got[1:3]


def test_twenty_eight_named_environments():
    assert len(NAMED) == 28
    assert {"OffDyn/AdroitPen-broken-joint-easy-v0", "OffDyn/AdroitDoor-shrink-finger-hard-v0"} <= set(NAMED)


def test_every_argument_survives_spec_and_pickle():
    sigma = [0.1] * 45
    env = gymnasium.make(
        "OffDyn/AdroitPen-shrink-finger-hard-v0",
        shifts=[{"kind": "gravity", "scale": 0.5}],
        profile="odrl",
        reward="sparse",
        terminate_on_drop=False,
        attack={"kind": "random", "scale": 0.1, "sigma": sigma},
    )
    for twin in (gymnasium.make(EnvSpec.from_json(env.spec.to_json())), pickle.loads(pickle.dumps(env.unwrapped))):
        for name in ("shifts", "profile", "reward", "terminate_on_drop", "attack"):
            assert getattr(twin.unwrapped, name) == getattr(env.unwrapped, name)
        np.testing.assert_array_equal(twin.reset(seed=5)[0], env.reset(seed=5)[0])


def test_dynamics_differ_in_simulation():
    """From one state, under one action, every named dynamics of the pen goes its own way."""
    envs = [make("pen", dynamics=slug, terminate_on_drop=False).unwrapped for slug in dynamics_of("adroit-pen")]
    rng = np.random.default_rng(3)
    for env in envs:
        env.reset(seed=0)
    for _ in range(100):
        action = rng.uniform(-1, 1, 24)
        final = [env.step(action)[0] for env in envs]
    assert all(np.abs(left - right).max() > 1e-3 for left, right in itertools.combinations(final, 2))


def test_pen_ends_when_it_drops_and_not_before():
    ends, goes_on = make("pen"), make("pen", terminate_on_drop=False)
    ends.reset(seed=0)
    goes_on.reset(seed=0)
    ends.action_space.seed(0)
    for count in range(1, 201):
        action = ends.action_space.sample()
        left, right = ends.step(action), goes_on.step(action)
        np.testing.assert_array_equal(left[0], right[0])
        height = ends.unwrapped.data.body("Object").xpos[2]
        assert left[2] == (height < 0.075)
        assert not right[2] and right[3] == (count == 200)
        if left[2]:
            break
    assert 10 < count < 200
    for remaining in range(count + 1, 201):
        *_, terminated, truncated, _ = goes_on.step(action)
        assert not terminated and truncated == (remaining == 200)


def test_truncation_after_two_hundred_steps():
    env = make("door")
    env.reset(seed=0)
    flags = [env.step(np.zeros(28, np.float32))[2:4] for _ in range(200)]
    assert flags == [(False, False)] * 199 + [(False, True)]


def test_gymnasiums_own_batch_equals_scalars():
    name = "OffDyn/AdroitDoor-broken-joint-medium-v0"
    envs = gymnasium.make_vec(name, 2, vectorization_mode="sync", reward="dense")
    assert isinstance(envs, gymnasium.vector.SyncVectorEnv)
    scalars = [make("door", dynamics="broken-joint-medium") for _ in range(2)]
    start = envs.reset(seed=7)[0]
    np.testing.assert_array_equal(start, np.stack([env.reset(seed=7 + row)[0] for row, env in enumerate(scalars)]))
    envs.action_space.seed(0)
    for _ in range(20):
        actions = envs.action_space.sample()
        batch = envs.step(actions)
        for row, env in enumerate(scalars):
            observation, reward, *_ = env.step(actions[row])
            np.testing.assert_array_equal(batch[0][row], observation)
            assert batch[1][row] == reward
    envs.close()


def test_attack_moves_what_is_seen_alone():
    attack = {"kind": "random", "scale": 0.2, "sigma": [0.1] * 45}
    clean, attacked, twin = make("pen"), make("pen", attack=attack), make("pen", attack=attack)
    starts = [env.reset(seed=1)[0] for env in (clean, attacked, twin)]
    assert 0 < np.abs(starts[0] - starts[1]).max() <= 0.02 + 1e-12
    np.testing.assert_array_equal(starts[1], starts[2])
    for _ in range(10):
        action = clean.action_space.sample()
        left, right, same = clean.step(action), attacked.step(action), twin.step(action)
        assert left[1:3] == right[1:3]
        np.testing.assert_array_equal(right[0], same[0])
        assert 0 < np.abs(left[0] - right[0]).max() <= 0.02 + 1e-12
    np.testing.assert_array_equal(clean.unwrapped.data.qpos, attacked.unwrapped.data.qpos)


def test_divergence_ends_the_episode_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = make("door", shifts=[{"kind": "gravity", "scale": 1e6}]).unwrapped
    env.reset(seed=0)
    qpos, qvel, goal = env.get_state()
    env.set_state(qpos, qvel + 1e9, goal)
    before = env.get_state()
    observation, reward, terminated, truncated, info = env.step(np.zeros(28))
    assert terminated and not truncated and info["diverged"]
    assert np.isfinite(observation).all() and np.isfinite(reward)
    for left, right in zip(before, env.get_state(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert list(tmp_path.iterdir()) == []
    env.reset(seed=0)
    assert make("door").unwrapped.step(np.zeros(28))[4]["diverged"] is False


def test_version_is_recorded():
    import gymnasium_robotics

    assert make("pen").unwrapped.gymnasium_robotics_version == gymnasium_robotics.__version__


@pytest.mark.parametrize("name", ["AdroitPen", "AdroitDoor-broken-joint-hard", "AdroitHammer-shrink-finger-hard"])
def test_describe(name):
    record = describe_environment(name)
    assert record == json.loads(json.dumps(record)) == describe_environment(f"OffDyn/{name}-v0")
    title, _, slug = name.partition("-")
    assert (record["robot"], record["dynamics"]) == (title, slug or "nominal")
    lines = "; ".join(record["differences"])
    assert ("joint FFJ3: range -24.98..24.98 -> -3.123..3.123 degrees" in lines) is slug.startswith("broken")
    shrunk = (
        "lfdistal: position (0, 0, 0.025) -> (0, 0, 0.003125) m",
        "lftip: position (0, 0, 0.026) -> (0, 0, 0.00325) m",
    )
    assert all((line in lines) is slug.startswith("shrink") for line in shrunk)
    assert record["goal"]
    assert record["gymnasium-robotics"] == make("pen").unwrapped.gymnasium_robotics_version


@pytest.mark.parametrize(
    ("kwargs", "words"),
    (
        ({"dynamics": "broken-joint-esay"}, "did you mean 'broken-joint-easy'"),
        ({"dynamics": "gravity-0.5"}, "unknown dynamics of adroit-pen"),
        ({"profile": "drocko"}, "unknown profile 'drocko'"),
        ({"shifts": {"kind": "kinematic", "part": "foot", "scale": 0.5}}, "kinematic"),
        ({"shifts": {"kind": "mass", "body": "trunk", "scale": 0.5}}, "trunk"),
        ({"reward": "shaped"}, "allowed: dense, sparse, stock"),
        ({"reward_type": "dense"}, "unknown environment parameter 'reward_type'"),
        ({"reward": ["dense"]}, "unknown reward"),
        ({"profile": np.array(["odrl", "odrl"])}, "unknown profile"),
        ({"width": -1}, "width must be a whole number above 0, got -1"),
        ({"terminate_on_drop": 1}, "terminate_on_drop must be true, false or left out, got 1"),
        ({"attack": {"kind": "random", "scale": 0.1, "sigma": [0.1]}}, "sigma has 1 entries; adroit-pen has 45"),
    ),
)
def test_malformed_arguments(kwargs, words):
    with pytest.raises(OffDynError, match=words) as refused:
        make("pen", **kwargs)
    assert "\n" not in str(refused.value)


def test_only_pen_drops():
    with pytest.raises(OffDynError, match="only pen has something to drop; door never terminates"):
        make("door", terminate_on_drop=True)
    assert make("door", terminate_on_drop=False).unwrapped.terminate_on_drop is False


@pytest.mark.parametrize(
    ("state", "words"),
    (
        (
            (np.zeros(29), np.zeros(30), np.ones(4)),
            r"qpos must be finite numbers of shape \(30,\), got float64 of shape \(29,\)",
        ),
        ((np.zeros(30), np.full(30, np.nan), np.ones(4)), "qvel must be finite numbers"),
        ((np.zeros(30), np.zeros(30), np.ones(3)), r"goal must be finite numbers of shape \(4,\)"),
        ((np.zeros(30), np.zeros(30), "north"), r"goal must be finite numbers of shape \(4,\), got <U5"),
        ((np.zeros(30), np.zeros(30)), "must be .qpos, qvel, goal."),
        (3, "must be .qpos, qvel, goal."),
    ),
)
def test_malformed_states_change_nothing(state, words):
    env = make("pen")
    env.reset(seed=0)
    goal = env.unwrapped.get_state().goal
    with pytest.raises(OffDynError, match=words):
        env.reset(seed=0, options={"state": state})
    np.testing.assert_array_equal(env.unwrapped.get_state().goal, goal)


def test_unknown_reset_option_and_non_finite_action():
    env = make("pen").unwrapped
    with pytest.raises(OffDynError, match="unknown reset option 'initial_state_dict'"):
        env.reset(options={"initial_state_dict": {}})
    with pytest.raises(OffDynError, match="seed must be a whole number, 0 or above, got -1"):
        env.reset(seed=-1)
    env.reset(seed=0)
    with pytest.raises(OffDynError, match="action must be finite"):
        env.step(np.full(24, np.nan))


def test_missing_extra_is_one_line_at_make_time():
    program = (
        "import sys; sys.modules['gymnasium_robotics'] = None\n"
        "import gymnasium, offdyn_envs\n"
        "assert sum('Adroit' in name for name in offdyn_envs.list_env_ids()) == 28\n"
        "try: gymnasium.make('OffDyn/AdroitPen-v0')\n"
        "except offdyn_envs.OffDynError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "robot 'adroit-pen': its model is in the package 'gymnasium_robotics', which is not installed: "
        "pip install '.[adroit]' in the checkout\n"
    )


def test_import_does_not_load_the_extra_and_making_one_prints_nothing():
    program = (
        "import sys, gymnasium, offdyn_envs\n"
        "assert 'gymnasium_robotics' not in sys.modules\n"
        "gymnasium.make('OffDyn/AdroitPen-v0').reset(seed=0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
