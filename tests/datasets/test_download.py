"""Datasets over a real connection: each appears whole and verified under its name, or not at all."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from offdyn_envs.cli import main
from offdyn_envs.datasets import load_dataset, load_task
from offdyn_envs.datasets.checking.check import verify
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.commands import app
from offdyn_envs.datasets.sharing import download as download_module
from offdyn_envs.datasets.sharing import sources, transfer
from offdyn_envs.datasets.sharing.download import download
from offdyn_envs.datasets.sharing.publish import publish
from offdyn_envs.datasets.store.folders import find, local_ids, read_dataset, read_metadata
from offdyn_envs.datasets.store.manifest import record
from offdyn_envs.datasets.store.staging import locked
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import DatasetId
from tests.datasets.conftest import NOMINAL, SMALL, hide_shipped
from tests.datasets.server import DataServer, Fault, serve

BIG = "offdyn/hopper/nominal/random-5k-v0"
HDF5 = "main_data.hdf5"
ROOT = Path(__file__).parents[2]


def hide(monkeypatch: pytest.MonkeyPatch, instead: Path) -> None:
    hide_shipped(monkeypatch, instead)
    monkeypatch.setattr("offdyn_envs.datasets.sharing.publish.shipped_root", lambda: instead)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, built_root: Path) -> Path:
    """A published tree of three small datasets; do not change it."""
    here, tree = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("served") / "tree"
    shutil.copytree(built_root, here, dirs_exist_ok=True)
    build(DatasetId.parse(BIG), root=here, num_threads=1, quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFDYN_DATA_DIR", str(here))
        hide(patch, here / "nothing shipped")
        publish(tree, quiet=True)
    return tree


@pytest.fixture
def server(published: Path) -> Generator[DataServer]:
    with serve(published) as running:
        yield running


@pytest.fixture
def own_server(published: Path, tmp_path: Path) -> Generator[DataServer]:
    """A server whose tree may be changed."""
    shutil.copytree(published, tmp_path / "tree")
    with serve(tmp_path / "tree") as running:
        yield running


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty local root, nothing shipped, no address configured, no patience."""
    for name in ("OFFDYN_DATA_URL", "MINARI_REMOTE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path / "local"))
    hide(monkeypatch, tmp_path / "nothing shipped")
    monkeypatch.setattr(transfer, "PAUSE", 0.001)
    return tmp_path / "local"


def get(name: str, server: DataServer, **options: Any) -> download_module.Downloaded:
    return download(DatasetId.parse(name), url=server.url, quiet=True, **options)


def unfinished(local: Path) -> list[str]:
    """Return what lies hidden under the root, apart from locks."""
    return sorted(
        path.name for path in (local / ".building").glob("*") if path.suffix != ".lock" and path.name != ".gitignore"
    )


def refuse(name: str, server: DataServer, local: Path, **options: Any) -> str:
    with pytest.raises(OffDynError) as caught:
        get(name, server, **options)
    assert "\n" not in str(caught.value)
    assert local_ids(local) == []
    return str(caught.value)


def test_download(server: DataServer, local: Path, published: Path) -> None:
    done = get(SMALL, server)
    assert done.downloaded
    assert done.path == local / SMALL
    assert verify(done.path, rows=50).mode == "exact"
    assert sorted(path.name for path in done.path.iterdir()) == ["data", "flat"]
    for file in ("metadata.json", HDF5):
        assert (done.path / "data" / file).read_bytes() == (published / SMALL / "data" / file).read_bytes()
    assert unfinished(local) == []
    data = load_dataset(SMALL)
    assert isinstance(data.observations, np.memmap)
    server.log.clear()
    again = get(SMALL, server)
    assert not again.downloaded
    assert server.log == []
    assert get(SMALL, server, force=True).downloaded


def test_commands(server: DataServer, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["download", SMALL, NOMINAL, SMALL, "--url", f"{server.url}/"], catch_exceptions=False)
    assert done.stdout.count("and verified, 500 rows") == 2
    assert len(server.asked("manifest.json")) == 1
    assert local_ids() == sorted((SMALL, NOMINAL))
    monkeypatch.setenv("OFFDYN_DATA_URL", server.url)
    rows = json.loads(
        runner.invoke(app, ["download", BIG, SMALL, "--json"], catch_exceptions=False).stdout,
    )
    assert [(row["dataset"], row["downloaded"], row["rows"]) for row in rows] == [
        (BIG, True, 5000),
        (SMALL, False, 500),
    ]
    assert rows[0]["sha256"] == load_dataset(BIG).card["sha256"]
    shutil.rmtree(local)
    runner.invoke(app, ["download", f"{server.url}/{SMALL}"], catch_exceptions=False)
    assert local_ids() == [SMALL]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([SMALL], "no address to download from: set OFFDYN_DATA_URL or give --url"),
        ([SMALL, "--url", "ftp://host"], "'ftp://host' is not a base address; expected http"),
        ([SMALL, "--url", "hf://"], "'hf://' has no owner"),
        (["hopper-gravity-0.5-mediun"], "did you mean 'hopper-gravity-0.5-medium'"),
        (["offdyn/hopper/nominal/random-5k-v9"], "did you mean"),
        (["https://host/hopper"], "names no dataset; expected an address followed by /offdyn/..."),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], local: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", "download", *arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not local.exists()


