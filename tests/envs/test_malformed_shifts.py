"""Two hundred malformed shifts: each is refused with one line that names parameter, value and what is allowed."""

import math
import random

import gymnasium
import numpy as np
import pytest

from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import ROBOTS
from offdyn_envs.shifts import KINDS, KINEMATIC_PARTS, MORPHOLOGY_PARTS, parse_shifts
from offdyn_envs.vector import OffDynVectorEnv

COUNT = 200
NOT_NUMBERS = ("0.5", "", "hard", True, False, None, [], [0.5], {}, {"scale": 1}, b"1", object(), 1j)
OUT_OF_RANGE = (math.nan, math.inf, -math.inf, -1.0, -1e-9, 1e300, -(10**400), 10**400, np.float32("nan"))
NOT_NAMES = (
    "",
    "foot ",
    "FOOT",
    "føt",
    "torsoo",
    "wings",
    "../x",
    "a" * 500,
    "line\nbreak",
    3,
    1.5,
    None,
    True,
    [],
    {},
)


def good(rng: random.Random, robot: str) -> dict:
    """A well-formed shift of the robot."""
    kind = rng.choice(sorted(KINDS))
    if kind in ("gravity", "friction"):
        return {"kind": kind, "scale": rng.uniform(0.1, 5.0)}
    if rng.random() < 0.2:
        return {"kind": kind, "preset": "severe"}
    if kind == "kinematic":
        return {"kind": kind, "part": rng.choice(sorted(KINEMATIC_PARTS[robot])), "scale": rng.uniform(0.1, 1.0)}
    return {"kind": kind, "part": rng.choice(sorted(MORPHOLOGY_PARTS[robot])), "level": rng.uniform(0.0, 3.0)}


def damage(rng: random.Random, shift: dict) -> tuple[object, str]:
    """Break a shift in one place; returns it and the word that the message must hold."""
    amount = next((name for name in ("scale", "level") if name in shift), None)
    name = next((name for name in ("part", "preset") if name in shift), "kind")
    ways = [
        lambda: (shift | {name: rng.choice(NOT_NAMES)}, name),
        lambda: (shift | {"kind": rng.choice(NOT_NAMES)}, "kind"),
        lambda: (shift | {rng.choice(("scael", "axis", "joint", "levl", "Part", "")): 1}, "parameter"),
        lambda: ({key: value for key, value in shift.items() if key != "kind"}, "kind"),
        lambda: (rng.choice(("gravity", 3, None, [shift], b"x", 0.5)), "shifts[0]"),
    ]
    if amount is not None:
        ways += [
            lambda: (shift | {amount: rng.choice(NOT_NUMBERS)}, amount),
            lambda: (shift | {amount: rng.choice(OUT_OF_RANGE)}, amount),
            lambda: ({key: value for key, value in shift.items() if key != amount}, amount),
        ]
    return rng.choice(ways)()


def malformed() -> list[tuple[str, object, str]]:
    rng = random.Random(1)
    robots = sorted(ROBOTS)
    return [(robot, *damage(rng, good(rng, robot))) for robot in (rng.choice(robots) for _ in range(COUNT))]


def refusal(robot: str, shifts: object, word: str) -> str:
    for make in (
        lambda: gymnasium.make(f"OffDyn/{ROBOTS[robot].title}-v0", shifts=shifts),
        lambda: OffDynVectorEnv(robot, 2, shifts=shifts),
    ):
        with pytest.raises(OffDynError) as refused:
            make()
    message = str(refused.value)
    assert len(message.splitlines()) == 1, message
    assert len(message) < 400, message
    assert word in message, message
    return message


def test_each_is_refused_with_one_line():
    cases = malformed()
    assert len(cases) == COUNT
    assert len({repr(case) for case in cases}) > 0.8 * COUNT
    told = ("allowed", "must be", "from ", "goes with", "exactly one of", "either ", "did you mean")
    for robot, value, word in cases:
        message = refusal(robot, [value], word)
        assert any(words in message for words in told), message


@pytest.mark.parametrize("value", (5, "gravity", {}, {"kind": "gravity", "scale": 0.5}, [], (), b"", object()))
def test_what_is_no_list_is_refused(value):
    refusal("hopper", value, "shifts")


def test_the_same_generator_undamaged_is_accepted():
    rng = random.Random(2)
    for _ in range(100):
        robot = rng.choice(sorted(ROBOTS))
        (shift,) = parse_shifts([good(rng, robot)])
        shift.check(ROBOTS[robot])
