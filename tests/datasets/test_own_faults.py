"""Own data that are wrong: one line that names them, exit status 2, and nothing is written."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offdyn_envs.cli import main
from offdyn_envs.datasets import read_own
from offdyn_envs.datasets.own.lerobot import INFO
from offdyn_envs.errors import OffDynError
from tests.datasets.own_files import (
    OPTIONS,
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
LOG = logged(FRAMES)
Make = Callable[[Path], Path]
ROUNDS = 60


def npz(**changes: Any) -> Make:
    """Write transitions with other arrays; those that are None are left out."""
    arrays = {key: value for key, value in (STEPS | changes).items() if value is not None}
    return lambda folder: write_npz(folder / "a.npz", arrays)


def put(key: str, row: int, value: float, arrays: dict[str, Any] = STEPS) -> Any:
    array = arrays[key].astype(np.float64)
    array[row] = value
    return array


def text(content: str, name: str = "a.csv") -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return make


def edited_csv(line: int, edit: Callable[[str], str]) -> Make:
    def make(folder: Path) -> Path:
        path = write_csv(folder / "a.csv", STEPS)
        lines = path.read_text().splitlines()
        lines[line - 1] = edit(lines[line - 1])
        path.write_text("\n".join(lines) + "\n")
        return path

    return make


def parquet(**changes: Any) -> Make:
    def make(folder: Path) -> Path:
        path = write_parquet(folder / "a.parquet", STEPS)
        table = pq.read_table(path)
        for key, value in changes.items():
            table = table.set_column(table.schema.get_field_index(key), key, value)
        pq.write_table(table, path)
        return path

    return make


def lerobot(**info: Any) -> Make:
    def make(folder: Path) -> Path:
        place = write_lerobot(folder / "a", recorded(FRAMES))
        told = json.loads((place / INFO).read_text()) | info
        (place / INFO).write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
        return place

    return make


def edited_lerobot(column: str, row: int, value: Any) -> Make:
    def make(folder: Path) -> Path:
        place = write_lerobot(folder / "a", recorded(FRAMES))
        path = place / "data" / "chunk-000" / "file-001.parquet"
        table = pq.read_table(path)
        values = table.column(column).to_pylist()
        values[row] = value
        table = table.set_column(table.schema.get_field_index(column), column, pa.array(values, table[column].type))
        pq.write_table(table, path)
        return place

    return make


def without(*parts: str) -> Make:
    def make(folder: Path) -> Path:
        place = write_lerobot(folder / "a", padded(FRAMES), ("next.done", "next.truncated"))
        place.joinpath(*parts).unlink()
        return place

    return make


def early_end(folder: Path) -> Path:
    done = LOG["done"].copy()
    done[2] = True
    return write_npz(folder / "a.npz", LOG | {"done": done})


def short_minari(folder: Path, episodes: Iterable[int] = (2,)) -> Path:
    frames = [dict(item) for item in FRAMES]
    for episode in episodes:
        frames[episode]["rewards"] = frames[episode]["rewards"][:-1]
    return write_minari(folder / "a", frames)


def objects(folder: Path) -> Path:
    rows = np.array([np.zeros(2), np.zeros(3)], dtype=object)
    np.savez(folder / "a.npz", **{**STEPS, "observations": rows})  # pyright: ignore[reportArgumentType]
    return folder / "a.npz"


RAGGED = pa.array([[0.0] * (7 - (row == 4)) for row in range(17)])
NULLS = pa.array([None, *range(16)], pa.float32())
FAULTS: dict[str, tuple[Make, list[str], str]] = {
    "missing file": (lambda folder: folder / "none.npz", [], "none.npz: missing; a file is wanted: .npz, .csv"),
    "unknown format": (text("1", "a.xlsx"), ["--robot", "none"], "a.xlsx: is of no known format; allowed: .npz, .csv"),
    "empty file": (text("", "a.npz"), [], "a.npz: is empty; at least one transition is needed"),
    "empty csv": (text(""), [], "a.csv: is empty"),
    "blank csv": (text("\n"), [], "a.csv: is empty; a line of names and rows of numbers are wanted"),
    "csv of names": (text("obs_0,action_0,reward,done\n"), [], "a.csv: has names but no rows; at least one transition"),
    "empty arrays": (npz(**{key: array[:0] for key, array in STEPS.items()}), [], "a.npz: has no rows; at least one"),
    "no npz": (text("hello", "a.npz"), [], "a.npz: is no npz archive, truncated or damaged"),
    "no parquet": (text("hello", "a.parquet"), [], "a.parquet: cannot be read as parquet"),
    "no hdf5": (text("hello", "a.hdf5"), ["--robot", "none"], "a.hdf5: not HDF5, truncated or damaged"),
    "empty folder": (
        lambda folder: folder,
        ["--robot", "none"],
        "is a folder without meta/info.json or data/main_data",
    ),
    "missing column": (npz(actions=None), [], "no column of actions (actions, action); name it with --actions; found"),
    "missing rewards": (npz(rewards=None), [], "name it with --rewards or compute them with --reward-function"),
    "missing ends": (
        npz(terminations=None, truncations=None, next_observations=None),
        [],
        "no column says where episodes end; name one with --terminations, --truncations, --done or --episode",
    ),
    "misspelt column": (npz(), ["--rewards", "reward"], "rewards: unknown column 'reward'; did you mean 'rewards'?"),
    "misspelt list": (npz(), ["--observations", "rewards,action"], "unknown column 'action'; did you mean 'actions'?"),
    "gap in numbers": (
        text("obs_0,obs_2,action_0,reward,done\n0,0,0,0,1\n"),
        [],
        "columns obs_0 to obs_2 lack number 1; every number is wanted, or a list of names",
    ),
    "pickled objects": (objects, [], "array 'observations' holds pickled objects, which are never read"),
    "three dimensions": (npz(observations=np.zeros((17, 2, 2))), [], "has shape [17, 2, 2]; [N] or [N, width]"),
    "npz of text": (npz(rewards=np.array(["a"] * 17)), [], "array 'rewards' is of type <U1; numbers are allowed"),
    "short column": (npz(rewards=STEPS["rewards"][:-1]), [], "rewards has 16 rows and observations 17"),
    "short part": (npz(x=np.zeros(3)), ["--observations", "observations,x"], "column 'x' has 3 rows and 'observations"),
    "wide rewards": (npz(rewards=np.zeros((17, 2))), [], "column 'rewards' has shape [17, 2]; [N] is wanted"),
    "narrow next": (
        npz(next_observations=np.zeros((17, 6))),
        [],
        "observations have 7 columns and next_observations 6",
    ),
    "ragged csv": (edited_csv(5, lambda line: line + ",1"), [], "a.csv: line 5 is ragged: 20 values; 19 are wanted"),
    "short csv": (edited_csv(5, lambda line: line[: line.rindex(",")]), [], "line 5 is ragged: 18 values; 19"),
    "ragged parquet": (parquet(observations=RAGGED), [], "'observations' is ragged: row 4 has 6 values and row 0 7"),
    "text in csv": (
        edited_csv(4, lambda line: "left," + line.partition(",")[2]),
        [],
        "column 'observations_0' of line 4 is 'left'; a number is allowed",
    ),
    "nothing in csv": (edited_csv(4, lambda line: "," + line.partition(",")[2]), [], "of line 4 is ''; a number"),
    "twice the same name": (text("a,a\n1,2\n"), [], "two columns are called 'a'; different names are wanted"),
    "text in parquet": (parquet(rewards=pa.array(["a"] * 17)), [], "'rewards' is of type string; numbers are allowed"),
    "null in parquet": (parquet(rewards=NULLS), [], "column 'rewards' has 1 empty values; numbers are wanted"),
    "only NaN": (npz(rewards=np.full(17, np.nan)), [], "rewards of row 0 is not finite (17 such rows)"),
    "only flags of NaN": (npz(terminations=np.full(17, np.nan)), [], "a flag of row 0 is not finite (17 such rows)"),
    "too large": (npz(rewards=np.full(17, 1e39)), [], "rewards of row 0 is not finite (17 such rows)"),
    "action outside": (
        npz(actions=put("actions", 9, 3.5)),
        [],
        "action 'actions_0' of row 9 is 3.5; [-2, 3] is allowed (1 rows lie outside)",
    ),
    "two for a flag": (
        npz(terminations=put("terminations", 2, 2)),
        [],
        "terminations of row 2 is 2.0; 0 or 1 is allowed",
    ),
    "episodes not in order": (
        lambda folder: write_npz(folder / "a.npz", LOG | {"episode_index": LOG["episode_index"][::-1]}),
        [],
        "the number of the episode is 2 at row 3, after 3; rows in the order of their episodes are wanted",
    ),
    "half an episode": (
        lambda folder: write_npz(folder / "a.npz", LOG | {"episode_index": LOG["episode_index"] / 2}),
        [],
        "the number of the episode is 0.5 at row 5; whole numbers are allowed",
    ),
    "end inside": (early_end, [], "row 2 ends an episode, but episode 0 goes on behind it"),
    "only single rows": (
        lambda folder: write_npz(folder / "a.npz", LOG | {"episode_index": np.arange(17), "done": np.ones(17)}),
        [],
        "no row is left: every episode has one row, and no column holds next observations",
    ),
    "short minari": (
        lambda folder: short_minari(folder, range(4)),
        ["--robot", "none"],
        "rewards of episode 0 has 4 rows; 5 are wanted for 5 actions",
    ),
    "lerobot 2": (lerobot(codebase_version="v2.1"), [], "is of LeRobot v2.1; v3.0 is read: convert the folder with"),
    "lerobot without version": (lerobot(codebase_version=None), [], "is of LeRobot None; v3.0 is read"),
    "lerobot without features": (lerobot(features=None), [], "info.json: key 'features' is missing"),
    "lerobot fps": (lerobot(fps=0), [], "info.json: key 'fps' is 0; a number above 0 is allowed"),
    "lerobot frames": (
        without("data", "chunk-000", "file-001.parquet"),
        [],
        "data hold 8 rows; 21 are wanted, as total",
    ),
    "lerobot frame": (edited_lerobot("frame_index", 3, 7), [], "frame_index of row 9 is 7; 3 is wanted: frames of"),
    "lerobot episodes": (edited_lerobot("episode_index", 10, 0), [], "episode is 0 at row 16, after 3; rows in"),
    "unknown key": (
        npz(),
        ["--spec", "wrong.yaml"],
        "wrong.yaml: unknown key 'observation'; did you mean 'observations'",
    ),
    "list as spec": (npz(), ["--spec", "list.yaml"], "list.yaml: holds a list; a mapping of keys such as observations"),
    "no spec": (npz(), ["--spec", "none.yaml"], "none.yaml: missing; a spec in YAML or JSON is wanted"),
    "torn spec": (npz(), ["--spec", "torn.yaml"], "torn.yaml: cannot be read as a spec"),
    "no module": (
        npz(),
        ["--reward-function", "no_rewards:f"],
        "reward function 'no_rewards:f' cannot be imported: Mod",
    ),
    "no function": (
        npz(),
        ["--reward-function", "own_faults_rewards:narow"],
        "'own_faults_rewards:narow' cannot be imported: unknown function 'narow'; did you mean 'narrow'?",
    ),
    "wrong shape": (
        npz(),
        ["--reward-function", "own_faults_rewards:narrow"],
        "reward function 'own_faults_rewards:narrow' returns shape [17, 1]; [17] is wanted",
    ),
    "NaN from a function": (
        npz(),
        ["--reward-function", "own_faults_rewards:nan"],
        "reward function 'own_faults_rewards:nan' returns nan for row 2; finite numbers are wanted",
    ),
    "words from a function": (
        npz(),
        ["--reward-function", "own_faults_rewards:words"],
        "returns <U4; numbers [17] are",
    ),
    "failing function": (
        npz(),
        ["--reward-function", "own_faults_rewards:fails"],
        "fails: ZeroDivisionError: division",
    ),
    "wrong checksum": (npz(), ["--sha256", "0" * 64], "expected 0000"),
    "dynamics": (npz(), ["--dynamics", "gravity-0.5"], "--dynamics is for robots of this suite; name one with --robot"),
    "columns of a robot": (npz(), ["--robot", "hopper"], "columns are named, but --robot hopper says what they are"),
}
REWARDS = """
import numpy as np
def narrow(observations, actions, next_observations):
    return observations[:, :1]
