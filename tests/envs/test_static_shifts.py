"""Masses, loads, joints, motors and single fields: what each shift does to the compiled model, and to a rollout."""

import json
import math

import gymnasium
import mujoco
import numpy as np
import pytest

from offdyn_envs import (
    Actuator,
    Armature,
    Damping,
    Field,
    Frictionloss,
    Gravity,
    Mass,
    Morphology,
    OffDynError,
    Payload,
)
from offdyn_envs.differences import changed_fields
from offdyn_envs.models import compile_model, model_hash
from offdyn_envs.robots import WALKERS
from offdyn_envs.shifts import parse_shifts, shifts_to_json
from offdyn_envs.vector import OffDynVectorEnv
from offdyn_envs.verification.declared import undeclared_changes
from offdyn_envs.verification.robot_checks import robot_checks
from offdyn_envs.verification.subjects import robot_subject

JOINTS = {"halfcheetah": "bshin", "hopper": "leg_joint", "walker2d": "leg_joint", "ant": "ankle_1"}


def examples(name):
    """One shift of every parameter of every kind."""
    joint = JOINTS[name]
    return (
        Mass(2.0),
        Mass(0.5, "torso"),
        Payload(1.5, "torso"),
        Payload(1.5, "torso", (0.1, 0.0, 0.2)),
        Damping(2.0),
        Damping(add=0.3),
        Damping(add=0.3, joint=joint),
        Armature(2.0, joint=joint),
        Armature(add=0.1),
        Frictionloss(add=0.5, joint=joint),
        Actuator(0.5),
        Actuator(0.5, actuator=joint),
        Actuator(limit=0.3),
        Field("geom_solref", 2.0),
        Field("opt.viscosity", add=0.5),
        Field("geom_friction", 3.0, index=(0, 0)),  # The floor's: the larger one of two geoms counts.
        Field("body_mass", 2.0, index=1),
    )


CASES = [(name, shift) for name in WALKERS for shift in examples(name)]
NEUTRAL = (
    *(Mass(1.0), Mass(1.0, "torso"), Payload(0.0, "torso"), Payload(0.0, "torso", (0.1, 0.0, 0.0))),
    *(Damping(1.0), Damping(add=0.0), Armature(add=0.0), Frictionloss(add=0.0), Actuator(1.0)),
    *(Field("geom_solref", 1.0), Field("opt.viscosity", add=0.0), Field("body_mass", 1.0)),
)


def model(name, *shifts):
    return compile_model(WALKERS[name], shifts)


@pytest.mark.parametrize("name", tuple(WALKERS))
def test_json_round_trip(name):
    shifts = examples(name)
    assert parse_shifts(json.loads(json.dumps(shifts_to_json(shifts)))) == shifts
    assert len(set(shifts)) == len(shifts)


@pytest.mark.parametrize(("name", "shift"), CASES)
def test_only_what_is_declared_changes_and_something_does(name, shift):
    nominal, shifted = model(name), model(name, shift)
    changed = changed_fields(nominal, shifted)
    assert changed and not undeclared_changes(nominal, shifted, WALKERS[name], (shift,))
    assert changed <= set(shift.declares(WALKERS[name]))
    assert shift.describe(WALKERS[name])


@pytest.mark.parametrize("name", tuple(WALKERS))
def test_every_parameter_matters(name):
    """The next states under equal actions differ from the nominal robot's, and from those under the other shifts."""
    shifts = (None, *examples(name))
    env = OffDynVectorEnv(name, len(shifts), row_shifts=shifts, autoreset_mode="disabled")
    observations, _ = env.reset(seed=[0] * len(shifts))
    assert len(np.unique(observations, axis=0)) == 1
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = rng.uniform(-1, 1, WALKERS[name].action_dim).astype(np.float32)
        observations, *_ = env.step(np.tile(action, (len(shifts), 1)))
    assert len(np.unique(observations, axis=0)) == len(shifts)


@pytest.mark.parametrize("shift", NEUTRAL)
@pytest.mark.parametrize("name", tuple(WALKERS))
def test_the_neutral_value_is_the_nominal_robot_bit_for_bit(name, shift):
    nominal, same = model(name), model(name, shift)
    assert model_hash(nominal) == model_hash(same)
    assert nominal.stat.meaninertia == same.stat.meaninertia


@pytest.mark.parametrize("name", tuple(WALKERS))
@pytest.mark.parametrize(
    ("half", "quarter"),
    (
        (Mass(0.5), Mass(0.25)),
        (Damping(0.5), Damping(0.25)),
        (Actuator(0.5), Actuator(0.25)),
        (Field("geom_solref", 0.5), Field("geom_solref", 0.25)),
        (Armature(add=0.5), Armature(add=1.0)),
        (Frictionloss(add=0.5), Frictionloss(add=1.0)),
    ),
)
def test_twice_one_half_is_a_quarter(name, half, quarter):
    assert model_hash(model(name, half, half)) == model_hash(model(name, quarter))


