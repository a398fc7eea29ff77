"""`offdyn dev ship`: what it builds, what it renews, and the manifest, pictures and page that it leaves."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from offdyn_envs.benchmark.scoring.scores import load_references
from offdyn_envs.datasets.commands import app
from offdyn_envs.datasets.describing.derived import score
from offdyn_envs.datasets.describing.pictures import drawn_from, picture_path
from offdyn_envs.datasets.sharing.readme import TEMPLATE, readme, write_readme
from offdyn_envs.datasets.store.folders import read_dataset
from offdyn_envs.datasets.store.manifest import read_manifest, shipped_ids
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.shipped import shipped_root
from offdyn_envs.verification.robot_checks import extra_missing
from tests.datasets.conftest import NOMINAL, hide_shipped, make_policy

runner = CliRunner()
MEDIUM = "offdyn/hopper/nominal/medium-5k-v0"
TINY = "offdyn/hopper/nominal/medium-500-v0"
RUN_SHIP = "run: offdyn dev ship"


@pytest.fixture
def checkout(behaviours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for `datasets/` of a checkout, with policies of nominal Hopper and nothing else."""
    folder = tmp_path / "datasets"
    shutil.copytree(behaviours, folder / "behaviours")
    for card in folder.rglob("*.json"):
        values = json.loads(card.read_text())
        values |= {"algorithm": "ppo", "training_steps": 1_234_000, "training_unit": "environment steps"}
        values["returns"]["deterministic"] = {"mean": 7.25, "se": 0.5}
        values["warm_start"] = {"after_steps": 500} if card.stem == "expert" else {}
        card.write_text(json.dumps(values))
    hide_shipped(monkeypatch, folder)
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path / "local"))
    return folder


