"""Files that are wrong: each is refused in one line that names it, and nothing is written."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offdyn_envs.cli import main
from offdyn_envs.datasets.importing import import_file
from offdyn_envs.datasets.importing.exporters import export
from offdyn_envs.datasets.own.reading import read_own
from offdyn_envs.datasets.store.imported import load_imported
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import WALKERS
from tests.datasets.collector import collect, write_target
from tests.datasets.foreign import d4rl_keys, make_arrays, make_dataset, minari_keys, odrl_keys, write

Keys = dict[str, Any]
Change = Callable[[np.ndarray], Any]

ARRAYS = make_arrays("hopper")
LAYOUTS: dict[str, Keys] = {
    "d4rl": d4rl_keys(ARRAYS),
    "odrl": odrl_keys(ARRAYS),
    "minari": minari_keys(ARRAYS, states=True),
}
MINARI = "episode_2/"
FLOATS = {
    "d4rl": ("observations", "actions", "rewards", "next_observations", "infos/qpos", "infos/qvel"),
    "odrl": ("observations", "actions", "rewards", "next_observations"),
    "minari": tuple(MINARI + key for key in ("observations", "actions", "rewards", "infos/qpos", "infos/qvel")),
}
FLAGS = {
    "d4rl": ("terminals", "timeouts"),
    "odrl": ("terminals",),
    "minari": (f"{MINARI}terminations", f"{MINARI}truncations"),
}


def refuse(path: Path, **options: Any) -> str:
    """Import a file that cannot be imported; return the message after testing what all of them owe."""
    root = path.parent / "root"
    with pytest.raises(OffDynError) as caught:
        import_file(path, **{"robot": "hopper", "root": root, **options})
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert not list(root.glob("imported/*"))
    assert not list(root.glob(".building/*stage*"))
    return message


def put(value: Any) -> Change:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.result_type(array, type(value)) if array.dtype == bool else array.dtype)
        array[3, ...] = value
        return array

    return change


WRONG: dict[str, tuple[str, Change | None]] = {
    "text": ("is .*; expected", lambda a: np.full(a.shape, b"x")),
    "complex": ("is complex64; expected", lambda a: a.astype(np.complex64)),
    "short": (r"is .* \[\d+.*\]; expected", lambda a: a[:-1]),
    "long": (r"is .* \[\d+.*\]; expected", lambda a: np.concatenate((a, a[-1:]))),
    "three dimensions": (r"is .*; expected", lambda a: a.reshape(len(a), 1, -1)),
    "one number": (r"is .* \[\]; expected", lambda a: a.flat[0]),
    "empty": (r"is .* \[0.*\]; expected|has (no|0) rows; expected", lambda a: a[:0]),
    "no shape": ("is no array; expected", lambda a: h5py.Empty("f4")),
    "missing": ("is missing; expected", None),
}
WRONG_FLOATS = WRONG | {
    "whole numbers": ("is int64; expected float16, float32 or float64", lambda a: a.astype(np.int64)),
    "truth values": ("is bool; expected", lambda a: a > 0),
    "nan": (r"is not finite at row \d+; expected finite numbers", put(np.nan)),
    "inf": (r"is not finite at row \d+; expected finite numbers", put(-np.inf)),
    "too many columns": (r"is .*; expected", lambda a: np.column_stack((a, a))),
}
WRONG_FLAGS = WRONG | {
    "two": (r"is 2(\.0)? at row 3; expected 0 or 1", put(2)),
    "nan": (r"is nan at row 3; expected 0 or 1", put(np.nan)),
}
# Keys that a layout may lack: without them the file is another one, not a wrong one.
OPTIONAL = {"next_observations", "timeouts", "infos/qpos", "infos/qvel"}
CASES = [
    (layout, key, name)
    for layout in LAYOUTS
    for keys, wrongs in ((FLOATS, WRONG_FLOATS), (FLAGS, WRONG_FLAGS))
    for key in keys[layout]
    for name in wrongs
    if not (name == "missing" and key.removeprefix(MINARI) in OPTIONAL)
    # The number of rows comes from the observations: what is cut there shows at the next key.
    and not (key == f"{MINARI}observations" and name in ("short", "long"))
    and not (key.endswith("rewards") and name == "whole numbers")  # Those are rewards like others.
]


@pytest.mark.parametrize(("layout", "key", "name"), CASES)
def test_wrong_array(tmp_path: Path, layout: str, key: str, name: str) -> None:
    """Refused where the file is nothing without it; an episode is dropped, an array that a file may lack left out."""
    wrongs = WRONG_FLAGS if key in FLAGS[layout] else WRONG_FLOATS
    expected, change = wrongs[name]
    keys = {**LAYOUTS[layout]}
    value = keys.pop(key)
    if change is not None:
        keys[key] = change(value)
    file = write(tmp_path / "a.hdf5", keys)
    plain = key.removeprefix(MINARI)
    if plain.startswith("infos/"):
        card = import_file(file, robot="hopper", root=tmp_path).card
        assert card["notes"][0].startswith("simulator states were left out: ")
        assert "qpos.npy" not in card["files"]
        assert card["rows"] == len(ARRAYS.rewards)
        return
    if layout == "minari":
        card = import_file(file, robot="hopper", root=tmp_path).card
        assert (card["episodes"], card["rows"]) == (3, len(ARRAYS.rewards) - 12)
        assert card["dropped"] == {"episodes that do not fit": 1}
        fault = "is not finite" if name in ("nan", "inf") and key in FLOATS[layout] else f"key '{key}' ({expected})"
        assert re.search(f"first of the episodes that were dropped: .*{fault}", card["notes"][0])
        return
    if name == "nan" or (name == "inf" and key in FLOATS[layout]):
        return  # `test_rows_that_are_not_finite`.
    message = refuse(file)
    named = re.escape(key)
    if plain == "observations" and name in ("short", "long"):
        named = ".+"  # They set the number of rows: another key does not fit them.
    assert re.search(f"key '{named}' ({expected})", message), message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_episode_is_wrong(tmp_path: Path, layout: str) -> None:
    keys = {key: value.astype("S3") if key.endswith("actions") else value for key, value in LAYOUTS[layout].items()}
    assert "actions' is |S3" in refuse(write(tmp_path / "a.hdf5", keys))


FLAT: dict[str, Keys] = {
    "d4rl": LAYOUTS["d4rl"],
    "without following": {k: v for k, v in LAYOUTS["d4rl"].items() if k != "next_observations"},
    "odrl": LAYOUTS["odrl"],
}


@pytest.mark.parametrize("value", [np.nan, -np.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("row", [0, 3, 6, 13])
@pytest.mark.parametrize(
    ("layout", "key"),
    [(name, key) for name, keys in FLAT.items() for key in FLOATS["odrl"] if key in keys],
)
def test_rows_that_are_not_finite(tmp_path: Path, layout: str, key: str, row: int, value: float) -> None:
    """The row is dropped and counted, and the one before ends its episode; rows 6 and 7 end the first ones."""
    keys = {name: array.copy() if isinstance(array, np.ndarray) else array for name, array in FLAT[layout].items()}
    keys[key][row] = value
    gone = np.zeros(len(ARRAYS.rewards), dtype=bool)
    gone[row] = True
    final = ARRAYS.terminations | ARRAYS.truncations
    following = "next_observations" in keys
    if not following and key == "observations" and row:
        gone[row - 1] = True  # It leads to no number.
    dropped = int(gone.sum())
    kept = ~gone if following else ~(gone | final)
    done = import_file(write(tmp_path / "a.hdf5", keys), robot="hopper", root=tmp_path)
    data = load_imported(done.card["id"], root=tmp_path)
    assert done.card["dropped"]["rows with numbers that are not finite"] == dropped
    assert f"key '{key}' is not finite at row {row}" in done.card["notes"][0]
    for name in ("observations", "actions", "rewards", "next_observations"):
        np.testing.assert_array_equal(getattr(data, name), getattr(ARRAYS, name)[kept])
    if layout != "odrl":  # Random states that are not those of the rows would be left out.
        assert data.qpos is not None
        np.testing.assert_array_equal(data.qpos, ARRAYS.qpos[ARRAYS.state_rows][kept])
    terminations = ARRAYS.terminations[kept]
    np.testing.assert_array_equal(data.terminations, terminations)
    # A row ends where the next row of the file is gone, or is another episode's.
    numbers = np.flatnonzero(kept)
    ends = np.append(np.diff(numbers) > 1, True) | final[numbers]
    np.testing.assert_array_equal(data.truncations, ends & ~terminations)
    lost = int((gone & ARRAYS.terminations).sum())
    assert done.card["counted"].get("terminations lost with rows that are not finite", 0) == lost


@pytest.mark.parametrize("key", ["terminals", "timeouts"])
def test_rows_whose_flags_are_no_numbers(tmp_path: Path, key: str) -> None:
    """Whether an episode ended there is unknown: the row is dropped, and the one before is cut."""
    keys = LAYOUTS["d4rl"] | {key: LAYOUTS["d4rl"][key].astype(np.float64)}
    keys[key][[3, 6]] = np.nan
    done = import_file(write(tmp_path / "a.hdf5", keys), robot="hopper", root=tmp_path)
    data, kept = load_imported(done.card["id"], root=tmp_path), ~np.isin(np.arange(25), (3, 6))
    np.testing.assert_array_equal(data.next_observations, ARRAYS.next_observations[kept])
    np.testing.assert_array_equal(data.terminations, ARRAYS.terminations[kept])
    assert data.lengths.tolist()[:3] == [3, 2, 1] and data.truncations[[2, 4]].all()
    assert done.card["dropped"]["rows with numbers that are not finite"] == 2
    keys[key][:] = np.nan
    assert "is not finite at row 0" in refuse(write(tmp_path / "b.hdf5", keys))


@pytest.mark.parametrize("robot", WALKERS)
@pytest.mark.parametrize("size", [30.0, 1e12, 1e38])
@pytest.mark.filterwarnings("error")
def test_numbers_that_no_robot_has(tmp_path: Path, robot: str, size: float) -> None:
    """A sensor's fill value in one row, which is also where the row before leads."""
    data = collect(robot, "gravity-0.5", "medium", steps=40, limit=20)
    row = int(np.flatnonzero(~data.ends & ~data.cut)[3]) + 1
    shown, following = data.observations.copy(), data.following.copy()
    shown[row] = following[row - 1] = size
    file = write_target(tmp_path / "a.hdf5", replace(data, observations=shown), following, data.falls)
    done = import_file(file, robot=robot, root=tmp_path)
    found, kept = load_imported(done.card["id"], root=tmp_path), ~np.isin(np.arange(len(shown)), (row - 1, row))
    np.testing.assert_array_equal(found.observations, shown[kept])
    np.testing.assert_array_equal(found.terminations, data.falls[kept])
    assert done.card["dropped"] == {"rows that no step of the robot explains": 2}


