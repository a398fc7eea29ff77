"""Attacks in the scalar and the batched environment: only what the policy sees changes; attacks as plain JSON."""

import json
import pickle
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from offdyn_envs.attacks import MinQAttack, RandomAttack
from offdyn_envs.benchmark.gate.onnx_policy import load_critic, load_policy
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import WALKERS
from offdyn_envs.vector import OffDynVectorEnv

SIGMA = [0.1] * 11
MIXED = {"order": "mixed", "starts": 3, "steps": 2}


def write_networks(folder, robot, seed=0):
    """A tanh policy and a critic with one hidden layer; returns their paths as JSON has them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    states, actions = WALKERS[robot].observation_dim, WALKERS[robot].action_dim

    def weights(name, *shape):
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    def save(name, nodes, inputs, output, shape, initializers):
        ends = [
            helper.make_tensor_value_info(key, TensorProto.FLOAT, ["batch", width]) for key, width in inputs.items()
        ]
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        graph = helper.make_graph(nodes, name, ends, [result], initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / f"{name}.onnx")
        return str(folder / f"{name}.onnx")

    policy = [
        helper.make_node("Gemm", ["observation", "w", "b"], ["mean"]),
        helper.make_node("Tanh", ["mean"], ["action"]),
    ]
    critic = [
        helper.make_node("Concat", ["observation", "action"], ["x"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("MatMul", ["t", "v"], ["column"]),
        helper.make_node("Squeeze", ["column", "axis"], ["q"]),
    ]
    axis = numpy_helper.from_array(np.array([1], dtype=np.int64), "axis")
    layers = [weights("w", states, actions), weights("b", actions)]
    judge = [weights("w", states + actions, 32), weights("v", 32, 1), axis]
    return {
        "policy": save("policy", policy, {"observation": states}, "action", ["batch", actions], layers),
        "critic": save("critic", critic, {"observation": states, "action": actions}, "q", ["batch"], judge),
    }


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return {robot: write_networks(tmp_path_factory.mktemp(robot), robot) for robot in ("hopper", "walker2d")}


ACT = {
    "smooth": lambda s: np.tanh(s[:, :3]),
    "jagged": lambda s: np.sin(1e4 * s[:, 2:5]),
    "often nan": lambda s: np.where(np.sin(50 * s[:, :1]) > 0, np.nan, s[:, :3]),
}
JUDGE = {
    "smooth": lambda s, a: np.sin(3 * s[:, 0]) * a[:, 0] - a[:, 1] ** 2,
    "often nan": lambda s, a: np.where(a[:, 0] > 0.5, np.nan, a[:, 1]),
    "infinite": lambda s, a: np.where(a[:, 0] > 0.5, -np.inf, a[:, 1]),
}


def attacks():
    box = {
        "scale": st.sampled_from((0.0, 1e-12, 0.05, 0.3, 10.0, 1e6)),
        "sigma": st.lists(st.sampled_from((0.0, 1e-9, 0.1, 2.0, 1e3)), min_size=11, max_size=11),
    }
    networks = {"policy": st.sampled_from(list(ACT.values())), "critic": st.sampled_from(list(JUDGE.values()))}
    return st.one_of(
        st.builds(RandomAttack, **box),
        st.builds(MinQAttack, **box, **networks, samples=st.integers(1, 8)),
        st.builds(MinQAttack, **box, **networks, order=st.just("mixed"), starts=st.just(2), steps=st.integers(1, 3)),
    )


@settings(max_examples=40)
@given(attacks(), st.integers(0, 10_000), st.sampled_from(("next_step", "same_step", "disabled")))
def test_only_what_the_policy_sees_changes(attack, seed, mode):
    """Clean and attacked, scalar and batched, under the same actions, through the resets of every mode."""
    rows = 2
    options = {"max_episode_steps": 6, "autoreset_mode": mode}
    clean, attacked, twin = (OffDynVectorEnv("hopper", rows, attack=a, **options) for a in (None, attack, attack))
    scalars = [gymnasium.make("OffDyn/Hopper-v0", attack=attack) for _ in range(rows)]
    rng = np.random.default_rng(seed)
    truth, shown, again = (env.reset(seed=seed)[0] for env in (clean, attacked, twin))
    check_seen(attack, truth, shown)
    np.testing.assert_array_equal(shown, again)
    np.testing.assert_array_equal(shown, [env.reset(seed=seed + row)[0] for row, env in enumerate(scalars)])
    for step in range(10):
        actions = rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
        truth, shown, again = (env.step(actions) for env in (clean, attacked, twin))
        np.testing.assert_array_equal(clean.qpos, attacked.qpos)
        np.testing.assert_array_equal(clean.qvel, attacked.qvel)
        np.testing.assert_array_equal(clean.last_qpos, attacked.last_qpos)
        for left, right, other in zip(truth[1:4], shown[1:4], again[1:4], strict=True):
            np.testing.assert_array_equal(left, right)
            np.testing.assert_array_equal(right, other)
        np.testing.assert_array_equal(shown[0], again[0])
        check_seen(attack, truth[0], shown[0])
        if "final_obs" in shown[4]:
            check_seen(
                attack, truth[4]["final_obs"][truth[4]["_final_obs"]], shown[4]["final_obs"][shown[4]["_final_obs"]]
            )
        if step < 5:
            for row, env in enumerate(scalars):
                got = env.step(actions[row])
                np.testing.assert_array_equal(got[0], shown[0][row])
                assert (got[1], got[2]) == (shown[1][row], shown[2][row])
                np.testing.assert_array_equal(env.unwrapped.data.qpos, clean.qpos[row])
                np.testing.assert_array_equal(env.unwrapped.data.qvel, clean.qvel[row])
    for env in (clean, attacked, twin):
        env.close()


def check_seen(attack, clean, seen):
    assert (np.abs(seen - clean) <= attack.scale * np.asarray(attack.sigma)).all()
    if isinstance(attack, MinQAttack):
        before, after = (attack.critic(clean, np.clip(attack.policy(shown), -1, 1)) for shown in (clean, seen))
        known = np.isfinite(before)
        assert (after[known] <= before[known]).all()
        np.testing.assert_array_equal(seen[~known], clean[~known])


@pytest.mark.parametrize("mode", tuple(AutoresetMode))
@pytest.mark.parametrize("form", ({"samples": 5}, MIXED))
def test_batched_attack_equals_scalar_attack(mode, form):
    attack = MinQAttack(0.2, SIGMA, lambda s: np.tanh(s[:, :3]), lambda s, a: a.sum(axis=1), **form)
    batched = OffDynVectorEnv("hopper", 2, attack=attack, autoreset_mode=mode, max_episode_steps=25)
    makers = [lambda: gymnasium.make("OffDyn/Hopper-v0", attack=attack, max_episode_steps=25)] * 2
    peer = SyncVectorEnv(makers, autoreset_mode=mode)
    np.testing.assert_array_equal(batched.reset(seed=4)[0], peer.reset(seed=4)[0])
    ended = 0
    for step in range(60):
        actions = np.full((2, 3), 0.3 * (-1) ** step, np.float32)
        got, expected = batched.step(actions), peer.step(actions)
        np.testing.assert_array_equal(got[0], expected[0])
        done = got[2] | got[3]
        ended += int(done.sum())
        if "final_obs" in got[4]:
            for row in np.flatnonzero(got[4]["_final_obs"]):
                np.testing.assert_array_equal(got[4]["final_obs"][row], expected[4]["final_obs"][row])
        if mode == AutoresetMode.DISABLED and done.any():
            options = {"reset_mask": done}
            left, right = (env.reset(options=dict(options))[0] for env in (batched, peer))
            np.testing.assert_array_equal(left[done], right[done])
    assert ended >= 4


@pytest.mark.parametrize("name", sorted(WALKERS))
def test_every_robot_is_attacked_but_not_its_simulator(name):
    attack = {"kind": "random", "scale": 0.2, "sigma": [0.1] * WALKERS[name].observation_dim}
    env_id = f"OffDyn/{WALKERS[name].title}-v0"
    clean, attacked = gymnasium.make(env_id), gymnasium.make(env_id, attack=attack)
    assert not np.array_equal(clean.reset(seed=1)[0], attacked.reset(seed=1)[0])
    clean.action_space.seed(0)
    for _ in range(20):
        action = clean.action_space.sample()
        left, right = clean.step(action), attacked.step(action)
        assert left[1:3] == right[1:3]
        assert 0 < np.abs(left[0] - right[0]).max() <= 0.02
        np.testing.assert_array_equal(clean.unwrapped.data.qpos, attacked.unwrapped.data.qpos)
        np.testing.assert_array_equal(clean.unwrapped.data.qvel, attacked.unwrapped.data.qvel)


@pytest.mark.parametrize("form", ({}, {"samples": 7}, {"order": "zeroth"}, MIXED))
@pytest.mark.parametrize("robot", ("hopper", "walker2d"))
def test_onnx_attacks_as_json_in_both_environments(networks, robot, form):
    body = WALKERS[robot]
    attack = {"kind": "min-q", "scale": 0.3, "sigma": [0.2] * body.observation_dim, **networks[robot], **form}
    env_id = f"OffDyn/{body.title}-gravity-0.5-v0"
    scalar, batched = gymnasium.make(env_id, attack=attack), gymnasium.make_vec(env_id, 3, attack=attack)
    assert isinstance(batched, OffDynVectorEnv)
    assert json.loads(scalar.spec.to_json())["kwargs"]["attack"] == attack
    twins = [gymnasium.make(EnvSpec.from_json(scalar.spec.to_json())), pickle.loads(pickle.dumps(scalar.unwrapped))]
    vector_twin = gymnasium.make_vec(EnvSpec.from_json(batched.spec.to_json()), 3)
    policy, critic = load_policy(attack["policy"]), load_critic(attack["critic"])
    start = scalar.reset(seed=5)[0]
    shown, vector_start = batched.reset(seed=5)[0], vector_twin.reset(seed=5)[0]
    np.testing.assert_array_equal(shown[0], start)
    np.testing.assert_array_equal(shown, vector_start)
    for twin in twins:
        np.testing.assert_array_equal(twin.reset(seed=5)[0], start)
    lowered = 0
    for _ in range(8):
        truth = body.observe(batched.qpos, batched.qvel)
        assert (np.abs(shown - truth) <= 0.3 * 0.2).all()
        values = [critic(truth, policy(observations)) for observations in (truth, shown)]
        # The attack compares in batches of other sizes: float32 may round differently there.
        assert (values[1] <= values[0] + 1e-4).all()
        lowered += int((values[1] < values[0] - 1e-4).sum())
        actions = policy(shown)
        shown, rewards, terminations, _, _ = batched.step(actions)
        np.testing.assert_array_equal(vector_twin.step(actions)[0], shown)
        for env in (scalar, *twins):
            observation, reward, terminated, _, _ = env.step(actions[0])
            np.testing.assert_array_equal(observation, shown[0])
            assert (reward, terminated) == (rewards[0], terminations[0])
    assert lowered > 12


def test_networks_of_another_robot_are_refused(networks):
    attack = {"kind": "min-q", "scale": 0.3, "sigma": SIGMA, **networks["walker2d"]}
    for make in (environment, batch):
        with pytest.raises(OffDynError, match="policy"):
            make(attack)
        with pytest.raises(OffDynError, match="critic"):
            make(attack | {"policy": networks["hopper"]["policy"]})


def environment(attack):
    return gymnasium.make("OffDyn/Hopper-v0", attack=attack)


def batch(attack):
    return gymnasium.make_vec("OffDyn/Hopper-v0", 2, attack=attack)


NOT_NUMBERS = st.one_of(
    st.sampled_from((None, True, False, "0.1", "", [], {}, [0.1], 1j, float("nan"), float("inf"), -1, -0.1, 10**400)),
    st.floats(max_value=0, exclude_max=True),
    st.text(max_size=5),
)
NOT_COUNTS = st.one_of(
    st.sampled_from((None, True, "5", [5], {}, 1.0, 1.5, float("nan"), 10**9, 10**5000)), st.integers(max_value=0)
)
NOT_PATHS = st.one_of(
    st.sampled_from(
        (None, True, 3, 0.5, [], {}, b"x", "", "no.onnx", "a\0b", "\ud800", "x" * 5000, "/", "pyproject.toml")
    ),
    st.text(max_size=8).filter(lambda text: text not in (".", "..")).map("missing/".__add__),
)
NOT_SIGMAS = st.one_of(
    st.sampled_from(
        (None, 0.1, "0.1", {}, [], [0.1], [0.1] * 12, [[0.1] * 11], [0.1] * 10 + ["0.1"], [0.1] * 10 + [True])
    ),
    st.sampled_from(
        ([None] * 11, ["0.1"] * 11, [True] * 11, [[0.1]] + [0.1] * 10, "0.1, 0.2", [1j] * 11, [10**400] * 11)
    ),
    st.tuples(st.integers(0, 10), st.sampled_from((-0.1, float("nan"), float("inf"), float("-inf")))).map(
        lambda spoilt: [spoilt[1] if index == spoilt[0] else 0.1 for index in range(11)]
    ),
    st.lists(st.floats(0, 1), max_size=25).filter(lambda values: len(values) != 11),
)
NAMES = st.text(max_size=12).filter(lambda name: name not in ("random", "min-q", "zeroth", "mixed"))
NOT_NAMES = st.one_of(
    NAMES, st.sampled_from((None, 3, ["random"], {}, "Random", "minq", "first", float("nan"), 10**5000))
)
MUTATIONS = {
    "kind": NOT_NAMES,
    "scale": NOT_NUMBERS,
    "sigma": NOT_SIGMAS,
    "policy": NOT_PATHS,
    "critic": NOT_PATHS,
    "samples": NOT_COUNTS,
    "order": NOT_NAMES,
    "starts": NOT_COUNTS,
    "steps": NOT_COUNTS,
    "gradient": st.sampled_from((3, "slope.onnx", [], True)),
}
MIN_Q = {"kind": "min-q", "scale": 0.1, "sigma": SIGMA, "policy": ACT["smooth"], "critic": JUDGE["smooth"]}
FORMS = {
    "random": {"kind": "random", "scale": 0.1, "sigma": SIGMA},
    "zeroth": MIN_Q | {"order": "zeroth", "samples": 5},
    "mixed": MIN_Q | MIXED,
}


@st.composite
def malformed(draw):
    """A good specification with one fault; returns it with a word that the message must hold."""
    good = dict(FORMS[draw(st.sampled_from(sorted(FORMS)))])
    allowed = {*good} | ({"gradient"} if good.get("order") == "mixed" else set())
    fault = draw(st.sampled_from(("value", "value", "value", "missing", "extra", "foreign")))
    if fault == "value":
        name = draw(st.sampled_from(sorted(allowed)))
        return good | {name: draw(MUTATIONS[name])}, name
    if fault == "missing":
        name = draw(st.sampled_from(sorted({*good} - {"samples", "starts", "steps", "order"})))
        return {key: value for key, value in good.items() if key != name}, name
    if fault == "foreign":
        name = draw(st.sampled_from(sorted(set(MUTATIONS) - allowed)))
        return good | {name: 5}, name
    name = draw(st.one_of(st.text(max_size=10), st.integers(), st.none()).filter(lambda key: key not in MUTATIONS))
    return good | {name: 1}, "parameter of the"


@settings(max_examples=200)
@given(malformed())
def test_malformed_specifications_are_refused_with_one_line(case):
    attack, word = case
    lines = []
    for make in (environment, batch):
        with pytest.raises(OffDynError) as refused:
            make(attack)
        lines.append(str(refused.value))
    assert lines[0] == lines[1] and "\n" not in lines[0] and len(lines[0]) < 400
    assert word in lines[0] and "attack" in lines[0]


@pytest.mark.parametrize("attack", (5, "random", [], (1, 2), True, object(), RandomAttack))
def test_what_is_no_attack_at_all(attack):
    for make in (environment, batch):
        with pytest.raises(OffDynError, match="attack must be an object such as"):
            make(attack)


def test_damaged_network_files_are_refused(tmp_path, networks):
    whole = Path(networks["hopper"]["policy"]).read_bytes()
    for content in (b"", b"not a network", whole[:-30]):
        (tmp_path / "damaged.onnx").write_bytes(content)
        for name in ("policy", "critic"):
            attack = MIN_Q | networks["hopper"] | {name: str(tmp_path / "damaged.onnx")}
            for make in (environment, batch):
                with pytest.raises(OffDynError, match=r"damaged\.onnx"):
                    make(attack)


def test_a_width_of_another_robot_is_named():
    with pytest.raises(OffDynError, match="sigma has 1 entries; hopper has 11"):
        batch(RandomAttack(0.1, [0.1]))