def ship(*arguments: str) -> list[dict[str, Any]]:
    result = runner.invoke(app, ["ship", "--threads", "1", "--json", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_one_command_ships_everything(checkout: Path) -> None:
    [row] = ship()
    assert (row["dataset"], row["built"], row["rows"]) == (MEDIUM, True, 5000)
    entry = read_manifest()["datasets"][MEDIUM]
    data = read_dataset(checkout / MEDIUM)
    assert {key: entry[key] for key in data.card} == dict(data.card)
    assert entry["shift_size"] == 0.0
    assert entry["normalised_score"] == score(data.card)
    assert drawn_from(picture_path(checkout, MEDIUM)) == entry["sha256"]
    text = (checkout / "README.md").read_text()
    assert text == readme(checkout)
    assert "| hopper | nominal | 5,000 |" in text
    assert f"`{entry['sha256'][:12]}` | [picture](pictures/hopper/nominal/medium-5k-v0.png) |" in text
    transfer = load_references()["returns"]["hopper"]["nominal"]["transfer"]
    policies = "| ppo | 0.0 ± 1.0 | 1,234,000 | 10.0 ± 1.0 | 7.2 ± 0.5 | 500 + 1,234,000 |"
    assert f"{policies} {transfer['mean']:,.1f} ± {transfer['se']:.1f} |" in text
    assert "1 of 120 dynamics" in text
    assert "- ant (23): nominal, gravity-0.1," in text
    assert "hopper (22" in text
    assert not list(checkout.rglob("*.part"))


def test_a_hands_lesson_is_told(checkout: Path) -> None:
    if missing := extra_missing(get_robot("adroit-pen")):
        pytest.skip(missing)
    policies = checkout / "behaviours" / "adroit-pen" / "broken-joint-easy"
    common = {"training_unit": "environment steps", "lesson": {"teacher_sha256": "0" * 64, "steps": 400_000}}
    for name, algorithm, stage, steps in (("medium", "imitation", "lesson", 150_000), ("expert", "ppo", "tuned", 0)):
        own = {"algorithm": algorithm, "stage": stage, "training_steps": steps}
        returns = {"sampled": {"mean": 5.0, "se": 1.0, "episodes": 100}, "deterministic": {"mean": 6.0, "se": 1.0}}
        make_policy("adroit-pen", 3).save(policies / f"{name}.safetensors", {**common, **own, "returns": returns})
    hand = "offdyn/adroit-pen/broken-joint-easy/medium-5k-v0"
    assert [(row["dataset"], row["built"], row["rows"]) for row in ship(hand)] == [(hand, True, 5000)]
    assert read_manifest()["datasets"][hand]["shift_size"] > 0.0
    assert read_dataset(checkout / hand).goal is not None
    text = (checkout / "README.md").read_text()
    assert "| adroit-pen | broken-joint-easy | 5,000 |" in text
    told = "5.0 ± 1.0 | lesson 150,000 | 5.0 ± 1.0 | 6.0 ± 1.0 | lesson 400,000 + 0 |"
    assert f"| adroit-pen | broken-joint-easy | imitation, ppo | {told}" in text


@pytest.mark.parametrize("name", ["hopper-gravity-0.5-medium", "offdyn/hopper/nominal/medium-50k-v0"])
def test_what_would_make_the_repository_large_is_refused(checkout: Path, name: str) -> None:
    with pytest.raises(OffDynError) as refused:
        runner.invoke(app, ["ship", TINY, name], catch_exceptions=False)
    size, rows = ("1m", "1,000,000") if "/" not in name else ("50k", "50,000")
    large = f"offdyn/hopper/nominal/medium-{size}-v0"
    assert str(refused.value) == (
        f"dataset '{large}' has {rows} rows, and the repository ships at most 5,000; "
        f"build it with: offdyn data build {large} --record"
    )
    assert not (checkout / "offdyn").exists()


def test_second_time_nothing_is_built_and_nothing_changes(checkout: Path) -> None:
    ship(TINY)
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    drawn = picture_path(checkout, TINY).stat().st_mtime_ns
    [row] = ship(TINY)
    assert not row["built"]
    assert {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()} == before
    assert picture_path(checkout, TINY).stat().st_mtime_ns == drawn


def test_another_policy_or_another_card_of_it_makes_a_dataset_outdated(checkout: Path) -> None:
    [first] = ship(TINY)
    path = checkout / "behaviours" / "hopper" / "nominal" / "medium.safetensors"
    card = json.loads(path.with_suffix(".json").read_text())
    card["returns"]["sampled"]["mean"] = 99.0
    path.with_suffix(".json").write_text(json.dumps(card))
    [second] = ship(TINY)
    assert second["built"]
    assert second["sha256"] == first["sha256"]  # The same policy, said to be better.
    assert read_manifest()["datasets"][TINY]["behaviour"][0]["returns"]["mean"] == 99.0
    make_policy("hopper", 7).save(path, card)
    [third] = ship(TINY)
    assert third["built"]
    assert third["sha256"] != first["sha256"]
    assert drawn_from(picture_path(checkout, TINY)) == third["sha256"]
    assert third["sha256"][:12] in (checkout / "README.md").read_text()


def test_what_was_built_by_command_is_listed_as_a_source(checkout: Path) -> None:
    result = runner.invoke(app, ["build", NOMINAL, "--threads", "1", "--record"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    ship(TINY)
    entry = read_manifest()["datasets"][NOMINAL]
    assert (entry["shipped"], entry["shift_size"]) == (False, 0.0)
    text = (checkout / "README.md").read_text()
    assert f"| `{NOMINAL}` |" in text
    assert f"`{entry['sha256'][:12]}` | [picture](pictures/hopper/nominal/random-500-v0.png) |" in text
    assert drawn_from(picture_path(checkout, NOMINAL)) == entry["sha256"]


def test_page_of_an_empty_checkout_and_of_a_damaged_one(tmp_path: Path) -> None:
    text = write_readme(tmp_path).read_text()
    assert text.count("None yet.") == 3
    assert "{" not in text.replace("{medium,expert}", "")
    (tmp_path / "manifest.json").write_text('{"format": 1, "datasets": {"offdyn/x": {}}}')
    with pytest.raises(OffDynError, match=r"manifest\.json: key 'datasets': unknown dataset 'offdyn/x'"):
        write_readme(tmp_path)
    assert (tmp_path / "README.md").read_text() == text


def commands_of_the_page() -> list[list[str]]:
    blocks = TEMPLATE.read_text(encoding="utf-8").split("```")[1::2]
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("offdyn ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.parametrize("command", commands_of_the_page(), ids=" ".join)
def test_commands_of_the_page_exist_with_their_options(command: list[str]) -> None:
    shown = runner.invoke(app, [command[1], "--help"], catch_exceptions=False, env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for option in (word for word in command if word.startswith("--")):
        assert option in shown.stdout


def test_committed_page_is_what_the_command_writes() -> None:
    assert (shipped_root() / "README.md").read_text(encoding="utf-8") == readme(shipped_root()), RUN_SHIP


def test_committed_scores_are_those_of_the_reference_returns() -> None:
    for name, card in read_manifest()["datasets"].items():
        stored, now = card["normalised_score"], score(card)
        assert (stored is None) == (now is None), f"{name}; {RUN_SHIP}"
        if now is not None:
            assert stored == pytest.approx(now, rel=1e-9), f"{name}; {RUN_SHIP}"
        if card["shipped"]:
            assert (card["shift_size"] == 0.0) == (card["dynamics"] == "nominal")


def test_committed_pictures_are_small_and_of_these_arrays() -> None:
    cards = {name: card for name, card in read_manifest()["datasets"].items() if card["returns"]}
    paths = {picture_path(shipped_root(), name): card["sha256"] for name, card in cards.items()}
    assert set(paths) == set((shipped_root() / "pictures").rglob("*.png")), RUN_SHIP
    assert len(paths) >= len(shipped_ids()) > 0
    for path, digest in paths.items():
        assert path.stat().st_size < 30_000
        assert drawn_from(path) == digest, RUN_SHIP
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("PNG", "P")
            assert image.size == (640, 216)
            assert len(image.convert("RGB").getcolors()) > 4  # Something is drawn.
    assert sum(path.stat().st_size for path in paths) < 2_000_000
