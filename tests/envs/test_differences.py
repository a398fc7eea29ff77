"""What a shift changes, said in words and numbers."""

import copy

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offdyn_envs.differences import FOLLOWING, changed_fields, differences
from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, start_qpos
from offdyn_envs.robots import WALKERS
from offdyn_envs.shifts import Friction, Gravity, Kinematic, Morphology
from offdyn_envs.tasks import DYNAMICS, get_dynamics


def lines(name, shifts, profile="default", **kwargs):
    robot = WALKERS[name]
    height = start_qpos(robot, shifts, profile) - start_qpos(robot, ())
    base, shifted = compile_model(robot, ()), compile_model(robot, shifts, profile)
    return differences(base, shifted, height[robot.height_index], **kwargs)


@pytest.mark.parametrize(
    ("name", "slug", "expected"),
    (
        ("hopper", "nominal", []),
        ("hopper", "gravity-0.5", ["gravity z -9.81 -> -4.905 m/s^2"]),
        ("ant", "friction-0.1", ["every friction x0.1"]),
        ("hopper", "kinematic-foot-hard", ["joint foot_joint: range -45..45 -> -9..9 degrees"]),
        ("ant", "kinematic-hip-easy", ["joint hip_1, hip_2, hip_3, hip_4: range -30..30 -> -24..24 degrees"]),
        (
            "ant",
            "kinematic-ankle-hard",
            [
                "joint ankle_1, ankle_4: range 30..70 -> 30..38 degrees",
                "joint ankle_2, ankle_3: range -70..-30 -> -38..-30 degrees",
            ],
        ),
        (
            "hopper",
            "morphology-torso-hard",
            [
                "geom torso_geom: radius 0.05 -> 0.125 m, half-length 0.2 -> 0.4 m, "
                "position (0, 0, 0) -> (0, 0, 0.2) m",
                "body torso: mass 3.665 -> 47.45 kg",
                "total mass 15.82 -> 59.61 kg",
            ],
        ),
        (
            "walker2d",
            "morphology-leg-medium",
            [
                "joint leg_joint, leg_left_joint: anchor (0, 0, 0.25) -> (0, 0, 0) m",
                "geom thigh_geom, thigh_left_geom: half-length 0.225 -> 0.35 m, "
                "position (0, 0, -0.225) -> (0, 0, -0.35) m",
                "geom leg_geom, leg_left_geom: half-length 0.25 -> 0.125 m, position (0, 0, 0) -> (0, 0, -0.125) m",
                "body thigh, thigh_left: mass 4.058 -> 6.021 kg",
                "body leg, leg_left: mass 2.781 -> 1.525 kg",
                "total mass 23.68 -> 25.09 kg",
            ],
        ),
    ),
)
def test_named_dynamics_in_words(name, slug, expected):
    assert lines(name, get_dynamics(name, slug)) == expected


def test_reset_height_and_turned_capsules():
    found = lines("halfcheetah", get_dynamics("halfcheetah", "morphology-thigh-hard"))
    assert found[-1] == "reset height -0.22 m"
    assert "body bshin: position (0.16, 0, -0.25) -> (0.02, 0, -0.02) m" in found
    # The capsule's ends have been exchanged as well, which is nothing that one could see.
    assert any(line.startswith("geom bthigh:") and line.endswith("turned by 7.276 degrees") for line in found)


def test_an_unnamed_body_is_called_after_its_geom():
    found = lines("ant", (Morphology("halflegs", 1.0),))
    assert "body of left_ankle_geom, of right_ankle_geom: mass 0.06759 -> 0.05622 kg" in found
    assert lines("ant", (Morphology("halflegs", 1.0),), masses=False) == [x for x in found if "mass" not in x]


def test_published_variants_in_words():
    assert "timestep 0.01 -> 0.002 s" in lines("halfcheetah", (Kinematic(preset="severe"),), "droco")
    published = lines("hopper", (Friction(0.1),), "odrl")
    assert len(published) == 2 and all("friction" in line and "floor" not in line for line in published)
    assert any(line.startswith("geom foot_geom: sliding friction 2 -> 0.2") for line in published)


@pytest.mark.parametrize("name", tuple(WALKERS))
def test_every_named_dynamics_is_put_into_words(name):
    robot = WALKERS[name]
    for slug, shifts in DYNAMICS[name].items():
        found = lines(name, shifts)
        assert bool(found) == (slug != "nominal"), slug
        assert not any(line.startswith("field ") for line in found), slug
        assert bool(changed_fields(compile_model(robot, ()), compile_model(robot, shifts)) - FOLLOWING) == bool(found)


@pytest.mark.parametrize("name", tuple(WALKERS))
@settings(max_examples=15)
@given(gravity=st.floats(0.01, 100.0), friction=st.floats(0.01, 100.0))
def test_compositions_name_both_factors(name, gravity, friction):
    found = lines(name, (Gravity(gravity), Friction(friction)))
    expected = [f"gravity z -9.81 -> {-9.81 * gravity:.4g} m/s^2"] if abs(gravity - 1) > 1e-6 else []
    expected += [f"every friction x{friction:.4g}"] if abs(friction - 1) > 1e-6 else []
    assert found == expected


def test_a_field_without_words_is_named():
    base = compile_model(WALKERS["hopper"], ())
    shifted = copy.copy(base)
    shifted.dof_damping[:] *= 2.0
    assert changed_fields(base, shifted) == {"dof_damping"}
    assert differences(base, shifted) == ["field dof_damping differs"]


def test_what_nobody_sees_is_no_difference():
    base = compile_model(WALKERS["hopper"], ())
    shifted = copy.copy(base)
    shifted.geom_rgba[:] = 0.0
    shifted.vis.global_.offwidth = 9999
    assert changed_fields(base, shifted) == set() and differences(base, shifted) == []


def test_rounding_is_no_difference_in_words_but_is_a_changed_field():
    base = compile_model(WALKERS["hopper"], ())
    shifted = copy.copy(base)
    shifted.geom_pos[:] = np.nextafter(base.geom_pos, 1.0)
    assert changed_fields(base, shifted) == {"geom_pos"} and differences(base, shifted) == []


def test_spheres_and_boxes():
    def compiled(size, place):
        return mujoco.MjModel.from_xml_string(
            f'<mujoco><worldbody><body name="b"><freejoint/><geom name="ball" size="{size}"/>'
            f'<geom name="box" type="box" size="1 1 {size}" pos="0 0 {place}" mass="1"/></body></worldbody></mujoco>'
        )

    assert differences(compiled(0.5, 2), compiled(0.25, 3), masses=False) == [
        "geom ball: radius 0.5 -> 0.25 m",
        "geom box: half-sizes (1, 1, 0.5) -> (1, 1, 0.25) m, position (0, 0, 2) -> (0, 0, 3) m",
    ]


def test_other_structures_are_refused():
    with pytest.raises(OffDynError, match="nq is 6 and 9"):
        differences(compile_model(WALKERS["hopper"], ()), compile_model(WALKERS["walker2d"], ()))
