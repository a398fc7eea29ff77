"""Own data: the same transitions from every format, columns found by name, ends of episodes, rewards by a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offdyn_envs.datasets import Contract, Spec, from_arrays, read_own
from offdyn_envs.datasets.own.contract import plain_contract
from offdyn_envs.errors import OffDynError
from tests.datasets.own_files import (
    BOUNDS,
    HIGH,
    LENGTHS,
    LOW,
    MOVED,
    OBSERVED,
    STATES,
    columns,
    logged,
    make_frames,
    padded,
    recorded,
    transitions,
    write_csv,
    write_hdf5,
    write_lerobot,
    write_minari,
    write_npz,
    write_parquet,
)

FRAMES = make_frames()
STEPS = transitions(FRAMES)
FORMATS: dict[str, Callable[[Path], Path]] = {
    "npz": lambda folder: write_npz(folder / "a.npz", STEPS),
    "csv": lambda folder: write_csv(folder / "a.csv", STEPS),
    "parquet": lambda folder: write_parquet(folder / "a.parquet", STEPS),
    "parquet-columns": lambda folder: write_parquet(folder / "c.parquet", columns(STEPS)),
    "lerobot": lambda folder: write_lerobot(folder / "a", padded(FRAMES), ("next.done", "next.truncated")),
    "minari": lambda folder: write_minari(folder / "m", FRAMES),
    "d4rl": lambda folder: write_hdf5(
        folder / "d.hdf5",
        {
            **{key: value for key, value in STEPS.items() if key not in ("terminations", "truncations")},
            "terminals": STEPS["terminations"],
            "timeouts": STEPS["truncations"],
        },
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_arrays(name: str, tmp_path: Path) -> None:
    expected = from_arrays(STEPS, "memory", plain_contract(OBSERVED, MOVED, LOW, HIGH))
    data = read_own(FORMATS[name](tmp_path), **BOUNDS)
    assert data.sha256 == expected.sha256
    assert data.lengths.tolist() == list(LENGTHS)
    np.testing.assert_array_equal(data.observations, STEPS["observations"])
    np.testing.assert_allclose(data.actions, (STEPS["actions"] - LOW) / (HIGH - LOW) * 2 - 1, atol=1e-6)


LOGGED: dict[str, Callable[[Path], Path]] = {
    "npz": lambda folder: write_npz(folder / "a.npz", logged(FRAMES)),
    "csv": lambda folder: write_csv(folder / "a.csv", logged(FRAMES)),
    "parquet": lambda folder: write_parquet(folder / "a.parquet", logged(FRAMES)),
    "lerobot": lambda folder: write_lerobot(folder / "a", recorded(FRAMES)),
}


def test_without_next_observations_the_last_row_of_every_episode_is_dropped(tmp_path: Path) -> None:
    read = {name: read_own(make(tmp_path), **BOUNDS) for name, make in LOGGED.items()}
    assert len({data.sha256 for data in read.values()}) == 1
    kept = np.concatenate([np.arange(steps) < steps - 1 for steps in LENGTHS])
    for data in read.values():
        assert data.lengths.tolist() == [steps - 1 for steps in LENGTHS if steps > 1]
        for key in ("observations", "next_observations", "rewards"):
            np.testing.assert_array_equal(getattr(data, key), STEPS[key][kept])
        assert not data.terminations.any()
        assert data.truncations.sum() == 3
        assert "dropped 4 final rows without next observation" in data.notes
        assert "dropped 4 terminations among them" in data.notes
        assert any("done was taken for a termination" in note for note in data.notes)


def test_lerobot_tells_names_and_time_step(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "a", padded(FRAMES), ("next.done", "next.truncated"))
    contract = read_own(folder, **BOUNDS).contract
    assert contract.observations == tuple(STATES)
    assert contract.actions == ("shoulder", "wrist")
    assert contract.time_step == 0.05


def test_files_of_lerobot_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "a", recorded(FRAMES))
    before = read_own(folder, **BOUNDS).sha256
    chunk = folder / "data" / "chunk-000"
    (chunk / "file-000.parquet").rename(chunk / "file-999.parquet")
    (chunk / "file-001.parquet").rename(chunk / "file-1000.parquet")
    assert read_own(folder, **BOUNDS).sha256 == before


def one_episode(**more: Any) -> dict[str, Any]:
    """Six rows of plain data; every row's next observation is the following row's observation."""
    states = np.arange(14, dtype=np.float32).reshape(7, 2)
    plain = {"observations": states[:-1], "actions": np.zeros((6, 1)), "rewards": np.arange(6.0)}
    return plain | {"next_observations": states[1:]} | more


def flags(*rows: int) -> list[bool]:
    return [row in rows for row in range(6)]


@pytest.mark.parametrize(
    ("more", "options", "terminations", "truncations"),
    [
        ({}, {}, (), (5,)),
        ({"terminations": flags(2)}, {}, (2,), (5,)),
        ({"truncations": flags(2)}, {}, (), (2, 5)),
        ({"terminals": flags(1), "timeouts": flags(3)}, {}, (1,), (3, 5)),
        ({"done": flags(2, 5)}, {}, (2, 5), ()),
        ({"done": flags(2, 5)}, {"done_means": "truncation"}, (), (2, 5)),
        ({"done": flags(2, 5), "terminations": flags(2)}, {}, (2,), (5,)),
        ({"done": flags(2, 5), "truncations": flags(2)}, {}, (5,), (2,)),
        ({"episode": [3, 3, 3, 4, 4, 4]}, {}, (), (2, 5)),
        ({"episode": [3, 3, 3, 4, 4, 4], "done": flags(2)}, {}, (2,), (5,)),
        ({"done": flags(2)}, {"done": None}, (2,), (5,)),
        ({"done": flags(2)}, {"done": "none"}, (), (5,)),
        ({"over": flags(2)}, {"terminations": "over"}, (2,), (5,)),
        # The usual name is there too, and what the user says wins.
        ({"over": flags(2), "terminations": flags(4)}, {"terminations": "over"}, (2,), (5,)),
    ],
)
def test_ends(
    more: dict[str, Any], options: dict[str, Any], terminations: Any, truncations: Any, tmp_path: Path
) -> None:
    data = read_own(write_npz(tmp_path / "a.npz", one_episode(**more)), **options)
    assert tuple(np.flatnonzero(data.terminations)) == terminations
    assert tuple(np.flatnonzero(data.truncations)) == truncations
    assert len(data) == 6


def test_breaks_between_rows_are_ends(tmp_path: Path) -> None:
    """ODRL's files have no timeouts: an episode ends where the next row does not go on from this one."""
    frames = {key: value for key, value in STEPS.items() if key != "truncations"}
    data = read_own(write_npz(tmp_path / "a.npz", frames), **BOUNDS)
    assert data.lengths.tolist() == list(LENGTHS)


