"""The published tree: exact, whole at every moment, and what Minari's own functions find their way in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import minari
import minari.storage.remotes
import numpy as np
import pytest
from minari.storage.remotes.cloud_storage import CloudStorage
from typer.testing import CliRunner

from offdyn_envs.cli import main
from offdyn_envs.datasets.checking.check import verify
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.commands import app
from offdyn_envs.datasets.loading import load_dataset
from offdyn_envs.datasets.sharing.download import download, download_all
from offdyn_envs.datasets.sharing.publish import publish
from offdyn_envs.datasets.store.folders import file_digest, local_ids, read_dataset, read_metadata
from offdyn_envs.datasets.store.manifest import read_manifest, record
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import DatasetId
from tests.datasets.conftest import NOMINAL, SMALL, hide_shipped
from tests.datasets.server import serve

IDS = [DatasetId.parse(NOMINAL), DatasetId.parse(SMALL)]
FILES = {
    "manifest.json",
    "offdyn/namespace_metadata.json",
    "offdyn/hopper/namespace_metadata.json",
    "offdyn/hopper/gravity-0p5/namespace_metadata.json",
    "offdyn/hopper/nominal/namespace_metadata.json",
    *(f"{name}/data/{file}" for name in (SMALL, NOMINAL) for file in ("metadata.json", "main_data.hdf5")),
}


@pytest.fixture(autouse=True)
def environment(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OFFDYN_DATA_URL", "MINARI_REMOTE"):
        monkeypatch.delenv(name, raising=False)
    hide(monkeypatch, tmp_path / "datasets")


def hide(monkeypatch: pytest.MonkeyPatch, instead: Path) -> None:
    hide_shipped(monkeypatch, instead)
    monkeypatch.setattr("offdyn_envs.datasets.sharing.publish.shipped_root", lambda: instead)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    place = tmp_path / "tree"
    publish(place, quiet=True)
    return place


def files_of(tree: Path) -> set[str]:
    found = (path.relative_to(tree) for path in tree.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if path.parts[0] != ".building"}


def assert_consistent(tree: Path) -> dict[str, Any]:
    """Every dataset that the manifest names lies there with the size and the checksum that it names."""
    manifest = read_manifest(tree / "manifest.json")
    assert set(manifest["files"]) == {
        f"{name}/data/{file}" for name in manifest["datasets"] for file in ("metadata.json", "main_data.hdf5")
    }
    for file, facts in manifest["files"].items():
        assert facts == {"bytes": (tree / file).stat().st_size, "sha256": file_digest(tree / file)}
    for name, card in manifest["datasets"].items():
        assert {**read_metadata(tree / name)["offdyn"], "shipped": card["shipped"]} == card
    return manifest


def test_exact_tree(tree: Path, root: Path) -> None:
    assert files_of(tree) == FILES
    assert not [path for path in (tree / ".building").iterdir() if path.suffix != ".lock" and path.name != ".gitignore"]
    manifest = assert_consistent(tree)
    assert set(manifest["datasets"]) == {SMALL, NOMINAL}
    assert manifest["tasks"] == {}
    for name in (SMALL, NOMINAL):
        for file in ("metadata.json", "main_data.hdf5"):
            assert (tree / name / "data" / file).read_bytes() == (root / name / "data" / file).read_bytes()
    spaces = json.loads((tree / "offdyn" / "namespace_metadata.json").read_text())
    assert spaces["datasets"] == sorted((SMALL, NOMINAL))
    assert spaces["namespaces"] == ["offdyn/hopper", "offdyn/hopper/gravity-0p5", "offdyn/hopper/nominal"]
    inner = json.loads((tree / "offdyn/hopper/nominal/namespace_metadata.json").read_text())
    assert inner["datasets"] == [NOMINAL]


def test_tree_from_a_plain_static_server(tree: Path, tmp_path: Path, root: Path) -> None:
    with serve(tree) as server:
        for name in (SMALL, NOMINAL):
            done = download(DatasetId.parse(name), url=server.url, root=tmp_path / "other", quiet=True)
            assert verify(done.path, rows=50).mode == "exact"
            for (_, ours), (_, theirs) in zip(
                read_dataset(done.path).arrays.items(), read_dataset(root / name).arrays.items(), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)
    again = publish(tmp_path / "tree2", quiet=True)
    assert all(item.published for item in again)
    for file in FILES:
        assert (tmp_path / "tree2" / file).read_bytes() == (tree / file).read_bytes()


def test_again_and_more(tree: Path, root: Path) -> None:
    times = {file: (tree / file).stat().st_mtime_ns for file in FILES if file.endswith("hdf5")}
    assert [item.published for item in publish(tree, quiet=True)] == [False, False]
    assert {file: (tree / file).stat().st_mtime_ns for file in times} == times
    build(DatasetId.parse(SMALL), seed=2, force=True, num_threads=1, quiet=True)
    more = DatasetId("hopper", "gravity-2.0", "random", "500")
    build(more, num_threads=1, quiet=True)
    assert [item.published for item in publish(tree, [DatasetId.parse(SMALL), more], quiet=True)] == [True, True]
    manifest = assert_consistent(tree)
    assert set(manifest["datasets"]) == {SMALL, NOMINAL, str(more)}
    assert manifest["datasets"][SMALL]["seed"] == 2
    spaces = json.loads((tree / "offdyn" / "namespace_metadata.json").read_text())
    assert str(more) in spaces["datasets"]


def test_damaged_copy_is_replaced_and_a_missing_one_leaves_the_manifest(tree: Path, root: Path) -> None:
    path = tree / SMALL / "data" / "main_data.hdf5"
    body = bytearray(path.read_bytes())
    body[5000] ^= 1
    path.write_bytes(body)
    shutil.rmtree(tree / NOMINAL)
    assert [item.published for item in publish(tree, [DatasetId.parse(SMALL)], quiet=True)] == [True]
    assert set(assert_consistent(tree)["datasets"]) == {SMALL}
    assert path.read_bytes() == (root / SMALL / "data" / "main_data.hdf5").read_bytes()


def test_tasks_and_shipped(tmp_path: Path) -> None:
    shipped = tmp_path / "datasets"
    dataset = DatasetId("hopper", "gravity-5.0", "random", "500")
    built = build(dataset, root=shipped, ship=True, num_threads=1, quiet=True)
    record({str(dataset): read_metadata(built.path)["offdyn"]}, shipped=True, path=shipped / "manifest.json")
    done = publish(tmp_path / "tree", quiet=True)
    assert str(dataset) in {str(item.id) for item in done}
    cards = assert_consistent(tmp_path / "tree")["datasets"]
    assert [cards[name]["shipped"] for name in (str(dataset), SMALL)] == [True, False]


def test_nothing_damaged_is_published(tree: Path, root: Path) -> None:
    before = {file: (tree / file).read_bytes() for file in FILES}
    path = root / SMALL / "data" / "main_data.hdf5"
    whole = path.read_bytes()
    for damage in (whole[:-100], whole[:60_000] + bytes([whole[60_000] ^ 1]) + whole[60_001:], whole + b"more"):
        path.write_bytes(damage)
        with pytest.raises(OffDynError) as caught:
            publish(tree, quiet=True)
        assert str(root / SMALL) in str(caught.value)
        assert {file: (tree / file).read_bytes() for file in FILES} == before


def test_not_the_dataset_of_this_release(tree: Path, root: Path, tmp_path: Path) -> None:
    card = {**read_metadata(root / SMALL)["offdyn"], "sha256": "0" * 64}
    record({SMALL: card}, shipped=False, path=tmp_path / "datasets" / "manifest.json")
    with pytest.raises(OffDynError, match="not the dataset of that id in the manifest of this release"):
        publish(tree, quiet=True)
    assert_consistent(tree)


def test_folders_that_are_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "manifest.json").write_text('{"name": "web app"}')
    for folder, message in (
        (root, "lies in"),
        (root / "published", "lies in"),
        (tmp_path / "full", "holds 'thesis.txt' and no manifest.json"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "foreign", "key 'format' is not 1"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["data", "publish", str(folder)])
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["thesis.txt"]
    assert (tmp_path / "foreign" / "manifest.json").read_text() == '{"name": "web app"}'


def test_nothing_to_publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OffDynError, match="not on this machine; build it with: offdyn data build"):
        publish(tmp_path / "tree", [DatasetId("hopper", "gravity-2.0", "random", "5k")], quiet=True)
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(OffDynError, match=r"nothing to publish in .*none; build a dataset first"):
        publish(tmp_path / "tree", quiet=True)
    assert not (tmp_path / "tree").exists()


def test_command(tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["publish", str(tmp_path / "tree"), SMALL], catch_exceptions=False)
    assert f"{SMALL}: published" in done.stdout
    assert "OFFDYN_DATA_URL" in done.stdout
    rows = json.loads(runner.invoke(app, ["publish", str(tmp_path / "tree"), "--json"], catch_exceptions=False).stdout)
    assert {row["id"]: row["published"] for row in rows} == {NOMINAL: True, SMALL: False}
    assert files_of(tmp_path / "tree") == FILES


WORK = """
import os, shutil, signal, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from offdyn_envs.datasets.store import manifest
from offdyn_envs.datasets.sharing import publish
from offdyn_envs.datasets.store import staging
from offdyn_envs.datasets.store import folders as store
for module in (manifest, publish, store):
    module.shipped_root = lambda: Path({shipped!r})