def test_states_of_rows_that_are_not_finite_do_not_count(tmp_path: Path) -> None:
    """A simulation that diverged writes no number anywhere."""
    keys = {name: array.copy() for name, array in LAYOUTS["d4rl"].items()}
    for name in ("observations", "next_observations", "rewards", "infos/qpos", "infos/qvel"):
        keys[name][5] = np.nan
    done = import_file(write(tmp_path / "a.hdf5", keys), robot="hopper", root=tmp_path)
    assert "qpos.npy" in done.card["files"] and done.card["rows"] == len(ARRAYS.rewards) - 1


@pytest.mark.parametrize("layout", ["d4rl", "odrl", "minari"])
def test_no_row_is_finite(tmp_path: Path, layout: str) -> None:
    rewards = {key: value * np.nan for key, value in LAYOUTS[layout].items() if key.endswith("rewards")}
    assert "rewards' is not finite at row 0; expected" in refuse(write(tmp_path / "a.hdf5", LAYOUTS[layout] | rewards))


def test_every_row_leads_to_one_that_is_not_finite(tmp_path: Path) -> None:
    keys = {name: array.copy() for name, array in FLAT["without following"].items()}
    keys["observations"][1::2] = np.nan
    keys["rewards"][::2] = np.where(np.arange(13) < 4, np.nan, keys["rewards"][::2])
    assert "no row is left" in refuse(write(tmp_path / "a.hdf5", keys))


