"""Dynamics drawn for domain randomisation, and observations that show them."""

import math
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from offdyn_envs import Actuator, Field, Gravity, Kinematic, Mass, Morphology, OffDynError, Payload, sample_shifts
from offdyn_envs.robots import WALKERS
from offdyn_envs.vector import OffDynVectorEnv

RANGES = {
    "gravity": (0.5, 2.0),
    "mass:torso": (0.8, 1.2),
    "payload:foot": (0.0, 1.0),
    "damping.add:leg_joint": (0.0, 0.5),
    "frictionloss": (0.1, 0.2),
    "actuator": (0.5, 1.0),
    "field:geom_solref": (0.9, 1.1),
    "kinematic:foot": (0.5, 1.0),
    "morphology:torso": (0.0, 3.0),
}


def test_draws_are_shifts_within_their_ranges():
    draws = sample_shifts("hopper", RANGES, seed=3, count=20)
    assert len(draws) == 20 and draws == sample_shifts(WALKERS["hopper"], RANGES, seed=3, count=20)
    assert draws != sample_shifts("hopper", RANGES, seed=4, count=20)
    for draw in draws:
        kinds = [shift.kind for shift in draw]
        assert kinds == [key.partition(":")[0].partition(".")[0] for key in RANGES]
        values = [getattr(shift, {"damping": "add"}.get(shift.kind, shift.amount)) for shift in draw]
        assert all(low <= value <= high for value, (low, high) in zip(values, RANGES.values(), strict=True))
    assert isinstance(draws[0][2], Payload) and draws[0][2].body == "foot"
    env = OffDynVectorEnv("hopper", 20, row_shifts=draws)
    env.reset(seed=0)
    env.step(np.zeros((20, 3), np.float32))


def test_factors_are_drawn_log_uniformly_and_other_numbers_uniformly():
    draws = sample_shifts("hopper", {"gravity": (0.25, 4.0), "payload:torso": (0.0, 4.0)}, seed=0, count=4000)
    scales = np.log([gravity.scale for gravity, _ in draws])
    loads = np.array([load.kg for _, load in draws])
    for values, low, high in ((scales, -math.log(4), math.log(4)), (loads, 0.0, 4.0)):
        shares = np.histogram(values, 4, (low, high))[0] / len(values)
        np.testing.assert_allclose(shares, 0.25, atol=0.03)


def test_each_range_has_its_own_stream():
    one = sample_shifts("hopper", {"gravity": (0.5, 2.0)}, seed=1, count=5)
    two = sample_shifts("hopper", {"mass": (0.5, 2.0), "gravity": (0.5, 2.0)}, seed=1, count=9)
    assert [draw[1] for draw in two[:5]] == [draw[0] for draw in one]
    assert [draw[0].scale for draw in two] != [draw[1].scale for draw in two]
    assert sample_shifts("hopper", {}, seed=1, count=2) == [[], []]
    assert sample_shifts("ant", {"gravity": (0.5, 0.5)}, seed=1) == [[Gravity(0.5)]]


@pytest.mark.parametrize(
    ("ranges", "kwargs", "words"),
    (
        ({"gravty": (0.5, 2.0)}, {}, "did you mean 'gravity'"),
        ({"gravity:torso": (0.5, 2.0)}, {}, "acts everywhere"),
        ({"mass:trso": (0.5, 2.0)}, {}, "did you mean 'torso'"),
        ({"mass.scael": (0.5, 2.0)}, {}, "did you mean 'scale'"),
        ({"payload": (0.0, 1.0)}, {}, "payload shift: parameter 'body' is missing"),
        ({"delay": (0.5, 2.0)}, {}, "steps must be a whole number"),
        ({"delay": (0, 99)}, {}, "steps must be a whole number from 0 to 50"),
        ({"local": (0, 9)}, {}, "ranges: the local shift has no number that says how strong it is"),
        ({"field.scale:opt.viscosity": (0.5, 2.0)}, {}, "opt.viscosity of Hopper has 0, which no scale changes"),
        ({"field.scale:dof_frictionloss": (0.5, 2.0)}, {}, "dof_frictionloss has 0, which no scale changes"),
        ({"frictionloss.scale": (0.5, 2.0)}, {}, "every joint of Hopper has 0, which no scale changes"),
        ({"mass": (2.0, 0.5)}, {}, "must rise, got 2 and 0.5"),
        ({"mass": (0.0, 0.5)}, {}, "mass shift: scale must be a finite number"),
        ({"mass": 0.5}, {}, "must be a lowest and a highest value"),
        ({"mass": (0.5,)}, {}, "must be a lowest and a highest value"),
        ({"mass": ("a", "b")}, {}, "ranges: mass must be a finite number"),
        ({"mass": (0.5, math.nan)}, {}, "ranges: mass must be a finite number"),
        ({"frictionloss.scale": (0.5, 2.0)}, {"seed": -1}, "seed must be a whole number, 0 or above"),
        ({"mass": (0.5, 2.0)}, {"count": 0}, "count must be a whole number, 1 or above"),
        ({3: (0.5, 2.0)}, {}, "a key must be a text"),
        ([("mass", (0.5, 2.0))], {}, "ranges must be an object"),
        ({"mass": (0.5, 2.0)}, {"robot": "hoper"}, "did you mean 'hopper'"),
    ),
)
def test_malformed_ranges_are_refused_in_one_line(ranges, kwargs, words):
    with pytest.raises(OffDynError, match=words) as refused:
        sample_shifts(**({"robot": "hopper", "ranges": ranges, "seed": 0} | kwargs))
    assert "\n" not in str(refused.value)


