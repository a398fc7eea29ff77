from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import benchmark_boards as boards
import benchmark_models as models
import numpy as np
import pytest

from offdyn_envs import cli
from offdyn_envs.benchmark.entries import (
    history,
    renewal,
    reruns,
    standings,
    submissions,
    verdicts,
    verification,
)
from offdyn_envs.benchmark.entries.precision import Held, held_text
from offdyn_envs.benchmark.gate import onnx_policy
from offdyn_envs.benchmark.gate.half import halved
from offdyn_envs.benchmark.sandbox import sandbox
from offdyn_envs.benchmark.scoring import cells, critics, grid, protocol, rollouts
from offdyn_envs.benchmark.scoring.statistics import Interval
from offdyn_envs.datasets import load_dataset
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import get_dynamics, get_task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")

EPISODES = 15
LIMITS = sandbox.Limits(cpu=60, wall=120)
PLAN = verification.Plan(EPISODES, perturbed=False, salt="later", limits=LIMITS)
WHOLE = replace(PLAN, perturbed=True)


def honest_returns(task: str, seed: int) -> list[float]:
    """What the policy of `boards.entry_json` really earns, as an evaluation would report it."""
    place = get_task(task)
    robot = get_robot(place.robot)
    policy = onnx_policy.load_policy(models.policy(robot.observation_dim, robot.action_dim, seed=seed))
    shifts = get_dynamics(place.robot, place.scoring)
    returns = rollouts.episode_returns(policy, robot, shifts, EPISODES, protocol.EVALUATION_SEED)
    return [float(value) for value in returns]


@pytest.fixture(scope="module")
def honest() -> tuple[dict[str, Any], dict[str, bytes]]:
    return boards.entry_json("honest", returns=honest_returns)


