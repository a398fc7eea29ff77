"""The tour, executed as a notebook: on stand-ins for the datasets, with small networks, in a kernel of its own."""

import json
import os
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[1]
SETUP = """
import pytest
from tests.api import stand_in

patch = pytest.MonkeyPatch()
stand_in.install(patch)
stand_in.shrink(patch)
"""


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    import nbformat

    folder = tmp_path_factory.mktemp("notebook")
    text = (ROOT / "docs/notebooks/tour.py").read_text(encoding="utf-8")
    # Fewer updates alone: what a training of 2,000 gives, the README's test sees.
    notebook = jupytext.reads(text.replace("updates=2_000", "updates=200"), "py:percent")
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SETUP))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return folder, [cell for cell in notebook.cells[1:] if cell.cell_type == "code"]


def shown(cell):
    return [output["data"] for output in cell.outputs if output.output_type in ("execute_result", "display_data")]


def cell_with(cells, words):
    (found,) = (cell for cell in cells if words in cell.source)
    return found


def test_the_tour_has_the_first_snippet():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    source = (ROOT / "docs/notebooks/tour.py").read_text(encoding="utf-8")
    first = readme.partition("```python\n")[2].partition("```")[0]
    for line in first.splitlines():
        assert line.removeprefix("print(").rstrip(")") in source or "[:3]" in line, line


def test_progress_is_one_bar_a_computation(tour):
    cell = cell_with(tour[1], "offdyn.fit(")
    bars = [data for data in shown(cell) if "<progress" in data.get("text/html", "")]
    (training,) = (data for data in bars if "droco" in data["text/plain"])
    assert "200/200" in training["text/plain"] and 'value="200"' in training["text/html"]
    streams = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    assert "s left" not in streams and len(streams.splitlines()) <= 5, streams


def test_tables_and_actions_are_shown(tour):
    folder, cells = tour
    (table,) = shown(cell_with(cells, "run.evaluate(episodes"))
    assert table["text/html"].startswith("<table><tr><th>seed</th>") and "<th>score</th>" in table["text/html"]
    (curves,) = shown(cell_with(cells, "run.curves()"))
    assert "actor_loss" in curves["text/plain"]
    (actions,) = shown(cell_with(cells, "env.step(policy"))
    assert actions["text/plain"].startswith("array([[")
    (run,) = folder.glob("runs/*/*/run.json")
    assert json.loads(run.read_text())["status"] == "complete"
    assert sorted(path.name for path in folder.glob("policies/*/*.onnx")) == ["policy.onnx"] * 2