@pytest.mark.parametrize("name", tuple(WALKERS))
def test_masses(name):
    nominal = model(name)
    body = nominal.body("torso").id
    for shift, kg in ((Mass(0.5, "torso"), 0.5 * nominal.body_mass[body]), (Mass(3.0), 3.0 * nominal.body_mass[body])):
        shifted = model(name, shift)
        assert shifted.body_mass[body] == pytest.approx(kg, rel=1e-12)
        others = np.delete(shifted.body_mass, body) / np.where(shift.body is None, 3.0, 1.0)
        np.testing.assert_allclose(others, np.delete(nominal.body_mass, body), rtol=1e-12)
        np.testing.assert_allclose(
            shifted.body_inertia[body] * nominal.body_mass[body], nominal.body_inertia[body] * kg, rtol=1e-12
        )
    twice = model(name, Mass(0.5, "torso"), Mass(0.5, "torso"))
    np.testing.assert_allclose(twice.body_mass, model(name, Mass(0.25, "torso")).body_mass, rtol=1e-12)


def total_inertia(compiled, body):
    """Inertia of a body about the origin of its frame."""
    axes = np.zeros(9)
    mujoco.mju_quat2Mat(axes, compiled.body_iquat[body])
    axes, centre, kg = axes.reshape(3, 3), compiled.body_ipos[body], compiled.body_mass[body]
    steiner = kg * (centre @ centre * np.eye(3) - np.outer(centre, centre))
    return axes @ np.diag(compiled.body_inertia[body]) @ axes.T + steiner


@pytest.mark.parametrize("name", tuple(WALKERS))
def test_a_payload_is_a_point_mass(name):
    """Mass, first and second moment about the body's frame grow by those of the point; all other bodies stay."""
    nominal, where = model(name), np.array((0.1, 0.02, -0.2))
    loaded = model(name, Payload(1.5, "torso", tuple(where)))
    body = nominal.body("torso").id
    assert loaded.body_mass[body] - nominal.body_mass[body] == pytest.approx(1.5, rel=1e-12)
    moments = [each.body_mass[body] * each.body_ipos[body] for each in (nominal, loaded)]
    np.testing.assert_allclose(moments[1] - moments[0], 1.5 * where, atol=1e-12)
    point = 1.5 * (where @ where * np.eye(3) - np.outer(where, where))
    np.testing.assert_allclose(total_inertia(loaded, body) - total_inertia(nominal, body), point, atol=1e-8)
    np.testing.assert_allclose(
        np.delete(loaded.body_mass, body), np.delete(nominal.body_mass, body), rtol=1e-12, atol=0
    )
    np.testing.assert_allclose(
        np.delete(loaded.body_inertia, body, 0), np.delete(nominal.body_inertia, body, 0), rtol=1e-9, atol=0
    )


def test_payloads_add_up_and_stay_kilograms():
    hopper = WALKERS["hopper"].name
    both = model(hopper, Payload(1.0, "torso", (0.0, 0.0, 0.1)), Payload(2.0, "torso", (0.0, 0.0, 0.1)))
    once = model(hopper, Payload(3.0, "torso", (0.0, 0.0, 0.1)))
    np.testing.assert_allclose(both.body_mass, once.body_mass, rtol=1e-12)
    np.testing.assert_allclose(both.body_inertia, once.body_inertia, rtol=1e-9)
    light = model(hopper, Mass(0.5))
    for order in ((Payload(2.0, "torso"), Mass(0.5)), (Mass(0.5), Payload(2.0, "torso"))):
        assert model(hopper, *order).body_mass[1] == pytest.approx(light.body_mass[1] + 2.0, rel=1e-12)


@pytest.mark.parametrize("name", tuple(WALKERS))
def test_payload_of_a_reshaped_body(name):
    """The load goes on the body as the morphology leaves it, in any order."""
    part = "alllegs" if name == "ant" else "torso"
    reshape, load = Morphology(part, 1), Payload(1.0, "torso")
    reshaped = model(name, reshape)
    loaded = model(name, reshape, load), model(name, load, reshape)
    assert model_hash(loaded[0]) == model_hash(loaded[1])
    for each in loaded:
        np.testing.assert_allclose(each.body_mass - reshaped.body_mass, [0, 1.0] + [0] * (each.nbody - 2), atol=1e-12)
        np.testing.assert_allclose(each.body_inertia, reshaped.body_inertia, rtol=1e-9)


