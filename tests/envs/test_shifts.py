"""Shifts as values, and what they do to the compiled model."""

import json
import math

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from hypothesis import given, settings
from hypothesis import strategies as st

from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, dynamics_fields, model_hash
from offdyn_envs.robots import WALKERS
from offdyn_envs.schedule import make_schedule
from offdyn_envs.shifts import Friction, Gravity, Morphology, parse_shifts, shifts_to_json
from offdyn_envs.tasks import DYNAMICS
from offdyn_envs.vector import OffDynVectorEnv

SCALES = st.floats(0.01, 100.0, allow_nan=False)
SHIFTS = st.builds(Gravity, SCALES) | st.builds(Friction, SCALES)
# Sliding friction between foot and floor (environments: Friction).
FOOT_FRICTION = {
    ("halfcheetah", "bfoot"): 0.4,
    ("ant", "left_ankle_geom"): 1.0,
    ("walker2d", "foot_geom"): 0.9,
    ("walker2d", "foot_left_geom"): 1.9,
    ("hopper", "foot_geom"): 2.0,
}


@given(st.lists(SHIFTS, min_size=1, max_size=4))
def test_json_round_trip(shifts):
    assert list(parse_shifts(json.loads(json.dumps(shifts_to_json(shifts))))) == shifts


@pytest.mark.parametrize("name", tuple(WALKERS))
@settings(max_examples=10, deadline=None)
@given(scale=SCALES)
def test_gravity_changes_gravity_alone(name, scale):
    robot = WALKERS[name]
    base, shifted = compile_model(robot, ()), compile_model(robot, (Gravity(scale),))
    np.testing.assert_array_equal(shifted.opt.gravity, base.opt.gravity * scale)
    assert base.opt.gravity[2] == -9.81
    assert changed_fields(base, shifted) <= {"opt.gravity"}


@pytest.mark.parametrize("name", tuple(WALKERS))
@settings(max_examples=10, deadline=None)
@given(scale=SCALES)
def test_friction_changes_the_friction_of_every_geom_alone(name, scale):
    robot = WALKERS[name]
    base, shifted = compile_model(robot, ()), compile_model(robot, (Friction(scale),))
    np.testing.assert_array_equal(shifted.geom_friction, base.geom_friction * scale)
    assert changed_fields(base, shifted) <= {"geom_friction"}


def changed_fields(base, shifted):
    left, right = dynamics_fields(base), dynamics_fields(shifted)
    assert left.keys() == right.keys()
    return {name for name in left if not np.array_equal(left[name], right[name])}


def contact_friction(model, geom):
    """Sliding friction of a simulated contact between a geom and the floor: drop the robot until it touches."""
    data = mujoco.MjData(model)
    floor, foot = model.geom("floor").id, model.geom(geom).id
    for _ in range(3000):
        mujoco.mj_step(model, data)
        for contact in data.contact:
            if set(contact.geom) == {floor, foot}:
                assert contact.dim == 3
                return contact.friction[0]
    raise AssertionError(f"{geom} never touched the floor")


@pytest.mark.parametrize("scale", (0.1, 0.5, 2.0, 5.0))
@pytest.mark.parametrize(("name", "geom"), tuple(FOOT_FRICTION))
def test_contact_friction_in_simulation(name, geom, scale):
    """The published Hopper leaves its floor at 1.0, which hides x0.1 and x0.5."""
    model = compile_model(WALKERS[name], (Friction(scale),))
    assert contact_friction(model, geom) == pytest.approx(FOOT_FRICTION[name, geom] * scale, rel=1e-12)


@pytest.mark.parametrize("scale", (0.1, 0.5, 2.0, 5.0))
@pytest.mark.parametrize(("name", "geom", "base"), (("hopper", "torso_geom", 1.0), ("walker2d", "torso_geom", 0.9)))
def test_contact_friction_of_other_parts(name, geom, base, scale):
    assert contact_friction(compile_model(WALKERS[name], (Friction(scale),)), geom) == pytest.approx(base * scale)


@pytest.mark.parametrize(("scale", "expected"), ((0.1, 1.0), (0.5, 1.0), (2.0, 1.8), (5.0, 4.5)))
def test_odrl_profile_on_other_parts_of_hopper(scale, expected):
    model = compile_model(WALKERS["hopper"], (Friction(scale),), profile="odrl")
    assert contact_friction(model, "torso_geom") == pytest.approx(expected)


@pytest.mark.parametrize(("scale", "expected"), ((0.1, 1.0), (0.5, 1.0), (2.0, 4.0), (5.0, 10.0)))
def test_odrl_profile_reproduces_the_published_hopper(scale, expected):
    model = compile_model(WALKERS["hopper"], (Friction(scale),), profile="odrl")
    assert contact_friction(model, "foot_geom") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("profile", "same"), (("odrl", True), ("default", False)))
def test_friction_01_and_05_are_one_task_in_the_published_hopper_and_not_here(profile, same):
    """Bit-identical over 10,000 transitions in the published models: 20 rows of 500 steps."""
    rows = 20
    batches = [
        OffDynVectorEnv(
            "hopper",
            rows,
            shifts=[{"kind": "friction", "scale": scale}],
            profile=profile,
            autoreset_mode="same_step",
        )
        for scale in (0.1, 0.5)
    ]
    for env in batches:
        env.reset(seed=0)
    rng = np.random.default_rng(0)
    equal = True
    for _ in range(500):
        actions = rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
        (left, *_), (right, *_) = (env.step(actions) for env in batches)
        equal &= bool(np.array_equal(left, right))
    assert equal is same


