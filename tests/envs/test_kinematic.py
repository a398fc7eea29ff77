"""Joint ranges: every number of the published presets, and the rule between them."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, dynamics_fields, model_hash, model_spec
from offdyn_envs.robots import WALKERS
from offdyn_envs.shifts import KINEMATIC_PARTS, Kinematic, parse_shifts, shifts_to_json
from offdyn_envs.shifts.kinematic import shrunk_range
from offdyn_envs.tasks import get_dynamics

DEGREES = math.pi / 180.0
# robot, part: joint -> (base, easy, medium, hard), in radians for HalfCheetah and degrees for the others.
RANGES = {
    ("halfcheetah", "foot"): {
        "bfoot": ((-0.4, 0.785), (-0.32, 0.628), (-0.2, 0.3925), (-0.08, 0.157)),
        "ffoot": ((-0.5, 0.5), (-0.4, 0.4), (-0.25, 0.25), (-0.1, 0.1)),
    },
    ("halfcheetah", "thigh"): {
        "bthigh": ((-0.52, 1.05), (-0.416, 0.84), (-0.26, 0.525), (-0.104, 0.21)),
        "fthigh": ((-1.0, 0.7), (-0.8, 0.56), (-0.5, 0.35), (-0.2, 0.14)),
    },
    ("hopper", "foot"): {"foot_joint": ((-45, 45), (-36, 36), (-22.5, 22.5), (-9, 9))},
    ("hopper", "leg"): {"leg_joint": ((-150, 0), (-120, 0), (-75, 0), (-30, 0))},
    ("walker2d", "foot"): {
        name: ((-45, 45), (-36, 36), (-22.5, 22.5), (-9, 9)) for name in ("foot_joint", "foot_left_joint")
    },
    ("walker2d", "thigh"): {
        name: ((-150, 0), (-120, 0), (-75, 0), (-30, 0)) for name in ("thigh_joint", "thigh_left_joint")
    },
    ("ant", "hip"): {f"hip_{leg}": ((-30, 30), (-24, 24), (-15, 15), (-6, 6)) for leg in (1, 2, 3, 4)},
    ("ant", "ankle"): {
        **{f"ankle_{leg}": ((30, 70), (30, 62), (30, 50), (30, 38)) for leg in (1, 4)},
        **{f"ankle_{leg}": ((-70, -30), (-62, -30), (-50, -30), (-38, -30)) for leg in (2, 3)},
    },
}
SEVERE = {
    "halfcheetah": {"bthigh": (-0.0052, 0.0105)},
    "hopper": {"thigh_joint": (-0.15, 0.0), "foot_joint": (-18.0, 18.0)},
    "walker2d": {"foot_joint": (-0.45, 0.45)},
    "ant": {"hip_1": (-0.3, 0.3), "hip_2": (-0.3, 0.3)},
}


def ranges(robot_name: str, shifts: tuple) -> dict[str, np.ndarray]:
    """Compiled joint ranges in the table's unit."""
    model = compile_model(WALKERS[robot_name], shifts)
    unit = 1.0 if robot_name == "halfcheetah" else DEGREES
    return {model.joint(i).name: model.jnt_range[i] / unit for i in range(model.njnt)}


def check_ranges(robot_name: str, shifts: tuple, expected: dict[str, tuple[float, float]], atol: float) -> None:
    base, found = ranges(robot_name, ()), ranges(robot_name, shifts)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected.get(name, base[name]), rtol=0, atol=atol)
    fields, other = (dynamics_fields(compile_model(WALKERS[robot_name], x)) for x in ((), shifts))
    assert {name for name in fields if not np.array_equal(fields[name], other[name])} <= {"jnt_range"}


@pytest.mark.parametrize("level", (1, 2, 3))
@pytest.mark.parametrize("key", RANGES)
def test_published_levels(key, level):
    robot, part = key
    slug = f"kinematic-{part}-{('easy', 'medium', 'hard')[level - 1]}"
    check_ranges(robot, get_dynamics(robot, slug), {n: table[level] for n, table in RANGES[key].items()}, atol=1e-12)


@pytest.mark.parametrize("key", RANGES)
def test_the_base_is_what_the_table_says(key):
    found = ranges(key[0], ())
    for name, table in RANGES[key].items():
        np.testing.assert_allclose(found[name], table[0], rtol=0, atol=1e-12)


def test_the_table_covers_every_part():
    assert set(RANGES) == {(robot, part) for robot, parts in KINEMATIC_PARTS.items() for part in parts}


@pytest.mark.parametrize("robot", SEVERE)
def test_severe(robot):
    # Published to four decimals for HalfCheetah.
    check_ranges(robot, get_dynamics(robot, "kinematic-severe"), SEVERE[robot], atol=5.1e-5)