@pytest.mark.parametrize(("total", "missing"), [(None, 1), (4, 1), (7, 4), ("7", 1)])
@pytest.mark.parametrize("number", [0, 2])
def test_missing_episodes_are_told(tmp_path: Path, number: int, total: object, missing: int) -> None:
    keys = {key: value for key, value in LAYOUTS["minari"].items() if not key.startswith(f"episode_{number}/")}
    write(tmp_path / "data/main_data.hdf5", keys | {"info": np.zeros(3)})
    if total is not None:
        (tmp_path / "data/metadata.json").write_text(json.dumps({"total_episodes": total}))
    done = import_file(tmp_path, robot="hopper", root=tmp_path, out="imported/a")
    assert done.card["counted"]["episodes that are missing in the file"] == missing
    data = load_imported("imported/a", root=tmp_path)
    episode = np.repeat(np.arange(4), ARRAYS.lengths)
    np.testing.assert_array_equal(data.observations, ARRAYS.observations[episode != number])
    np.testing.assert_array_equal(data.terminations, ARRAYS.terminations[episode != number])
    # The same of a robot that nobody knows.
    read = read_own(tmp_path)
    assert read.notes[0] == f"{missing} episodes that are missing in the file"
    np.testing.assert_array_equal(read.observations, data.observations)


