"""The Adroit hand's shifts as values, and what they do to the compiled model."""

import json
import math

import gymnasium
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, dynamics_fields, model_hash
from offdyn_envs.robots import HANDS
from offdyn_envs.shifts import KINDS, BrokenJoint, Friction, Gravity, Kinematic, ShrinkFinger, parse_shifts
from offdyn_envs.tasks import dynamics_of

HAND_TASKS = {hand.task: hand for hand in HANDS.values()}
HAND_DYNAMICS = dynamics_of("adroit-pen")

SCALES = st.floats(0.05, 10.0)  # the product of four stays within the bounds of a product
SHIFTS = st.one_of(*(st.builds(kind, SCALES) for kind in (BrokenJoint, ShrinkFinger, Gravity, Friction)))
LEVELS = {"easy": 0.5, "medium": 0.25, "hard": 0.125}
RANGES = {
    "FFJ3": (-0.436, 0.436),
    "FFJ2": (0.0, 1.571),
    "FFJ1": (0.0, 1.571),
    "FFJ0": (0.0, 1.571),
    "THJ4": (-1.047, 1.047),
    "THJ3": (0.0, 1.309),
    "THJ2": (-0.262, 0.262),
    "THJ1": (-0.524, 0.524),
    "THJ0": (-1.571, 0.0),
}
FINGERS = ("ff", "mf", "rf", "lf")
# Segment: capsule radius and half-length, offset of the next segment's body (or of the fingertip), touch site, m.
SEGMENTS = {
    "proximal": (0.01, 0.0225, 0.045, 0.022),
    "middle": (0.00805, 0.0125, 0.025, 0.013),
    "distal": (0.00705, 0.012, 0.026, 0.018),
}
LITTLE_KNUCKLE = {1.0: 0.044, 0.5: 0.022, 0.25: 0.011, 0.125: 0.0055}
# Fields that follow from a shorter finger; the declared ones come first.
FINGER_FIELDS = {"body_pos", "body_ipos", "geom_pos", "geom_size", "site_pos"}
DERIVED_FROM_FINGERS = {"geom_aabb", "geom_rbound", "body_invweight0", "dof_invweight0", "dof_M0", "tendon_invweight0"}
DERIVED_FROM_FINGERS |= {
    "actuator_acc0",
    "dof_length",
    "body_sameframe",
    "body_simple",
    "geom_sameframe",
    "site_sameframe",
}


def changed_fields(base, shifted):
    left, right = dynamics_fields(base), dynamics_fields(shifted)
    assert left.keys() == right.keys()
    return {name for name in left if not np.array_equal(left[name], right[name])}


def names(model, kind):
    return [getattr(model, kind)(index).name for index in range(getattr(model, f"n{kind}"))]


@given(st.lists(SHIFTS, min_size=1, max_size=4))
def test_json_round_trip(shifts):
    plain = json.loads(json.dumps([shift.to_json() for shift in shifts]))
    assert list(parse_shifts(plain)) == shifts == list(parse_shifts(shifts))


@pytest.mark.parametrize("level", (None, *LEVELS))
@pytest.mark.parametrize("task", tuple(HAND_TASKS))
def test_broken_joint_ranges(task, level):
    slug = "nominal" if level is None else f"broken-joint-{level}"
    scale = LEVELS.get(level, 1.0)
    model = compile_model(HAND_TASKS[task], HAND_DYNAMICS[slug])
    for name, ends in RANGES.items():
        np.testing.assert_allclose(model.joint(name).range, np.multiply(ends, scale), rtol=1e-15)
    # The middle finger is as it was, and an action means what it meant.
    np.testing.assert_array_equal(model.joint("MFJ2").range, (0.0, 1.571))
    base = compile_model(HAND_TASKS[task], ())
    np.testing.assert_array_equal(model.actuator_ctrlrange, base.actuator_ctrlrange)


