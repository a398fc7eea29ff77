from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from typer.testing import CliRunner

from offdyn_envs.benchmark.scoring.scores import get_reference
from offdyn_envs.cli import main
from offdyn_envs.datasets import ImportedDataset, load_imported, load_task
from offdyn_envs.datasets.commands import app
from offdyn_envs.datasets.importing import import_file
from offdyn_envs.datasets.store.imported import imported_ids
from offdyn_envs.errors import OffDynError
from tests.datasets.conftest import NOMINAL, SMALL
from tests.datasets.foreign import make_arrays, odrl_keys, write

NAME = "imported/a"


@pytest.fixture
def imported(root: Path, tmp_path: Path) -> Path:
    """The folder of an imported dataset under the local root."""
    file = write(tmp_path / "a.hdf5", odrl_keys(make_arrays("hopper")))
    return import_file(file, robot="hopper", dynamics="gravity-0.5", quality="medium").path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_load(imported: Path) -> None:
    data = load_imported(NAME)
    assert isinstance(data.observations, np.memmap)
    assert repr(data) == "ImportedDataset('imported/a', rows=25, episodes=4)"
    assert data.path == imported
    assert data.card["quality"] == "medium"
    assert imported_ids() == [NAME]


def test_unknown_name_says_how_to_import(imported: Path) -> None:
    with pytest.raises(
        OffDynError, match=r"'imported/b' is not in .* \(imported: imported/a\); import it with: offdyn"
    ):
        load_imported("imported/b")
    with pytest.raises(OffDynError, match="expected imported/NAME"):
        load_imported("imported/../offdyn")


@pytest.mark.parametrize("key", ["observations", "actions", "next_observations", "rewards", "terminations", "lengths"])
def test_every_damaged_array_is_seen(imported: Path, key: str) -> None:
    path = imported / "flat" / f"{key}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(OffDynError, match=rf"{key}\.npy: SHA-256 .*; expected .*--force"):
        load_imported(NAME)
    with pytest.raises(OffDynError, match=rf"{key}\.npy: SHA-256"):
        run("verify", NAME)
    path.unlink()
    with pytest.raises(OffDynError, match=rf"{key}\.npy: missing; expected an array of"):
        load_imported(NAME)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "key 'format' is 2; this release reads formats up to 1"),
        ({"format": True}, "key 'format' is True"),
        ({"id": "imported/b"}, "key 'offdyn.id' is 'imported/b'; expected 'imported/a'"),
        ({"rows": "25"}, "key 'offdyn.rows' is '25'; expected a whole number"),
        ({"rows": 24}, r"observations\.npy: is float32 \[25, 11\]; expected float32 \[24, 11\]"),
        ({"robot": "ant"}, r"observations\.npy: is float32 \[25, 11\]; expected float32 \[25, 27\]"),
        ({"notes": None}, "key 'offdyn.notes' is None; expected a list"),
        ({"source": {}}, r"key 'offdyn\.source\.file' is missing"),
    ],
)
def test_damaged_card(imported: Path, change: dict[str, Any], message: str) -> None:
    path = imported / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["offdyn"].update(change)
    path.write_text(json.dumps(metadata))
    with pytest.raises(OffDynError, match=message) as caught:
        load_imported(NAME)
    assert str(imported) in str(caught.value)
    [row] = [row for row in json.loads(run("list", "--json")) if row["dataset"] == NAME]
    assert bool(row["problem"]) == ("metadata.json" in str(caught.value))


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read as JSON"), ("[]", "key 'offdyn' is missing")])
def test_metadata_that_is_none(imported: Path, text: str, message: str) -> None:
    (imported / "metadata.json").write_text(text)
    with pytest.raises(OffDynError, match=message):
        load_imported(NAME)


