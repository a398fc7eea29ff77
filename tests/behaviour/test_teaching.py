"""Behaviours from a teacher: what it does is learned, an interrupted lesson goes on where it was."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from offdyn_agents.behaviour import publish
from offdyn_agents.behaviour.commands import app
from offdyn_agents.behaviour.evaluation import Evaluation
from offdyn_agents.behaviour.imitation import ImitationLearner, ImitationSettings
from offdyn_agents.behaviour.ppo import PpoLearner, PpoSettings
from offdyn_agents.behaviour.programme import Behaviour, taught
from offdyn_agents.behaviour.recipes import Recipe
from offdyn_agents.behaviour.teacher import Teacher
from offdyn_agents.behaviour.training import Run, repeatable
from offdyn_agents.runs.locks import held
from offdyn_envs.errors import OffDynError
from offdyn_envs.policies import BehaviourPolicy, read_card
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import DYNAMICS

SETTINGS = ImitationSettings(rows=4, horizon=5, hidden=8, updates=20, minibatch=32, rate=3e-3, steps=600)


def teacher_file(folder: Path, **changes: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    sizes = {0: (8, 39), 1: (8, 8), 2: (28, 8)}
    arrays = {f"{index}.weight": 0.3 * rng.standard_normal(size) for index, size in sizes.items()}
    arrays |= {f"{index}.bias": np.zeros(size[0]) for index, size in sizes.items()}
    arrays |= {"in_shift": np.zeros(39), "in_scale": np.ones(39), "out_shift": np.zeros(28), "out_scale": np.ones(28)}
    np.savez(folder / "teacher.npz", **(arrays | changes))  # pyright: ignore[reportArgumentType]
    return folder / "teacher.npz"


def lesson(path: Path) -> ImitationLearner:
    return ImitationLearner("adroit-door", "nominal", 1, Teacher(path, get_robot("adroit-door")), SETTINGS)


def error(learner: ImitationLearner) -> float:
    snapshot = learner.snapshot()
    values = (learner.seen - snapshot["mean"]) / snapshot["std"]
    for index in range(2):
        values = np.tanh(values @ snapshot[f"w{index}"] + snapshot[f"b{index}"])
    return float(np.square(values @ snapshot["w2"] + snapshot["b2"] - learner.told).mean())


def test_a_lesson_is_learned_and_goes_on(tmp_path: Path) -> None:
    path = teacher_file(tmp_path)
    with repeatable():
        whole, cut = lesson(path), lesson(path)
        whole.iterate()
        first = error(whole)
        cut.iterate()
        state = cut.state()
        cut = lesson(path)
        cut.restore(state)
        while whole.steps < SETTINGS.steps:
            whole.iterate()
            cut.iterate()
    assert error(whole) < 0.5 * first
    for name, array in whole.snapshot().items():
        np.testing.assert_array_equal(array, cut.snapshot()[name])


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"in_shift": np.zeros(38)}, "maps 39 to 28"), ({"2.bias": np.zeros(3)}, "maps 39 to 28")],
)
def test_a_teacher_of_another_robot_is_refused(tmp_path: Path, changes: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(OffDynError, match=words):
        Teacher(teacher_file(tmp_path, **changes), get_robot("adroit-door"))


def test_what_is_no_teacher_is_refused(tmp_path: Path) -> None:
    for name, content in (("none.npz", None), ("text.npz", b"hello")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(OffDynError, match="no teacher can be read"):
            Teacher(tmp_path / name, get_robot("adroit-door"))


def test_who_is_taught() -> None:
    assert taught("adroit-pen", []) == [Behaviour("adroit-pen", slug) for slug in DYNAMICS["adroit-pen"]]
    assert taught("adroit-pen", ["nominal"])[0].names == ("medium", "expert")
    with pytest.raises(OffDynError, match="robot with a teacher"):
        taught("hopper", [])


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A door that is taught in two iterations of each learner, with its files below a temporary folder."""
    recipe = Recipe("ppo", 1_600, 0.99, lesson=100)
    monkeypatch.setattr("offdyn_agents.behaviour.recipes.TAUGHT", {"adroit-door": recipe})
    small = partial(ImitationSettings, rows=10, horizon=5, updates=5, minibatch=32)
    monkeypatch.setattr("offdyn_agents.behaviour.imitation.ImitationSettings", small)
    monkeypatch.setattr("offdyn_agents.behaviour.ppo.PpoSettings", partial(PpoSettings, rows=4, minibatch=400))
    sizes = {"ADOPTION_OF_A_LESSON": 1, "EXPERT_EPISODES": 2, "MEDIUM_EPISODES": 2, "CARD_EPISODES": 4, "_CLOSELY": 1}
    # So short a run has no policy half as good as its best.
    for name, value in {**sizes, "MEDIUM_LOW": -9.0, "MEDIUM_HIGH": 9.0}.items():
        monkeypatch.setattr(f"offdyn_agents.behaviour.publish.{name}", value)
    monkeypatch.setattr("offdyn_agents.behaviour.training.CHECKPOINT_SECONDS", 0.0)
    return tmp_path


