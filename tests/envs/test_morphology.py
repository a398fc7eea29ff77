"""Bodies: every number of the published presets on the compiled model, masses, reset height, and what excludes what."""

import json

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, dynamics_fields, model_hash, start_qpos
from offdyn_envs.robots import WALKERS
from offdyn_envs.shifts import MORPHOLOGY_PARTS, Gravity, Kinematic, Morphology, parse_shifts, shifts_to_json
from offdyn_envs.shifts.body_edits import PARTS, SEVERE_EDITS
from offdyn_envs.tasks import get_dynamics

LEVELS = ("easy", "medium", "hard")
KEYS = [(robot, part) for robot, parts in MORPHOLOGY_PARTS.items() for part in parts]
# Total and body masses in kg at base, easy, medium, hard.
TOTALS = {
    ("hopper", "torso"): (15.82, 22.40, 36.45, 59.61),
    ("walker2d", "torso"): (23.68, 30.26, 44.31, 67.46),
    ("walker2d", "leg"): (23.68, 24.24, 25.09, 25.94),
    ("halfcheetah", "torso"): (14.0,) * 4,
    ("halfcheetah", "thigh"): (14.0,) * 4,
    ("ant", "alllegs"): (0.911, 0.865, 0.797, 0.729),
    ("ant", "halflegs"): (0.911, 0.888, 0.854, 0.820),
}
TORSO_KG = (3.665, 10.249, 24.295, 47.451)
BODY_KG = {
    ("hopper", "torso"): {"torso": TORSO_KG},
    ("walker2d", "torso"): {"torso": TORSO_KG},
    ("hopper", "foot"): {"foot": (5.316, 2.722, 1.148, 0.340)},
    ("walker2d", "leg"): {
        f"{name}{side}": kg
        for side in ("", "_left")
        for name, kg in (("thigh", (4.058, 4.843, 6.021, 7.199)), ("leg", (2.781, 2.279, 1.525, 0.771)))
    },
    ("halfcheetah", "torso"): {"torso": (6.250, 5.731, 4.808, 3.653)},
    ("halfcheetah", "thigh"): dict(
        zip(
            ("torso", "bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"),
            zip(
                (6.250, 1.544, 1.587, 1.095, 1.438, 1.201, 0.885),
                (7.171, 1.093, 1.310, 1.257, 0.987, 1.168, 1.015),
                (7.358, 0.902, 1.344, 1.290, 0.867, 1.198, 1.041),
                (7.721, 0.486, 1.410, 1.353, 0.680, 1.257, 1.093),
                strict=True,
            ),
            strict=True,
        )
    ),
}
RESET_OFFSET = {
    ("hopper", "foot"): (0.0, -0.012, -0.020, -0.020),
    ("halfcheetah", "thigh"): (0.0, -0.130, -0.160, -0.220),
}
# Capsules in their body: geom -> (centre x, y, z; radius, half-length) at base, easy, medium, hard.
CAPSULES = {
    **{
        (robot, "torso"): {
            "torso_geom": tuple(
                ((0, 0, z), (radius, half))
                for z, radius, half in ((0, 0.05, 0.2), (0.04, 0.075, 0.24), (0.12, 0.1, 0.32), (0.2, 0.125, 0.4))
            )
        }
        for robot in ("hopper", "walker2d")
    },
    ("hopper", "foot"): {
        "foot_geom": (
            ((-0.065, 0, 0.1), (0.06, 0.195)),
            ((-0.078, 0, 0.1), (0.048, 0.156)),
            ((-0.091, 0, 0.1), (0.036, 0.117)),
            ((-0.104, 0, 0.1), (0.024, 0.078)),
        )
    },
    ("walker2d", "leg"): {
        f"{name}{side}_geom": tuple(((0, 0, z), (radius, half)) for z, half in table)
        for side in ("", "_left")
        for name, radius, table in (
            ("thigh", 0.05, ((-0.225, 0.225), (-0.275, 0.275), (-0.35, 0.35), (-0.425, 0.425))),
            ("leg", 0.04, ((0, 0.25), (-0.05, 0.2), (-0.125, 0.125), (-0.2, 0.05))),
        )
    },
    ("halfcheetah", "torso"): {
        "torso": tuple(((0, 0, 0), (0.046, half)) for half in (0.5, 0.4, 0.25, 0.1)),
        "head": tuple(((x, 0, 0.1), (0.046, 0.15)) for x in (0.6, 0.5, 0.35, 0.2)),
    },
}
KNEE_Z = (0.25, 0.15, 0.0, -0.15)
HIP_X = (0.5, 0.4, 0.25, 0.1)
# HalfCheetah's thigh: (geom, body hanging from its end) -> ends (x, z) at easy, medium, hard.
THIGH_ENDS = {
    ("bthigh", "bshin"): ((0.11, -0.11), (0.08, -0.08), (0.02, -0.02)),
    ("fthigh", "fshin"): ((-0.09, -0.10), (-0.07, -0.08), (-0.04, -0.05)),
    ("bshin", "bfoot"): ((-0.13, -0.15),) * 3,
    ("fshin", "ffoot"): ((0.11, -0.13),) * 3,
}
ANKLE_REACH = (0.4, 0.32, 0.2, 0.08)
CORNERS = {"left": (1, 1), "right": (-1, 1), "third": (-1, -1), "fourth": (1, -1)}