@pytest.mark.parametrize("task", ("pen", "door"))
@settings(max_examples=10)
@given(scale=SCALES)
def test_broken_joint_changes_nine_ranges_alone(task, scale):
    base = compile_model(HAND_TASKS[task], ())
    model = compile_model(HAND_TASKS[task], (BrokenJoint(scale),))
    assert changed_fields(base, model) <= {"jnt_range"}
    broken = [name in RANGES for name in names(model, "jnt")]
    assert sum(broken) == 9
    expected = np.where(np.array(broken)[:, None], base.jnt_range * scale, base.jnt_range)
    np.testing.assert_array_equal(model.jnt_range, expected)


@pytest.mark.parametrize("level", (None, *LEVELS))
@pytest.mark.parametrize("task", tuple(HAND_TASKS))
def test_shrunken_lengths(task, level):
    slug = "nominal" if level is None else f"shrink-finger-{level}"
    scale = LEVELS.get(level, 1.0)
    model = compile_model(HAND_TASKS[task], HAND_DYNAMICS[slug])
    close = {"rel": 1e-12, "abs": 0.0}
    for finger in FINGERS:
        following = {"proximal": f"{finger}middle", "middle": f"{finger}distal"}
        for segment, (radius, half, offset, touch) in SEGMENTS.items():
            capsule = model.geom(f"C_{finger}{segment}")
            assert capsule.size[:2] == pytest.approx([radius, half * scale], **close)
            assert capsule.pos[2] == pytest.approx(half * scale, **close)
            tip = segment == "distal"
            end = model.site(f"S_{finger}tip") if tip else model.body(following[segment])
            assert end.pos[2] == pytest.approx(offset * scale, **close)
            site = model.site(f"Tch_{finger}{'tip' if tip else segment}")
            assert site.pos[2] == pytest.approx(touch * scale, **close)
        assert model.body(f"{finger}proximal").ipos[2] == pytest.approx(0.023 * scale, **close)
        assert model.body(f"{finger}distal").ipos[2] == pytest.approx(0.015 * scale, **close)
    assert model.body("lfknuckle").pos[2] == pytest.approx(LITTLE_KNUCKLE[scale], **close)
    assert model.body("lfmetacarpal").pos[2] == pytest.approx(0.044, **close)
    assert model.body("ffknuckle").pos[2] == pytest.approx(0.095, **close)
    assert model.body("thmiddle").subtreemass[0] == compile_model(HAND_TASKS[task], ()).body("thmiddle").subtreemass[0]
    assert model.site("S_thtip").pos[2] == pytest.approx(0.0275, **close)


@pytest.mark.parametrize("task", ("pen", "door"))
@settings(max_examples=10)
@given(scale=SCALES)
def test_shrinking_changes_z_of_the_four_fingers_alone(task, scale):
    base = compile_model(HAND_TASKS[task], ())
    model = compile_model(HAND_TASKS[task], (ShrinkFinger(scale),))
    assert changed_fields(base, model) <= FINGER_FIELDS | DERIVED_FROM_FINGERS
    segments = {finger + segment for finger in FINGERS for segment in SEGMENTS}
    bodies = names(model, "body")
    moved = np.array([name in segments or name == "lfknuckle" for name in bodies])
    inside = np.array([name in segments for name in bodies])
    for field, owner, wanted in (
        ("body_pos", range(model.nbody), moved),
        ("body_ipos", range(model.nbody), inside),
        ("site_pos", model.site_bodyid, inside),
    ):
        before, after = getattr(base, field), getattr(model, field)
        np.testing.assert_array_equal(after[:, :2], before[:, :2])
        factors = np.where(wanted[np.asarray(owner)], scale, 1.0)
        np.testing.assert_array_equal(after[:, 2], before[:, 2] * factors)
    capsules = (model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE) & inside[model.geom_bodyid]
    assert capsules.sum() == 12
    np.testing.assert_array_equal(model.geom_size[capsules, 1], base.geom_size[capsules, 1] * scale)
    np.testing.assert_array_equal(model.geom_size[capsules, 0], base.geom_size[capsules, 0])
    np.testing.assert_array_equal(model.geom_size[~capsules], base.geom_size[~capsules])
    # A mesh's own frame is added to its offset by the compiler: only the difference is the offset's.
    shift = np.where([name in ("V_ffdistal", "V_rfdistal", "V_lfdistal") for name in names(model, "geom")], 0.001, 0.0)
    np.testing.assert_allclose(
        model.geom_pos[~capsules, 2] - base.geom_pos[~capsules, 2], shift[~capsules] * (scale - 1.0), atol=1e-9
    )