def teach(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the command for one dynamics, with all files in the folder; return what it prints."""
    monkeypatch.setattr("offdyn_envs.shipped.shipped_root", lambda: folder)
    # A hand that is still earns more than one that is shaken.
    path = teacher_file(folder, **{"2.weight": np.zeros((28, 8))})
    words = ["teach", "adroit-door", "--teacher", str(path), "--dynamics", "broken-joint-easy", "--quiet"]
    result = CliRunner().invoke(app, [*words, "--runs", str(folder / "runs")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_behaviour_is_taught_once_and_goes_on_where_it_was_cut(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = short / "whole", short / "cut"
    whole.mkdir()
    cut.mkdir()
    with counted(monkeypatch) as steps:
        lines = teach(whole, monkeypatch).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"adroit-door broken-joint-easy {x}" for x in ("expert", "medium")
    ]
    policies = whole / "behaviours" / "adroit-door" / "broken-joint-easy"
    names = ["expert.json", "expert.safetensors", "medium.json", "medium.safetensors"]
    assert sorted(file.name for file in policies.iterdir()) == names
    before = {name: (policies / name).read_bytes() for name in names}
    assert teach(whole, monkeypatch) == "adroit-door broken-joint-easy: done\n"
    assert {name: (policies / name).read_bytes() for name in names} == before
    for learner in (ImitationLearner, PpoLearner):
        with monkeypatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(learner, "iterate", dies_in_the_second(learner))
            teach(cut, patch)
        assert not (cut / "behaviours").exists()
    with counted(monkeypatch) as rest:
        teach(cut, monkeypatch)
    # The lesson was whole, and of the run one step was kept.
    assert rest == {"ImitationLearner": 0, "PpoLearner": steps["PpoLearner"] - 1}
    seen = np.random.default_rng(0).standard_normal((20, 39))
    for quality in ("expert", "medium"):
        files = [each / policies.relative_to(whole) / f"{quality}.safetensors" for each in (whole, cut)]
        card, again = (read_card(file) for file in files)
        check_card(card, quality, whole / "teacher.npz")
        assert again["returns"] == card["returns"]
        first, second = (BehaviourPolicy.load(file).act(seen) for file in files)
        np.testing.assert_array_equal(first, second)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Count the steps of both learners in the block."""
    calls = {"ImitationLearner": 0, "PpoLearner": 0}

    def counting(learner: Any) -> Any:
        iterate = learner.iterate

        def call(self: Any) -> int:
            calls[learner.__name__] += 1
            return iterate(self)

        return call

    with monkeypatch.context() as patch:
        for learner in (ImitationLearner, PpoLearner):
            patch.setattr(learner, "iterate", counting(learner))
        yield calls


def dies_in_the_second(learner: Any) -> Any:
    iterate, calls = learner.iterate, []

    def counted(self: Any) -> int:
        calls.append(self)
        if len(calls) == 2:
            raise InterruptedError
        return iterate(self)

    return counted


def check_card(card: dict[str, Any], quality: str, teacher: Path) -> None:
    sha256 = Teacher(teacher, get_robot("adroit-door")).sha256
    assert card["lesson"] == {"teacher_sha256": sha256, "steps": 100}
    assert (card["quality"], card["robot"], card["dynamics"]) == (quality, "adroit-door", "broken-joint-easy")
    assert card["training_unit"] == "environment steps"
    assert card["training_steps"] <= card["run_steps"]
    assert {name: each["episodes"] for name, each in card["returns"].items()} == {"sampled": 4, "deterministic": 4}
    assert card["returns"]["sampled"]["mean"] > card["random_return"]
    assert (card["share_of_gain"] == 1.0) == (quality == "expert")
    assert {"stage", "algorithm", "settings", "seed", "run_seconds", "model_hash", "versions"} < card.keys()


DOOR = Behaviour("adroit-door", "nominal")


def planted(monkeypatch: pytest.MonkeyPatch, folder: Path, returns: dict[int, float]) -> dict[str, dict[str, Any]]:
    """Publish of a lesson that ends at 100 steps and a run up to 2,000; policies earn by their steps, chance 0."""
    monkeypatch.setattr("offdyn_envs.shipped.shipped_root", lambda: folder)
    monkeypatch.setattr(publish, "random_returns", lambda *_: {"mean": 0.0, "se": 1.0})
    monkeypatch.setattr(publish, "_measure", lambda _, run, episodes, steps: returns[steps])
    monkeypatch.setattr(publish, "_policy", lambda run, steps: Steps(steps))

    def report(_: Behaviour, policy: Steps) -> dict[str, Evaluation]:
        mean = returns[policy.steps]
        return {"sampled": Evaluation(np.array([mean - 1.0, mean + 1.0]), np.full(2, 200))}

    monkeypatch.setattr(publish, "_report", report)
    taught, tuned = lesson(teacher_file(folder)), PpoLearner("adroit-door", "nominal", 7, PpoSettings(rows=2))
    taught.steps, tuned.steps = 100, 2000
    runs = [Run(folder / str(number), [(steps, 0.0, 0.0) for steps in kept]) for number, kept in PLANTED]
    return publish.publish_taught(DOOR, (taught, runs[0]), (tuned, runs[1]))


PLANTED = ((0, (50, 100)), (1, (0, 1000, 2000)))


class Steps:
    """A policy that is known by its steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def save(self, path: Path, card: dict[str, Any]) -> None:
        """Write nothing."""


def test_a_medium_out_of_the_lesson_tells_of_the_lesson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = planted(monkeypatch, tmp_path, {50: 48.0, 100: 80.0, 0: 80.0, 1000: 90.0, 2000: 100.0})
    expert, medium = cards["expert"], cards["medium"]
    assert (expert["stage"], expert["algorithm"], expert["training_steps"], expert["run_steps"]) == (
        *("tuned", "ppo", 2000, 2000),
    )
    assert (medium["stage"], medium["algorithm"], medium["training_steps"], medium["run_steps"]) == (
        *("lesson", "imitation", 50, 100),
    )
    assert (medium["seed"], medium["settings"]) == (1, SETTINGS.to_json())
    assert (medium["share_of_gain"], expert["share_of_gain"]) == (0.48, 1.0)
    cards = planted(monkeypatch, tmp_path, {50: 20.0, 100: 80.0, 0: 80.0, 1000: 50.0, 2000: 100.0})
    assert (cards["medium"]["stage"], cards["medium"]["algorithm"], cards["medium"]["seed"]) == ("tuned", "ppo", 7)


@pytest.mark.parametrize(
    ("best", "words"),
    [(-100.0, r"return -100\.0 .* is not above chance's 0\.0"), (6.0, "by 5 standard errors"), (8.0, None)],
)
def test_an_expert_that_gains_nothing_is_refused(
    best: float, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The medium has half of what the expert gains or loses; standard errors are 1 each.
    returns = dict.fromkeys((100, 0, 1000), -2.0 * abs(best)) | {2000: best, 50: 0.5 * best}
    if words is None:
        assert planted(monkeypatch, tmp_path, returns)["medium"]["training_steps"] == 50
        return
    with pytest.raises(OffDynError, match=words):
        planted(monkeypatch, tmp_path, returns)


def test_a_lesson_that_another_process_takes_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(publish, "learn", lambda *_, **__: threads.append(torch.get_num_threads()))
    monkeypatch.setattr(publish, "publish_taught", lambda *_: {"expert": {}})
    monkeypatch.setattr(publish, "ADOPTION_OF_A_LESSON", 0)
    made = publish.make_lesson
    monkeypatch.setattr(publish, "make_lesson", lambda *x: threads.append(torch.get_num_threads()) or made(*x))
    folder = tmp_path / "adroit-door" / "lesson"
    folder.mkdir(parents=True)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ExitStack() as other:
            assert other.enter_context(held(folder / "lock"))
            monkeypatch.setattr("offdyn_agents.runs.locks.time.sleep", lambda _: other.close())
            assert publish.teach_behaviour(DOOR, teacher_file(tmp_path), tmp_path) == {"expert": {}}
    finally:
        torch.set_num_threads(before)
    # Networks are made under the same conditions as they learn.
    assert threads == [1, 1, 1]
    monkeypatch.setattr(publish, "PATIENCE", 0.0)
    with held(folder / "lock"), pytest.raises(OffDynError, match=r"begins with a lesson that process .* is taking"):
        publish.teach_behaviour(DOOR, tmp_path / "teacher.npz", tmp_path)
