"""Copies and pickles of an environment in the middle of an episode go on where it is, bit for bit."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

from offdyn_envs.errors import OffDynError
from offdyn_envs.models import model_hash
from offdyn_envs.robots import WALKERS
from offdyn_envs.vector import OffDynVectorEnv

WAYS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "copy of a copy": lambda env: copy.deepcopy(pickle.loads(pickle.dumps(env))),
}
HALF = [{"kind": "gravity", "scale": 0.5}]
BY_STEP = {"unit": "step", "points": [{"at": 5, "shifts": HALF}, {"at": 30, "shifts": None}]}
BY_EPISODE = {"unit": "episode", "points": [{"at": 0, "shifts": None}, {"at": 2, "shifts": HALF}]}
CRITIC = {"observation": 11, "action": 3}
ways = pytest.mark.parametrize("way", WAYS)


def attack(robot: str) -> dict[str, Any]:
    return {"kind": "random", "scale": 0.1, "sigma": [1.0] * WALKERS[robot].observation_dim}


def path(env: Any, steps: int = 60) -> list[Any]:
    """Everything that a scalar environment returns under actions that it draws itself, over resets that go on."""
    found: list[Any] = []
    for _ in range(steps):
        *seen, info = env.step(env.action_space.sample())
        found.append((*seen, sorted(info.items())))
        if seen[2] or seen[3]:
            observation, info = env.reset()
            found.append((observation, sorted(info.items())))
    return found


def batch_path(env: Any, steps: int = 60) -> list[Any]:
    """Everything that a batched environment returns, and its states."""
    found: list[Any] = []
    for _ in range(steps):
        *seen, infos = env.step(env.action_space.sample())
        found.append((*seen, infos.get("final_obs", 0), env.qpos, env.last_qvel))
    return found


def assert_same(left: Any, right: Any) -> None:
    if isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, np.ndarray):
        np.testing.assert_array_equal(left, right)
    else:
        assert left == right


@ways
@pytest.mark.parametrize("robot", WALKERS)
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_scalar_environment_goes_on(robot: str, wrapped: bool, way: str) -> None:
    name = f"OffDyn/{WALKERS[robot].title}-v0"
    env: Any = gymnasium.make(name, attack=attack(robot), schedule=BY_STEP, max_episode_steps=40)
    env = env if wrapped else env.unwrapped
    env.reset(seed=3)
    env.action_space.seed(3)
    path(env, 17)
    twin = WAYS[way](env)
    mine, other = env.unwrapped, twin.unwrapped
    assert mine is not other and mine.model is not other.model and mine.data is not other.data
    assert other.data.model is other.model is other.mujoco_renderer.model
    assert other.data is other.mujoco_renderer.data
    assert other.spec == mine.spec
    assert model_hash(other.model) == model_hash(mine.model)
    np.testing.assert_array_equal(other.data.xpos, mine.data.xpos)
    assert (other.data.time, other.data.qacc.tobytes()) == (mine.data.time, mine.data.qacc.tobytes())
    assert_same(path(twin), path(env))


@ways
def test_a_copy_is_apart_from_the_original(way: str) -> None:
    env: Any = gymnasium.make("OffDyn/Hopper-v0").unwrapped
    env.reset(seed=0)
    twin = WAYS[way](env)
    before = env.data.qpos.copy()
    twin.model.body_mass[1] *= 10
    for _ in range(10):
        twin.step(np.ones(3))
    np.testing.assert_array_equal(env.data.qpos, before)
    assert env.model.body_mass[1] != twin.model.body_mass[1]


@ways
def test_what_was_changed_in_the_model_by_hand_is_kept(way: str) -> None:
    env: Any = gymnasium.make("OffDyn/Walker2d-v0", schedule=BY_EPISODE).unwrapped
    env.reset(seed=0)
    env.reset()
    env.model.body_mass[1] *= 2
    env.model.opt.density = 10.0
    env.model.geom_rgba[1] = 1.0
    twin = WAYS[way](env)
    np.testing.assert_array_equal(twin.model.geom_rgba, env.model.geom_rgba)
    assert model_hash(twin.model) == model_hash(env.model)
    env.action_space.seed(0)
    twin.action_space.seed(0)
    first = [one.step(one.action_space.sample()) for one in (env, twin)]
    assert_same(first[0][:2], first[1][:2])
    assert env.reset()[0].tolist() == twin.reset()[0].tolist()
    assert env.model.opt.gravity[2] == twin.model.opt.gravity[2] == pytest.approx(-9.81 / 2)


@ways
def test_a_hand_goes_on(way: str) -> None:
    pytest.importorskip("gymnasium_robotics")
    env: Any = gymnasium.make("OffDyn/AdroitPen-v0", shifts=HALF)
    env.reset(seed=1)
    env.action_space.seed(1)
    path(env, 5)
    twin = WAYS[way](env)
    for left, right in zip(env.unwrapped.get_state(), twin.unwrapped.get_state(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert_same(path(twin, 20), path(env, 20))


@ways
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_batched_environment_goes_on(threads: int, mode: str, way: str) -> None:
    rows = [None, HALF, None, HALF, None]
    given: dict[str, Any] = {"attack": attack("hopper"), "schedule": BY_STEP, "max_episode_steps": 40}
    env = OffDynVectorEnv("hopper", 5, row_shifts=rows, num_threads=threads, autoreset_mode=mode, **given)
    env.reset(seed=3)
    env.action_space.seed(3)
    batch_path(env, 17)
    env.models[0].body_mass[1] *= 2
    twin = WAYS[way](env)
    assert twin.models[0] is not env.models[0]
    assert [model is twin.models[0] for model in twin.models] == [model is env.models[0] for model in env.models]
    assert twin.num_threads == threads
    assert_same(batch_path(twin), batch_path(env))
    env.close()
    twin.step(twin.action_space.sample())
    twin.close()
    with pytest.raises(OffDynError, match="closed"):
        WAYS[way](env).step(np.zeros((5, 3)))


@ways
def test_a_batched_environment_before_its_first_reset_is_copied_too(way: str) -> None:
    twin = WAYS[way](OffDynVectorEnv("hopper", 2))
    with pytest.raises(gymnasium.error.ResetNeeded):
        twin.step(np.zeros((2, 3)))


@ways
def test_a_batched_refrigerator_goes_on(way: str) -> None:
    env: Any = gymnasium.make_vec("OffDyn/Refrigerator-v0", num_envs=3)
    env.reset(seed=0)
    env.action_space.seed(0)
    env.step(env.action_space.sample())
    twin = WAYS[way](env)
    for _ in range(300):
        assert_same(twin.step(twin.action_space.sample())[:4], env.step(env.action_space.sample())[:4])


def network(onnx: Any, inputs: dict[str, int], output: str) -> Any:
    """A linear policy or critic."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    joined = next(iter(inputs)) if len(inputs) == 1 else "x"
    nodes = [helper.make_node("Concat", list(inputs), ["x"], axis=1)] if joined == "x" else []
    shape = (sum(inputs.values()), 3) if output == "action" else (sum(inputs.values()),)
    numbers = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nodes.append(helper.make_node("MatMul", [joined, "w"], [output]))
    given = [helper.make_tensor_value_info(name, kind, ["b", size]) for name, size in inputs.items()]
    made = helper.make_tensor_value_info(output, kind, ["b", *shape[1:]])
    graph = helper.make_graph(nodes, "g", given, [made], [onnx.numpy_helper.from_array(numbers, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_attacks_with_networks_are_copied_too(tmp_path: Any) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    files = {}
    for name, inputs, output in (("policy", {"observation": 11}, "action"), ("critic", CRITIC, "q")):
        files[name] = str(tmp_path / f"{name}.onnx")
        onnx.save(network(onnx, inputs, output), files[name])
    given = {"kind": "min-q", "scale": 0.1, "sigma": [1.0] * 11, "samples": 5, **files}
    scalar: Any = gymnasium.make("OffDyn/Hopper-v0", attack=given)
    batched: Any = OffDynVectorEnv("hopper", 2, attack=given)
    for env, follow in ((scalar, path), (batched, batch_path)):
        env.reset(seed=0)
        env.action_space.seed(0)
        for way in WAYS.values():
            twin = way(env)
            assert_same(follow(twin, 5), follow(env, 5))


def test_a_pickle_goes_on_in_another_process(tmp_path: Any) -> None:
    env: Any = gymnasium.make("OffDyn/Ant-gravity-0.5-v0")
    batched = OffDynVectorEnv("ant", 3, num_threads=2)
    for one in (env, batched):
        one.reset(seed=0)
        one.action_space.seed(0)
        for _ in range(20):
            one.step(one.action_space.sample())
    (tmp_path / "both").write_bytes(pickle.dumps((env, batched)))
    code = f"""
import pickle
from pathlib import Path
both = pickle.loads(Path({str(tmp_path / "both")!r}).read_bytes())
found = [one.step(one.action_space.sample())[0] for one in both for _ in range(10)]
Path({str(tmp_path / "path")!r}).write_bytes(pickle.dumps(found))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    expected = [one.step(one.action_space.sample())[0] for one in (env, batched) for _ in range(10)]
    assert_same(pickle.loads((tmp_path / "path").read_bytes()), expected)