def model_of(robot: str, part: str, level: int) -> mujoco.MjModel:
    shifts = () if level == 0 else get_dynamics(robot, f"morphology-{part}-{LEVELS[level - 1]}")
    return compile_model(WALKERS[robot], shifts)


def mass(model: mujoco.MjModel, body: str) -> float:
    return float(model.body(body).mass[0])


def ends(model: mujoco.MjModel, geom: str) -> np.ndarray:
    """Both ends of a capsule in its body, [2, 3], the one nearer to the body's origin first."""
    item = model.geom(geom)
    turn = np.zeros(9)
    mujoco.mju_quat2Mat(turn, item.quat)
    along = turn.reshape(3, 3)[:, 2] * item.size[1]
    return np.array(sorted((item.pos - along, item.pos + along), key=np.linalg.norm))


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("key", KEYS)
def test_masses(key, level):
    model = model_of(*key, level)
    if key in TOTALS:
        assert model.body_mass.sum() == pytest.approx(TOTALS[key][level], abs=0.006 if key[0] != "ant" else 6e-4)
    for body, table in BODY_KG.get(key, {}).items():
        assert mass(model, body) == pytest.approx(table[level], abs=6e-4)


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("key", CAPSULES)
def test_capsules(key, level):
    model = model_of(*key, level)
    for name, table in CAPSULES[key].items():
        pos, size = table[level]
        np.testing.assert_allclose(model.geom(name).pos, pos, rtol=0, atol=1e-12)
        np.testing.assert_allclose(model.geom(name).size[:2], size, rtol=0, atol=1e-12)


@pytest.mark.parametrize("level", range(4))
def test_walker_knees_move_and_bodies_stay(level):
    model, base = model_of("walker2d", "leg", level), model_of("walker2d", "leg", 0)
    for side in ("", "_left"):
        np.testing.assert_allclose(model.joint(f"leg{side}_joint").pos, (0, 0, KNEE_Z[level]), atol=1e-12)
        thigh, leg = (ends(model, f"{name}{side}_geom")[:, 2] for name in ("thigh", "leg"))
        assert thigh.min() + 0.7 == pytest.approx(KNEE_Z[level])  # the thigh ends in the knee, seen from the leg's body
        assert leg.max() == pytest.approx(KNEE_Z[level])
    np.testing.assert_array_equal(model.body_pos, base.body_pos)