def test_published_little_finger_is_an_odrl_variant():
    pen = HAND_TASKS["pen"]
    ours, published = (compile_model(pen, (ShrinkFinger(0.125),), profile) for profile in ("default", "odrl"))
    assert ours.body("lfdistal").pos[2] == 0.003125
    assert published.body("lfdistal").pos[2] == 0.03125 > compile_model(pen, ()).body("lfdistal").pos[2]
    assert changed_fields(ours, published) - DERIVED_FROM_FINGERS == {"body_pos"}
    assert int((ours.body_pos != published.body_pos).sum()) == 1
    for scale in (0.5, 0.25):
        pair = [model_hash(compile_model(pen, (ShrinkFinger(scale),), profile)) for profile in ("default", "odrl")]
        assert pair[0] == pair[1]


@pytest.mark.parametrize("kind", (BrokenJoint, ShrinkFinger, Gravity, Friction))
def test_scales_multiply_what_stands(kind):
    door = HAND_TASKS["door"]
    assert model_hash(compile_model(door, (kind(0.5), kind(2.0)))) == model_hash(compile_model(door, ()))
    assert model_hash(compile_model(door, (kind(0.5), kind(0.5)))) == model_hash(compile_model(door, (kind(0.25),)))


def test_shifts_of_different_kinds_compose_in_any_order():
    relocate = HAND_TASKS["relocate"]
    shifts = (Gravity(0.5), BrokenJoint(0.25), Friction(2.0), ShrinkFinger(0.5))
    assert model_hash(compile_model(relocate, shifts)) == model_hash(compile_model(relocate, shifts[::-1]))


@pytest.mark.parametrize("task", ("pen", "hammer"))
def test_gravity_and_friction_change_themselves_alone(task):
    base = compile_model(HAND_TASKS[task], ())
    heavy = compile_model(HAND_TASKS[task], (Gravity(2.0),))
    assert changed_fields(base, heavy) == {"opt.gravity"}
    assert heavy.opt.gravity[2] == -19.62
    slippery = compile_model(HAND_TASKS[task], (Friction(0.1),))
    assert changed_fields(base, slippery) <= {"geom_friction", "pair_friction"}
    np.testing.assert_array_equal(slippery.geom_friction, base.geom_friction * 0.1)
    # Listed pairs have no friction to scale.
    assert set(base.pair_dim.tolist()) == {1}


@pytest.mark.parametrize("scale", (0.1, 2.0))
def test_contact_friction_in_simulation(scale):
    model = compile_model(HAND_TASKS["pen"], (Friction(scale),))
    data = mujoco.MjData(model)
    pen, found = model.geom("pen").id, []
    for _ in range(500):
        mujoco.mj_step(model, data)
        found += [contact.friction[0] for contact in data.contact if pen in contact.geom and contact.dim == 4]
    assert len(found) > 10
    np.testing.assert_allclose(found, 1.0 * scale, rtol=1e-12)


def test_no_two_named_dynamics_share_a_model():
    hashes = [
        model_hash(compile_model(task, shifts)) for task in HAND_TASKS.values() for shifts in HAND_DYNAMICS.values()
    ]
    assert len(set(hashes)) == len(hashes) == 28


def test_numpy_numbers_are_numbers():
    (shift,) = parse_shifts([{"kind": "shrink-finger", "scale": np.float32(0.5)}])
    assert shift == ShrinkFinger(0.5)
    assert type(shift.to_json()["scale"]) is float