def counted(function):
    def call(*arguments, **options):
        global left
        left -= getattr(arguments[0], "name", "") != "namespace_metadata.json"
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

def publish_and_die():
    publish.shutil.copyfile = counted(shutil.copyfile)
    publish.write_json = counted(publish.write_json)
    staging.Path.rename = counted(staging.Path.rename)
    publish.publish(Path({tree!r} + str(step)), quiet=True)
    os.kill(os.getpid(), signal.SIGKILL)

for step in range({steps}):
    left = step
    if os.fork() == 0:
        publish_and_die()
    assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL
if not {steps}:
    publish.publish(Path({tree!r}), quiet=True)
"""
STEPS = 9


def start(tree: Path, steps: int = 0) -> subprocess.Popen[str]:
    """Publish in another process; or in `steps` processes to tree0, tree1, ... that die one step later each."""
    root, shipped = str(Path(__file__).parents[2]), str(tree.parent / "datasets")
    code = WORK.format(root=root, shipped=shipped, tree=str(tree), steps=steps)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, env=dict(os.environ), text=True)


def test_kill(tmp_path: Path, tree: Path) -> None:
    """Publish a changed dataset over an older one, killed before every step that others can see."""
    for step in range(STEPS):
        shutil.copytree(tree, tmp_path / f"tree{step}")
    build(DatasetId.parse(SMALL), seed=1, force=True, num_threads=1, quiet=True)
    child = start(tree, STEPS)
    assert child.communicate(timeout=300)[1] == ""
    assert child.returncode == 0
    seen: list[int | None] = []
    for step in range(STEPS):
        place = tmp_path / f"tree{step}"
        manifest = assert_consistent(place)
        assert NOMINAL in manifest["datasets"]
        seen.append(manifest["datasets"].get(SMALL, {}).get("seed"))
        if step % 3 == 0:
            publish(place, quiet=True)
            assert assert_consistent(place)["datasets"][SMALL]["seed"] == 1
            assert files_of(place) == FILES
    order = [seed for index, seed in enumerate(seen) if index == 0 or seen[index - 1] != seed]
    assert order == [0, None, 1]  # The old one, none, the new one.


def test_killed_at_the_first_manifest(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / ".manifest.json.abcd.part").write_text("{")
    publish(tmp_path / "tree", quiet=True)
    assert files_of(tmp_path / "tree") == FILES


def test_two_at_once(tmp_path: Path) -> None:
    children = [start(tmp_path / "tree") for _ in range(2)]
    outputs = [child.communicate(timeout=300) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert files_of(tmp_path / "tree") == FILES
    assert_consistent(tmp_path / "tree")


class FolderRemote(CloudStorage):
    """Stands in for a Minari remote: a folder, laid out and looked up as Minari's Hugging Face storage does it.

    `hf://ORG` is the folder `<place>/ORG`, in which the repository of a dataset is the first part of its id.
    """

    place: Path

    def __init__(self, name: str, token: str | None = None) -> None:
        self.folder = self.place / name

    def _namespace(self, name: str) -> Path:
        return self.folder / name / "namespace_metadata.json"

    def upload_dataset(self, dataset_id: str) -> None:
        source = Path(os.environ["MINARI_DATASETS_PATH"]) / dataset_id
        shutil.copytree(source, self.folder / dataset_id)
        path = self._namespace(dataset_id.split("/")[0])
        found = json.loads(path.read_text())
        found["datasets"] = sorted({*found.get("datasets", []), dataset_id})
        path.write_text(json.dumps(found))

    def upload_namespace(self, namespace: str) -> None:
        source = Path(os.environ["MINARI_DATASETS_PATH"]) / namespace / "namespace_metadata.json"
        self._namespace(namespace).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self._namespace(namespace))

    def list_datasets(self, prefix: str | None = None) -> Iterable[str]:
        for path in self.folder.glob("*/namespace_metadata.json"):
            names = json.loads(path.read_text()).get("datasets", [])
            yield from (name for name in names if name.startswith(prefix or ""))

    def get_dataset_metadata(self, dataset_id: str) -> dict[str, Any]:
        return json.loads((self.folder / dataset_id / "data" / "metadata.json").read_text())

    def download_dataset(self, dataset_id: str, path: Path) -> None:
        if (self.folder / dataset_id).is_dir():  # A snapshot of a pattern that matches nothing is empty.
            shutil.copytree(self.folder / dataset_id, path / dataset_id, dirs_exist_ok=True)

    def list_namespaces(self) -> Iterable[str]:
        for path in self.folder.glob("*/namespace_metadata.json"):
            yield from [path.parent.name, *json.loads(path.read_text()).get("namespaces", [])]

    def download_namespace_metadata(self, namespace: str, path: Path) -> None:
        shutil.copyfile(self._namespace(namespace), path / namespace / "namespace_metadata.json")


@pytest.fixture
def remote(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published tree behind "hf://org", and an empty local root."""
    FolderRemote.place = tmp_path / "remotes"
    shutil.copytree(tree / "offdyn", tmp_path / "remotes" / "org" / "offdyn")
    monkeypatch.setitem(minari.storage.remotes._registry, "hf", lambda: FolderRemote)
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path / "local"))
    return tmp_path / "remotes" / "org"


