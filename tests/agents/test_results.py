"""The figures of docs/results are those of the files beside them."""

import re
from pathlib import Path

import pytest

from offdyn_agents.evaluation import read_evaluation, summarise

RESULTS = Path(__file__).parents[2] / "docs/results"
SCORE = re.compile(r"^(-?[\d.]+) (\[[^]]+\])")
TASK = re.compile(r"^[a-z0-9]+-[a-z0-9.-]+-medium$")
ELSEWHERE = {"leaderboard": None, "below": "@bf16"}
"""What a cell says of a run that is not in the folder of its task and agent."""


def tables():
    """Yield (header, task, cells) of every row about a task."""
    header = []
    for line in (RESULTS / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] == "task":
            header = cells
        elif TASK.match(cells[0]):
            yield header, cells[0], cells[1:]


def folder(task, column, cell):
    """Return where the run of a cell lies, None if that is not here."""
    # Without an agent's name a column is of the one table that has DROCO alone.
    agent = "droco" if column.startswith(("return", "score")) else column.split(" (")[0].lower()
    for word, suffix in ELSEWHERE.items():
        if f"({word}" in cell:
            return None if suffix is None else RESULTS / task / f"{agent}{suffix}"
    return RESULTS / task / agent


CELLS = [
    pytest.param(task, column, cell, id=f"{task} {column}")
    for header, task, cells in tables()
    for column, cell in zip(header[1:], cells, strict=True)
]


def test_there_are_tables():
    assert len(CELLS) >= 30


@pytest.mark.parametrize(("task", "column", "cell"), CELLS)
def test_a_figure_is_that_of_its_file(task, column, cell):
    if not cell[0].isdigit():
        pytest.skip(cell)
    place = folder(task, column, cell)
    if place is None:
        pytest.skip("on the leaderboard")
    rows = {row["condition"]: row for row in summarise(read_evaluation(place))}
    if column == "return":
        assert cell == f"{rows['clean']['return']:,.0f}"
    elif "min-Q" in column:
        assert cell == f"{rows['min-q 0.2']['score']}"
    else:
        found = SCORE.match(cell)
        assert found.groups() == (str(rows["clean"]["score"]), rows["clean"]["95% interval"])