@pytest.mark.parametrize("level", range(4))
def test_cheetah_hips_follow_the_torso(level):
    model = model_of("halfcheetah", "torso", level)
    np.testing.assert_allclose(model.body("bthigh").pos, (-HIP_X[level], 0, 0), atol=1e-12)
    np.testing.assert_allclose(model.body("fthigh").pos, (HIP_X[level], 0, 0), atol=1e-12)


@pytest.mark.parametrize("level", (1, 2, 3))
def test_cheetah_limbs_hang_from_each_other(level):
    model = model_of("halfcheetah", "thigh", level)
    for (geom, body), table in THIGH_ENDS.items():
        x, z = table[level - 1]
        np.testing.assert_allclose(ends(model, geom), [(0, 0, 0), (x, 0, z)], rtol=0, atol=1e-9)
        np.testing.assert_allclose(model.body(body).pos, (x, 0, z), rtol=0, atol=1e-12)
        assert model.geom(geom).size[0] == pytest.approx(0.046)


def test_cheetah_thigh_between_base_and_easy():
    base = compile_model(WALKERS["halfcheetah"], ())
    np.testing.assert_allclose(ends(base, "bthigh"), [(0.0113, 0, -0.0153), (0.1887, 0, -0.2447)], atol=6e-5)
    np.testing.assert_allclose(ends(base, "fthigh"), [(-0.0039, 0, -0.0046), (-0.1361, 0, -0.2354)], atol=6e-5)
    half = compile_model(WALKERS["halfcheetah"], (Morphology("thigh", 0.5),))
    easy = compile_model(WALKERS["halfcheetah"], (Morphology("thigh", 1.0),))
    for name in ("bthigh", "fthigh"):
        np.testing.assert_allclose(ends(half, name), (ends(base, name) + ends(easy, name)) / 2, atol=1e-9)
    np.testing.assert_allclose(half.body("bshin").pos, (0.135, 0, -0.18), atol=1e-12)
    later = [compile_model(WALKERS["halfcheetah"], (Morphology("thigh", level),)) for level in (1.0, 1.5, 2.0)]
    first, middle, last = (ends(model, "fthigh") for model in later)
    np.testing.assert_allclose(middle, (first + last) / 2, atol=1e-9)
    # The shins jump: they are the published ones at any level above 0.
    for name in ("bshin", "fshin"):
        np.testing.assert_allclose(ends(half, name), ends(easy, name), atol=1e-12)


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("part", ("alllegs", "halflegs"))
def test_ant_ankles(part, level):
    model = model_of("ant", part, level)
    for leg, (x, y) in CORNERS.items():
        reach = ANKLE_REACH[level] if part == "alllegs" or leg in ("left", "right") else ANKLE_REACH[0]
        found = ends(model, f"{leg}_ankle_geom")
        np.testing.assert_allclose(found, [(0, 0, 0), (x * reach, y * reach, 0)], rtol=0, atol=1e-9)
        assert model.geom(f"{leg}_ankle_geom").size[0] == pytest.approx(0.08)


def test_severe():
    hopper = compile_model(WALKERS["hopper"], get_dynamics("hopper", "morphology-severe"))
    np.testing.assert_allclose(hopper.geom("torso_geom").size[:2], (0.125, 0.2))
    np.testing.assert_allclose(hopper.geom("thigh_geom").size[:2], (0.04, 0.225))
    assert (mass(hopper, "torso"), hopper.body_mass.sum()) == pytest.approx((27.816, 38.44), abs=0.006)
    walker = compile_model(WALKERS["walker2d"], get_dynamics("walker2d", "morphology-severe"))
    for geom, z, half in (("thigh_geom", -0.0025, 0.0025), ("leg_geom", 0.3225, 0.3725)):
        np.testing.assert_allclose((walker.geom(geom).pos[2], walker.geom(geom).size[1]), (z, half))
    np.testing.assert_allclose(walker.joint("leg_joint").pos, (0, 0, 0.695))
    np.testing.assert_allclose(walker.joint("foot_joint").pos, (-0.2, 0, 0.3))
    np.testing.assert_allclose(walker.geom("foot_geom").pos, (-0.1, 0, 0.3))
    assert walker.body_mass.sum() == pytest.approx(21.41, abs=0.006)
    ant = compile_model(WALKERS["ant"], get_dynamics("ant", "morphology-severe"))
    np.testing.assert_allclose(ends(ant, "left_ankle_geom")[1], (0.1, 0.1, 0), atol=1e-9)
    np.testing.assert_allclose(ends(ant, "right_ankle_geom")[1], (-0.1, 0.1, 0), atol=1e-9)
    assert ant.body_mass.sum() == pytest.approx(0.826, abs=6e-4)