@given(
    st.tuples(st.floats(-3, 3), st.floats(-3, 3)).map(sorted).filter(lambda ends: ends[1] - ends[0] > 1e-3),
    st.floats(0.01, 1.0),
)
def test_a_range_shrinks_by_the_factor_inside_the_old_one(ends, factor):
    low, high = ends
    new_low, new_high = shrunk_range((low, high), factor)
    assert low - 1e-12 <= new_low <= new_high <= high + 1e-12
    assert new_high - new_low == pytest.approx(factor * (high - low))
    if low < 0 < high:
        assert new_low <= 0 <= new_high
    else:  # the end nearer to zero stays
        assert (low, high)[abs(low) > abs(high)] in (new_low, new_high)


@pytest.mark.parametrize("key", RANGES)
@settings(max_examples=8)
@given(scale=st.floats(0.01, 1.0))
def test_any_scale_edits_only_the_ranges_of_the_part(key, scale):
    robot, part = key
    joints = {name: shrunk_range(table[0], scale) for name, table in RANGES[key].items()}
    check_ranges(robot, (Kinematic(part, scale),), joints, atol=1e-9)


def test_a_part_is_a_list_of_joints():
    hopper = WALKERS["hopper"]
    one, other = (Kinematic("foot", 0.3),), (Kinematic(joints={"foot_joint": 0.3}),)
    assert model_hash(compile_model(hopper, one)) == model_hash(compile_model(hopper, other))


def test_scales_multiply_what_stands():
    walker = WALKERS["walker2d"]
    back = (Kinematic("foot", 0.5), Kinematic("thigh", 0.25), Kinematic("foot", 2.0), Kinematic("thigh", 4.0))
    assert model_hash(compile_model(walker, back)) == model_hash(compile_model(walker, ()))


def test_only_the_droco_profile_drops_the_timestep_and_only_there():
    cheetah = WALKERS["halfcheetah"]
    severe = (Kinematic(preset="severe"),)
    timesteps = {p: compile_model(cheetah, severe, p).opt.timestep for p in ("default", "odrl", "droco")}
    assert timesteps == {"default": 0.01, "odrl": 0.01, "droco": 0.002}
    assert model_spec(cheetah, (Kinematic("foot", 0.2),), "droco").option.timestep == 0.01
    assert model_spec(WALKERS["hopper"], severe, "droco").option.timestep == WALKERS["hopper"].timestep


@given(st.sampled_from(sorted(RANGES)), st.floats(0.001, 10.0))
def test_json_round_trip(key, scale):
    joints = {name: scale for name in RANGES[key]}
    shifts = [Kinematic(key[1], scale), Kinematic(joints=joints), Kinematic(preset="severe")]
    assert list(parse_shifts(json.loads(json.dumps(shifts_to_json(shifts))))) == shifts


@pytest.mark.parametrize(
    ("value", "words"),
    (
        ({}, "exactly one of part, joints and preset, got none"),
        ({"part": "foot"}, "'scale' goes with 'part'"),
        ({"scale": 0.5}, "exactly one of part"),
        ({"part": "foot", "scale": 0.5, "preset": "severe"}, "part and preset"),
        ({"preset": "severe", "scale": 0.5}, "'scale' goes with 'part'"),
        ({"part": "fot", "scale": 0.5}, "did you mean 'foot'"),
        ({"part": "hip", "scale": 0.5}, "part of Hopper for the kinematic shift 'hip'"),
        ({"part": 3, "scale": 0.5}, "part of the kinematic shift '3'"),
        ({"part": "foot", "scale": 0}, "0.0001 to 10"),
        ({"part": "foot", "scale": -0.2}, "got -0.2"),
        ({"part": "foot", "scale": float("nan")}, "got nan"),
        ({"part": "foot", "scale": "0.2"}, "scale must be a finite number"),
        ({"part": "foot", "level": 1}, "'level'"),
        ({"preset": "sever"}, "did you mean 'severe'"),
        ({"joints": {}}, "must map joint names to factors"),
        ({"joints": ["foot_joint"]}, "must map joint names to factors"),
        ({"joints": {"foot": 0.5}}, "joint of the kinematic shift 'foot'"),
        ({"joints": {"hip_1": 0.5}}, "joint of Hopper for the kinematic shift 'hip_1'"),
        ({"joints": {"foot_joint": None}}, "factor of joint foot_joint"),
    ),
)
def test_malformed_values_are_refused_in_one_line(value, words):
    with pytest.raises(OffDynError) as refused:
        compile_model(WALKERS["hopper"], parse_shifts([{"kind": "kinematic", **value}]))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
