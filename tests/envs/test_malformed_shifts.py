"""Two hundred malformed shifts: each is refused with one line that names parameter, value and what is allowed."""

import math
import random

import gymnasium
import numpy as np
import pytest

from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import WALKERS
from offdyn_envs.shifts import KINEMATIC_PARTS, MORPHOLOGY_PARTS, parse_shifts
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
    kind = rng.choice(("friction", "gravity", "kinematic", "morphology"))
    if kind in ("gravity", "friction"):
        return {"kind": kind, "scale": rng.uniform(0.1, 5.0)}
    kept = {"keep_mass": True} if kind == "morphology" and rng.random() < 0.5 else {}
    if rng.random() < 0.2:
        return {"kind": kind, "preset": "severe", **kept}
    if kind == "morphology":
        return {"kind": kind, "part": rng.choice(sorted(MORPHOLOGY_PARTS[robot])), "level": rng.uniform(0, 3), **kept}
    part = rng.choice(sorted(KINEMATIC_PARTS[robot]))
    if rng.random() < 0.4:
        joints = {name: rng.uniform(0.1, 1.0) for name in KINEMATIC_PARTS[robot][part]}
        return {"kind": kind, "joints": joints}
    return {"kind": kind, "part": part, "scale": rng.uniform(0.1, 1.0)}


def replaced(shift: dict, name: str, value: object) -> tuple[object, str, object]:
    return shift | {name: value}, name, value


def damage(rng: random.Random, shift: dict) -> tuple[object, str, object]:
    """Break a shift in one place; returns it, a word that the message must hold and the value that it must quote."""
    ways = [
        lambda: replaced(shift, "kind", rng.choice(NOT_NAMES)),
        lambda: (shift | {(name := rng.choice(("scael", "axis", "joint", "levl", "Part"))): 1}, "parameter", name),
        lambda: ({key: value for key, value in shift.items() if key != "kind"}, "kind", None),
        lambda: ((value := rng.choice(("gravity", 3, None, [shift], b"x", 0.5))), "shifts[0]", value),
    ]
    named = [name for name in ("part", "preset") if name in shift]
    ways += [lambda name=name: replaced(shift, name, rng.choice(NOT_NAMES)) for name in named]
    for name in ("scale", "level"):
        if name in shift:
            ways += [
                lambda name=name: replaced(shift, name, rng.choice((*NOT_NUMBERS, *OUT_OF_RANGE))),
                lambda name=name: ({key: value for key, value in shift.items() if key != name}, name, None),
            ]
    if "keep_mass" in shift:
        ways.append(lambda: replaced(shift, "keep_mass", rng.choice((0, 1, "yes", None, [True], 1.0))))
    if "joints" in shift:
        first = next(iter(shift["joints"]))
        ways += [
            lambda: replaced(shift, "joints", rng.choice(("x", 3, [], {}, True, [first, first], [[first, 0.5]] * 2))),
            lambda: (shift | {"joints": {(name := rng.choice(("knee", "FOOT", "", "a" * 99))): 0.5}}, "joint", name),
            lambda: (shift | {"joints": {first: (bad := rng.choice(OUT_OF_RANGE))}}, first, bad),
        ]
    return rng.choice(ways)()


def malformed() -> list[tuple[str, list, str, object]]:
    """Lists of one to three shifts, one of them damaged."""
    rng = random.Random(1)
    cases: list[tuple[str, list, str, object]] = []
    for _ in range(COUNT):
        robot = rng.choice(sorted(WALKERS))
        value, word, quoted = damage(rng, good(rng, robot))
        before = [{"kind": "gravity", "scale": rng.uniform(0.5, 2.0)} for _ in range(rng.randrange(3))]
        cases.append((robot, [*before, value], word.replace("[0]", f"[{len(before)}]"), quoted))
    return cases


def refusal(robot: str, shifts: object, word: str) -> str:
    messages: list[str] = []
    for make in (
        lambda: gymnasium.make(f"OffDyn/{WALKERS[robot].title}-v0", shifts=shifts),
        lambda: OffDynVectorEnv(robot, 2, shifts=shifts),
    ):
        with pytest.raises(OffDynError) as refused:
            make()
        messages.append(str(refused.value))
        assert len(messages[-1].splitlines()) == 1, messages[-1]
        assert len(messages[-1]) < 500, messages[-1]
        assert word in messages[-1], messages[-1]
    assert messages[0] == messages[1]
    return messages[0]