def test_keys_that_begin_like_episodes_are_no_episodes(tmp_path: Path) -> None:
    keys = LAYOUTS["odrl"] | {"episode_id": np.arange(25), "episode_ends": np.arange(25) > 3}
    done = import_file(write(tmp_path / "a.hdf5", keys), robot="hopper", root=tmp_path)
    assert (done.card["source"]["layout"], done.card["rows"]) == ("odrl", 25)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whole_rewards_and_half_precision(tmp_path: Path, layout: str) -> None:
    def rounded(key: str, value: Any) -> Any:
        kind = np.int64 if key.endswith("rewards") else np.float16 if key.endswith("observations") else None
        return value if kind is None else value.astype(kind)

    keys = {key: rounded(key, value) for key, value in LAYOUTS[layout].items()}
    done = import_file(write(tmp_path / "a.hdf5", keys), robot="hopper", root=tmp_path)
    data = load_imported(done.card["id"], root=tmp_path)
    np.testing.assert_array_equal(data.rewards, ARRAYS.rewards.astype(np.int64))
    np.testing.assert_array_equal(data.next_observations, ARRAYS.next_observations.astype(np.float16))
    np.testing.assert_array_equal(data.terminations, ARRAYS.terminations)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_clipped_actions(tmp_path: Path, layout: str) -> None:
    keys = {key: value * 2 if key.endswith("actions") else value for key, value in LAYOUTS[layout].items()}
    file = write(tmp_path / "a.hdf5", keys)
    far = int((np.abs(ARRAYS.actions * 2) > 1).any(axis=1).sum())
    assert f"--clip-actions clips them ({far} rows)" in refuse(file)
    done = import_file(file, robot="hopper", root=tmp_path, clip_actions=True)
    assert done.card["counted"]["rows with clipped actions"] == far
    data = load_imported(done.card["id"], root=tmp_path)
    np.testing.assert_array_equal(data.actions, np.clip(ARRAYS.actions * 2, -1, 1))