def test_order_of_resolution(server: DataServer, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "nothing shipped"
    with pytest.raises(OffDynError, match=f"not on this machine; build it with: offdyn data build {SMALL}$"):
        load_dataset(SMALL)
    monkeypatch.setenv("OFFDYN_DATA_URL", server.url)
    build(DatasetId.parse(SMALL), root=shipped, ship=True, num_threads=1, quiet=True)
    assert load_dataset(SMALL).path == shipped / SMALL  # Shipped before downloaded ...
    assert server.log == []
    build(DatasetId.parse(NOMINAL), seed=1, num_threads=1, quiet=True)
    assert load_dataset(NOMINAL).card["seed"] == 1  # ... and local before both.
    assert server.log == []
    data = load_dataset(BIG)
    assert data.path == local / BIG
    assert len(data) == 5000
    asked = len(server.log)
    assert len(load_dataset(BIG)) == 5000
    assert len(server.log) == asked
    elsewhere = load_dataset(BIG, root=tmp_path / "elsewhere")
    assert elsewhere.path == tmp_path / "elsewhere" / BIG
    with pytest.raises(
        OffDynError, match=r"-50k-v0' is not offered by http.*; build it instead with: offdyn data build"
    ):
        load_dataset(BIG.replace("5k", "50k"))
    assert unfinished(local) == []


def test_load_task_downloads(server: DataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OffDynError, match=r"not on this machine: .*; build with: offdyn data build"):
        load_task(source=NOMINAL, target=SMALL)
    monkeypatch.setenv("OFFDYN_DATA_URL", server.url)
    env, source, target = load_task(source=NOMINAL, target=SMALL)
    env.close()
    assert (str(source.id), str(target.id)) == (NOMINAL, SMALL)


def test_default_address(server: DataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DEFAULT_URL", server.url)
    assert len(load_dataset(SMALL)) == 500
    monkeypatch.setenv("OFFDYN_DATA_URL", "http://127.0.0.1:9")
    assert sources.configured_url() == "http://127.0.0.1:9"


def test_unreachable_server_names_the_build(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(published) as server:
        monkeypatch.setenv("OFFDYN_DATA_URL", server.url)
    with pytest.raises(OffDynError, match=f"no connection .* build it instead with: offdyn data build {SMALL}$"):
        load_dataset(SMALL)


@pytest.mark.parametrize("cut", [0, 100_000, 1_000_000])
def test_broken_connections_are_continued(server: DataServer, cut: int) -> None:
    server.once[HDF5] = [Fault(cut=cut), Fault(status=503), Fault(cut=1, reset=True)]
    server.once["metadata.json"] = [Fault(cut=10)]
    server.once["manifest.json"] = [Fault(status=500), Fault(cut=10)]
    assert verify(get(BIG, server).path, rows=50).mode == "exact"


def test_a_later_call_continues(server: DataServer, local: Path) -> None:
    server.always[HDF5] = Fault(status=500)
    server.once[HDF5] = [Fault(cut=1_000_000)]
    assert "answered 500" in refuse(BIG, server, local)
    assert "bytes are here, the same command continues" in refuse(BIG, server, local)
    assert len(unfinished(local)) == 1
    server.always.clear()
    server.log.clear()
    assert get(BIG, server).downloaded
    assert server.asked(HDF5) == ["bytes=1000000-"]
    assert server.asked("metadata.json") == []
    assert unfinished(local) == []


@pytest.mark.parametrize(
    ("file", "fault", "message"),
    [
        (HDF5, Fault(flip=70_000), "SHA-256"),
        (HDF5, Fault(size=100_000), "100,000 bytes; expected"),
        (HDF5, Fault(size=2_000_000), "2,000,000 bytes; expected"),
        (HDF5, Fault(status=404), "answered 404 Not Found"),
        ("metadata.json", Fault(flip=40), "SHA-256"),
        ("metadata.json", Fault(size=40), "40 bytes; expected"),
        ("manifest.json", Fault(status=404), "manifest.json: answered 404"),
        ("manifest.json", Fault(flip=0), "manifest.json: not a text in UTF-8"),
        ("manifest.json", Fault(size=1000), "manifest.json: cannot be read as JSON"),
    ],
)
def test_what_is_wrong_is_refused(server: DataServer, local: Path, file: str, fault: Fault, message: str) -> None:
    server.always[file] = fault
    assert message in refuse(SMALL, server, local)
    assert not any(path.stat().st_size for path in local.glob(f".building/*/data/{file}"))
    server.always.clear()
    assert verify(get(SMALL, server).path, rows=50).mode == "exact"
    assert unfinished(local) == []


def edit_manifest(server: DataServer, change: Any) -> None:
    path = server.root / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "key 'format' is not 1"),
        (lambda m: m.pop("datasets"), "key 'datasets' is missing"),
        (lambda m: m.pop("files"), "key 'files' is null|key 'files' is None"),
        (lambda m: m["files"].pop(f"{SMALL}/data/{HDF5}"), HDF5),
        (lambda m: m["files"][f"{SMALL}/data/{HDF5}"].update(bytes="1"), "expected a whole number"),
        (lambda m: m["files"][f"{SMALL}/data/{HDF5}"].update(bytes=-1), "bytes; expected -1"),
        (lambda m: m["files"][f"{SMALL}/data/{HDF5}"].update(bytes=10**18), "bytes are to come and .* are free"),
        (lambda m: m["files"][f"{SMALL}/data/{HDF5}"].update(sha256="0"), "SHA-256 .*; expected 0;"),
        (lambda m: m["datasets"][SMALL].pop("moments"), "moments' is missing"),
        (lambda m: m["datasets"][SMALL].update(seed=7), "is not the one in its metadata.json"),
        (lambda m: m["datasets"].pop(SMALL), "is not offered by"),
    ],
)
def test_wrong_manifest_is_refused(own_server: DataServer, local: Path, change: Any, message: str) -> None:
    edit_manifest(own_server, change)
    with pytest.raises(OffDynError, match=message):
        get(SMALL, own_server)
    assert local_ids(local) == []
    assert not list(local.glob(f".building/*/data/{HDF5}"))


