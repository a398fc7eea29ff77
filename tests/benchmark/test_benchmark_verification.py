from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_boards as boards
import benchmark_models as models
import numpy as np
import pytest

from offdyn_envs import cli
from offdyn_envs.benchmark import onnx_policy, protocol, rollouts, sandbox, submissions, verification
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import get_dynamics, get_task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")

EPISODES = 15
LIMITS = sandbox.Limits(cpu=60, wall=120)


def honest_returns(task: str, seed: int) -> list[float]:
    """What the policy of `boards.entry_json` really earns, as an evaluation would report it."""
    place = get_task(task)
    robot = get_robot(place.robot)
    policy = onnx_policy.load_policy(models.policy(robot.observation_dim, robot.action_dim, seed=seed))
    shifts = get_dynamics(place.scoring)
    returns = rollouts.episode_returns(policy, robot, shifts, EPISODES, protocol.EVALUATION_SEED)
    return [float(value) for value in returns]


@pytest.fixture(scope="module")
def honest() -> tuple[dict[str, Any], dict[str, bytes]]:
    return boards.entry_json("honest", returns=honest_returns)


def copy(honest: tuple[dict[str, Any], dict[str, bytes]], name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    entry, files = json.loads(json.dumps(honest[0])), dict(honest[1])
    return entry | {"name": name}, files


def rehash(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    import hashlib

    for result in entry["results"]:
        result["policy_sha256"] = hashlib.sha256(files[result["policy"]]).hexdigest()


def verify(board: Path, names: list[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    folders = [board / "submissions" / name for name in names]
    verdicts, refusals = verification.verify_entries(folders, board, episodes=EPISODES, limits=LIMITS)
    return {verdict["entry"]: verdict for verdict in verdicts}, refusals


def path_of(seed: int) -> str:
    return f"policies/{boards.HOPPER}/{seed}.onnx"


def forge(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    entry["results"][1]["returns"] = [value + 200.0 for value in entry["results"][1]["returns"]]


def swap(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    files[path_of(0)] = models.policy(11, 3, seed=987)
    rehash(entry, files)


def other_task(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    files[path_of(0)] = models.policy(17, 6)
    rehash(entry, files)


def forbidden(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    files[path_of(2)] = models.external_data("/etc/passwd")
    rehash(entry, files)


def allocate(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    files[path_of(0)] = models.memory_bomb(11, 3)
    rehash(entry, files)


def test_honest_is_reproduced_and_each_dishonest_one_is_not(
    honest: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path
) -> None:
    cases: dict[str, tuple[Callable[..., None] | None, str, str]] = {
        "forged": (forge, verification.NOT_REPRODUCED, "claimed"),
        "swapped": (swap, verification.NOT_REPRODUCED, "seed 0"),
        "other-task": (other_task, verification.REFUSED, "this task's is 11"),
        "forbidden": (forbidden, verification.REFUSED, "external data"),
        "allocating": (allocate, verification.REFUSED, "seed 0"),
        "honest": (None, verification.REPRODUCED, ""),
    }
    for name, (change, _, _) in cases.items():
        entry, files = copy(honest, name)
        if change is not None:
            change(entry, files)
        boards.write_entry(tmp_path, entry, files)
    verdicts, refusals = verify(tmp_path, list(cases))
    for name, (_, status, message) in cases.items():
        assert verdicts[name]["status"] == status, (name, verdicts[name]["reason"])
        assert message in verdicts[name]["reason"]
        assert verdicts[name]["reason"].isprintable()
        saved = json.loads(verification.verdict_path(tmp_path, name).read_text())
        assert saved["status"] == status
    assert len(refusals) == 5
    assert verdicts["forged"]["worst"]["seed"] == 1
    worst = verdicts["forged"]["worst"]
    assert f"claimed {worst['claimed']:.1f}, re-run {worst['rerun']:.1f}" in verdicts["forged"]["reason"]
    assert "resource-limits" in verdicts["honest"]["isolation"]


def test_a_verdict_holds_only_for_exactly_what_was_verified(
    honest: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path
) -> None:
    entry, files = copy(honest, "mine")
    folder = boards.write_entry(tmp_path, entry, files)
    loaded = submissions.load_entry(folder)
    bound = verification._binding(loaded) | {"status": "reproduced"}
    path = verification.verdict_path(tmp_path, "mine")
    path.parent.mkdir()
    path.write_text(json.dumps(bound))
    assert verification.load_verdict(tmp_path, loaded) is not None
    for key, value in (("verifier", 0), ("protocol", 0), ("policies", {}), ("claims", "0" * 64), ("entry", "other")):
        path.write_text(json.dumps(bound | {key: value}))
        assert verification.load_verdict(tmp_path, loaded) is None, key
    path.write_text(json.dumps(bound))
    entry["results"][0]["returns"][0] += 1.0
    boards.write_entry(tmp_path, entry, files)
    assert verification.load_verdict(tmp_path, submissions.load_entry(folder)) is None


def test_seeds_follow_from_all_policies_and_the_salt(
    honest: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path
) -> None:
    entry, files = copy(honest, "mine")
    loaded = submissions.load_entry(boards.write_entry(tmp_path, entry, files))
    seed = verification.evaluation_seed(loaded)
    assert 0 <= seed < 2**48
    assert seed == verification.evaluation_seed(loaded)
    assert seed != verification.evaluation_seed(loaded, "a1b2c3")
    files[path_of(2)] = models.policy(11, 3, seed=5)
    rehash(entry, files)
    assert seed != verification.evaluation_seed(submissions.load_entry(boards.write_entry(tmp_path, entry, files)))


def test_the_perturbed_cells_can_be_re_run_too(tmp_path: Path) -> None:
    entry, files = boards.entry_json("cells", returns=honest_returns, cells=[("gravity", 2.0, 1.0)])
    place = get_task(boards.HOPPER)
    shifts = protocol.cell_shifts(get_dynamics(place.scoring), protocol.Cell("gravity", 2.0))
    for cell in entry["perturbed"]:
        policy = onnx_policy.load_policy(files[path_of(cell["seed"])])
        returns = rollouts.episode_returns(policy, "hopper", shifts, 5, protocol.EVALUATION_SEED)
        cell["returns"] = [float(value) for value in returns]
    loaded = submissions.load_entry(boards.write_entry(tmp_path, entry, files))
    findings = verification.verify_entry(loaded, episodes=EPISODES, perturbed=True, limits=LIMITS)
    assert findings["status"] == verification.REPRODUCED, findings["reason"]
    assert set(findings["p_values"]) == {"clean", "perturbed"}
    assert [len(cell["returns"]) for cell in findings["perturbed"]] == [5, 5, 5]


def test_the_test_keeps_its_level_on_skewed_returns_and_finds_small_lies() -> None:
    rng = np.random.default_rng(0)

    def play(shape: tuple[int, int]) -> Any:
        # A policy that falls in one of ten episodes: far from normal, and its reset noise is shared by all policies.
        shared = rng.normal(0, 20, size=shape[1])
        return np.where(rng.random(shape) < 0.1, 200.0, 3000.0) + shared

    def p_value(trial: int) -> float:
        return verification.agreement(play((6, 30)), play((6, 100)), seed=trial, permutations=999)[0]

    honest = [p_value(trial) for trial in range(150)]
    # 150 honest entries at 5%: 7.5 expected, 19 is beyond 4 standard errors
    assert sum(p < 0.05 for p in honest) < 19
    lies = [verification.agreement(play((6, 100)) + 600.0, play((6, 100)), seed=trial)[0] for trial in range(5)]
    assert max(lies) < 0.001


def test_the_test_on_returns_without_spread() -> None:
    flat = np.full((3, 10), 7.0)
    assert verification.agreement(flat, flat)[0] == 1.0
    assert verification.agreement(flat + np.array([[0.0], [0.0], [1.0]]), flat)[0] < 0.001


def test_the_command_ends_with_2_and_one_line_for_each_refused_entry(
    honest: tuple[dict[str, Any], dict[str, bytes]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry, files = copy(honest, "bad")
    entry["results"][0]["returns"].pop()
    boards.write_entry(tmp_path, entry, files)
    boards.write_entry(tmp_path, *copy(honest, "good"))
    monkeypatch.setattr(cli, "entry_points", lambda group: [])
    arguments = ["leaderboard", "verify", "--leaderboard", str(tmp_path), "--episodes", "12"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--json"])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert [verdict["status"] for verdict in json.loads(printed.out)] == ["refused", "reproduced"]
    lines = [line for line in printed.err.splitlines() if line.startswith("offdyn: ")]
    assert lines == ["offdyn: entry 'bad': task 'hopper-gravity-0.5-medium' seed 0 has 14 returns; the entry says 15"]
    assert "Traceback" not in printed.err
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, str(tmp_path / "submissions" / "good")])
    assert ended.value.code == 0
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments[:-1], "1"])
    assert ended.value.code == 2
    assert "at least 2" in capsys.readouterr().err
