"""Behaviours from a teacher: what it does is learned, an interrupted lesson goes on where it was."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from offdyn_agents.behaviour.commands import app
from offdyn_agents.behaviour.imitation import ImitationLearner, ImitationSettings
from offdyn_agents.behaviour.ppo import PpoLearner, PpoSettings
from offdyn_agents.behaviour.programme import Behaviour, taught
from offdyn_agents.behaviour.recipes import Recipe
from offdyn_agents.behaviour.teacher import Teacher
from offdyn_agents.behaviour.training import repeatable
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
    teach(cut, monkeypatch)
    seen = np.random.default_rng(0).standard_normal((20, 39))
    for quality in ("expert", "medium"):
        files = [each / policies.relative_to(whole) / f"{quality}.safetensors" for each in (whole, cut)]
        card, again = (read_card(file) for file in files)
        check_card(card, quality, whole / "teacher.npz")
        assert again["returns"] == card["returns"]
        first, second = (BehaviourPolicy.load(file).act(seen) for file in files)
        np.testing.assert_array_equal(first, second)


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
