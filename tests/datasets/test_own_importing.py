"""Own data as imported datasets: what is stored, what commands say of them, and pairs of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from offdyn_envs.datasets import (
    ImportedDataset,
    OwnData,
    Task,
    from_arrays,
    load_any,
    load_imported,
    load_task,
    read_own,
)
from offdyn_envs.datasets.commands import app
from offdyn_envs.datasets.describing.pictures import drawn_from
from offdyn_envs.datasets.own.contract import plain_contract
from offdyn_envs.datasets.store.spec import array_digests, combined_digest
from offdyn_envs.errors import OffDynError
from tests.datasets.conftest import NOMINAL, SMALL
from tests.datasets.own_files import (
    BOUNDS,
    HIGH,
    LOW,
    MOVED,
    OBSERVED,
    OPTIONS,
    logged,
    make_frames,
    padded,
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
EXPECTED = from_arrays(STEPS, "memory", plain_contract(OBSERVED, MOVED, LOW, HIGH))
KEYS = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(item) for item in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def digest(data: Any) -> str:
    return combined_digest(array_digests({key: np.asarray(getattr(data, key)) for key in KEYS}))


def test_four_formats_are_imported_as_the_same_dataset(root: Path, tmp_path: Path) -> None:
    files = {
        "npz": write_npz(tmp_path / "a.npz", STEPS),
        "csv": write_csv(tmp_path / "a.csv", STEPS),
        "parquet": write_parquet(tmp_path / "a.parquet", STEPS),
        "lerobot": write_lerobot(tmp_path / "lerobot", padded(FRAMES), ("next.done", "next.truncated")),
    }
    for name, file in files.items():
        run("import", file, *OPTIONS, "--out", f"imported/{name}")
    found = {name: load_imported(f"imported/{name}") for name in files}
    assert {digest(data) for data in found.values()} == {EXPECTED.sha256}
    assert len({data.card["sha256"] for data in found.values()}) == 1
    assert {data.card["source"]["layout"] for data in found.values()} == set(files)


@pytest.fixture
def arm(root: Path, tmp_path: Path) -> ImportedDataset:
    run("import", write_npz(tmp_path / "arm.npz", STEPS), *OPTIONS)
    return load_imported("imported/arm")


def test_a_dataset_without_a_robot(arm: ImportedDataset) -> None:
    assert arm.card["robot"] is None
    assert arm.card["dynamics"] is None
    assert arm.qpos is None
    assert arm.qvel is None
    assert arm.contract == EXPECTED.contract.__class__(
        tuple(f"observations_{i}" for i in range(OBSERVED)),
        tuple(f"actions_{i}" for i in range(MOVED)),
        ("",) * OBSERVED,
        ("",) * MOVED,
        (LOW,) * MOVED,
        (HIGH,) * MOVED,
    )
    assert arm.card["terminated_episodes"] == 1
    assert arm.card["episodes"] == 4
    assert digest(arm) == EXPECTED.sha256


def test_robots_of_the_suite_have_no_contract(root: Path, tmp_path: Path) -> None:
    run("export", SMALL, tmp_path / "small.hdf5", "--layout", "d4rl")
    run("import", tmp_path / "small.hdf5")
    assert load_imported("imported/small").contract is None


def test_what_commands_say(arm: ImportedDataset, tmp_path: Path) -> None:
    file = tmp_path / "arm.npz"
    assert "imported/arm: was there, 17 rows of 7 observations and 2 actions in 4 episodes, 1 terminated" in run(
        "import", file, *OPTIONS
    )
    text = run("info", "imported/arm")
    for line in ("observations from observations (7)", "rewards from rewards", "bounds of actions [-2, 3]", "arm.npz"):
        assert line in text
    assert "dynamics unknown" not in text
    assert json.loads(run("info", "imported/arm", "--json"))["contract"]["action_high"] == [HIGH, HIGH]
    [row] = [row for row in json.loads(run("list", "--json")) if row["dataset"] == "imported/arm"]
    assert (row["rows"], row["problem"]) == (17, "")
    assert "imported/arm: verified (17 imported rows" in run("verify", "imported/arm")
    with pytest.raises(OffDynError, match=r"was imported with spec \{.*--force replaces it"):
        run("import", file, "--action-low", "-3", "--action-high", "3")
    run("import", file, "--action-low", "-3", "--action-high", "3", "--force")
    contract = load_imported("imported/arm").contract
    assert contract is not None
    assert contract.action_low == (-3, -3)


@pytest.mark.parametrize("layout", ["d4rl", "odrl"])
def test_an_exported_file_comes_back_as_it_was(arm: ImportedDataset, tmp_path: Path, layout: str) -> None:
    file = tmp_path / "again.hdf5"
    run("export", "imported/arm", file, "--layout", layout)
    run("import", file)
    again = load_imported("imported/again")
    assert digest(again) == EXPECTED.sha256
    assert again.contract == arm.contract
    with pytest.raises(OffDynError, match="was exported with bounds of actions"):
        read_own(file, **BOUNDS)
    named = read_own(file, time_step=0.5)
    assert (named.contract.time_step, named.contract.action_low) == (0.5, (LOW, LOW))


def test_hdf5_of_other_robots(root: Path, tmp_path: Path) -> None:
    keys = {key: value for key, value in STEPS.items() if key not in ("terminations", "truncations")}
    keys |= {"terminals": STEPS["terminations"], "timeouts": STEPS["truncations"]}
    file = write_hdf5(tmp_path / "arm.hdf5", keys)
    with pytest.raises(OffDynError, match=r"pass --robot: halfcheetah, .*, or none for any other"):
        run("import", file)
    run("import", file, "--robot", "none", *OPTIONS)
    run("import", write_minari(tmp_path / "minari-arm", FRAMES), "--robot", "none")
    for name in ("imported/arm", "imported/minari-arm"):
        assert digest(load_imported(name)) == EXPECTED.sha256


def test_what_was_dropped_is_on_the_card(root: Path, tmp_path: Path) -> None:
    text = run("import", write_npz(tmp_path / "log.npz", logged(FRAMES)), *OPTIONS)
    assert "dropped 4 final rows without next observation" in text
    assert "next observations from the next row of the same episode (7)" in text
    assert "done was taken for a termination; say --done-means truncation if it is one" in text
    card = load_imported("imported/log").card
    assert card["dropped"]["final rows without next observation"] == 4
    assert (card["rows"], card["source"]["rows"]) == (13, 17)


def test_a_changed_reward_function_is_another_import(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = tmp_path / "my_rewards_b.py"
    code.write_text("def zero(observations, actions, next_observations):\n    return 0 * observations[:, 0]\n")
    options = ("import", write_npz(tmp_path / "a.npz", STEPS), *OPTIONS, "--reward-function", "my_rewards_b:zero")
    assert "rewards from my_rewards_b:zero" in run(*options)
    assert "was there" in run(*options)
    assert not load_imported("imported/a").rewards.any()
    code.write_text(code.read_text() + "# Another one.\n")
    with pytest.raises(OffDynError, match="was imported with spec"):
        run(*options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contract": None}, "key 'offdyn.contract' is None"),
        ({"contract": {}}, "key 'offdyn.contract.observations' is missing"),
        ({"robot": "ant"}, r"observations\.npy: is float32 \[17, 7\]; expected float32 \[17, 27\]"),
    ],
)
def test_damaged_card(arm: ImportedDataset, change: dict[str, Any], message: str) -> None:
    path = arm.path / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["offdyn"].update(change)
    path.write_text(json.dumps(metadata))
    with pytest.raises(OffDynError, match=message):
        load_imported("imported/arm")
    del metadata["offdyn"]["contract"]
    metadata["offdyn"]["robot"] = None
    path.write_text(json.dumps(metadata))
    with pytest.raises(OffDynError, match=r"key 'offdyn\.contract' is missing"):
        load_imported("imported/arm")


@pytest.mark.parametrize(
    "change",
    [{"action_low": [HIGH] * MOVED}, {"action_units": []}, {"colour": "red"}],
)
def test_damaged_contract(arm: ImportedDataset, change: dict[str, Any]) -> None:
    path = arm.path / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["offdyn"]["contract"].update(change)
    path.write_text(json.dumps(metadata))
    with pytest.raises(OffDynError, match=r"key 'offdyn\.contract"):
        load_imported("imported/arm")


def test_load_any(arm: ImportedDataset, tmp_path: Path) -> None:
    assert str(getattr(load_any(SMALL), "id", "")) == SMALL
    assert isinstance(load_any("imported/arm"), ImportedDataset)
    for name in (tmp_path / "arm.npz", str(tmp_path / "arm.npz")):
        own = load_any(name, BOUNDS)
        assert isinstance(own, OwnData)
        assert own.sha256 == EXPECTED.sha256
    with pytest.raises(OffDynError, match=r"no dataset and no file of that name: '.*/arn\.npz'; nearest '.*/arm\.npz'"):
        load_any(tmp_path / "arn.npz")
    with pytest.raises(OffDynError, match="no dataset and no file of that name: 'import/arm'; nearest 'imported/arm'"):
        load_any("import/arm")
    with pytest.raises(OffDynError, match="a spec is allowed for a file"):
        load_any("imported/arm", BOUNDS)


def test_tasks_of_own_data(arm: ImportedDataset, tmp_path: Path) -> None:
    task = load_task(source="imported/arm", target="imported/arm")
    assert isinstance(task, Task)
    assert task.env is None
    assert (len(task.source), len(task.target)) == (17, 17)
    other = tmp_path / "target.npz"
    write_npz(other, transitions(make_frames(1)) | {"actions": STEPS["actions"] / 10})
    env, source, target = load_task(source=other, target=str(other))
    assert env is None
    assert isinstance(source, OwnData)
    assert isinstance(target, OwnData)
    known = load_task(source=SMALL, target=NOMINAL)
    assert known.env.spec.id == "OffDyn/Hopper-v0"
    known.env.close()
    with pytest.raises(
        OffDynError, match=r"action 'actions_0' has bounds \[-2, 3\] in source and \[-1, 1\] in target; equal bounds"
    ):
        load_task(source="imported/arm", target=other)
    with pytest.raises(
        OffDynError, match="source has 7 observations and 2 actions and target 11 observations and 3 actions; equal"
    ):
        load_task(source=other, target=SMALL)


def test_own_source_for_a_robot_of_the_suite(root: Path, tmp_path: Path) -> None:
    """Anybody's transitions of the same sizes can go with a target that an environment scores."""
    small = load_any(SMALL)
    own = write_npz(tmp_path / "hopper.npz", {key: np.asarray(getattr(small, key)) for key in KEYS})
    task = load_task(source=own, target=SMALL)
    assert task.env.spec.id == "OffDyn/Hopper-gravity-0.5-v0"
    task.env.close()