def test_another_dataset_of_the_manifest_may_be_unknown(own_server: DataServer) -> None:
    edit_manifest(own_server, lambda m: m["datasets"].update({"offdyn/hopper/of-a-later-release/random-5k-v0": {}}))
    assert get(SMALL, own_server).downloaded


def test_consistent_but_damaged_dataset_is_refused(own_server: DataServer, local: Path) -> None:
    """The server's checksums are right for its files, but the arrays are not those of the card."""
    import h5py

    from offdyn_envs.datasets.store.folders import file_digest

    data = own_server.root / SMALL / "data"
    with h5py.File(data / HDF5, "r+") as file:
        file["episode_0/rewards"][0] += 1.0
    facts = {"bytes": (data / HDF5).stat().st_size, "sha256": file_digest(data / HDF5)}
    metadata = json.loads((data / "metadata.json").read_text())
    metadata["offdyn"]["files"][HDF5] = facts
    (data / "metadata.json").write_text(json.dumps(metadata))

    def change(manifest: dict[str, Any]) -> None:
        manifest["datasets"][SMALL]["files"][HDF5] = facts
        described = {
            "bytes": (data / "metadata.json").stat().st_size,
            "sha256": file_digest(data / "metadata.json"),
        }
        manifest["files"].update({f"{SMALL}/data/{HDF5}": facts, f"{SMALL}/data/metadata.json": described})

    edit_manifest(own_server, change)
    assert "is refused and removed: " in refuse(SMALL, own_server, local)
    assert unfinished(local) == []


def test_not_the_dataset_of_this_release(server: DataServer, local: Path, tmp_path: Path) -> None:
    other = build(DatasetId.parse(SMALL), seed=0, root=tmp_path / "other", num_threads=1, quiet=True)
    card = {**read_metadata(other.path)["offdyn"], "sha256": "0" * 64}
    record({SMALL: card}, shipped=False, path=tmp_path / "nothing shipped" / "manifest.json")
    assert "not the dataset of that id in the manifest of this release" in refuse(SMALL, server, local)
    assert unfinished(local) == []


def test_server_with_a_new_version_of_the_files(own_server: DataServer, local: Path) -> None:
    own_server.always[HDF5] = Fault(status=500)
    own_server.once[HDF5] = [Fault(cut=100_000)]
    refuse(SMALL, own_server, local)
    own_server.always.clear()
    shutil.copytree(own_server.root / SMALL, own_server.root / "old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFDYN_DATA_DIR", str(local.parent / "new"))
        build(DatasetId.parse(SMALL), seed=5, num_threads=1, quiet=True)
        publish(own_server.root, [DatasetId.parse(SMALL)], quiet=True)
    assert get(SMALL, own_server).downloaded  # What had arrived belongs to other files: not continued.
    assert load_dataset(SMALL).card["seed"] == 5
    assert own_server.asked(HDF5)[-1] is None