def copy(honest: tuple[dict[str, Any], dict[str, bytes]], name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    entry, files = json.loads(json.dumps(honest[0])), dict(honest[1])
    return entry | {"name": name}, files


def rehash(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    for result in entry["results"]:
        result["policy_sha256"] = hashlib.sha256(files[result["policy"]]).hexdigest()


def verify(board: Path, names: list[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    folders = [board / "submissions" / name for name in names]
    found = verification.verify_entries(folders, board, PLAN)
    assert found.notes == []
    return {verdict["entry"]: verdict for verdict in found.verdicts}, found.refusals


def verdict_of(folder: Path, plan: verification.Plan) -> dict[str, Any]:
    (verdict,) = verification.verify_entries([folder], folder.parents[1], plan).verdicts
    return verdict


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
        "forged": (forge, verdicts.NOT_REPRODUCED, "claimed"),
        "swapped": (swap, verdicts.NOT_REPRODUCED, "seed 0"),
        "other-task": (other_task, verdicts.REFUSED, "this task's is 11"),
        "forbidden": (forbidden, verdicts.REFUSED, "external data"),
        "allocating": (allocate, verdicts.REFUSED, "seed 0"),
        "honest": (None, verdicts.REPRODUCED, ""),
    }
    for name, (change, _, _) in cases.items():
        entry, files = copy(honest, name)
        if change is not None:
            change(entry, files)
        boards.write_entry(tmp_path, entry, files)
    found, refusals = verify(tmp_path, list(cases))
    for name, (_, status, message) in cases.items():
        assert found[name]["status"] == status, (name, found[name]["reason"])
        assert message in found[name]["reason"]
        assert found[name]["reason"].isprintable()
        saved = json.loads(verdicts.verdict_path(tmp_path, name).read_text())
        assert saved["status"] == status
    assert len(refusals) == 5
    assert found["forged"]["worst"]["seed"] == 1
    worst = found["forged"]["worst"]
    assert f"claimed {worst['claimed']:.1f}, re-run {worst['rerun']:.1f}" in found["forged"]["reason"]
    assert "resource-limits" in found["honest"]["isolation"]


def written_verdict(board: Path) -> tuple[submissions.Entry, Path, dict[str, Any]]:
    """An entry with cells, and the verdict that a whole re-run of it would give."""
    entry, files = boards.entry_json("mine", cells=[("gravity", 2.0, 0.9), ("min-q", 0.2, 0.5)])
    loaded = submissions.load_entry(boards.write_entry(board, entry, files))
    answers = [
        reruns.Rerun(
            result,
            list(result.returns),
            {
                cells.Cell(cell.family, cell.level): [float(np.mean(cell.returns))] * protocol.CELL_EPISODES
                for cell in loaded.perturbed
                if cell.seed == result.seed
            },
            [],
            [],
        )
        for result in loaded.results
    ]
    found = verification._judge(loaded, answers)
    found["held_out"] = {
        "shifts": [shift.to_json() for shift in cells.held_out_shifts(1)],
        "returns": {key: [1.0] * protocol.CELL_EPISODES for key in loaded.policy_hashes},
    }
    seed = verification.evaluation_seed(loaded, "later")
    run = {"episodes": 10, "salt": "later", "seed": seed, "isolation": ["resource-limits"]}
    path = verdicts.verdict_path(board, "mine")
    path.parent.mkdir()
    return loaded, path, verdicts.binding(loaded) | run | found


def test_a_verdict_holds_only_for_exactly_what_was_verified(tmp_path: Path) -> None:
    loaded, path, bound = written_verdict(tmp_path)
    path.write_text(json.dumps(bound))
    assert verdicts.load_verdict(tmp_path, loaded) is not None
    for key, value in (("verifier", 0), ("protocol", 0), ("policies", {}), ("claims", "0" * 64), ("entry", "other")):
        path.write_text(json.dumps(bound | {key: value}))
        assert verdicts.load_verdict(tmp_path, loaded) is None, key
    path.write_text(json.dumps(bound))
    entry = json.loads((loaded.folder / "entry.json").read_text())
    entry["results"][0]["returns"][0] += 1.0
    (loaded.folder / "entry.json").write_text(json.dumps(entry))
    assert verdicts.load_verdict(tmp_path, submissions.load_entry(loaded.folder)) is None


def places(value: Any) -> list[tuple[Any, ...]]:
    """The path of every key and of every item of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in items for path in ((key,), *((key, *inner) for inner in places(item)))]


def test_a_verdict_that_lacks_or_misstates_anything_is_refused_by_its_files_name(tmp_path: Path) -> None:
    loaded, path, bound = written_verdict(tmp_path)
    optional = {("perturbed",), ("held_out",), ("p_values", "perturbed")}
    free = {("isolation", 0), *(("held_out", "shifts", number) for number in range(4))}
    assert len(places(bound)) > 100
    for place in places(bound):
        for change in ("remove", "spoil"):
            damaged = json.loads(json.dumps(bound))
            *outer, last = place
            where = damaged
            for key in outer:
                where = where[key]
            if change == "remove":
                del where[last]
            else:
                where[last] = {"an": "object"}
            path.write_text(json.dumps(damaged))
            if place[0] in verdicts.binding(loaded):
                assert verdicts.load_verdict(tmp_path, loaded) is None, (place, change)
            elif change == "remove" and place in optional | free:
                assert verdicts.load_verdict(tmp_path, loaded) is not None, place
            else:
                with pytest.raises(OffDynError, match=r"mine\.json' is damaged at"):
                    verdicts.load_verdict(tmp_path, loaded)


def test_a_damaged_verdict_leaves_the_entry_on_the_page_as_self_reported(tmp_path: Path) -> None:
    _, path, bound = written_verdict(tmp_path)
    del bound["returns"]
    path.write_text(json.dumps(bound))
    judged, refusals = standings.load_board(tmp_path)
    result = standings.compute_standings(judged, table=boards.REFERENCES)
    assert [entry["status"] for entry in result["entries"]] == ["self-reported"]
    assert len(refusals) == 1
    assert "mine.json" in refusals[0]


def test_a_folder_that_does_not_exist_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards.write_entry(tmp_path, *boards.entry_json("good"))
    monkeypatch.setattr(reruns, "run_job", lambda *_: pytest.fail("something ran"))
    folders = [tmp_path / "submissions" / name for name in ("good", "missing")]
    with pytest.raises(OffDynError, match=r"missing' does not exist"):
        verification.verify_entries(folders, tmp_path)
    assert not (tmp_path / "verdicts").exists()


def test_an_entry_outside_the_board_leaves_its_namesakes_verdict_alone(
    honest: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path
) -> None:
    folder = boards.write_entry(tmp_path / "elsewhere", *copy(honest, "mine"))
    verdict = verdicts.verdict_path(tmp_path / "board", "mine")
    verdict.parent.mkdir(parents=True)
    verdict.write_text("what was found for the namesake")
    plan = verification.Plan(2, perturbed=False, limits=LIMITS)
    found = verification.verify_entries([folder], tmp_path / "board", plan)
    assert found.verdicts[0]["entry"] == "mine"
    assert verdict.read_text() == "what was found for the namesake"
    assert len(found.notes) == 1
    assert "no verdict is written" in found.notes[0]


def test_all_policies_are_looked_at_before_the_first_is_re_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, honest: tuple[dict[str, Any], dict[str, bytes]]
) -> None:
    entry, files = copy(honest, "forbidden")
    forbidden(entry, files)
    boards.write_entry(tmp_path, entry, files)
    episodes: list[int] = []

    def counted(job: dict[str, Any], *rest: Any) -> dict[str, Any]:
        episodes.append(sum(cell["episodes"] for cell in job["cells"]))
        return sandbox.run_job(job, *rest)

    monkeypatch.setattr(reruns, "run_job", counted)
    found, refusals = verify(tmp_path, ["forbidden"])
    assert found["forbidden"]["status"] == verdicts.REFUSED
    assert "seed 2: policy keeps tensor" in refusals[0]
    # Their shared process fails, and then each is looked at alone.
    assert episodes == [0, 0, 0, 0]
    boards.write_entry(tmp_path, *copy(honest, "honest"))
    episodes.clear()
    assert verify(tmp_path, ["honest"])[0]["honest"]["status"] == verdicts.REPRODUCED
    assert episodes == [0, EPISODES]


def test_a_policy_serves_as_one_seed_of_a_task_and_on_other_tasks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "hopper-gravity-2.0-medium"
    entry, files = boards.entry_json("mine", (boards.HOPPER, other))
    files = {path: files[path.replace(other, boards.HOPPER)] for path in files}
    rehash(entry, files)
    loaded = submissions.load_entry(boards.write_entry(tmp_path, entry, files))
    monkeypatch.setattr(reruns, "TOGETHER", 2)
    assert len(reruns.look(loaded, PLAN)) == 3
    files[f"policies/{other}/2.onnx"] = models.renamed(files[path_of(0)])
    rehash(entry, files)
    loaded = submissions.load_entry(boards.write_entry(tmp_path, entry, files))
    with pytest.raises(OffDynError, match=f"'{other}' seed 2 has the same weights as seed 0"):
        reruns.look(loaded, PLAN)


def folder_as_verdict(board: Path) -> None:
    (board / "verdicts" / "good.json").mkdir(parents=True)


def file_as_folder(board: Path) -> None:
    (board / "verdicts").write_text("no folder")


def link_to_nowhere(board: Path) -> None:
    (board / "verdicts").symlink_to(board / "nowhere")


@pytest.mark.parametrize("spoil", [folder_as_verdict, file_as_folder, link_to_nowhere])
def test_a_verdict_that_cannot_be_written_is_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    boards.write_entry(tmp_path, *boards.entry_json("good"))
    monkeypatch.setattr(reruns, "run_job", lambda *_: pytest.fail("something ran"))
    spoil(tmp_path)
    with pytest.raises(OffDynError, match=r"good\.json' cannot be written: .*; nothing was run") as refused:
        verification.verify_entries(None, tmp_path)
    assert len(str(refused.value).splitlines()) == 1


def test_an_entry_outside_the_board_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = boards.write_entry(tmp_path / "elsewhere", *boards.entry_json("mine"))

    def run(*_: Any) -> Any:
        raise OffDynError(f"said {said}")

    said: list[str] = []
    monkeypatch.setattr(reruns, "run_job", run)
    found = verification.verify_entries([folder], tmp_path, say=said.append)
    assert found.notes == said
    assert "no verdict is written for" in found.refusals[0]
    assert not (tmp_path / "verdicts").exists()


def test_without_a_sandbox_no_entry_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boards.write_entry(tmp_path, *boards.entry_json("good"))
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OffDynError, match="the sandbox needs Linux, this is darwin"):
        verification.verify_entries(None, tmp_path)
    assert not (tmp_path / "verdicts").exists()


def test_a_missing_target_dataset_is_no_verdict_on_the_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boards.write_entry(tmp_path, *boards.entry_json("mine", cells=[("random", 0.2, 0.5)]))

    def missing(task: Any) -> Any:
        raise OffDynError(f"dataset '{task.target}' is not on this machine")

    # A reference critic has the deviations with it; without one they are taken from the target's rows.
    monkeypatch.setattr(critics, "CRITICS", tmp_path / "nowhere")
    monkeypatch.setattr(reruns, "target_sigma", missing)
    found = verification.verify_entries(None, tmp_path)
    assert [verdict["status"] for verdict in found.verdicts] == [verification.UNVERIFIED]
    assert "--no-perturbed" in found.refusals[0]
    assert not (tmp_path / "verdicts").exists()


def test_a_missing_reference_critic_is_no_verdict_on_the_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boards.write_entry(tmp_path, *boards.entry_json("mine", cells=[("min-q", 0.2, 0.5)]))
    monkeypatch.setattr(critics, "CRITICS", tmp_path / "nowhere")
    found = verification.verify_entries(None, tmp_path)
    assert [verdict["status"] for verdict in found.verdicts] == [verification.UNVERIFIED]
    assert f"the suite has no reference critic of '{boards.HOPPER}'" in found.refusals[0]


def test_sigma_is_the_spread_of_the_shipped_target_dataset() -> None:
    task = get_task(boards.HOPPER)
    sigma = rollouts.target_sigma(task)
    observations = np.asarray(load_dataset(task.target).observations, dtype=np.float64)
    assert (sigma.shape, sigma.dtype) == ((11,), np.float64)
    np.testing.assert_allclose(sigma**2, (observations**2).mean(axis=0) - observations.mean(axis=0) ** 2, rtol=1e-6)


def test_seeds_follow_from_all_policies_and_the_salt(
    honest: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path
) -> None:
    entry, files = copy(honest, "mine")
    loaded = submissions.load_entry(boards.write_entry(tmp_path, entry, files))
    seed = verification.evaluation_seed(loaded, "later")
    assert 0 <= seed < 2**48
    assert seed == verification.evaluation_seed(loaded, "later")
    assert seed != verification.evaluation_seed(loaded, "a1b2c3")
    files[path_of(2)] = models.policy(11, 3, seed=5)
    rehash(entry, files)
    other = submissions.load_entry(boards.write_entry(tmp_path, entry, files))
    assert seed != verification.evaluation_seed(other, "later")


def test_a_salt_is_drawn_where_none_is_given_and_an_empty_one_is_refused() -> None:
    assert len({verification.Plan().salt for _ in range(20)}) == 20
    for salt in ("", "  ", "a\nb", "x" * 201):
        with pytest.raises(OffDynError, match="1 to 200 printable characters are allowed"):
            verification.Plan(salt=salt)


def test_the_command_records_the_salt_it_drew_and_repeats_a_given_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = boards.write_entry(tmp_path, *boards.entry_json("mine"))
    asked: list[dict[str, Any]] = []

    def run(job: dict[str, Any], *_: Any) -> Any:
        asked.append(job)
        raise OffDynError("not here")

    monkeypatch.setattr(reruns, "run_job", run)
    monkeypatch.setattr(reruns, "look", lambda *_: set())
    monkeypatch.setattr(cli, "entry_points", lambda group: [])
    words = ["leaderboard", "verify", str(folder), "--leaderboard", str(tmp_path), "--json", "--no-perturbed"]
    found = []
    for more in ([], [], ["--salt", "mine"]):
        with pytest.raises(SystemExit):
            cli.main([*words, *more])
        found += json.loads(capsys.readouterr().out)
    drawn, again, given = (verdict["salt"] for verdict in found)
    assert drawn and again and drawn != again and given == "mine"
    seeds = [job["cells"][0]["seed"] for job in asked]
    assert seeds == [verdict["seed"] for verdict in found] and len(set(seeds)) == 3
    loaded = submissions.load_entry(folder)
    assert seeds == [verification.evaluation_seed(loaded, salt) for salt in (drawn, again, given)]


def test_all_cells_of_the_grid_are_asked_for_whatever_an_entry_claims(tmp_path: Path) -> None:
    names = ("nothing", "little", "beyond")
    claims: list[list[tuple[str, float, float]]] = [[], [("gravity", 2.0, 1.0)], [("gravity", 3.0, 1.0)]]
    for name, claimed in zip(names, claims, strict=True):
        entry, files = boards.entry_json(name, cells=claimed, cell_episodes=1)
        for cell in entry["perturbed"]:
            cell["returns"] = cell["returns"][:1]
        loaded = submissions.load_entry(boards.write_entry(tmp_path, entry, files))
        (group,) = reruns._groups(loaded)
        clean, *rest, held_out = reruns._asking(loaded, group, WHOLE).asked
        assert (clean["family"], held_out["family"]) == (None, grid.HELD_OUT)
        assert {ask["episodes"] for ask in (*rest, held_out)} == {protocol.CELL_EPISODES}
        asked = [cells.Cell(ask["family"], ask["level"]) for ask in rest]
        beyond = [cells.Cell("gravity", 3.0)] if name == "beyond" else []
        assert asked == [*cells.full_grid(boards.HOPPER), *beyond]
    place = get_task(boards.HOPPER)
    assert cells.full_grid(boards.HOPPER) == cells.evaluation_cells(
        place, critic=critics.find_critic(boards.HOPPER) is not None
    )


def with_honest_cells(name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """An entry whose perturbed returns were really earned, one cell a shift and one an attack."""
    claimed = [("gravity", 2.0, 1.0), ("kinematic", 1.0, 1.0), ("min-q", 0.2, 1.0), ("min-q-own", 0.2, 1.0)]
    entry, files = boards.entry_json(name, returns=honest_returns, cells=claimed, cell_episodes=10)
    place = get_task(boards.HOPPER)
    for result in entry["results"]:
        critic = models.critic(11, 3, seed=result["seed"])
        path = result["policy"].replace(".onnx", ".critic.onnx")
        files[path] = critic
        result |= {"critic": path, "critic_sha256": hashlib.sha256(critic).hexdigest()}
    reference = critics.find_critic(boards.HOPPER)
    assert reference is not None
    for cell in entry["perturbed"]:
        policy = onnx_policy.load_policy(files[path_of(cell["seed"])])
        own = onnx_policy.load_critic(models.critic(11, 3, seed=cell["seed"]))
        judges = grid.Judges(list(reference.sigma), onnx_policy.load_critic(reference.path), [own])
        ask = grid.Ask(cells.Cell(cell["family"], cell["level"]), 10, protocol.EVALUATION_SEED)
        standing = get_dynamics(place.robot, place.scoring)
        (returns,) = grid.grid_returns([policy], get_robot("hopper"), standing, [ask], judges)
        cell["returns"] = [float(value) for value in returns[0]]
    return entry, files


@pytest.fixture
def reference_critic(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference critic of the hopper's task, made by hand."""
    root = tmp_path_factory.mktemp("critics")
    content = models.critic(11, 3, seed=77)
    (root / "hopper.onnx").write_bytes(content)
    sigma = rollouts.target_sigma(get_task(boards.HOPPER)).tolist()
    told = {"file": "hopper.onnx", "sha256": hashlib.sha256(content).hexdigest(), "sigma": sigma}
    (root / critics.INDEX).write_text(json.dumps({"critics": {boards.HOPPER: told}}))
    monkeypatch.setattr(critics, "CRITICS", root)


@pytest.fixture
def short_cells(monkeypatch: pytest.MonkeyPatch) -> int:
    """Fewer episodes of each cell than the protocol has."""
    monkeypatch.setattr(protocol, "CELL_EPISODES", 6)
    return 6


@pytest.mark.usefixtures("reference_critic")
def test_the_perturbed_cells_are_re_run_too_unless_left_out(
    tmp_path: Path, short_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = boards.write_entry(tmp_path, *with_honest_cells("cells"))
    findings = verdict_of(folder, WHOLE)
    assert findings["status"] == verdicts.REPRODUCED, findings["reason"]
    assert set(findings["p_values"]) == {"clean", "perturbed"}
    # All of the grid, and the attack with critics of its own.
    expected = {*cells.full_grid(boards.HOPPER), ("min-q-own", 0.2)}
    assert {(cell["family"], cell["level"]) for cell in findings["perturbed"]} == expected
    assert [len(cell["returns"]) for cell in findings["perturbed"]] == [short_cells] * 3 * len(expected)
    held_out = findings["held_out"]
    assert [len(returns) for returns in held_out["returns"].values()] == [short_cells] * 3
    assert len(held_out["shifts"]) == 4
    # What is found does not depend on how policies are shared out among processes.
    monkeypatch.setattr(reruns, "TOGETHER", 2)
    again = verdict_of(folder, WHOLE)
    assert [again[key] for key in ("returns", "perturbed", "held_out")] == [
        findings[key] for key in ("returns", "perturbed", "held_out")
    ]
    short = verdict_of(folder, PLAN)
    assert set(short["p_values"]) == {"clean"}
    assert not {"perturbed", "held_out"} & set(short)


@pytest.mark.usefixtures("reference_critic", "short_cells")
def test_forged_perturbed_returns_are_found(tmp_path: Path) -> None:
    entry, files = with_honest_cells("cells")
    for cell in entry["perturbed"]:
        cell["returns"] = [value + 500.0 for value in cell["returns"]]
    folder = boards.write_entry(tmp_path, entry, files)
    assert verdict_of(folder, WHOLE)["status"] == verdicts.NOT_REPRODUCED


def test_an_entry_of_protocol_1_is_scored_anew_from_its_policies(tmp_path: Path) -> None:
    entry, files = boards.entry_json("old", protocol=1)
    del entry["results"][0]["returns"][0]
    boards.write_entry(tmp_path, entry | {"protocol": 1}, files)
    with pytest.raises(OffDynError, match="has 9 returns"):
        renewal.renew_entry("old", "new", tmp_path)
    old = boards.write_entry(tmp_path, *boards.entry_json("old", protocol=1, date="2020-01-01"))
    new = submissions.load_entry(renewal.renew_entry("old", "new", tmp_path, plan=PLAN))
    assert (new.protocol, new.name, new.method, new.episodes) == (2, "new", "OLD", EPISODES)
    assert new.disclosure == submissions.load_entry(old).disclosure
    assert new.date > submissions.load_entry(old).date == "2020-01-01"
    for result in new.results:
        stored = (old / result.policy).read_bytes()
        assert (new.folder / result.policy).read_bytes() == halved(stored)
    honest = honest_returns(boards.HOPPER, 0)
    assert abs(np.mean(new.results[0].returns) - np.mean(honest)) < 4 * np.std(honest)
    found = verdict_of(new.folder, replace(PLAN, salt="another"))
    assert found["status"] == verdicts.REPRODUCED, found["reason"]
    with pytest.raises(OffDynError, match="'new' is of protocol 2 already; verify it as it is"):
        renewal.renew_entry("new", "newer", tmp_path)
    with pytest.raises(OffDynError, match="entry 'new' exists"):
        renewal.renew_entry("old", "new", tmp_path)
    assert sorted(path.name for path in (tmp_path / "submissions").iterdir()) == ["new", "old"]


def test_a_renewal_takes_no_other_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["leaderboard", "add", "--from-entry", "old", "--name", "new", "--method", "Mine"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--leaderboard", str(tmp_path)])
    assert ended.value.code == 2
    assert "--from-entry old keeps what the entry says" in capsys.readouterr().err


def test_a_verdict_that_changes_places_adds_to_the_history(
    honest: tuple[dict[str, Any], dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards.write_entry(tmp_path, *copy(honest, "mine"))
    rows = [{"name": "core-6", "rows": [{"name": "mine", "division": "100k", "rank": 1}]}]
    held = [Held("iql", boards.HOPPER, 5, Interval(0.0, -1.0, 1.0), Interval(0.0, -1.0, 1.0))]
    (tmp_path / "precision.json").write_text(held_text(held))
    given: list[Held] = []
    monkeypatch.setattr(verification, "compute_standings", lambda _, held: given.extend(held) or {"tracks": rows})
    verification.verify_entries(None, tmp_path, PLAN)
    # Places are those of the page, which knows what has been held against fp32.
    assert given == held
    (step,) = history.load_history(tmp_path)
    assert step["places"] == {"core-6": {"100k": {"mine": 1}}}
    assert step["date"] == json.loads(verdicts.verdict_path(tmp_path, "mine").read_text())["date"]
    rows[0]["rows"] = []
    verification.verify_entries(None, tmp_path, PLAN)
    assert [step["places"] for step in history.load_history(tmp_path)] == [{"core-6": {"100k": {"mine": 1}}}, {}]


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
    arguments = ["leaderboard", "verify", "--leaderboard", str(tmp_path), "--no-perturbed", "--episodes", "12"]
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
