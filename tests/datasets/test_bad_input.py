from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from offdyn_envs import load_dataset
from offdyn_envs.datasets.checking.check import verify
from offdyn_envs.datasets.collecting.build import build, resolve
from offdyn_envs.datasets.store.fields import CARD, Each, Maybe
from offdyn_envs.datasets.store.folders import read_dataset, read_metadata
from offdyn_envs.errors import OffDynError
from offdyn_envs.shipped import shipped_root
from offdyn_envs.tasks import DatasetId
from tests.datasets.conftest import NOMINAL, SMALL, make_policy


def edit_hdf5(root: Path, edit: Callable[[h5py.Group], None]) -> None:
    with h5py.File(root / SMALL / "data" / "main_data.hdf5", "a") as file:
        edit(file["episode_1"])


def replace(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.Group], None]:
    def edit(group: h5py.Group) -> None:
        value = change(group[key][()])
        del group[key]
        group[key] = value

    return edit


def put(index: Any, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[index] = value
        return array

    return change


def drop(key: str) -> Callable[[h5py.Group], None]:
    def edit(group: h5py.Group) -> None:
        del group[key]

    return edit


def no_shape(group: h5py.Group) -> None:
    del group["rewards"]
    group["rewards"] = h5py.Empty("f4")


def array_instead(key: str) -> Callable[[h5py.Group], None]:
    def edit(group: h5py.Group) -> None:
        parent = group.parent if not key else group
        name = key or group.name
        del parent[name]
        parent[name] = np.zeros(3, np.float32)

    return edit


def text_seed(group: h5py.Group) -> None:
    group.attrs["seed"] = "seven"


def group_instead(group: h5py.Group) -> None:
    del group["actions"]
    group.create_group("actions")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (array_instead(""), r"'/episode_1' is a dataset; expected the group of an episode"),
        (array_instead("infos"), r"main_data.hdf5: .*"),
        (text_seed, r"attribute 'seed' of '/episode_1' is object \[\]; expected a whole number"),
        (no_shape, r"'/episode_1/rewards' is missing; expected float32 \[\d+\]"),
        (group_instead, r"'/episode_1/actions' is missing; expected float32 \[\d+, 3\]"),
        (drop("actions"), r"'/episode_1/actions' is missing; expected float32 \[\d+, 3\]"),
        (drop("infos/qvel"), r"'/episode_1/infos/qvel' is missing; expected float64 \[\d+, 6\]"),
        (replace("rewards", lambda a: a.astype(np.float64)), r"rewards' is float64 \[\d+\]; expected float32"),
        (
            replace("observations", lambda a: a[:, :10]),
            r"observations' is float32 \[\d+, 10\]; expected .*11\]",
        ),
        (
            replace("actions", lambda a: a[:-1]),
            r"episode_1/actions' is float32 \[\d+, 3\]; expected",
        ),
        (replace("infos/qpos", lambda a: a[:-1]), r"infos/qpos' is float64"),
        (replace("observations", put((2, 4), np.nan)), r"'observations' is not finite at row \d+"),
        (replace("rewards", put(0, np.inf)), r"'rewards' is not finite at row \d+"),
        (replace("actions", put((3, 1), 1.5)), r"'actions' has magnitude 1.5 at row \d+; expected values in \[-1, 1\]"),
        (replace("truncations", put(0, True)), r"'truncations' at row \d+ disagree with the episodes"),
        (replace("terminations", put(-1, False)), r"disagree with the episodes"),
        (replace("rewards", put(0, 0.25)), r"'rewards' has SHA-256 .*; expected [0-9a-f]{64}"),
    ],
)
def test_damaged_arrays(root: Path, edit: Callable[[h5py.Group], None], message: str) -> None:
    edit_hdf5(root, edit)
    with pytest.raises(OffDynError, match=message) as caught:
        read_dataset(root / SMALL)
    assert "main_data.hdf5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_episode(root: Path) -> None:
    with h5py.File(root / SMALL / "data" / "main_data.hdf5", "a") as file:
        del file["episode_3"]
    with pytest.raises(OffDynError, match="'episode_3' is missing; expected episode_0 to episode_"):
        read_dataset(root / SMALL)


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_truncated_file(root: Path, size: int) -> None:
    path = root / SMALL / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(OffDynError, match=r"main_data\.hdf5"):
        load_dataset(SMALL)
    assert len(load_dataset(NOMINAL)) == 500  # Its neighbour is as it was.