def test_severe_cheetah():
    model = compile_model(WALKERS["halfcheetah"], get_dynamics("halfcheetah", "morphology-severe"))
    table = {
        ("bthigh", "bshin"): (-1e-4, -1e-4),
        ("fthigh", "fshin"): (1e-4, 1e-4),
        ("bshin", "bfoot"): (-0.13, -0.15),
        ("fshin", "ffoot"): (0.01, -0.16),
    }
    for (geom, body), (x, z) in table.items():
        np.testing.assert_allclose(ends(model, geom)[1], (x, 0, z), rtol=0, atol=1e-9)
        np.testing.assert_allclose(model.body(body).pos, (x, 0, z), rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.geom("bfoot").size[:2], (0.046, 0.07))
    assert model.body_mass.sum() == pytest.approx(14.0)


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("key", KEYS)
def test_reset_height_keeps_the_clearance(key, level):
    robot = WALKERS[key[0]]
    shifts = () if level == 0 else get_dynamics(key[0], f"morphology-{key[1]}-{LEVELS[level - 1]}")
    for profile, wanted in (("default", RESET_OFFSET.get(key, (0.0,) * 4)[level]), ("odrl", 0.0), ("droco", 0.0)):
        moved = start_qpos(robot, shifts, profile) - start_qpos(robot, (), profile)
        expected = np.zeros(robot.nq)
        expected[robot.height_index] = wanted
        np.testing.assert_allclose(moved, expected, rtol=0, atol=5.1e-4)


def test_reset_height_of_the_severe_cheetah():
    robot = WALKERS["halfcheetah"]
    moved = start_qpos(robot, (Morphology(preset="severe"),)) - start_qpos(robot, ())
    assert moved[1] == pytest.approx(-0.263, abs=5.1e-4)


@pytest.mark.parametrize("key", KEYS)
@settings(max_examples=10)
@given(level=st.floats(0.0, 3.0))
def test_any_level_edits_only_the_part(key, level):
    robot = WALKERS[key[0]]
    base, model = compile_model(robot, ()), compile_model(robot, (Morphology(key[1], level),))
    left, right = dynamics_fields(base), dynamics_fields(model)
    changed = {name for name in left if not np.array_equal(left[name], right[name])}
    # Nothing that no shape or mass enters: ranges, friction, gears, damping and gravity stay.
    untouched = {"jnt_range", "geom_friction", "actuator_gear", "dof_damping", "opt.gravity", "opt.timestep", "qpos0"}
    assert not changed & untouched
    own = set(PARTS[key[0]][key[1]].geoms) | {"head"}
    for i in range(model.ngeom):
        name = model.geom(i).name
        if name not in own:
            np.testing.assert_array_equal(model.geom_size[i], base.geom_size[i])
            np.testing.assert_array_equal(model.geom_pos[i], base.geom_pos[i])


@pytest.mark.parametrize("key", [key for key in KEYS if key != ("halfcheetah", "thigh")])
def test_levels_are_linear_between_the_knots(key):
    sizes = [compile_model(WALKERS[key[0]], (Morphology(key[1], level),)).geom_size for level in (1.0, 1.5, 2.0)]
    np.testing.assert_allclose(sizes[1], (sizes[0] + sizes[2]) / 2, rtol=0, atol=1e-9)