def test_d4rl_without_timeouts(tmp_path: Path) -> None:
    keys = {key: value for key, value in LAYOUTS["d4rl"].items() if key not in ("timeouts", "next_observations")}
    done = import_file(write(tmp_path / "a.hdf5", keys), robot="hopper", root=tmp_path)
    assert done.card["source"]["layout"] == "d4rl"
    assert done.card["dropped"]["final rows without next observation"] == ARRAYS.terminations.sum() + 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pkl", b"whatever", "is a pickle, which can run code"),
        ("a.npz", b"whatever", "is an archive of NumPy"),
        *(
            (f"a{suffix}", pickle.dumps({}, 4), "is a pickle, which can run")
            for suffix in ("", ".p", ".hdf5", ".joblib")
        ),
        ("a.npy", b"\x93NUMPY\x01\x00", "is one array of NumPy; several in an archive"),
        ("a.hdf5", b"PK\x03\x04", "is an archive of NumPy"),
    ],
)
@pytest.mark.parametrize("robot", ["hopper", "none"])
def test_other_formats_are_named(tmp_path: Path, name: str, content: bytes, message: str, robot: str) -> None:
    (tmp_path / name).write_bytes(content)
    if robot == "hopper":
        assert message in refuse(tmp_path / name)
    elif name.endswith((".npz", ".hdf5")):  # Read as what it is called.
        return
    else:
        with pytest.raises(OffDynError, match=message):
            read_own(tmp_path / name)


@pytest.mark.parametrize("robot", [[], ["--robot", "hopper"], ["--robot", "none"]])
def test_pickles_are_named_whatever_the_robot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], robot: list[str]
) -> None:
    (tmp_path / "a.pkl").write_bytes(b"whatever")
    with pytest.raises(SystemExit) as ended:
        main(["data", "import", str(tmp_path / "a.pkl"), *robot])
    assert ended.value.code == 2
    assert "is a pickle, which can run code when it is read" in capsys.readouterr().err


def test_enough_cases() -> None:
    assert len(CASES) >= 150


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("robot", ["halfcheetah", "walker2d", "ant"])
def test_another_robot(tmp_path: Path, layout: str, robot: str) -> None:
    file = write(tmp_path / "a.hdf5", LAYOUTS[layout])
    assert "observations' is float" in refuse(file, robot=robot)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"robot": "hoper"}, "unknown robot 'hoper'; did you mean 'hopper'"),
        ({"dynamics": "gravity-3.0"}, r"unknown dynamics.* 'gravity-3\.0'"),
        ({"quality": "good"}, "unknown quality 'good'"),
        ({"layout": "rlds"}, "unknown layout 'rlds'; .*allowed: d4rl, odrl, minari"),
        ({"out": "offdyn/hopper/nominal/medium-5k-v0"}, "does not fit; expected imported/NAME"),
        ({"out": "imported/../x"}, "does not fit; expected imported/NAME"),
        ({"out": "imported/a__b"}, "does not fit; expected imported/NAME"),
        ({"sha256": "ab" * 32}, f"SHA-256 .*; expected {'ab' * 32}"),
        ({"robot": None}, "does not say whose data it holds; pass --robot: halfcheetah, hopper"),
        ({"layout": "minari"}, "key 'episode_0' is missing; expected episode_0 to episode_"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    file = write(tmp_path / "a.hdf5", LAYOUTS["odrl"])
    with pytest.raises(OffDynError, match=message):
        import_file(file, **{"robot": "hopper", "root": tmp_path, **options})
    assert not (tmp_path / "imported").exists()


def test_no_known_keys(tmp_path: Path) -> None:
    message = refuse(write(tmp_path / "a.hdf5", {"obs": np.zeros(3), "act": np.zeros(3)}))
    assert "are all missing; expected one of them, found: act, obs" in message
    assert "found: nothing" in refuse(write(tmp_path / "b.hdf5", {}))


def test_flag_inside_an_episode(tmp_path: Path) -> None:
    keys = {**LAYOUTS["minari"]}
    flags = keys[f"{MINARI}terminations"].copy()
    flags[4] = True
    keys[f"{MINARI}terminations"] = flags
    card = import_file(write(tmp_path / "a.hdf5", keys), robot="hopper", root=tmp_path).card
    assert card["dropped"] == {"episodes that do not fit": 1}
    assert "key 'episode_2/terminations' is true at row 4 of 12; expected true on the last row" in card["notes"][0]


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(4096)])
def test_not_hdf5(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.hdf5"
    file.write_bytes(content)
    assert "not HDF5, truncated or damaged" in refuse(file)


def test_no_file(tmp_path: Path) -> None:
    assert "missing; expected a file" in refuse(tmp_path / "none.hdf5")
    (tmp_path / "folder").mkdir()
    assert "holds no data/main_data.hdf5" in refuse(tmp_path / "folder")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.6, 0.9, 0.999])
