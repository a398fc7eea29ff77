"""Infos: the same names and kinds after a reset and after every step, those of Gymnasium's v5 classes among them."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest

from offdyn_envs import robots
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import WALKERS
from tests.envs.test_identity import stock_environment

NAMES = [f"OffDyn/{robot.title}-v0" for robot in WALKERS.values()]
HANDS = [f"OffDyn/{task.title}-v0" for task in robots.HANDS.values()]


def kinds(info: dict[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in info.items()}


@pytest.mark.parametrize("name", [*NAMES, *HANDS, "OffDyn/Refrigerator-v0"])
def test_reset_and_step_have_the_same_names_and_kinds(name: str) -> None:
    if name in HANDS:
        pytest.importorskip("gymnasium_robotics")
    env = gymnasium.make(name)
    expected = kinds(env.reset(seed=0)[1])
    env.action_space.seed(0)
    for _ in range(40):
        *_, terminated, _, info = env.step(env.action_space.sample())
        assert kinds(info) == expected
        if terminated:
            assert kinds(env.reset()[1]) == expected
    env.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_blows_up_has_the_same_names(name: str) -> None:
    env: Any = gymnasium.make(name).unwrapped
    expected = env.reset(seed=0)[1]
    assert expected["diverged"] is False
    env.set_state(env.data.qpos.copy(), np.full(env.model.nv, 1e12))
    info = env.step(np.zeros(env.action_space.shape))[4]
    assert info["diverged"] is True
    assert kinds(info) == kinds(expected)


@pytest.mark.parametrize(
    ("qpos", "words"),
    [
        ("north", "got <U5 of shape ()"),
        ([[1.0], [1.0, 2.0]], "got object of shape ()"),
        (np.zeros(5), "got float64 of shape (5,)"),
        (np.full(6, np.nan), "got float64 of shape (6,), of which 6 are not finite"),
    ],
)
def test_states_that_are_none_change_nothing(qpos: object, words: str) -> None:
    env: Any = gymnasium.make("OffDyn/Hopper-gravity-0.5-v0").unwrapped
    env.reset(seed=0)
    before = env.data.qpos.copy()
    with pytest.raises(OffDynError) as told:
        env.set_state(qpos, np.zeros(6))
    assert str(told.value) == f"qpos must be finite numbers of shape (6,), {words}"
    assert np.array_equal(env.data.qpos, before)


@pytest.mark.parametrize("robot", WALKERS.values(), ids=WALKERS)
def test_infos_are_those_of_v5(robot: Any) -> None:
    env: Any = gymnasium.make(f"OffDyn/{robot.title}-v0").unwrapped
    stock = stock_environment(robot)
    ours, theirs = env.reset(seed=3)[1], stock.reset(seed=3)[1]
    for name, value in theirs.items():
        assert ours[name] == value, name
    rng = np.random.default_rng(0)
    # Stock Ant measures its speed on a body position that lags one physics step (contract).
    lag = 0.1 if robot.name == "ant" else 0.0
    for _ in range(50):
        action = rng.uniform(-1, 1, robot.action_dim).astype(np.float32)
        _, reward, terminated, _, ours = env.step(action)
        theirs = stock.step(action)[4]
        assert set(ours) == {*theirs, "diverged"}
        for name, value in theirs.items():
            assert abs(ours[name] - value) <= lag * name.endswith(("velocity", "forward")), name
        parts = [ours.get(f"reward_{part}", 0.0) for part in ("forward", "survive", "ctrl", "contact")]
        assert reward == sum(parts)
        if terminated:
            env.reset(seed=5)
            stock.reset(seed=5)


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
@pytest.mark.parametrize("name", [NAMES[1], NAMES[3], "OffDyn/AdroitDoor-v0", "OffDyn/Refrigerator-v0"])
def test_minari_records_infos(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    pytest.importorskip("jax", reason="Minari collects with jax")
    if "Adroit" in name:
        pytest.importorskip("gymnasium_robotics")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gymnasium.make(name, max_episode_steps=30), record_infos=True)
    lengths, infos = [], []
    for seed in range(3):
        infos = [env.reset(seed=seed)[1]]
        env.action_space.seed(seed)
        done = False
        while not done:
            _, _, terminated, truncated, info = env.step(env.action_space.sample())
            infos.append(info)
            done = terminated or truncated
        lengths.append(len(infos))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recorded = env.create_dataset("offdyn/infos-v0")
    episodes = list(recorded.iterate_episodes())
    assert [len(next(iter(episode.infos.values()))) for episode in episodes] == lengths
    for key, value in infos[-1].items():
        np.testing.assert_array_equal(episodes[-1].infos[key][-1], value)
    env.close()
    del env
    gc.collect()  # Minari leaves its temporary folder to the collector.