def test_a_build_at_the_same_time(server: DataServer, local: Path) -> None:
    with locked(local, DatasetId.parse(SMALL)):
        assert "another process" in refuse(SMALL, server, local)
    server.log.clear()
    assert get(SMALL, server).downloaded
    assert server.asked(HDF5) == []  # What had been downloaded is used.


def test_failed_replacement_keeps_the_old_one(server: DataServer, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(DatasetId.parse(SMALL), seed=3, num_threads=1, quiet=True)
    server.always[HDF5] = Fault(flip=5)
    with pytest.raises(OffDynError, match="SHA-256"):
        get(SMALL, server, force=True)
    assert load_dataset(SMALL).card["seed"] == 3
    server.always.clear()
    assert get(SMALL, server, force=True).downloaded
    assert load_dataset(SMALL).card["seed"] == 0


WORK = """
import sys
sys.path.insert(0, {root!r})
from offdyn_envs.cli import main
main(["data", "download", {name!r}, "--url", {url!r}])
"""


def start(server: DataServer, local: Path, name: str = BIG) -> subprocess.Popen[str]:
    """Start a download in a process of its own, with proxies set that lead nowhere."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **proxies, "OFFDYN_DATA_DIR": str(local), "OMP_NUM_THREADS": "1", "no_proxy": ""}
    code = WORK.format(root=str(ROOT), name=name, url=server.url)
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_several_processes_at_once(server: DataServer, local: Path) -> None:
    server.always[HDF5] = Fault(pause=0.05)
    children = [start(server, local) for _ in range(3)]
    outputs = [child.communicate(timeout=300) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], outputs
    assert sum("and verified" in output for output, _ in outputs) == 1
    assert sum("was there" in output for output, _ in outputs) == 2
    assert len(server.asked(HDF5)) == 1
    assert verify(local / BIG, rows=50).mode == "exact"
    assert unfinished(local) == []


def kill_at(server: DataServer, local: Path, delay: float) -> bool:
    """Start a download and kill it some time after its first request; True if it was killed in the middle."""
    server.log.clear()
    child = start(server, local)
    deadline = time.monotonic() + 60
    while not server.log and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    return child.returncode == -signal.SIGKILL


def kill_and_check(server: DataServer, local: Path, published: Path, moments: int, seed: int) -> None:
    rng, dataset, killed, resumed = random.Random(seed), DatasetId.parse(BIG), 0, False
    server.always[HDF5] = Fault(pause=0.03)  # 22 blocks: about 0.7 seconds.
    for _ in range(moments):
        if find(dataset, local) is not None:
            shutil.rmtree(local)
        killed += kill_at(server, local, rng.uniform(0.0, 0.9))
        resumed = resumed or any(wanted is not None for wanted in server.asked(HDF5))
        assert local_ids(local) in ([], [BIG])
        folder = find(dataset, local)
        if folder is not None:
            assert verify(folder, rows=20).mode == "exact"
    assert killed >= moments // 2
    assert resumed or moments < 10
    server.always.clear()
    done = download(dataset, url=server.url, root=local, quiet=True)
    assert verify(done.path, rows=50).mode == "exact"
    assert done.sha256 == read_dataset(published / BIG).card["sha256"]
    assert unfinished(local) == []


def test_kill(server: DataServer, local: Path, published: Path) -> None:
    kill_and_check(server, local, published, moments=3, seed=0)


@pytest.mark.slow
def test_kill_at_twenty_moments(server: DataServer, local: Path, published: Path) -> None:
    kill_and_check(server, local, published, moments=20, seed=1)


# Dies before or after a given one of the steps that make a downloaded folder a dataset.
DIE = """
import os, signal, sys
sys.path.insert(0, {root!r})
from offdyn_envs.datasets.sharing import download as module
from offdyn_envs.datasets.store import staging
left = {left}
def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
module._accept = counted(module._accept)
module._remove_notes = counted(module._remove_notes)
module.replace_folder = counted(module.replace_folder)
staging.Path.rename = counted(staging.Path.rename)
module.download(module.DatasetId.parse({name!r}), url={url!r}, force=True, quiet=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("steps", "seed"), [(0, 3), (1, 3), (2, 3), (3, 3), (4, 3), (5, 0)])
def test_killed_at_the_end_leaves_the_old_or_the_new_one(
    server: DataServer, local: Path, steps: int, seed: int
) -> None:
    build(DatasetId.parse(SMALL), seed=3, num_threads=1, quiet=True)
    code = DIE.format(root=str(ROOT), left=steps, name=SMALL, url=server.url)
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), stderr=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert local_ids(local) == [SMALL]
    assert load_dataset(SMALL).card["seed"] == seed
    assert verify(local / SMALL, rows=20).mode == "exact"
    assert get(SMALL, server, force=True).downloaded
    assert load_dataset(SMALL).card["seed"] == 0
    assert unfinished(local) == []