def test_missing_file(root: Path) -> None:
    path = root / SMALL / "data" / "main_data.hdf5"
    path.unlink()
    with pytest.raises(OffDynError, match=r"main_data\.hdf5: missing"):
        load_dataset(SMALL)


def edit_metadata(root: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = root / SMALL / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    edit(metadata)
    path.write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m["offdyn"].update(format=2), "'format' is 2; this release reads formats up to 1"),
        (lambda m: m.pop("offdyn"), "'offdyn' is missing"),
        (lambda m: m["offdyn"].pop("arrays"), "'offdyn.arrays' is missing; expected an object"),
        (lambda m: m["offdyn"].update(rows=499), "499 rows .*; expected 500 rows"),
        (lambda m: m.update(dataset_id=NOMINAL), "'dataset_id' is .*; expected"),
        (lambda m: m["offdyn"]["arrays"].update(rewards="0" * 64), "'rewards' has SHA-256 .*; expected 0000"),
    ],
)
def test_damaged_metadata(root: Path, edit: Callable[[dict[str, Any]], None], message: str) -> None:
    edit_metadata(root, edit)
    with pytest.raises(OffDynError, match=message):
        verify(root / SMALL) if "rewards" in message else load_dataset(SMALL)


def walk(value: Any, expected: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], bool]]:
    """Return the paths of all values of a card that have a type to be checked, and whether they may be missing."""
    if isinstance(expected, Maybe):
        return walk(value, expected.inner, path)
    found: list[tuple[tuple[Any, ...], bool]] = []
    if isinstance(expected, list):
        found = [item for index in range(min(len(value), 1)) for item in walk(value[0], expected[0], (*path, index))]
    elif isinstance(expected, Each):
        found = [item for key in value for item in walk(value[key], expected.inner, (*path, key))]
    elif isinstance(expected, Mapping):
        for name, inner in expected.items():
            key = name.removesuffix("?")
            if key in value:
                found += [((*path, key), key != name), *walk(value[key], inner, (*path, key))]
    return found


def spelled(path: tuple[Any, ...]) -> str:
    return "offdyn" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)


def holder(metadata: dict[str, Any], path: tuple[Any, ...]) -> Any:
    value: Any = metadata["offdyn"]
    for key in path[:-1]:
        value = value[key]
    return value


def shipped_metadata() -> dict[str, Any]:
    folder = shipped_root() / "offdyn" / "hopper" / "gravity-0p5" / "medium-5k-v0"
    return json.loads((folder / "data" / "metadata.json").read_text())


PATHS = walk(shipped_metadata()["offdyn"], CARD)


def write_metadata(folder: Path, metadata: dict[str, Any]) -> Path:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    return folder


@pytest.mark.parametrize("path", [path for path, may_miss in PATHS if not may_miss], ids=spelled)
def test_card_without_a_key(tmp_path: Path, path: tuple[Any, ...]) -> None:
    metadata = shipped_metadata()
    del holder(metadata, path)[path[-1]]
    with pytest.raises(OffDynError, match=r"metadata\.json: key '.*' (is|has)") as caught:
        read_metadata(write_metadata(tmp_path, metadata))
    name = "format" if path == ("format",) else spelled(path)
    assert f"'{name}'" in str(caught.value)


@pytest.mark.parametrize("wrong", [True, ["x"], {"x": "x"}, "x", 1.5, float("nan"), 10**400], ids=lambda v: str(v)[:9])
@pytest.mark.parametrize("path", [path for path, _ in PATHS], ids=spelled)
def test_card_with_a_value_of_another_type(tmp_path: Path, path: tuple[Any, ...], wrong: Any) -> None:
    """Whatever stands in place of a value: an error that names file and key, or a card like the old one."""
    metadata = shipped_metadata()
    place = holder(metadata, path)
    before, place[path[-1]] = place[path[-1]], wrong
    names = {(key,) for key in ("id", "robot", "dynamics", "quality", "profile")}
    alike = (isinstance(before, str) and wrong == "x" and path not in names) or (
        isinstance(before, float) and wrong == 1.5
    )
    if (
        alike
        or (path[-1] == "simd" and wrong == ["x"])
        or (path[-1] == "returns" and path[0] == "behaviour" and wrong == {"x": "x"})
    ):
        assert read_metadata(write_metadata(tmp_path, metadata))["offdyn"]
        return
    with pytest.raises(OffDynError, match=r"metadata\.json: key '(offdyn\.|format)") as caught:
        read_metadata(write_metadata(tmp_path, metadata))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["moments"]["actions"]["std"].pop(), "'offdyn.moments.actions.std' has 2 numbers; expected 3"),
        (lambda c: c["returns"]["histogram"]["edges"].pop(), r"histogram.edges' has 20 numbers; expected 21"),
        (lambda c: c["returns"]["histogram"].update(counts=[], edges=[0.0]), "counts no episode"),
        (lambda c: c["shifts"].append({"kind": "wind"}), r"key 'offdyn.shifts': .*wind"),
        (
            lambda c: c.update(id="offdyn/hopper/nominal/medium-5k-v0"),
            "'offdyn.id' is .*; expected 'offdyn/hopper/grav",
        ),
    ],
)
def test_card_that_does_not_fit_together(tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str) -> None:
    metadata = shipped_metadata()
    edit(metadata["offdyn"])
    with pytest.raises(OffDynError, match=message):
        read_metadata(write_metadata(tmp_path, metadata))