def test_truncated(tmp_path: Path, layout: str, part: float) -> None:
    file = write(tmp_path / "a.hdf5", LAYOUTS[layout])
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])
    assert "not HDF5, truncated or damaged" in refuse(file)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "holds a list; expected a JSON object"),
        ('{"data_format": "arrow"}', "key 'data_format' is 'arrow'; expected 'hdf5'"),
        ('{"env_spec": "Hopper"}', "key 'env_spec' of metadata.json is no environment specification"),
        ('{"env_spec": "{}"}', "key 'env_spec' of metadata.json is no environment specification"),
        ('{"env_spec": 3}', "key 'env_spec' of metadata.json is no environment specification"),
        ('{"env_spec": "[1]"}', "key 'env_spec' of metadata.json is no environment specification"),
    ],
    ids=lambda value: value[:12],
)
def test_minari_metadata(tmp_path: Path, metadata: str, message: str) -> None:
    file = write(tmp_path / "main_data.hdf5", LAYOUTS["minari"])
    (tmp_path / "metadata.json").write_text(metadata)
    with pytest.raises(OffDynError, match=message) as caught:
        import_file(file, robot="hopper", root=tmp_path / "root")
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "root" / "imported").exists()


def test_arrays_in_other_files_are_not_followed(tmp_path: Path) -> None:
    """A file must not make the reader open another one of this machine."""
    other = write(tmp_path / "other.hdf5", LAYOUTS["odrl"])
    (tmp_path / "raw").write_bytes(bytes(100))
    rest = {key: value for key, value in LAYOUTS["odrl"].items() if key != "rewards"}
    for kind in ("external", "soft", "virtual", "raw"):
        file = write(tmp_path / f"{kind}.hdf5", rest)
        with h5py.File(file, "a") as content:
            if kind == "external":
                content["rewards"] = h5py.ExternalLink(str(other), "/rewards")
            elif kind == "soft":
                content["rewards"] = h5py.SoftLink("/actions")
            elif kind == "virtual":
                virtual = h5py.VirtualLayout((25,), "f4")
                virtual[...] = h5py.VirtualSource(other, "rewards", (25, 1))[:, 0]
                content.create_virtual_dataset("rewards", virtual)
            else:
                content.create_dataset("rewards", (25,), "f4", external=[(str(tmp_path / "raw"), 0, 100)])
        message = refuse(file)
        assert "key 'rewards' is a link" in message or "key 'rewards' lies in another file" in message


def test_claims_more_than_the_file_can_hold(tmp_path: Path) -> None:
    file = write(tmp_path / "a.hdf5", {key: value for key, value in LAYOUTS["odrl"].items() if key != "observations"})
    with h5py.File(file, "a") as content:
        content.create_dataset("observations", (2**36, 11), "f4", chunks=(1024, 11))
    assert "claims [68719476736, 11] values, more than the file can hold" in refuse(file)