def test_one_shift_and_an_empty_list_will_do():
    (shift,) = parse_shifts({"kind": "shrink-finger", "scale": 0.5})
    assert parse_shifts(shift) == (ShrinkFinger(0.5),)
    assert parse_shifts([]) == parse_shifts(None) == ()


@pytest.mark.parametrize(
    ("value", "words"),
    (
        ("broken-joint", "must be a list"),
        (0.5, "must be a list"),
        ([BrokenJoint(0.5), "shrink"], "shifts[1]"),
        ([{"scale": 0.5}], "shifts[0] has no 'kind'"),
        ([{"kind": "broken-joints", "scale": 0.5}], "did you mean 'broken-joint'"),
        ([{"kind": ["broken-joint"], "scale": 0.5}], "did you mean 'broken-joint'"),
        ([{"kind": "broken-joint"}], "'scale' is missing"),
        ([{"kind": "broken-joint", "scale": 0.5, "joints": {}}], "parameter of the broken-joint shift 'joints'"),
        ([{"kind": "shrink-finger", "level": "hard"}], "parameter of the shrink-finger shift 'level'"),
        ([{"kind": "shrink-finger", "scale": "0.5"}], "scale must be a finite number"),
        ([{"kind": "shrink-finger", "scale": None}], "got None"),
        ([{"kind": "shrink-finger", "scale": True}], "got True"),
        ([{"kind": "shrink-finger", "scale": 0}], "from 0.0001 to 10"),
        ([{"kind": "broken-joint", "scale": -0.5}], "got -0.5"),
        ([{"kind": "broken-joint", "scale": math.nan}], "got nan"),
        ([{"kind": "broken-joint", "scale": math.inf}], "got inf"),
        ([{"kind": "gravity", "scale": 10**400}], "1e-06 to 1e+06"),
    ),
)
def test_malformed_shifts_are_refused_in_one_line(value, words):
    with pytest.raises(OffDynError) as refused:
        parse_shifts(value)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("shift", [{"kind": "kinematic", "part": "foot", "scale": 0.5}, Kinematic("foot", 0.5)])
def test_shifts_of_walkers_do_not_fit_the_hand(shift):
    with pytest.raises(OffDynError, match=r"a kinematic shift needs a walker of the suite .*'adroit-pen' is not"):
        gymnasium.make("OffDyn/AdroitPen-v0", shifts=[shift])


BAD_SCALES = (
    st.sampled_from((math.nan, math.inf, -math.inf, None, True, False, [0.5], {"x": 1}, 10**400, 1j, b"0.5"))
    | st.text(max_size=8)
    | st.floats(max_value=0.0)
    | st.floats(min_value=10.0, exclude_min=True)
)
KIND = st.sampled_from(("broken-joint", "shrink-finger"))
BAD_KINDS = st.text(max_size=12).filter(lambda kind: kind not in KINDS) | st.none() | st.integers()
MALFORMED = st.one_of(
    st.fixed_dictionaries({"kind": KIND, "scale": BAD_SCALES}),
    st.fixed_dictionaries({"kind": BAD_KINDS, "scale": SCALES}),
    st.fixed_dictionaries({"kind": KIND}),
    st.fixed_dictionaries({"kind": KIND, "scale": SCALES, "part": st.text(max_size=5)}),
    st.text(max_size=5),
    st.integers(),
)


@settings(max_examples=200)
@given(good=st.lists(SHIFTS, max_size=2), bad=MALFORMED)
def test_generated_malformed_shifts_are_refused_in_one_line(good, bad):
    with pytest.raises(OffDynError) as refused:
        parse_shifts([*good, bad])
    assert len(str(refused.value).splitlines()) == 1
    assert "must be" in str(refused.value) or "unknown" in str(refused.value) or "missing" in str(refused.value)


def test_vanishing_lengths_are_refused_in_one_line():
    with pytest.raises(OffDynError, match="adroit-pen: these shifts together make no valid model") as refused:
        compile_model(HAND_TASKS["pen"], (ShrinkFinger(1e-4),) * 90)
    assert "\n" not in str(refused.value)
