"""Models that are handed out are one's own: what is changed in one reaches no other environment and no dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from offdyn_envs.compiling import base_model
from offdyn_envs.models import compile_model, model_hash
from offdyn_envs.robots import WALKERS, get_robot
from offdyn_envs.shifts import Gravity
from offdyn_envs.vector import OffDynVectorEnv

HOPPER = WALKERS["hopper"]
HALF = [{"kind": "gravity", "scale": 0.5}]
BACK_AND_FORTH = {"unit": "step", "points": [{"at": 0, "shifts": HALF}, {"at": 5, "shifts": None}]}


def spoil(model: mujoco.MjModel) -> None:
    """Change an array, a number of the options and an array of the options."""
    model.body_mass[1] *= 10
    model.opt.gravity[2] = -1.0
    model.opt.density = 1000.0


def batched(**kwargs: Any) -> Callable[[], mujoco.MjModel]:
    return lambda: gymnasium.make_vec("OffDyn/Hopper-v0", num_envs=2, **kwargs).unwrapped.models[0]


def scheduled() -> mujoco.MjModel:
    env = OffDynVectorEnv("hopper", 2, schedule=BACK_AND_FORTH)
    env.reset(seed=0)
    env.step(np.zeros((2, 3), np.float32))
    return env.models[0]


WAYS: dict[str, Callable[[], mujoco.MjModel]] = {
    "batched": batched(),
    "batched, shifted": batched(shifts=HALF),
    "batched, rows": batched(row_shifts=[HALF, None]),
    "batched, schedule": scheduled,
    "scalar": lambda: gymnasium.make("OffDyn/Hopper-v0").unwrapped.model,
    "scalar, shifted": lambda: gymnasium.make("OffDyn/Hopper-v0", shifts=HALF).unwrapped.model,
    "compile_model": lambda: compile_model(HOPPER, ()),
    "compile_model, shifted": lambda: compile_model(HOPPER, (Gravity(0.5),)),
    "base_model": lambda: base_model("hopper"),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_edit_stays_where_it_was_made(way: str) -> None:
    before = {name: model_hash(make()) for name, make in WAYS.items()}
    spoil(WAYS[way]())
    assert {name: model_hash(make()) for name, make in WAYS.items()} == before


def test_the_hands_models_are_ones_own() -> None:
    pytest.importorskip("gymnasium_robotics")
    pen = get_robot("adroit-pen")
    before = model_hash(compile_model(pen, ()))
    spoil(compile_model(pen, ()))
    spoil(gymnasium.make("OffDyn/AdroitPen-v0").unwrapped.model)
    assert model_hash(compile_model(pen, ())) == before


def rewards(env: OffDynVectorEnv) -> np.ndarray:
    env.reset(seed=0)
    return np.stack([env.step(np.full((2, 3), 0.3, np.float32))[1] for _ in range(20)])


@pytest.mark.parametrize("schedule", [None, BACK_AND_FORTH])
def test_an_edit_holds_in_its_own_environment(schedule: Any) -> None:
    plain, edited = (OffDynVectorEnv("hopper", 2, schedule=schedule) for _ in range(2))
    expected = rewards(plain)
    rewards(edited)
    spoil(edited.models[0])
    assert edited.models[1].body_mass[1] == edited.models[0].body_mass[1] != plain.models[0].body_mass[1]
    first = rewards(edited)
    assert not np.array_equal(first, expected)
    np.testing.assert_array_equal(rewards(edited), first)
    np.testing.assert_array_equal(rewards(plain), expected)