def test_from_a_minari_remote(remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = download(DatasetId.parse(SMALL), url="hf://org", quiet=True)
    assert verify(done.path, rows=50).mode == "exact"
    assert sorted(path.name for path in done.path.iterdir()) == ["data", "flat"]
    assert done.path.is_relative_to(tmp_path / "local")
    (other,) = download_all([f"hf://org/{NOMINAL}"], quiet=True)
    assert other.downloaded
    shutil.rmtree(tmp_path / "local")
    monkeypatch.setenv("MINARI_REMOTE", "hf://org")
    (third,) = download_all([SMALL], quiet=True)
    assert third.downloaded
    with pytest.raises(OffDynError, match="not on this machine; build it"):  # Never without being asked for.
        load_dataset(NOMINAL)
    monkeypatch.setenv("OFFDYN_DATA_URL", "hf://org")
    assert len(load_dataset(NOMINAL)) == 500


def test_wrong_data_from_a_minari_remote(remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, local = DatasetId.parse(SMALL), tmp_path / "local"
    path = remote / SMALL / "data" / "main_data.hdf5"
    whole = path.read_bytes()
    for damage in (whole[:-100], whole[:60_000] + bytes([whole[60_000] ^ 1]) + whole[60_001:]):
        path.write_bytes(damage)
        with pytest.raises(OffDynError, match=f"'{SMALL}' from hf://org is refused and removed: .*SHA-256"):
            download(dataset, url="hf://org", quiet=True)
        assert local_ids(local) == []
        assert not list(local.glob(".building/*.download"))
    path.unlink()
    with pytest.raises(OffDynError, match=f"hf://org has no dataset '{SMALL}'"):
        download(dataset, url="hf://org", quiet=True)
    with pytest.raises(OffDynError, match="hf://org has no dataset"):
        download(DatasetId("hopper", "nominal", "random", "5k"), url="hf://org", quiet=True)

    def fail(self: FolderRemote, dataset_id: str, path: Path) -> None:
        raise ConnectionError("cable\ncut")

    monkeypatch.setattr(FolderRemote, "download_dataset", fail)
    with pytest.raises(OffDynError, match=f"^hf://org/{SMALL}: ConnectionError: cable cut$"):
        download(dataset, url="hf://org", quiet=True)
    assert not list(local.glob(".building/*.download"))


def test_without_the_client_of_a_remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "minari.storage.remotes.huggingface", raising=False)
    with pytest.raises(OffDynError, match=r"hf://org: huggingface_hub is not installed.*minari\[hf\]"):
        download(DatasetId.parse(SMALL), url="hf://org", root=tmp_path / "local", quiet=True)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_minari_itself_downloads_from_the_tree(remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_REMOTE", "hf://org")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    assert set(minari.list_remote_datasets()) == {SMALL, NOMINAL}
    data = minari.load_dataset(SMALL, download=True)
    assert data.total_steps == 500
    env = data.recover_environment()
    env.close()
    assert set(minari.list_local_datasets()) == {SMALL}


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_minari_itself_uploads_the_tree(
    tree: Path, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_REMOTE", "hf://new")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tree))
    assert set(minari.list_local_datasets()) == {SMALL, NOMINAL}
    minari.upload_dataset(SMALL, "token")
    done = download(DatasetId.parse(SMALL), url="hf://new", quiet=True)
    assert verify(done.path, rows=50).mode == "exact"