def test_numpy_numbers_are_numbers():
    (shift,) = parse_shifts([{"kind": "gravity", "scale": np.float32(0.5)}])
    assert shift == Gravity(0.5)
    assert type(shift.to_json()["scale"]) is float


@pytest.mark.parametrize("scale", (np.float32(0.5), np.array(0.5), torch.tensor(0.5)), ids=("scalar", "array", "torch"))
def test_numbers_of_other_libraries_are_numbers(scale):
    assert Gravity(scale) == Gravity(0.5)
    assert type(Gravity(scale).scale) is float


@pytest.mark.parametrize("scale", (torch.tensor(True), np.array(True), torch.tensor([0.5]), np.array("0.5")))
def test_what_only_looks_like_a_number_is_refused(scale):
    with pytest.raises(OffDynError, match="must be a finite number"):
        Gravity(scale)


@pytest.mark.parametrize("shifts", (None, [], ()))
def test_no_shift_is_nominal(shifts):
    assert parse_shifts(shifts) == ()
    env = gymnasium.make("OffDyn/Hopper-v0", shifts=shifts).unwrapped
    assert model_hash(env.model) == model_hash(compile_model(WALKERS["hopper"], ()))
    assert OffDynVectorEnv("hopper", 2, row_shifts=[shifts, Gravity(0.5)]).row_shifts == ((), (Gravity(0.5),))


@pytest.mark.parametrize(
    "shifts",
    (
        Gravity(0.5),
        [Gravity(0.5), Friction(np.float32(2.0))],
        {"kind": "gravity", "scale": torch.tensor(0.5)},
        ({"kind": "kinematic", "joints": (("foot_joint", np.float64(0.5)),)}, Morphology("torso", 1)),
        [],
    ),
)
def test_specifications_become_json(shifts):
    """Gymnasium's own would lose the kind of a shift given as a value, and fails on the numbers of other libraries."""
    env = gymnasium.make("OffDyn/Hopper-v0", shifts=shifts)
    twin = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert twin.unwrapped.shifts == env.unwrapped.shifts == parse_shifts(shifts)
    batch = gymnasium.make_vec("OffDyn/Hopper-v0", 2, row_shifts=[shifts, None])
    twin = gymnasium.make_vec(EnvSpec.from_json(batch.spec.to_json()))
    assert twin.unwrapped.row_shifts == batch.unwrapped.row_shifts


def test_specifications_with_schedules_become_json():
    schedule = make_schedule({"unit": "episode", "points": [{"at": 1, "shifts": Gravity(0.5)}]}, WALKERS["hopper"])
    env = gymnasium.make("OffDyn/Hopper-v0", schedule=schedule)
    assert gymnasium.make(EnvSpec.from_json(env.spec.to_json())).unwrapped.schedule == schedule


def test_scales_multiply_what_stands():
    robot = WALKERS["hopper"]
    assert model_hash(compile_model(robot, (Gravity(0.5), Gravity(2.0)))) == model_hash(compile_model(robot, ()))


def test_no_two_named_dynamics_share_a_model():
    hashes = [
        model_hash(compile_model(robot, shifts))
        for robot in WALKERS.values()
        for shifts in DYNAMICS[robot.name].values()
    ]
    assert len(set(hashes)) == len(hashes) == 92


@pytest.mark.parametrize(
    ("value", "words"),
    (
        ("gravity", "must be a list"),
        (["gravity"], "shifts[0]"),
        ([{"scale": 0.5}], "shifts[0] has no 'kind'"),
        ([{"kind": "gravty", "scale": 0.5}], "did you mean 'gravity'"),
        ([{"kind": "gravity"}], "'scale' is missing"),
        ([{"kind": "gravity", "scale": 0.5, "axis": 1}], "'axis'"),
        ([{"kind": "gravity", "scale": "0.5"}], "scale must be a finite number"),
        ([{"kind": "gravity", "scale": True}], "scale must be a finite number"),
        ([{"kind": "friction", "scale": -1.0}], "got -1.0"),
        ([{"kind": "friction", "scale": 0}], "1e-06 to 1e+06"),
        ([{"kind": "friction", "scale": math.nan}], "got nan"),
        ([{"kind": "friction", "scale": math.inf}], "got inf"),
        ([{"kind": "gravity", "scale": 1e300}], "1e-06 to 1e+06"),
        ([{"kind": "gravity", "scale": 10**400}], "1e-06 to 1e+06"),
    ),
)
def test_malformed_shifts_are_refused_in_one_line(value, words):
    with pytest.raises(OffDynError) as refused:
        gymnasium.make("OffDyn/Hopper-v0", shifts=value)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    (
        ({"dynamics": "gravity-0.6"}, "did you mean 'gravity-0."),
        ({"profile": "d4rl"}, "unknown profile"),
        ({"ctrl_cost_weight": 1.0}, "unknown environment parameter"),
        ({"attack": {"kind": "max-q"}}, "unknown attack kind"),
    ),
)
def test_malformed_environment_arguments(kwargs, words):
    with pytest.raises(OffDynError, match=words):
        gymnasium.make("OffDyn/Hopper-v0", **kwargs)


@pytest.mark.parametrize("seed", (-1, 1.5, "7", True, -(10**5000)), ids=("-1", "1.5", "text", "true", "endless"))
def test_malformed_seeds_change_nothing(seed):
    env = gymnasium.make("OffDyn/Hopper-v0").unwrapped
    env.reset(seed=0)
    before = env.np_random.bit_generator.state
    with pytest.raises(OffDynError, match="seed must be a whole number, 0 or above"):
        env.reset(seed=seed)
    assert env.np_random.bit_generator.state == before