def test_a_final_frame_keeps_the_termination(tmp_path: Path) -> None:
    """An episode that is flagged one row early has a last row for what it ended in alone."""
    arrays = one_episode(done=flags(1, 4), episode=[0, 0, 0, 1, 1, 1])
    del arrays["next_observations"]
    data = read_own(write_npz(tmp_path / "a.npz", arrays))
    assert data.rewards.tolist() == [0, 1, 3, 4]
    assert data.terminations.tolist() == [False, True, False, True]
    assert data.next_observations[1].tolist() == [4, 5]
    assert data.notes == (
        "dropped 2 final rows without next observation",
        "done was taken for a termination; say --done-means truncation if it is one",
    )


@pytest.mark.parametrize(
    ("observations", "names"),
    [
        ("x", ("x.0", "x.1")),
        ("x.", ("x.0", "x.1")),
        ("pos_", ("pos_z", "pos_a")),
        (["pos_a", "pos_z"], ("pos_a", "pos_z")),
        ("pos_a,x", ("pos_a", "x.0", "x.1")),
    ],
)
def test_columns_by_stem_prefix_and_list(observations: Any, names: tuple[str, ...], tmp_path: Path) -> None:
    text = "pos_z,pos_a,x.1,x.0,other,action_0,reward,done\n1,2,4,3,left,0,0,False\n5,6,8,7,right,0,0,TRUE\n"
    (tmp_path / "a.csv").write_text(text)
    data = read_own(tmp_path / "a.csv", observations=observations, next_observations=observations)
    values = dict(zip(("pos_z", "pos_a", "x.1", "x.0"), (1, 2, 4, 3), strict=True))
    assert data.contract.observations == names
    assert data.observations[0].tolist() == [values[name] for name in names]
    assert data.terminations.tolist() == [False, True]


def test_ten_columns_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    arrays = one_episode(done=flags(5))
    del arrays["observations"], arrays["next_observations"]
    arrays |= {f"obs_{number}": np.full(6, number) for number in reversed(range(12))}
    assert read_own(write_npz(tmp_path / "a.npz", arrays)).observations[0].tolist() == list(range(12))