SHIFTS = [{"kind": "mass", "scale": 0.5, "body": "torso"}, {"kind": "damping", "add": 0.25, "joint": "leg_joint"}]


def test_context_is_appended_to_the_observation():
    plain = gymnasium.make("OffDyn/Hopper-gravity-0.5-v0", shifts=SHIFTS)
    env = gymnasium.make("OffDyn/Hopper-gravity-0.5-v0", shifts=SHIFTS, observe_shifts=True)
    assert env.unwrapped.context_names == ("gravity", "mass:torso", "damping.add:leg_joint")
    assert env.observation_space.shape == (14,)
    (expected, _), (observation, _) = plain.reset(seed=0), env.reset(seed=0)
    action = np.full(3, 0.3, np.float32)
    for _ in range(20):
        assert observation in env.observation_space
        np.testing.assert_array_equal(observation, [*expected, 0.5, 0.5, 0.25])
        (expected, *rest), (observation, *others) = plain.step(action), env.step(action)
        assert rest == others
    for twin in (gymnasium.make(EnvSpec.from_json(env.spec.to_json())), pickle.loads(pickle.dumps(env.unwrapped))):
        assert twin.unwrapped.context_names == env.unwrapped.context_names and twin.observation_space.shape == (14,)


@pytest.mark.filterwarnings("ignore:.*Box observation space")
def test_gymnasiums_checker_passes():
    check_env(
        gymnasium.make("OffDyn/Ant-v0", shifts=Gravity(0.5), observe_shifts=True).unwrapped, skip_render_check=True
    )


@pytest.mark.parametrize("attack", (None, {"kind": "random", "scale": 0.1, "sigma": [1.0] * 11}))
def test_rows_see_their_own_context_as_the_scalar_environment_does(attack):
    draws = sample_shifts("hopper", {"gravity": (0.5, 2.0), "mass:torso": (0.5, 2.0)}, seed=0, count=3)
    common = {"observe_shifts": True, "attack": attack, "max_episode_steps": 30}
    batch = OffDynVectorEnv("hopper", 3, row_shifts=draws, autoreset_mode="same_step", **common)
    assert batch.single_observation_space.shape == (13,) and batch.observation_space.shape == (3, 13)
    scalars = [gymnasium.make("OffDyn/Hopper-v0", shifts=draw, **common) for draw in draws]
    observations = batch.reset(seed=5)[0]
    ours = [env.reset(seed=5 + row)[0] for row, env in enumerate(scalars)]
    rng = np.random.default_rng(0)
    for _ in range(70):
        np.testing.assert_array_equal(observations, np.stack(ours))
        np.testing.assert_array_equal(observations[:, 11:], [[draw[0].scale, draw[1].scale] for draw in draws])
        actions = rng.uniform(-1, 1, (3, 3)).astype(np.float32)
        observations, _, _, _, infos = batch.step(actions)
        for row, env in enumerate(scalars):
            ours[row], _, terminated, truncated, _ = env.step(actions[row])
            if terminated or truncated:
                np.testing.assert_array_equal(infos["final_obs"][row], ours[row])
                ours[row] = env.reset()[0]
    assert batch.set_state(batch.qpos, batch.qvel).shape == (3, 13)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    (
        ({"observe_shifts": 1}, "observe_shifts must be true or false, got 1"),
        ({"observe_shifts": True, "shifts": Kinematic(preset="severe")}, "has no single number"),
        ({"observe_shifts": True, "schedule": {"unit": "step", "points": [{"at": 3, "shifts": None}]}}, "schedule"),
    ),
)
def test_what_cannot_be_observed_is_refused_in_one_line(kwargs, words):
    for make in (
        lambda: gymnasium.make("OffDyn/Hopper-v0", **kwargs),
        lambda: OffDynVectorEnv("hopper", 2, **kwargs),
    ):
        with pytest.raises(OffDynError, match=words) as refused:
            make()
        assert "\n" not in str(refused.value)


def test_rows_of_other_shifts_cannot_be_observed():
    with pytest.raises(OffDynError, match="row 0 has gravity, row 1 has mass:torso"):
        OffDynVectorEnv("hopper", 2, row_shifts=[Gravity(0.5), Mass(0.5, "torso")], observe_shifts=True)


def test_every_number_of_a_shift_is_observed():
    rows = [[Actuator(0.5, limit=0.1)], [Actuator(0.5, limit=5.0)]]
    env = OffDynVectorEnv("hopper", 2, row_shifts=rows, observe_shifts=True)
    assert env.context_names == ("actuator", "actuator.limit")
    np.testing.assert_array_equal(env.reset(seed=0)[0][:, 11:], [[0.5, 0.1], [0.5, 5.0]])
    one = gymnasium.make("OffDyn/Hopper-v0", shifts=Actuator(limit=5.0, actuator="leg_joint"), observe_shifts=True)
    assert one.unwrapped.context_names == ("actuator.limit:leg_joint",)


@pytest.mark.parametrize(
    "rows",
    (
        (Payload(1.0, "torso"), Payload(1.0, "torso", (0.0, 0.0, 0.1))),
        (Field("dof_damping", 2.0, index=3), Field("dof_damping", 2.0, index=4)),
        (Morphology("torso", 1), Morphology("torso", 1, keep_mass=True)),
    ),
)
def test_rows_that_no_number_tells_apart_cannot_be_observed(rows):
    with pytest.raises(OffDynError, match=r"but for their strength; row 0 has .*, row 1 has") as refused:
        OffDynVectorEnv("hopper", 2, row_shifts=rows, observe_shifts=True)
    assert "\n" not in str(refused.value)
    assert OffDynVectorEnv("hopper", 2, row_shifts=[rows[1]] * 2, observe_shifts=True).context_names