def test_each_is_refused_with_one_line():
    cases = malformed()
    assert len(cases) == COUNT
    assert len({repr(case) for case in cases}) > 0.8 * COUNT
    told = ("allowed", "must be", "must map", "from ", "goes with", "exactly one of", "either ", "did you mean")
    for robot, value, word, quoted in cases:
        message = refusal(robot, value, word)
        assert any(words in message for words in told), message
        if quoted is not None and abs(len(str(quoted)) - 30) < 30:
            assert " ".join(str(quoted).split())[:20].strip() in message, (quoted, message)


@pytest.mark.parametrize(
    ("robot", "shift", "count", "words"),
    (
        ("ant", {"kind": "kinematic", "part": "ankle", "scale": 1e-4}, 5, "product of all factors of ankle_1"),
        ("hopper", {"kind": "gravity", "scale": 1e6}, 52, "gravity shifts: the product of all scales"),
        ("walker2d", {"kind": "friction", "scale": 1e6}, 60, "friction shifts: the product of all scales"),
        ("halfcheetah", {"kind": "gravity", "scale": 1e-6}, 2, "1e-06 to 1e+06"),
        ("hopper", {"kind": "kinematic", "joints": {"leg_joint": 9.0}}, 2, "leg_joint"),
    ),
)
def test_what_is_too_much_together_is_refused(robot, shift, count, words):
    refusal(robot, [shift] * count, words)


@pytest.mark.parametrize("value", (5, "gravity", {5}, b"", object()))
def test_what_is_no_list_is_refused(value):
    refusal("hopper", value, "shifts")


ENDLESS = 10**5000  # Python refuses to print it.


@pytest.mark.parametrize(
    "awkward", (ENDLESS, np.array(["severe", "severe"]), np.array([0.5, 0.5])), ids=("endless", "texts", "numbers")
)
@pytest.mark.parametrize(
    ("shift", "name", "word"),
    (
        ({"kind": "gravity", "scale": 0.5}, "kind", "shift kind"),
        ({"kind": "gravity", "scale": 0.5}, "scale", "gravity shift: scale"),
        ({"kind": "kinematic", "part": "foot", "scale": 0.5}, "part", "part of the kinematic shift"),
        ({"kind": "kinematic", "joints": {"foot_joint": 0.5}}, "joints", "kinematic shift: joints"),
        ({"kind": "kinematic", "preset": "severe"}, "preset", "preset of the kinematic shift"),
        ({"kind": "morphology", "part": "torso", "level": 1}, "part", "part of the morphology shift"),
        ({"kind": "morphology", "part": "torso", "level": 1}, "level", "morphology shift: level"),
        ({"kind": "morphology", "preset": "severe"}, "preset", "preset of the morphology shift"),
        ({"kind": "morphology", "preset": "severe", "keep_mass": True}, "keep_mass", "keep_mass"),
    ),
)
def test_what_cannot_be_printed_or_compared_is_refused(shift, name, word, awkward):
    refusal("hopper", [shift | {name: awkward}], word)


def test_a_parameter_whose_name_cannot_be_printed_is_refused():
    refusal("hopper", [{"kind": "gravity", "scale": 0.5, ENDLESS: 1}], "parameter of the gravity shift")


@pytest.mark.parametrize("name", ("dynamics", "profile"))
@pytest.mark.parametrize(
    "awkward", (ENDLESS, np.array(["odrl", "odrl"]), [], {}), ids=("endless", "texts", "list", "object")
)
def test_awkward_names_are_refused(name, awkward):
    for make in (
        lambda: gymnasium.make("OffDyn/Hopper-v0", **{name: awkward}),
        lambda: OffDynVectorEnv("hopper", 1, **{name: awkward}),
    ):
        with pytest.raises(OffDynError, match=f"unknown {name}"):
            make()


def test_the_same_generator_undamaged_is_accepted():
    rng = random.Random(2)
    for _ in range(100):
        robot = rng.choice(sorted(WALKERS))
        (shift,) = parse_shifts([good(rng, robot)])
        shift.check(WALKERS[robot])
