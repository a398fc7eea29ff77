from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from offdyn_envs.datasets import Dataset, counterfactual, load_dataset
from offdyn_envs.datasets.checking.admissible import TOLERANCES, Admission, overshoot, penetration
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.gap.counterfactuals import REASONS, Counterfactual
from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model
from offdyn_envs.robots import WALKERS, get_robot
from offdyn_envs.shifts import Gravity, parse_shifts
from offdyn_envs.tasks import DatasetId, env_id, get_dynamics
from offdyn_envs.vector import OffDynVectorEnv
from tests.datasets.conftest import NOMINAL, SMALL

OWN = (
    ("hopper", "gravity-0.5"),
    ("halfcheetah", "nominal"),
    ("halfcheetah", "kinematic-severe"),
    ("walker2d", "morphology-leg-hard"),
    ("ant", "kinematic-hip-hard"),
)


@pytest.fixture(scope="module")
def sets(built_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Small sets by "robot/dynamics", random actions; do not change them."""
    root = tmp_path_factory.mktemp("own")
    found = {"hopper/nominal": load_dataset(NOMINAL, root=built_root)}
    for robot, dynamics in OWN:
        name = DatasetId(robot, dynamics, "random", "500")
        build(name, root=root, num_threads=1, quiet=True)
        found[f"{robot}/{dynamics}"] = load_dataset(name, root=root)
    return found


def under(source: Dataset, env: Any, rows: Any = None, **kwargs: Any) -> Counterfactual:
    return counterfactual(source, env, rows, quiet=True, **{"num_threads": 1, **kwargs})


def with_state(source: Dataset, row: int, qpos: Any = None, qvel: Any = None) -> Dataset:
    """A copy whose row starts from another simulator state."""
    changes: dict[str, np.ndarray] = {}
    for key, value in (("qpos", qpos), ("qvel", qvel)):
        if value is not None:
            changes[key] = np.array(getattr(source.arrays, key))
            changes[key][source.arrays.state_rows[row]] = value
    return replace(source, arrays=replace(source.arrays, **changes))


def assert_stored(answer: Counterfactual, source: Dataset) -> None:
    rows = answer.rows
    assert answer.valid.all()
    assert np.array_equal(answer.next_observations, source.next_observations[rows])
    assert np.array_equal(answer.rewards, source.rewards[rows])
    assert np.array_equal(answer.terminations, source.terminations[rows])
    assert np.array_equal(answer.next_qpos, source.next_qpos[rows])
    assert np.array_equal(answer.next_qvel, source.next_qvel[rows])


@pytest.mark.parametrize(("robot", "dynamics"), OWN)
def test_own_dynamics_reproduce_every_stored_bit(sets: dict[str, Dataset], robot: str, dynamics: str) -> None:
    source = sets[f"{robot}/{dynamics}"]
    assert_stored(under(source, dynamics), source)
    assert_stored(under(source, env_id(get_robot(robot), dynamics), num_threads=3), source)


def test_ways_to_name_the_dynamics_agree(sets: dict[str, Dataset]) -> None:
    source = sets["hopper/nominal"]
    expected = under(source, "gravity-0.5")
    scalar = gymnasium.make("OffDyn/Hopper-gravity-0.5-v0")
    batched = OffDynVectorEnv("hopper", 2, dynamics="gravity-0.5")
    vectors = gymnasium.make_vec("OffDyn/Hopper-v0", num_envs=2, shifts=[{"kind": "gravity", "scale": 0.5}])
    attacked = gymnasium.make(
        "OffDyn/Hopper-gravity-0.5-v0", attack={"kind": "random", "scale": 0.2, "sigma": [1] * 11}
    )
    try:
        for env in (scalar, batched, vectors, attacked, [Gravity(0.5)], [{"kind": "gravity", "scale": 0.5}]):
            found = under(source, env)
            assert np.array_equal(found.next_qvel, expected.next_qvel)
            assert np.array_equal(found.next_observations, expected.next_observations)
    finally:
        for env in (scalar, batched, vectors, attacked):
            env.close()


@pytest.mark.parametrize(
    ("source", "other"),
    [
        ("hopper/nominal", "friction-5.0"),
        ("hopper/nominal", "morphology-severe"),
        ("halfcheetah/nominal", "kinematic-thigh-easy"),
        ("walker2d/morphology-leg-hard", "nominal"),
        ("ant/kinematic-hip-hard", "gravity-5.0"),
    ],
)
def test_scalar_environment_gives_the_same_bits(sets: dict[str, Dataset], source: str, other: str) -> None:
    data = sets[source]
    rows = np.arange(0, 500, 7)
    answer = under(data, other, rows)
    env: Any = gymnasium.make(env_id(get_robot(data.id.robot), other), disable_env_checker=True).unwrapped
    env.reset(seed=0)
    compared = 0
    for at in np.flatnonzero(answer.valid):
        row = rows[at]
        env.set_state(data.qpos[row], data.qvel[row])
        observation, reward, terminated, _, _ = env.step(data.actions[row])
        assert np.array_equal(env.data.qpos, answer.next_qpos[at])
        assert np.array_equal(env.data.qvel, answer.next_qvel[at])
        assert np.array_equal(observation.astype(np.float32), answer.next_observations[at])
        assert (np.float32(reward), terminated) == (answer.rewards[at], answer.terminations[at])
        compared += 1
    env.close()
    assert compared > 30


@pytest.mark.parametrize("robot", WALKERS)
@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_gravity_changes_free_fall_by_what_newton_says(sets: dict[str, Dataset], robot: str, scale: float) -> None:
    name = next(key for key in sets if key.startswith(robot))
    source, body = sets[name], get_robot(robot)
    flying = source.qpos[3].copy()
    flying[body.height_index] += 5.0
    source = with_state(source, 3, qpos=flying)
    own = under(source, source.card["dynamics"], [3])
    other = under(source, [*source.card["shifts"], Gravity(scale)], [3])
    changed = other.next_qvel[0] - own.next_qvel[0]
    expected = np.zeros(body.nv)
    expected[body.height_index] = -9.81 * (scale - 1) * body.dt * (0.5 if "gravity" in name else 1.0)
    np.testing.assert_allclose(changed, expected, rtol=0, atol=1e-9)


def test_order_chunks_threads_and_repetition_do_not_matter(
    sets: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sets["halfcheetah/nominal"]
    whole = under(source, "morphology-torso-hard")
    again = under(source, "morphology-torso-hard", num_threads=4)
    monkeypatch.setattr("offdyn_envs.datasets.gap.simulators.CHUNK", 37)
    rows = np.random.default_rng(0).permutation(500)[:301]
    some = under(source, "morphology-torso-hard", rows, num_threads=2)
    for key in ("next_qpos", "next_qvel", "next_observations", "rewards", "terminations"):
        assert np.array_equal(getattr(whole, key), getattr(again, key), equal_nan=True)
        assert np.array_equal(getattr(whole, key)[rows], getattr(some, key), equal_nan=True)
    assert np.array_equal(some.rows, rows)
    assert all(np.array_equal(whole.masks[reason][rows], some.masks[reason]) for reason in REASONS)


def test_every_row_can_be_taken_where_neither_shape_nor_ranges_changed(sets: dict[str, Dataset]) -> None:
    for name, source in sets.items():
        for other in ("gravity-5.0", "friction-0.1"):
            # The shifts of the source stay, so that only gravity or friction differs.
            answer = under(source, source.card["shifts"] + list(get_dynamics(source.id.robot, other)))
            assert (answer.counts["penetration"], answer.counts["limit"]) == (0, 0), name


def edited(change: Any) -> Any:
    """A scalar nominal Hopper whose compiled model is changed."""
    env: Any = gymnasium.make("OffDyn/Hopper-v0")
    change(env.unwrapped.model)
    return env


def only_reason(answer: Counterfactual, reason: str) -> bool:
    return answer.counts == {**dict.fromkeys(REASONS, 0), reason: 1}


def test_state_inside_the_floor_is_masked(sets: dict[str, Dataset]) -> None:
    source, model = sets["hopper/nominal"], compile_model(get_robot("hopper"), ())
    deepest = TOLERANCES["hopper"].depth

    def longer_foot(by: float) -> Any:
        def change(model: Any) -> None:
            model.geom_size[mujoco.mj_name2id(model, 5, "foot_geom"), 0] += by

        return edited(change)

    standing = source.qpos[0].copy()
    standing[1] += penetration(model, standing[None])[0]
    while penetration(model, standing[None])[0] == 0:  # Down to where the foot just touches.
        standing[1] -= 1e-4
    source = with_state(source, 0, qpos=standing)
    for by, inside in ((deepest - 0.01, False), (deepest + 0.01, True)):
        env = longer_foot(by)
        answer = under(source, env, [0, 1])
        env.close()
        assert answer.masks["penetration"][0] == inside
        assert answer.valid[0] != inside
        assert np.isnan(answer.next_observations[0]).all() == inside
        assert np.isnan(answer.rewards[0]) == inside
        assert not answer.terminations[0] or not inside


def test_as_deep_in_the_source_body_is_no_reason(sets: dict[str, Dataset]) -> None:
    """A body pushed into the floor stays simulatable where the other body is in no deeper."""
    source = sets["hopper/nominal"]
    sunk = source.qpos[0].copy()
    sunk[1] -= 0.3
    source = with_state(source, 0, qpos=sunk)
    robot = get_robot("hopper")
    models = [compile_model(robot, get_dynamics("hopper", slug)) for slug in ("nominal", "morphology-torso-hard")]
    assert penetration(models[0], sunk[None])[0] > 0.25
    answer = under(source, "nominal", [0])
    assert answer.valid.all()
    inside, _ = Admission(robot, *models).refused(sunk - np.outer([0.0, 0.3], np.eye(6)[1]))
    assert not inside.any()


def test_state_beyond_a_shrunken_limit_is_masked(sets: dict[str, Dataset]) -> None:
    robot, tolerance = get_robot("hopper"), TOLERANCES["hopper"].limit
    shrunken = parse_shifts([{"kind": "kinematic", "part": "foot", "scale": 0.2}])
    high = float(np.deg2rad(9.0))
    for angle, beyond in ((high + tolerance - 1e-3, False), (high + tolerance + 1e-3, True), (-0.7, True)):
        source = sets["hopper/nominal"]
        qpos = source.qpos[5].copy()
        qpos[5] = angle
        source = with_state(source, 5, qpos=qpos)
        answer = under(source, shrunken, [5])
        assert only_reason(answer, "limit") == beyond
        assert answer.valid[0] != beyond
        # The robot with the wide range takes it, and so does one whose own range the state leaves just as far.
        assert under(source, "nominal", [5]).valid.all()
        model = compile_model(robot, shrunken)
        assert not Admission(robot, model, model).refused(qpos[None])[1].any()


def test_limits_are_those_of_the_compiled_model(sets: dict[str, Dataset]) -> None:
    source = sets["hopper/nominal"]

    def shrink(model: Any) -> None:
        model.jnt_range[mujoco.mj_name2id(model, 3, "leg_joint")] = (-0.6, -0.5)

    env = edited(shrink)
    answer = under(source, env)
    env.close()
    assert answer.counts["limit"] == int((source.qpos[:, 4] > -0.5 + TOLERANCES["hopper"].limit).sum()) > 0
    assert np.isnan(answer.next_qpos[answer.masks["limit"]]).all()


def test_overshoot_and_penetration() -> None:
    model = compile_model(get_robot("hopper"), ())
    qpos = np.zeros((3, 6))
    qpos[:, 1] = (1.25, 1.25, 1.15)  # Metres; the foot rests on the floor at 1.2489.
    qpos[1, 3:] = (0.1, -3.0, 1.0)
    beyond = overshoot(model, qpos)
    np.testing.assert_allclose(beyond[1], [0, 0, 0, 0.1, 3.0 - np.deg2rad(150), 1.0 - np.deg2rad(45)])
    assert not beyond[[0, 2]].any()
    depth = penetration(model, qpos)
    assert depth[0] == 0.0
    lower = penetration(model, qpos[2:] - 0.05 * np.eye(6)[1])
    assert lower[0] - depth[2] == pytest.approx(0.05)


def test_diverged_simulation_is_masked_and_answers_like_the_environment(sets: dict[str, Dataset]) -> None:
    source = with_state(sets["hopper/nominal"], 2, qvel=np.full(6, 1e12))
    answer = under(source, "gravity-0.5", [1, 2, 3])
    assert only_reason(answer, "diverged")
    assert answer.valid.tolist() == [True, False, True]
    assert np.array_equal(answer.next_qpos[1], source.qpos[2])
    assert answer.terminations[1]


def test_reward_follows_the_timestep_of_the_profile(sets: dict[str, Dataset]) -> None:
    source = sets["halfcheetah/nominal"]
    env = OffDynVectorEnv("halfcheetah", 500, dynamics="kinematic-severe", profile="droco", autoreset_mode="disabled")
    env.set_state(source.qpos, source.qvel)
    observations, rewards, *_ = env.step(np.asarray(source.actions))
    for answer in (under(source, env), under(source, "kinematic-severe", profile="droco")):
        assert answer.valid.sum() > 50
        assert np.array_equal(answer.rewards[answer.valid], rewards.astype(np.float32)[answer.valid])
        assert np.array_equal(answer.next_observations[answer.valid], observations.astype(np.float32)[answer.valid])
    env.close()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one whole number"),
        (np.zeros((2, 2), int), "at least one whole number"),
        ([0.5], "at least one whole number"),
        (np.ones(500, bool), "at least one whole number"),
        ([500], "rows must lie in 0 to 499, got 500 to 500"),
        ([-1, 3], "rows must lie in 0 to 499"),
    ],
)
def test_rows_that_are_refused(sets: dict[str, Dataset], rows: Any, message: str) -> None:
    with pytest.raises(OffDynError, match=message):
        under(sets["hopper/nominal"], "gravity-0.5", rows)


def test_dynamics_that_are_refused(sets: dict[str, Dataset]) -> None:
    source = sets["hopper/nominal"]
    rows_differ = OffDynVectorEnv("hopper", 2, row_shifts=[None, [Gravity(0.5)]])
    schedule = {"unit": "episode", "points": [{"at": 3, "shifts": [{"kind": "gravity", "scale": 2.0}]}]}
    cases: list[tuple[Any, str]] = [
        ("gravity-0.6", "unknown dynamics"),
        ("OffDyn/Hopper-v1", "unknown environment 'OffDyn/Hopper-v1'; did you mean 'OffDyn/Hopper-v0'"),
        ("OffDyn/Ant-v0", "env is a ant and the dataset's robot a hopper"),
        (gymnasium.make("OffDyn/Walker2d-v0"), "env is a walker2d"),
        (gymnasium.make("Hopper-v5"), "must be an offdyn environment, got HopperEnv"),
        (gymnasium.make("OffDyn/Hopper-v0", schedule=schedule), "must not change in time"),
        (rows_differ, "2 rows of different dynamics"),
        ([{"kind": "gravity"}], "scale"),
        ([{"kind": "kinematic", "part": "hip", "scale": 0.5}], "hip"),
    ]
    for env, message in cases:
        with pytest.raises(OffDynError, match=message):
            under(source, env)
        if not isinstance(env, str | list):
            env.close()
    with pytest.raises(OffDynError, match="num_threads must be at least 1"):
        under(source, "nominal", num_threads=-1)


def test_data_without_simulator_states_are_refused(sets: dict[str, Dataset]) -> None:
    source = sets["hopper/nominal"]
    empty: Any = np.zeros((0, 6))
    for value, found in (
        (empty, "'qpos' is missing"),
        (None, "'qpos' is missing"),
        (source.qpos[:9], r"'qpos' is \[9, 6\]"),
    ):
        stripped = replace(source, arrays=replace(source.arrays, qpos=value))
        with pytest.raises(OffDynError, match=f"holds no simulator states: {found}"):
            under(stripped, "gravity-0.5")
    with pytest.raises(OffDynError, match="holds no simulator states in some rows"):
        under(with_state(source, 4, qpos=np.full(6, np.nan)), "gravity-0.5")
    with pytest.raises(OffDynError, match="source 'dict' holds no simulator states"):
        under({"observations": source.observations}, "gravity-0.5")  # type: ignore[arg-type]


def test_shifted_source_back_to_nominal(root: Path) -> None:
    source = load_dataset(SMALL)
    there = under(source, "nominal")
    assert there.valid.all()
    assert (there.next_observations != source.next_observations).any(axis=1).all()


def test_environments_answer_with_what_was_changed_in_them(sets: dict[str, Dataset]) -> None:
    source = sets["hopper/nominal"]
    plain = under(source, "gravity-0.5")
    answers: list[Counterfactual] = []
    scalar: Any = gymnasium.make(env_id(get_robot("hopper"), "gravity-0.5")).unwrapped
    scalar.model.body_mass[1] *= 10
    batched = OffDynVectorEnv("hopper", 2, "gravity-0.5")
    batched.models[0].body_mass[1] *= 10
    for env in (scalar, batched):
        answers.append(under(source, env))
        env.close()
    np.testing.assert_array_equal(answers[0].next_qvel, answers[1].next_qvel)
    assert not np.array_equal(answers[1].next_qvel, plain.next_qvel)
    np.testing.assert_array_equal(under(source, "gravity-0.5").next_qvel, plain.next_qvel)
