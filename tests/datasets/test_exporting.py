from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from offdyn_envs.datasets.importing import import_file
from offdyn_envs.datasets.importing.exporters import export
from offdyn_envs.datasets.loading import load_dataset
from offdyn_envs.datasets.store.imported import load_imported
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import WALKERS
from tests.datasets.conftest import SMALL
from tests.datasets.foreign import make_arrays, make_dataset
from tests.datasets.test_importing import assert_same, read


@pytest.mark.parametrize("name", WALKERS)
@pytest.mark.parametrize("layout", ["d4rl", "odrl"])
@pytest.mark.parametrize("pad", [True, False])
def test_round_trip(tmp_path: Path, name: str, layout: str, pad: bool) -> None:
    arrays = make_arrays(name)
    file = tmp_path / "a.hdf5"
    export(make_dataset(name, arrays), file, layout, pad_ant=pad)
    data = read(import_file(file, root=tmp_path))
    assert_same(data, arrays)
    assert (data.card["robot"], data.card["dynamics"]) == (name, "gravity-0.5")
    assert (data.qpos is not None) == (layout == "d4rl")
    if data.qpos is not None and data.qvel is not None:
        np.testing.assert_array_equal(data.qpos, arrays.qpos[arrays.state_rows])
        np.testing.assert_array_equal(data.qvel, arrays.qvel[arrays.state_rows])
    again = tmp_path / "again.hdf5"
    export(data, again, layout, pad_ant=pad)  # An imported one goes out again.
    assert_same(read(import_file(again, root=tmp_path)), arrays)


@pytest.mark.parametrize("layout", ["d4rl", "odrl"])
def test_round_trip_of_a_built_dataset(root: Path, tmp_path: Path, layout: str) -> None:
    built = load_dataset(SMALL)
    export(built, tmp_path / "a.hdf5", layout)
    data = read(import_file(tmp_path / "a.hdf5", root=root))
    assert_same(data, built.arrays)
    assert data.card["returns"] == built.card["returns"]
    assert data.card["moments"] == built.card["moments"]


def test_fall_at_the_time_limit(tmp_path: Path) -> None:
    """ODRL has no timeouts: there such a step is a termination only, as the documentation says."""
    arrays = make_arrays("hopper")
    both = replace(arrays, truncations=arrays.truncations | arrays.terminations)
    for layout, expected in (("d4rl", both), ("odrl", arrays)):
        export(make_dataset("hopper", both), tmp_path / layout, layout)
        assert_same(read(import_file(tmp_path / layout, root=tmp_path)), expected)


@pytest.mark.parametrize(("name", "width"), [("ant", 111), ("hopper", 11)])
def test_layouts_are_those_that_other_code_reads(tmp_path: Path, name: str, width: int) -> None:
    arrays = make_arrays(name)
    rows = len(arrays.rewards)
    for layout in ("d4rl", "odrl"):
        export(make_dataset(name, arrays), tmp_path / layout, layout)
    with h5py.File(tmp_path / "d4rl") as file:
        keys: list[str] = []
        file.visititems(lambda key, item: keys.append(key) if isinstance(item, h5py.Dataset) else None)
        assert set(keys) == {
            *("observations", "actions", "next_observations", "rewards", "terminals", "timeouts"),
            *("infos/qpos", "infos/qvel"),
        }
        assert file["rewards"].shape == file["terminals"].shape == file["timeouts"].shape == (rows,)
        assert file["terminals"].dtype == file["timeouts"].dtype == np.bool_
        assert file["observations"].shape == file["next_observations"].shape == (rows, width)
        assert not file["observations"][:, arrays.observations.shape[1] :].any()
        assert file["rewards"].dtype == file["observations"].dtype == np.float32
    with h5py.File(tmp_path / "odrl") as file:
        assert set(file) == {"observations", "actions", "next_observations", "rewards", "terminals"}
        assert file["rewards"].shape == file["terminals"].shape == (rows, 1)
        np.testing.assert_array_equal(1.0 - file["terminals"][()], ~arrays.terminations[:, None])
        assert file["observations"].shape == (rows, width)


def test_padding_of_many_blocks(tmp_path: Path) -> None:
    arrays = make_arrays("ant", (1000,) * 20, (False,) * 20)
    export(make_dataset("ant", arrays), tmp_path / "a.hdf5", "odrl")
    assert_same(read(import_file(tmp_path / "a.hdf5", root=tmp_path)), arrays)


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    file = tmp_path / "a.hdf5"
    file.write_text("mine")
    dataset = make_dataset("hopper")
    with pytest.raises(OffDynError, match="is there already; expected a new file, or --force"):
        export(dataset, file, "odrl")
    assert file.read_text() == "mine"
    export(dataset, file, "odrl", force=True)
    assert len(load_imported(import_file(file, root=tmp_path).card["id"], root=tmp_path)) == len(dataset)
    with pytest.raises(OffDynError, match="unknown layout 'd4r'; did you mean 'd4rl'"):
        export(dataset, tmp_path / "b.hdf5", "d4r")
    with pytest.raises(OffDynError, match="is there already"):
        export(dataset, tmp_path, "odrl", force=True)


def test_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("offdyn_envs.datasets.importing.exporters._write", fail)
    with pytest.raises(OSError, match="disk full"):
        export(make_dataset("hopper"), tmp_path / "a.hdf5", "d4rl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", ["d4rl", "odrl"])
def test_changed_after_the_export(tmp_path: Path, layout: str) -> None:
    """A change that fits the layout is caught by the checksums that the file carries."""
    file = tmp_path / "a.hdf5"
    export(make_dataset("hopper"), file, layout)
    with h5py.File(file, "a") as content:
        content["rewards"][3] = 0.25
    with pytest.raises(OffDynError, match=r"a\.hdf5: key 'rewards' has SHA-256 .*, as it was exported"):
        import_file(file, root=tmp_path)


@pytest.mark.parametrize(
    ("stamp", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "key 'format' is None; this release reads format 1"),
        ('{"format": 2}', "key 'format' is 2"),
        ('{"format": 1}', "key 'offdyn.id' is missing; expected a string"),
        (3, "cannot be read as JSON"),
    ],
)
def test_damaged_stamp(tmp_path: Path, stamp: str, message: str) -> None:
    file = tmp_path / "a.hdf5"
    export(make_dataset("hopper"), file, "d4rl")
    with h5py.File(file, "a") as content:
        content.attrs["offdyn"] = stamp
    with pytest.raises(OffDynError, match=f"a.hdf5.*{message}"):
        import_file(file, robot="hopper", root=tmp_path)
