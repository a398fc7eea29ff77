from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from offdyn_envs.datasets.commands import app
from offdyn_envs.errors import OffDynError
from tests.datasets.conftest import NOMINAL, SMALL, hide_shipped

runner = CliRunner()


def run(*arguments: str) -> str:
    result = runner.invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


def test_list(root: Path) -> None:
    rows = {row["dataset"]: row for row in run_json("list")}
    assert set(rows) == {SMALL, NOMINAL}
    assert rows[SMALL]["where"] == "built"
    assert rows[SMALL]["rows"] == 500
    assert "gravity-0p5/random-500-v0" in run("list")
    (root / SMALL / "data" / "metadata.json").write_text("{}")
    assert "damaged: " in run("list")


def test_list_of_nothing(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path / "none"))
    assert "offdyn data build" in run("list")
    assert run_json("list") == []


def test_info(root: Path) -> None:
    card = run_json("info", SMALL)
    assert card["rows"] == 500
    assert len(card["moments"]["observations"]["mean"]) == 11
    assert sum(card["returns"]["histogram"]["counts"]) == card["whole_episodes"]
    text = run("info", SMALL)
    for word in ("500 in", "gravity", "MIT", "offdyn data build", card["sha256"], "█"):
        assert word in text


def test_build_and_verify(root: Path) -> None:
    name = "offdyn/hopper/friction-2p0/random-500-v0"
    [first] = run_json("build", name, "--threads", "1")
    assert first["built"]
    [second] = run_json("build", name)
    assert not second["built"]
    assert first["sha256"] == second["sha256"]
    assert "was there" in run("build", name)
    [report] = run_json("verify", name, "--rows", "100")
    assert (report["mode"], report["rows"]) == ("exact", 100)
    assert "verified (exact" in run("verify", name, "--rows", "10")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build"], "nothing to build"),
        (["build", "--shipped"], "nothing to ship"),
        (["build", "--shipped", "--seed", "1"], "leave --seed and --behaviours out"),
        (["build", "--shipped", "--behaviours", "folder"], "leave --seed and --behaviours out"),
        (["build", "hopper"], "unknown task or dataset 'hopper'"),
        (["info", "offdyn/hopper/nominal/expert-1m-v0"], "build it with: offdyn data build"),
        (["verify", "offdyn/hopper/nominal/expert-1m-v0"], "build it with: offdyn data build"),
    ],
)
def test_refusals(root: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(OffDynError, match=message):
        runner.invoke(app, arguments, catch_exceptions=False)


def test_record_outside_a_checkout_is_refused_before_the_build(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_shipped(monkeypatch, root.parent / "shipped")
    name = "offdyn/hopper/friction-5p0/random-500-v0"
    with pytest.raises(OffDynError, match="belongs to an installed package; expected a checkout"):
        runner.invoke(app, ["build", name, "--record"], catch_exceptions=False)
    assert not (root / name).exists()


def test_verify_fails_on_what_the_manifest_calls_different(root: Path) -> None:
    run("build", SMALL, "--record")
    assert "manifest: identical" in run("verify", SMALL, "--rows", "10")
    manifest = root.parent / "datasets" / "manifest.json"
    recorded = json.loads(manifest.read_text())
    recorded["datasets"][SMALL]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(recorded))
    result = runner.invoke(app, ["verify", SMALL, "--rows", "10"])
    assert "manifest: different" in result.stdout
    assert isinstance(result.exception, OffDynError)  # The command prints it in one line and exits with status 2.
    assert f"not what the manifest describes: {SMALL} (mean returns 0 SE apart" in str(result.exception)
