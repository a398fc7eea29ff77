"""Kinds of shifts that users add."""

from dataclasses import dataclass
from typing import ClassVar

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec

from offdyn_envs import Gravity, OffDynError, register_shift
from offdyn_envs.models import compile_model, model_hash
from offdyn_envs.robots import WALKERS
from offdyn_envs.shifts import KINDS, BaseShift, parse_shifts
from offdyn_envs.shifts import registry as register


@pytest.fixture(autouse=True)
def kinds():
    """Kinds that a test registers are gone after it."""
    before = dict(KINDS)
    yield
    register._KINDS.clear()
    register._KINDS.update(before)


@dataclass(frozen=True)
class Wind(BaseShift):
    """Wind along x."""

    speed: float
    density: float | None = None
    kind: ClassVar[str] = "wind"

    def apply(self, spec, robot, profile):
        spec.option.wind = [self.speed, 0.0, 0.0]
        spec.option.density = self.density or 1.2

    def describe(self, robot):
        return f"wind of {self.speed:g} m/s"


def test_a_registered_kind_is_a_kind_like_any_other():
    with pytest.raises(OffDynError, match=r"shifts\[1\]: Wind is not registered; offdyn_envs.register_shift\(Wind\)"):
        parse_shifts([Gravity(0.5), Wind(3.0)])
    with pytest.raises(OffDynError, match="unknown shift kind 'wind'"):
        parse_shifts([{"kind": "wind", "speed": 3.0}])
    assert register_shift(Wind) is Wind
    assert register_shift(Wind) is Wind  # As in a notebook whose cell runs twice.
    assert Wind(3.0).to_json() == {"kind": "wind", "speed": 3.0}
    assert parse_shifts(Wind(3.0, 1.3).to_json()) == (Wind(3.0, 1.3),)
    env = gymnasium.make("OffDyn/Hopper-v0", shifts=[Wind(3.0)])
    assert env.unwrapped.model.opt.wind[0] == 3.0
    nominal = compile_model(WALKERS["hopper"], ())
    assert model_hash(env.unwrapped.model) != model_hash(nominal)
    assert gymnasium.make(EnvSpec.from_json(env.spec.to_json())).unwrapped.shifts == (Wind(3.0),)
    with pytest.raises(OffDynError, match="did you mean 'wind'"):
        parse_shifts({"kind": "wnd", "speed": 1.0})
    with pytest.raises(OffDynError, match="wind shift: parameter 'speed' is missing"):
        parse_shifts({"kind": "wind"})


class Other(Wind):
    """Another class of the same kind."""


class Unnamed(Wind):
    """A name that no JSON should have."""

    kind = "A wind"


class Unhashable(Wind):
    """No value."""

    kind = "breeze"
    __hash__ = None


class Half:
    """Has a kind and nothing else."""

    kind = "half"


@pytest.mark.parametrize(
    ("kind_class", "words"),
    (
        (Other, "the shift kind 'wind' is taken, by .*Wind"),
        (Unnamed, "Unnamed.kind must be small letters, digits and hyphens, got 'A wind'"),
        (Unhashable, "Unhashable must be a value: a frozen dataclass"),
        (Half, "Half has no method 'apply'"),
        (Wind(1.0), "a class is needed"),
        ("wind", "a class is needed"),
    ),
)
def test_what_is_no_kind_is_refused(kind_class, words):
    register_shift(Wind)
    before = dict(KINDS)
    with pytest.raises(OffDynError, match=words) as refused:
        register_shift(kind_class)
    assert "\n" not in str(refused.value)
    assert before == dict(KINDS)
