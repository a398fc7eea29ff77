"""Behaviours from a teacher: what it does is learned, an interrupted lesson goes on where it was."""

from pathlib import Path

import numpy as np
import pytest

from offdyn_agents.behaviour.imitation import ImitationLearner, ImitationSettings
from offdyn_agents.behaviour.programme import Behaviour, taught
from offdyn_agents.behaviour.teacher import Teacher
from offdyn_agents.behaviour.training import repeatable
from offdyn_envs.errors import OffDynError
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