def test_clipped_actions_are_on_the_card(root: Path, tmp_path: Path) -> None:
    file = write_npz(tmp_path / "far.npz", STEPS | {"actions": np.full((17, 2), 0.5) + 6.5 * np.eye(17, 2, -3)})
    assert "2 rows with clipped actions" in run("import", file, *OPTIONS, "--clip-actions")
    data = load_imported("imported/far")
    assert data.card["counted"]["rows with clipped actions"] == 2
    assert data.card["spec"]["clip_actions"] is True
    np.testing.assert_allclose(data.actions[2:6], [[0, 0], [1, 0], [0, 1], [0, 0]], atol=1e-7)


def test_the_picture_of_an_imported_dataset(arm: ImportedDataset, tmp_path: Path) -> None:
    picture = tmp_path / "arm.png"
    if arm.card["returns"] is None:
        pytest.fail("the arm has whole episodes")
    run("info", arm.id, "--png", picture)
    assert drawn_from(picture) == arm.card["sha256"]
    run("info", arm.id, "--png", picture)  # Its own it replaces.
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(OffDynError, match=r"index.html: stands there and is not a PNG file; move it away"):
        run("info", arm.id, "--png", tmp_path / "index.html")
    assert (tmp_path / "index.html").read_text() == "mine"


def test_a_picture_of_no_whole_episode_is_refused(root: Path, tmp_path: Path) -> None:
    cut = STEPS | {"terminations": np.zeros(len(STEPS["rewards"]), dtype=bool)}
    cut["truncations"] = STEPS["terminations"] | STEPS["truncations"]
    run("import", write_npz(tmp_path / "cut.npz", cut), *OPTIONS)
    with pytest.raises(OffDynError, match="'imported/cut' holds no whole episode; no returns to draw"):
        run("info", "imported/cut", "--png", tmp_path / "cut.png")
    assert not (tmp_path / "cut.png").exists()