def test_joints():
    nominal = model("walker2d")
    dof = int(nominal.joint("leg_joint").dofadr[0])
    assert model("walker2d", Damping(3.0)).dof_damping[dof] == nominal.dof_damping[dof] * 3.0
    added = model("walker2d", Damping(add=0.5))
    np.testing.assert_array_equal(added.dof_damping[:3], 0.0)  # No motor drives the root: it is air, not a joint.
    np.testing.assert_allclose(added.dof_damping[3:], nominal.dof_damping[3:] + 0.5)
    assert model("walker2d", Armature(add=0.5, joint="leg_joint")).dof_armature[dof] == pytest.approx(0.51)
    loss = model("walker2d", Frictionloss(add=0.5), Frictionloss(2.0, joint="leg_joint")).dof_frictionloss
    assert loss[dof] == 1.0 and loss[dof + 1] == 0.5 and loss[0] == 0.0


@pytest.mark.parametrize(("shift", "factor"), ((Actuator(0.5), 0.5), (Actuator(limit=0.25), 0.25), (None, 1.0)))
def test_motor_strength_reaches_the_joints(shift, factor):
    robot = WALKERS["ant"]
    compiled = compile_model(robot, () if shift is None else (shift,))
    data = mujoco.MjData(compiled)
    data.ctrl[:] = 1.0
    mujoco.mj_forward(compiled, data)
    np.testing.assert_allclose(data.qfrc_actuator[6:], factor * compiled.actuator_gear[0, 0])


def test_force_limits_join():
    limits = model("hopper", Actuator(limit=0.5), Actuator(limit=0.8), Actuator(0.5)).actuator_forcerange
    np.testing.assert_array_equal(limits, [[-0.25, 0.25]] * 3)


def test_fields():
    nominal, changed = model("hopper"), model("hopper", Field("geom_friction", 0.5, index=1))
    np.testing.assert_array_equal(changed.geom_friction[1], nominal.geom_friction[1] * 0.5)
    np.testing.assert_array_equal(np.delete(changed.geom_friction, 1, 0), np.delete(nominal.geom_friction, 1, 0))
    both = model("hopper", Field("opt.viscosity", add=2.0), Field("opt.viscosity", 0.25))
    assert both.opt.viscosity == 0.5
    heavy = model("hopper", Field("body_mass", 2.0))
    assert heavy.body_subtreemass[0] == pytest.approx(2.0 * nominal.body_subtreemass[0])  # MuJoCo has worked it out.