@pytest.mark.parametrize("key", [*KEYS, *((robot, None) for robot in SEVERE_EDITS)])
@settings(max_examples=5)
@given(level=st.floats(0.0, 3.0))
def test_keep_mass_keeps_every_body(key, level):
    robot, part = WALKERS[key[0]], key[1]
    kept = Morphology(preset="severe", keep_mass=True) if part is None else Morphology(part, level, keep_mass=True)
    base = compile_model(robot, ()).body_mass
    np.testing.assert_allclose(compile_model(robot, (kept,)).body_mass, base, rtol=1e-9)


def test_morphologies_compose_with_other_shifts():
    robot = WALKERS["hopper"]
    model = compile_model(robot, (Morphology("torso", 3), Morphology("foot", 3), Gravity(0.5), Kinematic("foot", 0.2)))
    assert (mass(model, "torso"), mass(model, "foot")) == pytest.approx((47.451, 0.340), abs=6e-4)
    assert model.opt.gravity[2] == -9.81 / 2
    assert model_hash(compile_model(robot, (Morphology("torso", 0),))) == model_hash(compile_model(robot, ()))


@given(st.sampled_from(KEYS), st.floats(0.0, 3.0), st.booleans())
def test_json_round_trip(key, level, keep_mass):
    shifts = [Morphology(key[1], level, keep_mass), Morphology(preset="severe", keep_mass=keep_mass)]
    assert list(parse_shifts(json.loads(json.dumps(shifts_to_json(shifts))))) == shifts


@pytest.mark.parametrize(
    ("robot", "shifts", "words"),
    (
        ("hopper", [{"part": "torso", "level": 1}, {"part": "torso", "level": 2}], "'torso' and 'torso' of Hopper"),
        ("hopper", [{"part": "torso", "level": 1}, {"preset": "severe"}], "both reshape torso_geom"),
        ("ant", [{"part": "alllegs", "level": 1}, {"part": "halflegs", "level": 1}], "left_ankle_geom"),
        ("walker2d", [{"preset": "severe"}, {"part": "leg", "level": 1}], "'severe' and 'leg'"),
        (
            "halfcheetah",
            [{"part": "torso", "level": 1, "keep_mass": True}, {"part": "thigh", "level": 1}],
            "keep_mass must be the same",
        ),
        ("hopper", [{"part": "leg", "level": 1}], "part of Hopper for the morphology shift 'leg'"),
        ("hopper", [{"part": "tors", "level": 1}], "did you mean 'torso'"),
        ("hopper", [{}], "either part with level or preset"),
        ("hopper", [{"part": "torso", "preset": "severe", "level": 1}], "either part with level or preset"),
        ("hopper", [{"part": "torso"}], "'level' goes with 'part'"),
        ("hopper", [{"preset": "severe", "level": 1}], "'level' goes with 'part'"),
        ("hopper", [{"preset": "hard"}], "preset of the morphology shift 'hard'"),
        ("hopper", [{"part": "torso", "level": 3.01}], "0 to 3, got 3.01"),
        ("hopper", [{"part": "torso", "level": -0.1}], "0 to 3, got -0.1"),
        ("hopper", [{"part": "torso", "level": "hard"}], "level must be a finite number"),
        ("hopper", [{"part": "torso", "level": 1, "keep_mass": 1}], "keep_mass must be true or false"),
        ("hopper", [{"part": "torso", "scale": 1}], "parameter of the morphology shift 'scale'"),
    ),
)
def test_what_does_not_fit_is_refused_in_one_line(robot, shifts, words):
    with pytest.raises(OffDynError) as refused:
        compile_model(WALKERS[robot], parse_shifts([{"kind": "morphology", **shift} for shift in shifts]))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
