from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from offdyn_envs.benchmark.scoring import cells, protocol
from offdyn_envs.benchmark.scoring.critics import read_index
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import WALKERS, get_robot
from offdyn_envs.shifts import MORPHOLOGY_PARTS, Actuator, Friction, Gravity, Kinematic, Morphology
from offdyn_envs.tasks import PRESET_SCALES, TRACKS, get_task

HALF = (Gravity(0.5),)
HOPPER = get_robot("hopper")


def rows(family: str, level: float, episodes: int = 4) -> list[tuple[object, ...]]:
    return list(cells.cell_rows(HOPPER, HALF, cells.Cell(family, level), episodes))


def test_cells_append_to_the_shifts_that_stand() -> None:
    assert rows("gravity", 2.0) == [(Gravity(0.5), Gravity(2.0))] * 4
    assert rows("friction", 0.5) == [(Gravity(0.5), Friction(0.5))] * 4
    for family in protocol.ATTACKS:
        assert rows(family, 0.1) == [HALF] * 4


def test_a_body_level_is_shared_by_both_parts() -> None:
    assert rows("kinematic", 3.0) == [(*HALF, Kinematic(part, 0.2)) for part in ("foot", "foot", "leg", "leg")]
    first, last = MORPHOLOGY_PARTS["hopper"]
    assert rows("morphology", 1.0) == [(*HALF, Morphology(part, 1.0)) for part in (first, first, last, last)]


def test_worn_parts_fall_from_1_over_100_episodes() -> None:
    scales = [row[1] for row in rows("worn-friction", 0.5, 100)]
    assert scales[0] == Friction(1.0) and scales[-1] == Friction(0.5)
    np.testing.assert_allclose([shift.scale for shift in scales], np.linspace(1.0, 0.5, 100))
    few = [row[1] for row in rows("worn-motors", 0.5, 3)]
    assert (few[0], few[2]) == (Actuator(1.0), Actuator(0.5))
    assert few[1].scale == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("family", "level", "episodes", "words"),
    [
        ("gravty", 2.0, 4, "did you mean 'gravity'"),
        ("gravity", float("nan"), 4, "positive"),
        ("kinematic", 4.0, 4, r"perturbation level 4 of 'kinematic': 1 \(easy\), 2 \(medium\), 3 \(hard\) are allowed"),
        ("morphology", 1.0, 1, "1 episodes of 'morphology': 2 or more are needed, one for each part"),
    ],
)
def test_cells_that_are_none_are_refused(family: str, level: float, episodes: int, words: str) -> None:
    with pytest.raises(OffDynError, match=words):
        rows(family, level, episodes)


@pytest.mark.parametrize("robot", sorted(WALKERS))
def test_every_family_is_in_the_grid_of_every_robot(robot: str) -> None:
    grid = cells.evaluation_cells(get_task(f"{robot}-gravity-0.5-medium"), own=True)
    assert {cell.family for cell in grid} == set(protocol.FAMILIES) - {"random"}
    assert len(grid) == len(set(grid)) == 8 + 6 + 2 + 2 + 2
    assert not {"min-q", "min-q-own"} & {
        cell.family for cell in cells.evaluation_cells(get_task(f"{robot}-gravity-0.5-medium"), critic=False)
    }


def test_a_part_that_is_reshaped_already_leaves_the_morphology_cells_out() -> None:
    found = {cell.family for cell in cells.evaluation_cells(get_task("hopper-morphology-torso-easy-medium"))}
    assert "morphology" not in found and "kinematic" in found


def test_held_out_scales_are_in_no_table_and_follow_from_the_seed() -> None:
    listed = {1.0, *PRESET_SCALES, *protocol.SCALE_LEVELS}
    for seed in range(200):
        drawn = cells.held_out_shifts(seed)
        assert [type(shift) for shift in drawn] == [Gravity, Gravity, Friction, Friction]
        assert [shift.scale < 1.0 for shift in drawn] == [True, False, True, False]
        assert all(abs(shift.scale / scale - 1) >= 0.049 for shift in drawn for scale in listed)
    assert cells.held_out_shifts(3) == cells.held_out_shifts(3) != cells.held_out_shifts(4)


def test_cells_are_called_by_names() -> None:
    assert [cells.cell_name(*cell) for cell in (("gravity", 0.5), ("kinematic", 2.0), ("min-q", 0.1))] == [
        "gravity 0.5",
        "kinematic medium",
        "min-q 0.1",
    ]


def test_core_6_is_six_medium_tasks_of_all_robots() -> None:
    tasks = [get_task(name) for name in TRACKS["core-6"]]
    assert len(tasks) == 6
    assert {task.robot for task in tasks} == set(WALKERS)
    assert {task.quality for task in tasks} == {"medium"}


def test_the_page_of_the_protocol_names_the_tasks_without_a_critic() -> None:
    """Whoever ships a critic corrects the sentence, and verifies the entries on that task again."""
    text = (Path(__file__).parents[2] / "docs/protocol.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"On `core-6` (\w+) tasks have one(?:; (.*?) none yet)?\.", text, re.DOTALL)
    count = sum(task in read_index() for task in TRACKS["core-6"])
    assert told[0] == ("no", "one", "two", "three", "four", "five", "six")[count]
    missing = {f"{name}-medium" for name in re.findall("`(.*?)`", told[1])}
    assert missing == set(TRACKS["core-6"]) - set(read_index())