@pytest.mark.parametrize(
    ("shifts", "words"),
    (
        ({"kind": "mass", "scale": 2.0, "body": "torsoo"}, "unknown body of Hopper .* did you mean 'torso'"),
        ({"kind": "mass", "scale": 2.0, "body": "world"}, "unknown body of Hopper"),
        ({"kind": "mass", "scale": 0.0}, "mass shift: scale must be a finite number from 1e-06 to 1e\\+06, got 0.0"),
        ({"kind": "mass", "scale": 2.0, "body": 3}, "mass shift: body must be a name"),
        ([{"kind": "mass", "scale": 1e-4}] * 2, "mass shifts: the product of all scales of all bodies"),
        ({"kind": "mass"}, "'scale' is missing"),
        ({"kind": "payload", "kg": 1.0}, "'body' is missing"),
        ({"kind": "payload", "kg": 1.0, "body": None}, "body must be the name"),
        ({"kind": "payload", "kg": -1.0, "body": "torso"}, "kg must be a finite number from 0 to 10000"),
        ({"kind": "payload", "kg": 1.0, "body": "trso"}, "did you mean 'torso'"),
        ({"kind": "payload", "kg": 1.0, "body": "torso", "position": [1, 2]}, "three numbers"),
        ({"kind": "payload", "kg": 1.0, "body": "torso", "position": "abc"}, "three numbers"),
        ({"kind": "payload", "kg": 1.0, "body": "torso", "position": [1, 2, 1e9]}, "from -100 to 100"),
        ({"kind": "damping"}, "damping shift: give either scale or add, got scale None and add None"),
        ({"kind": "damping", "scale": 1.0, "add": 1.0}, "give either scale or add"),
        ({"kind": "damping", "add": -1.0}, "add must be a finite number from 0"),
        ({"kind": "damping", "add": math.nan}, "add must be a finite number from 0"),
        ({"kind": "damping", "scale": 2.0, "joint": "leg"}, "unknown joint of Hopper .* did you mean 'leg_joint'"),
        ({"kind": "frictionloss", "scale": 2.0}, "every joint of Hopper has 0, which no scale changes; give add"),
        ({"kind": "armature", "scale": 2.0, "joint": "rootx"}, "joint rootx of Hopper has 0"),
        ({"kind": "actuator"}, "give scale, limit or both"),
        ({"kind": "actuator", "limit": 0.0}, "limit must be a finite number"),
        ({"kind": "actuator", "scale": 0.5, "actuator": "thigh"}, "did you mean 'thigh_joint'"),
        ({"kind": "field", "field": "geom_frictoin", "scale": 2.0}, "unknown field .* did you mean 'geom_friction'"),
        ({"kind": "field", "field": "nbody", "scale": 2.0}, "nbody is part of the structure of the model"),
        ({"kind": "field", "field": "jnt_type", "add": 1.0}, "jnt_type is part of the structure"),
        ({"kind": "field", "field": "geom_size", "scale": 2.0}, "geom_size hangs together with other fields"),
        ({"kind": "field", "field": "eq_data", "scale": 2.0}, "eq_data has no entries"),
        (
            {"kind": "field", "field": "opt.viscosity", "scale": 2.0},
            "field shift: opt.viscosity of Hopper has 0, which no scale changes; give add",
        ),
        (
            {"kind": "field", "field": "dof_damping", "scale": 2.0, "index": 0},
            r"field shift: dof_damping\[0\] has 0, which no scale",
        ),
        (
            {"kind": "field", "field": "dof_damping", "scale": 2.0, "index": np.array([[3]])},
            "index must be whole numbers",
        ),
        ({"scale": 2.0}, r"shifts\[0\] has no 'kind'; allowed: .*gravity"),
        ([{"kind": "gravity", "scale": 2.0}, {}], r"shifts\[1\] has no 'kind'"),
        (
            {"kind": "field", "field": "body_mass", "scale": 2.0, "index": 9},
            r"body_mass has shape \[5\], no entry \[9\]",
        ),
        ({"kind": "field", "field": "body_mass", "scale": 2.0, "index": -1}, "index must be whole numbers"),
        ({"kind": "field", "field": "body_mass", "scale": 2.0, "index": "0"}, "index must be whole numbers"),
        ({"kind": "field", "field": "body_mass"}, "give either scale or add"),
        ({"kind": "field", "field": 3, "scale": 2.0}, "must be the name of a field"),
        ({"kind": "field", "scale": 2.0}, "'field' is missing$"),
        ({"kind": "masss", "scale": 2.0}, "did you mean 'mass'"),
        ({"kind": "mass", "scale": 2.0, "bdy": "torso"}, "did you mean 'body'"),
    ),
)
def test_malformed_shifts_are_refused_in_one_line(shifts, words):
    for make in (
        lambda: gymnasium.make("OffDyn/Hopper-v0", shifts=shifts),
        lambda: OffDynVectorEnv("hopper", 2, row_shifts=[None, shifts]),
    ):
        with pytest.raises(OffDynError, match=words) as refused:
            make()
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize("name", tuple(WALKERS))
@pytest.mark.parametrize("check", ("fields", "batched", "twins"))
def test_verification_takes_any_list_of_shifts(name, check):
    """Declared fields; scalar and batched bit for bit for 1 thread and for 3; copies through JSON and pickle."""
    joint = JOINTS[name]
    shifts = (
        *(Mass(0.8), Payload(0.5, "torso", (0.0, 0.0, 0.1)), Damping(add=0.1), Armature(add=0.01, joint=joint)),
        *(Frictionloss(add=0.1), Actuator(0.9, limit=0.8), Field("opt.viscosity", add=1e-3), Gravity(0.9)),
    )
    robot_checks(robot_subject(WALKERS[name], shifts))[check]()


def test_a_schedule_of_masses_is_the_same_in_both_environments():
    points = [
        {"at": at, "shifts": [Mass(scale, "torso"), Payload(kg, "foot")]}
        for at, scale, kg in ((10, 3, 1), (30, 0.5, 0))
    ]
    schedule = {"unit": "step", "points": points}
    scalar = gymnasium.make("OffDyn/Hopper-v0", schedule=schedule)
    batch = OffDynVectorEnv("hopper", 2, schedule=schedule, autoreset_mode="disabled")
    observation, observations = scalar.reset(seed=3)[0], batch.reset(seed=3)[0]
    rng = np.random.default_rng(0)
    for _ in range(60):
        np.testing.assert_array_equal(observation, observations[0])
        actions = rng.uniform(-1, 1, (2, 3)).astype(np.float32)
        observation, observations = scalar.step(actions[0])[0], batch.step(actions)[0]
