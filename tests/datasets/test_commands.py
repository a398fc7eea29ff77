from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from offdyn_envs.benchmark.scoring.scores import get_reference
from offdyn_envs.datasets import load_dataset
from offdyn_envs.datasets.commands import app
from offdyn_envs.datasets.describing.derived import score as derived_score
from offdyn_envs.datasets.describing.derived import shift_size
from offdyn_envs.datasets.describing.pictures import draw_card
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import DatasetId, get_task, get_track
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


def test_list_with_a_dataset_of_a_robot_that_is_not_known_here(root: Path) -> None:
    name = "offdyn/crane/nominal/medium-5k-v0"
    (root / name / "data").mkdir(parents=True)
    rows = {row["dataset"]: row for row in run_json("list")}
    assert rows[name]["where"] == "built" and "unknown dataset" in rows[name]["problem"]
    chosen = run_json("list", "--robot", "hopper")
    assert chosen and not [row for row in chosen if "hopper" not in row["dataset"]]


def test_info(root: Path) -> None:
    card = run_json("info", SMALL)
    assert card["rows"] == 500
    assert len(card["moments"]["observations"]["mean"]) == 11
    assert sum(card["returns"]["histogram"]["counts"]) == card["whole_episodes"]
    text = run("info", SMALL)
    for word in (
        "500 in",
        "gravity",
        "shift size",
        "where 0 is the random policy",
        "MIT",
        "offdyn data build",
        card["sha256"],
        "(episodes)",
    ):
        assert word in text


def test_info_of_a_score_and_a_shift(root: Path) -> None:
    shifted, nominal = run_json("info", SMALL), run_json("info", NOMINAL)
    assert nominal["shift_size"] == 0.0
    assert 0.0 < shifted["shift_size"] < 1.0
    for card in (shifted, nominal):
        # The random policy scores 0 by definition; these are its returns.
        score = card["normalised_score"]
        assert abs(score["mean"]) < 5 * score["se"] + 0.5
    expert = {**shifted, "returns": {**shifted["returns"], "mean": get_reference("hopper", "gravity-0.5").expert}}
    assert derived_score(expert)["mean"] == pytest.approx(100.0)
    assert derived_score({**expert, "dynamics": "gravity-7.0"}) is None
    assert derived_score({**expert, "returns": None}) is None


def test_shift_size_grows_with_the_shift(root: Path) -> None:
    data = load_dataset(SMALL)
    sizes = []
    for scale in (0.9, 0.5, 0.1):
        card = {**data.card, "shifts": [{"kind": "gravity", "scale": scale}]}
        sizes.append(shift_size(replace(data, metadata={**data.metadata, "offdyn": card})))
    assert 0 < sizes[0] < sizes[1] < sizes[2]
    nominal = load_dataset(NOMINAL)
    card = {**nominal.card, "shifts": [{"kind": "gravity", "scale": 1.0}]}
    assert shift_size(replace(nominal, metadata={**nominal.metadata, "offdyn": card})) == 0.0


def test_info_of_a_task_shows_both(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(
        get_task("hopper-gravity-0.5-medium"), source=DatasetId.parse(NOMINAL), target=DatasetId.parse(SMALL)
    )
    monkeypatch.setattr("offdyn_envs.datasets.collecting.build.get_task", lambda name: task)
    assert [card["id"] for card in run_json("info", task.name)] == [NOMINAL, SMALL]
    text = run("info", task.name)
    assert NOMINAL in text
    assert SMALL in text
    with pytest.raises(OffDynError, match="--png draws one dataset"):
        runner.invoke(app, ["info", task.name, "--png", "x.png"], catch_exceptions=False)


def test_info_draws_the_returns(root: Path) -> None:
    picture = root / "returns.png"
    run("info", SMALL, "--png", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    card = run_json("info", SMALL)
    with pytest.raises(OffDynError, match="no whole episode"):
        draw_card({**card, "returns": None}, root / "none.png")
    assert not (root / "none.png").exists()


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
        (["ship"], "nothing to ship"),
        (["build", "hopper"], "unknown task or dataset 'hopper'"),
        (["info", "offdyn/hopper/nominal/expert-1m-v0"], "build it with: offdyn data build"),
        (["verify", "offdyn/hopper/nominal/expert-1m-v0"], "build it with: offdyn data build"),
    ],
)
def test_refusals(root: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(OffDynError, match=message):
        runner.invoke(app, arguments, catch_exceptions=False)


def test_a_missing_policy_is_named_before_anything_is_built(root: Path) -> None:
    first, second = "offdyn/hopper/friction-5p0/random-500-v0", "offdyn/hopper/gravity-0p5/medium-replay-5k-v0"
    with pytest.raises(OffDynError, match=f"dataset '{second}': its behaviour policy is missing.*nominal and severe"):
        runner.invoke(app, ["build", first, second], catch_exceptions=False)
    assert not (root / first).exists()


def test_a_track_is_all_datasets_of_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[DatasetId] = []
    monkeypatch.setattr("offdyn_envs.datasets.collecting.build.build", lambda dataset, **_: asked.append(dataset))
    monkeypatch.setattr("offdyn_envs.datasets.describing.show.print_built", lambda *_: None)
    run("build", "--track", "core-6", SMALL)
    sides = [side for name in get_track("core-6") for side in (get_task(name).source, get_task(name).target)]
    assert asked == list(dict.fromkeys([DatasetId.parse(SMALL), *sides]))
    # HalfCheetah's two tasks have one source.
    assert len(asked) < 1 + len(sides)
    with pytest.raises(OffDynError, match="did you mean 'core-6'"):
        runner.invoke(app, ["build", "--track", "core-7"], catch_exceptions=False)


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