def test_damaged_manifest(root: Path, tmp_path: Path) -> None:
    card = shipped_metadata()["offdyn"]
    del card["moments"]["rewards"]
    manifest = tmp_path / "datasets" / "manifest.json"
    manifest.parent.mkdir()
    manifest.write_text(json.dumps({"format": 1, "datasets": {card["id"]: card}}))
    with pytest.raises(OffDynError, match=r"manifest\.json: key 'datasets\.offdyn/.*\.moments\.rewards' is missing"):
        verify(root / SMALL, rows=10)


def test_metadata_is_not_json(root: Path) -> None:
    (root / SMALL / "data" / "metadata.json").write_text('{"offdyn": ')
    with pytest.raises(OffDynError, match=r"metadata\.json: cannot be read as JSON"):
        load_dataset(SMALL)


def test_build_does_not_overwrite_damage(root: Path) -> None:
    path = root / SMALL / "data" / "metadata.json"
    path.write_text("{}")
    with pytest.raises(OffDynError, match="'offdyn' is missing"):
        build(DatasetId.parse(SMALL), quiet=True)
    assert path.read_text() == "{}"
    assert build(DatasetId.parse(SMALL), force=True, num_threads=1, quiet=True).built
    assert len(load_dataset(SMALL)) == 500


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("offdyn/hoper/nominal/random-5k-v0", "did you mean 'offdyn/hopper/nominal/random-5k-v0'"),
        ("offdyn/hopper/gravity-0.6/random-5k-v0", "did you mean 'offdyn/hopper/gravity-0p5/random-5k-v0'"),
        ("hopper-gravity-0.5-mediun", "did you mean 'hopper-gravity-0.5-medium'"),
        ("", "unknown task or dataset"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(OffDynError, match=message):
        resolve([name])


def test_replay_is_refused_where_the_learners_policies_are_not_shipped(root: Path) -> None:
    with pytest.raises(OffDynError, match="medium-replay exists for nominal and severe dynamics"):
        build(DatasetId("hopper", "gravity-0.5", "medium-replay", "5k"), quiet=True)


def test_policy_missing_or_of_another_robot(root: Path, tmp_path: Path) -> None:
    dataset = DatasetId("hopper", "nominal", "medium", "500")
    with pytest.raises(OffDynError, match=r"policy is missing; expected .*medium\.safetensors"):
        build(dataset, behaviours=tmp_path, quiet=True)
    make_policy("ant", 0).save(tmp_path / "hopper" / "nominal" / "medium.safetensors", {})
    with pytest.raises(OffDynError, match="maps 27 to 8 numbers; expected 11 to 3 for hopper"):
        build(dataset, behaviours=tmp_path, quiet=True)
    assert not (root / str(dataset)).exists()


def test_policy_beside_the_card_of_another(root: Path, tmp_path: Path) -> None:
    dataset = DatasetId("hopper", "nominal", "medium", "500")
    path = tmp_path / "hopper" / "nominal" / "medium.safetensors"
    make_policy("hopper", 0).save(path, {})
    card = path.with_suffix(".json").read_text()
    make_policy("hopper", 1).save(path, {})
    path.with_suffix(".json").write_text(card)
    with pytest.raises(OffDynError, match=r"medium\.json: key 'policy_sha256'"):
        build(dataset, behaviours=tmp_path, quiet=True)
    assert not (root / str(dataset)).exists()


def test_seed_below_zero(root: Path) -> None:
    with pytest.raises(OffDynError, match="seed must be at least 0, got -1"):
        build(DatasetId("hopper", "nominal", "random", "5k"), seed=-1, quiet=True)