def test_minari_lists_the_folder_with_imported_sets(
    root: Path, imported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        listed = minari.list_local_datasets()
    assert SMALL in listed
    assert not any(name.startswith("imported") for name in listed)


def test_minari_normalises_returns(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    reference = get_reference("hopper", "gravity-0.5")
    returns = np.array([reference.random, reference.expert])
    np.testing.assert_allclose(minari.get_normalized_score(minari.load_dataset(SMALL), returns), [0, 1], atol=1e-12)


def test_metadata_of_before_are_moved(imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets that were imported when metadata lay in `data`, where Minari looks."""
    card = load_imported(NAME).card
    (imported / "data").mkdir()
    (imported / "metadata.json").rename(imported / "data" / "metadata.json")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda self, target: (_ for _ in ()).throw(PermissionError()))
        assert load_imported(NAME).card == card
        assert imported_ids() == [NAME]
    file = write(tmp_path / "b.hdf5", odrl_keys(make_arrays("hopper")))
    import_file(file, robot="hopper")
    assert (imported / "metadata.json").is_file()
    assert not (imported / "data").exists()
    assert load_imported(NAME).card == card
    assert imported_ids() == [NAME, "imported/b"]


def test_load_task_with_imported_sets(imported: Path, tmp_path: Path) -> None:
    env, source, target = load_task(source=NOMINAL, target=NAME)
    assert env.spec is not None
    assert env.spec.id == "OffDyn/Hopper-gravity-0.5-v0"
    env.close()
    assert (len(source), len(target)) == (500, 25)
    assert isinstance(target, ImportedDataset)
    env, source, target = load_task(source=NAME, target=SMALL)
    env.close()
    assert isinstance(source, ImportedDataset)
    assert str(target.id) == SMALL
    ant = write(tmp_path / "ant.hdf5", odrl_keys(make_arrays("ant")))
    import_file(ant, robot="ant")
    with pytest.raises(OffDynError, match="source is a hopper and target a ant; expected one robot"):
        load_task(source=NAME, target="imported/ant")
    with pytest.raises(OffDynError, match="imported without its dynamics"):
        load_task(source="imported/ant", target="imported/ant")
    with pytest.raises(OffDynError, match="together"):
        load_task(source=NAME)  # pyright: ignore[reportCallIssue]


def test_commands(root: Path, tmp_path: Path) -> None:
    exported = tmp_path / "small.hdf5"
    assert "500 rows in the layout of d4rl" in run("export", SMALL, str(exported), "--layout", "d4rl")
    text = run("import", str(exported))
    assert "imported/small: imported, 500 rows of hopper" in text
    assert "was there" in run("import", str(exported))
    card = json.loads(run("import", str(exported), "--json"))
    assert (card["dynamics"], card["imported"]) == ("gravity-0.5", False)
    assert "imported/small" in run("list")
    assert "layout d4rl" in run("info", "imported/small")
    assert json.loads(run("info", "imported/small", "--json"))["source"]["sha256"] == card["source"]["sha256"]
    assert "imported/small: verified (500 imported rows" in run("verify", "imported/small", SMALL, "--rows", "5")
    modes = [report["mode"] for report in json.loads(run("verify", "imported/small", SMALL, "--rows", "5", "--json"))]
    assert modes == ["checksums", "exact"]
    again = tmp_path / "again.hdf5"
    run("export", "imported/small", str(again), "--layout", "odrl")
    assert "1 ends of episodes without a flag" in run("import", str(again))  # The cut at the last row.


def test_import_says_what_was_dropped(root: Path, tmp_path: Path) -> None:
    keys = odrl_keys(make_arrays("hopper"))
    keys["timeouts"] = np.zeros(25, bool)
    del keys["next_observations"]
    text = run("import", str(write(tmp_path / "b.hdf5", keys)), "--robot", "hopper", "--out", "imported/mine")
    # Without flags at the time limit and next observations, two episodes run into the following one's reset.
    assert "dropped 3 final rows without next observation" in text
    assert "dropped 2 terminations among them" in text
    assert "dynamics unknown: import with --dynamics" in text
    assert load_imported("imported/mine").card["rows"] == 22


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "import", "none.hdf5", "--robot", "hopper"], "none.hdf5: missing; expected a file"),
        (["data", "export", "imported/none", "x.hdf5", "--layout", "d4rl"], "dataset 'imported/none' is not in"),
        (["data", "info", "imported/none"], "dataset 'imported/none' is not in"),
        (["data", "verify", "imported/none"], "dataset 'imported/none' is not in"),
    ],
)
def test_one_line_and_status_2(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


IMPORT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from offdyn_envs.datasets.store import imported
from offdyn_envs.datasets.importing import import_file
os_kill = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
setattr(imported, {function!r}, os_kill)
import_file(Path({file!r}), robot="hopper", root=Path({root!r}))
"""


@pytest.mark.parametrize("function", ["file_digest", "write_json", "replace_folder"])
def test_killed_import_leaves_nothing_and_runs_again(tmp_path: Path, function: str) -> None:
    file = write(tmp_path / "a.hdf5", odrl_keys(make_arrays("hopper")))
    code = IMPORT_AND_DIE.format(function=function, file=str(file), root=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert imported_ids(tmp_path) == []
    assert list(tmp_path.glob(".building/*stage*"))
    assert import_file(file, robot="hopper", root=tmp_path).imported
    assert len(load_imported(NAME, root=tmp_path)) == 25
    assert not list(tmp_path.glob(".building/*stage*"))