@pytest.mark.parametrize("layout", ["d4rl", "odrl"])
def test_bit_flips_in_exported_files(tmp_path: Path, layout: str) -> None:
    """Whatever bit is flipped: refused in one line, or what comes in is what went out."""
    dataset = make_dataset("hopper")
    file = tmp_path / "a.hdf5"
    export(dataset, file, layout)
    whole, refused = file.read_bytes(), 0
    for seed in range(40):
        file.write_bytes(flipped(whole, seed))
        try:
            done = import_file(file, robot="hopper", root=tmp_path, force=True)
        except OffDynError as error:
            refused += 1
            assert str(file) in str(error)
            assert "\n" not in str(error)
            continue
        data = load_imported(done.card["id"], root=tmp_path)
        for key in ("observations", "actions", "next_observations", "rewards", "terminations", "lengths"):
            expected = getattr(dataset.arrays, key)
            np.testing.assert_array_equal(getattr(data, key), expected, err_msg=f"{key}, seed {seed}")
    assert refused >= 10


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bit_flips_in_files_of_others(tmp_path: Path, layout: str) -> None:
    """Their files carry no checksums: one line, or something that is whole in itself; a known checksum refuses all."""
    file = write(tmp_path / "a.hdf5", LAYOUTS[layout])
    whole, refused = file.read_bytes(), 0
    known = hashlib.sha256(whole).hexdigest()
    for seed in range(30):
        file.write_bytes(flipped(whole, seed))
        with pytest.raises(OffDynError, match=f"SHA-256 .*; expected {known}"):
            import_file(file, robot="hopper", root=tmp_path, sha256=known)
        try:
            done = import_file(file, robot="hopper", root=tmp_path, force=True)
        except OffDynError as error:
            refused += 1
            assert str(tmp_path) in str(error)
            assert "\n" not in str(error)
            continue
        data = load_imported(done.card["id"], root=tmp_path)
        ended = data.terminations | data.truncations
        np.testing.assert_array_equal(np.flatnonzero(ended), np.cumsum(data.lengths) - 1)
        np.testing.assert_array_equal(data.next_observations[:-1][~ended[:-1]], data.observations[1:][~ended[:-1]])
        assert np.isfinite(data.observations).all()
        assert np.abs(data.actions).max() <= 1
    assert refused >= 6


def flipped(content: bytes, seed: int) -> bytes:
    rng, changed = random.Random(seed), bytearray(content)
    for _ in range(rng.choice((1, 1, 4, 32))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_keys_of_random_types_and_shapes(tmp_path: Path, data: st.DataObject) -> None:
    """Any array under any key: one line, or a dataset whose parts fit together."""
    layout = data.draw(st.sampled_from(list(LAYOUTS)))
    keys = {**LAYOUTS[layout]}
    key = data.draw(st.sampled_from([*FLOATS[layout], *FLAGS[layout]]))
    shape = data.draw(st.lists(st.integers(0, 30), max_size=3))
    dtype = data.draw(st.sampled_from(["f4", "f8", "i4", "u1", "?", "S3", "f2", "c8"]))
    keys[key] = np.ones(shape, dtype)
    file = write(tmp_path / "a.hdf5", keys)
    try:
        done = import_file(file, robot="hopper", root=tmp_path, force=True)
    except OffDynError as error:
        assert str(file) in str(error)
        assert "\n" not in str(error)
        return
    assert len(load_imported(done.card["id"], root=tmp_path)) == done.card["rows"]


def test_failed_import_keeps_what_was_there(tmp_path: Path) -> None:
    file = write(tmp_path / "a.hdf5", LAYOUTS["odrl"])
    done = import_file(file, robot="hopper", root=tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(OffDynError):
        import_file(file, robot="hopper", root=tmp_path, force=True)
    assert len(load_imported(done.card["id"], root=tmp_path)) == len(ARRAYS.rewards)