def nan(observations, actions, next_observations):
    return np.where(np.arange(len(actions)) == 2, np.nan, 0)
def words(observations, actions, next_observations):
    return ["good"] * len(actions)
def fails(observations, actions, next_observations):
    return 1 / 0
"""


@pytest.mark.parametrize("name", FAULTS)
def test_one_line_and_status_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, options, message = FAULTS[name]
    place, root = tmp_path / "given", tmp_path / "root"
    place.mkdir()
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(root))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_faults_rewards.py").write_text(REWARDS)
    specs = {"wrong": '{"observation": "x"}', "list": "- a", "torn": "a: [1"}
    for spec, content in specs.items():
        (tmp_path / f"{spec}.yaml").write_text(content)
    with pytest.raises(SystemExit) as ended:
        main(["data", "import", str(make(place)), *OPTIONS, *options])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(root.glob("imported/*"))
    assert not list(root.glob(".building/*stage*"))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
@pytest.mark.parametrize("row", [0, 4, 9, 16])
@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "next_observations"])
def test_rows_that_are_not_finite_are_dropped(key: str, row: int, value: float, tmp_path: Path) -> None:
    """Rows 4, 5, 13 and 16 end episodes, row 5 for good."""
    data = read_own(npz(**{key: put(key, row, value)})(tmp_path), action_low=-2, action_high=3)
    kept = np.arange(17) != row
    for name in ("observations", "rewards", "next_observations", "terminations"):
        np.testing.assert_array_equal(getattr(data, name), STEPS[name][kept])
    np.testing.assert_allclose(data.actions, (STEPS["actions"][kept] + 2) * 0.4 - 1, atol=1e-6)
    ends = [end for end in (4, 5, 13, 16, row - 1) if end != row and end >= 0]
    np.testing.assert_array_equal(data.truncations, np.isin(np.arange(17), ends)[kept] & ~STEPS["terminations"][kept])
    assert data.notes[0] == "dropped 1 rows with numbers that are not finite"
    assert data.notes[1].endswith(f"were dropped: {key} of row {row} is not finite")


@pytest.mark.parametrize("key", ["terminations", "truncations"])
def test_rows_whose_flags_are_no_numbers_are_dropped(key: str, tmp_path: Path) -> None:
    data = read_own(npz(**{key: put(key, 5, np.nan)})(tmp_path), action_low=-2, action_high=3)
    np.testing.assert_array_equal(data.observations, STEPS["observations"][np.arange(17) != 5])
    assert data.lengths.tolist() == [5, 8, 3] and not data.terminations.any()
    assert data.notes[1].endswith("dropped: a flag of row 5 is not finite")


def test_without_next_observations_a_row_leads_to_the_one_that_is_not_finite(tmp_path: Path) -> None:
    log = LOG | {"rewards": put("rewards", 2, np.nan, LOG), "observations": put("observations", 8, np.nan, LOG)}
    data = read_own(write_npz(tmp_path / "a.npz", log), action_low=-2, action_high=3)
    # Row 1 still leads to row 2, row 7 to nothing; rows 4, 5, 13 and 16 are the last of their episodes.
    kept = ~np.isin(np.arange(17), (2, 4, 5, 7, 8, 13, 16))
    np.testing.assert_array_equal(data.observations, LOG["observations"][kept])
    np.testing.assert_array_equal(data.next_observations, np.roll(LOG["observations"], -1, axis=0)[kept])
    assert data.lengths.tolist() == [2, 1, 1, 4, 2]
    assert "dropped 3 rows with numbers that are not finite" in data.notes


@pytest.mark.parametrize("value", [3.5, 1e30])
def test_actions_are_clipped_to_their_bounds(value: float, tmp_path: Path) -> None:
    actions = STEPS["actions"].copy()
    actions[3, 0], actions[3, 1], actions[9, 1], actions[11, 0] = value, value, -value, 3 + 1e-6
    file, bounds = npz(actions=actions)(tmp_path), {"action_low": -2, "action_high": 3}
    with pytest.raises(OffDynError, match=r"of row 3 is .*2 rows lie outside"):
        read_own(file, **bounds)
    data = read_own(file, clip_actions=True, **bounds)
    np.testing.assert_allclose(data.actions, (np.clip(actions, -2, 3) + 2) * 0.4 - 1, atol=1e-6)
    assert data.actions[9, 1] == -1 and data.actions[3].tolist() == [1, 1]
    assert data.notes == ("2 rows with clipped actions",)
    # Without bounds nobody knows to what.
    with pytest.raises(OffDynError, match="no bounds are declared"):
        read_own(file, clip_actions=True)


def test_an_episode_that_does_not_fit_is_left_out(tmp_path: Path) -> None:
    data = read_own(short_minari(tmp_path, (0, 2)), action_low=-2, action_high=3)
    kept = np.isin(np.repeat(np.arange(4), (5, 1, 8, 3)), (1, 3))
    np.testing.assert_array_equal(data.observations, STEPS["observations"][kept])
    np.testing.assert_array_equal(data.terminations, STEPS["terminations"][kept])
    assert data.notes[0] == "dropped 2 episodes that do not fit"
    assert "rewards of episode 0 has 4 rows; 5 are wanted for 5 actions" in data.notes[1]


def test_keys_that_begin_like_episodes_are_columns(tmp_path: Path) -> None:
    keys = {key: value for key, value in LOG.items() if key != "done"}
    file = write_hdf5(tmp_path / "a.hdf5", keys)
    assert read_own(file, action_low=-2, action_high=3).lengths.tolist() == [4, 7, 2]


def test_actions_beyond_1_ask_for_bounds(tmp_path: Path) -> None:
    with pytest.raises(
        OffDynError, match=r"actions lie in \[-1\.\d*, 2\.\d*\] and no bounds are declared; give --action"
    ):
        read_own(npz()(tmp_path))


@pytest.mark.parametrize("package", ["pyarrow", "yaml"])
def test_a_package_that_is_missing_names_its_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spec.yaml").write_text("actions: actions")
    path = write_parquet(tmp_path / "a.parquet", STEPS) if package == "pyarrow" else npz()(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        OffDynError,
        match=rf"this needs '{package}', which is not installed: pip install '\.\[tables\]' in the checkout",
    ):
        read_own(path, tmp_path / "spec.yaml" if package == "yaml" else None)


def test_links_of_hdf5_are_not_followed(tmp_path: Path) -> None:
    import h5py

    secret = write_hdf5(tmp_path / "secret.hdf5", STEPS)
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for key in STEPS:
            file[key] = h5py.ExternalLink(str(secret), key)
    with pytest.raises(OffDynError, match="no column of observations"):
        read_own(path)


CORRUPTED: dict[str, tuple[Make, str]] = {
    "npz": (npz(), ""),
    "csv": (lambda folder: write_csv(folder / "a.csv", STEPS), ""),
    "parquet": (parquet(), ""),
    "info": (lerobot(), "meta/info.json"),
    "lerobot": (lerobot(), "data/chunk-000/file-001.parquet"),
    "minari": (lambda folder: write_minari(folder / "a", FRAMES), "data/main_data.hdf5"),
}


@pytest.mark.parametrize("name", CORRUPTED)
def test_files_with_wrong_bytes_are_read_or_refused(name: str, tmp_path: Path) -> None:
    """Whatever a damaged file holds, nothing but an `OffDynError` of one line comes of it."""
    make, inner = CORRUPTED[name]
    given = make(tmp_path)
    file = given / inner if inner else given
    content, rng = file.read_bytes(), random.Random(0)
    refused = 0
    for number in range(ROUNDS):
        damaged = bytearray(content)
        if number % 3 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        for _ in range(rng.choice((0, 1, 1, 3, 20)) if damaged else 0):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            read_own(given, action_low=-2, action_high=3)
        except OffDynError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > ROUNDS // 5