@pytest.mark.parametrize(
    "text", ["a;b;action;reward;done\n1;2;0;0;1\n", "\ufeffa\tb\taction\treward\tdone\r\n1\t2\t0\t0\t1\r\n\r\n"]
)
def test_other_csv(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    data = read_own(tmp_path / "a.csv", observations="a,b", next_observations="b,a")
    assert data.observations.tolist() == [[1, 2]]
    assert data.next_observations.tolist() == [[2, 1]]


def test_dict_observations_of_minari(tmp_path: Path) -> None:
    frames = [
        {key: value for key, value in item.items() if key != "observations"}
        | {"observations/goal": item["observations"][:, :2], "observations/state": item["observations"][:, 2:]}
        for item in FRAMES
    ]
    data = read_own(write_minari(tmp_path / "m", frames))
    np.testing.assert_array_equal(data.observations, STEPS["observations"])
    np.testing.assert_array_equal(data.next_observations, STEPS["next_observations"])
    assert data.contract.observations[2] == "observations/state_0"


@pytest.mark.filterwarnings("ignore::UserWarning:minari.*")
def test_minari_objects_and_their_bounds(tmp_path: Path) -> None:
    """Bounds of actions come from the action space; a filtered set has the episodes that it has."""
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            observations=list(item["observations"]),
            actions=list(item["actions"]),
            rewards=item["rewards"].tolist(),
            terminations=item["terminations"].tolist(),
            truncations=item["truncations"].tolist(),
        )
        for item in FRAMES
    ]
    box = gymnasium.spaces.Box
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
        dataset = minari.create_dataset_from_buffers(
            "own/arm-v0",
            buffers,
            observation_space=box(-np.inf, np.inf, (OBSERVED,), np.float32),
            action_space=box(LOW, HIGH, (MOVED,), np.float32),
            author="a",
            author_email="a@b.c",
            code_permalink="https://example.org",
            algorithm_name="none",
        )
        data = read_own(dataset)
        assert data.contract.action_low == (LOW, LOW)
        assert data.sha256 == read_own(tmp_path / "own" / "arm-v0").sha256
        assert data.sha256 == from_arrays(STEPS, "memory", data.contract).sha256
        some = dataset.filter_episodes(lambda episode: len(episode.rewards) > 3)
        assert read_own(some).lengths.tolist() == [5, 8]


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_spec_files(suffix: str, tmp_path: Path) -> None:
    told = {
        "observations": ["q", "qd"],
        "next_observations": None,
        "actions": "torque",
        "rewards": "r",
        "episode": "run",
        "action_low": [-2, 0.5],
        "action_high": "3, 3.5",
        "observation_names": ["hip", "knee", "hip_rate", "knee_rate"],
        "observation_units": ["rad", "rad", "rad/s", "rad/s"],
        "action_units": ["N m", "N m"],
        "time_step": 0.01,
    }
    spec = tmp_path / f"spec{suffix}"
    spec.write_text(json.dumps(told))
    arrays = {
        "q": np.ones((3, 2)),
        "qd": np.zeros((3, 2)),
        "torque": np.array([[-2, 0.5], [3, 3.5], [0, 0]]),
        "r": np.arange(3),
        "run": np.zeros(3, dtype=int),
    }
    data = read_own(write_npz(tmp_path / "a.npz", arrays), spec)
    assert data.actions.tolist() == [[-1, -1], [1, 1]]
    names = ("hip", "knee", "hip_rate", "knee_rate")
    units = ("rad", "rad", "rad/s", "rad/s")
    assert data.contract == Contract(
        names, ("torque_0", "torque_1"), units, ("N m", "N m"), (-2.0, 0.5), (3.0, 3.5), 0.01
    )
    assert Spec.of(spec) == Spec.of(told) == Spec.of(Spec.of(told).to_json())
    assert Spec.of(told, time_step=2).time_step == 2


def test_reward_function_sees_the_users_own_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rewards_a.py").write_text(
        "def reach(observations, actions, next_observations):\n"
        "    return next_observations[:, 0] - observations[:, 0] - 0.1 * (actions**2).sum(axis=1)\n"
    )
    data = read_own(write_npz(tmp_path / "a.npz", STEPS), **BOUNDS, reward_function="my_rewards_a:reach")
    moved = STEPS["next_observations"][:, 0] - STEPS["observations"][:, 0]
    np.testing.assert_allclose(data.rewards, moved - 0.1 * (STEPS["actions"] ** 2).sum(axis=1), atol=1e-5)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"observation": "x"}, "spec: unknown key 'observation'; did you mean 'observations'?"),
        ({"action_low": -1}, "one of action_low and action_high is given"),
        ({"action_low": "low", "action_high": 1}, "spec: action_low is 'low'; a finite number is allowed"),
        ({"action_low": 1, "action_high": -1}, r"bounds of action 'action_0' are \[1.0, -1.0\]"),
        ({"action_low": [-1, -1], "action_high": 1}, "action_low has 2 values; 1 are wanted"),
        ({"time_step": 0}, "spec: time_step is '0'; a number of seconds above 0 is allowed"),
        ({"time_step": True}, "spec: time_step is 'True'"),
        ({"done_means": "failure"}, "spec: done_means is 'failure'; termination or truncation is allowed"),
        ({"rewards": ["a", "b"]}, "spec: rewards has 2 columns; one is allowed"),
        ({"observations": None}, "spec: observations is none; columns are needed"),
        ({"observations": [1]}, "spec: observations holds '1'; names are allowed"),
        ({"reward_function": "module"}, "spec: reward_function is 'module'; module:function is allowed"),
        ({"reward_function": "a:b", "rewards": "r"}, "rewards and reward_function are both given"),
        ({"observation_units": ["m"]}, "observation_units of the spec has 1 values; 2 are wanted"),
        ({"observation_names": ["a", "b", "c"]}, "observation_names of the spec has 3 values; 2 are wanted"),
    ],
)
def test_specs_that_are_wrong(told: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OffDynError, match=message):
        read_own(write_npz(tmp_path / "a.npz", one_episode()), told)
