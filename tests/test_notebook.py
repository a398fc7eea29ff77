"""The notebooks, executed in kernels of their own: pictures inline, progress as bars, and what they promise."""

import os
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.py"))


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return (folder, cells of code) by the notebook's name; each is executed once."""
    done = {}

    def run(name):
        if name not in done:
            done[name] = execute(name, tmp_path_factory.mktemp("notebook"))
        return done[name]

    return run


def execute(name, folder):
    notebook = jupytext.read(ROOT / f"docs/notebooks/{name}.py", fmt="py:percent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        patch.setenv("OFFDYN_COMPILE", "0")
        patch.setenv("OFFDYN_DATA_DIR", str(folder / "data"))
        patch.delenv("DISPLAY", raising=False)
        patch.setenv("PYTHON_COLORS", "0")
        nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return folder, [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell):
    return [output["data"] for output in cell.outputs if output.output_type in ("execute_result", "display_data")]


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def cell_with(cells, words):
    (found,) = (cell for cell in cells if words in cell.source)
    return found


def pictures(cells):
    return [data for cell in cells for data in shown(cell) if "image/png" in data]


def test_there_are_three():
    names = ["01-tour", "02-your-own-data", "03-a-leaderboard-entry"]
    assert [path.stem for path in NOTEBOOKS] == names
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert all(f"notebooks/{name}" in index for name in names)


def test_the_second_trains_and_drives(executed):
    folder, cells = executed("02-your-own-data")
    assert len(pictures(cells)) == 2
    (files,) = shown(cell_with(cells, "export"))
    assert files["text/plain"].count("policy.onnx") == 2 and "contract.json" in files["text/plain"]
    assert (folder / "policies/0/policy.onnx").is_file()


@pytest.mark.slow
def test_the_tour_shows_pictures_bars_and_tables(executed):
    folder, cells = executed("01-tour")
    assert len(pictures(cells)) == 2
    training = cell_with(cells, "offdyn.fit(")
    bars = [data for data in shown(training) if "<progress" in data.get("text/html", "")]
    assert any("500/500" in data["text/plain"] and 'value="500"' in data["text/html"] for data in bars)
    assert "s left" not in printed(training) and len(printed(training).splitlines()) <= 5
    (table,) = shown(cell_with(cells, 'run.evaluate("hopper'))
    assert table["text/html"].startswith("<table><tr><th>seed</th>") and "<th>score</th>" in table["text/html"]
    (actions,) = shown(cell_with(cells, "env.step(policy"))
    assert actions["text/plain"].startswith("array([[")
    assert sorted(path.name for path in folder.glob("policies/*/*.onnx")) == ["policy.onnx"] * 2


@pytest.mark.slow
def test_the_third_ends_with_a_verified_entry(executed):
    folder, cells = executed("03-a-leaderboard-entry")
    assert any("my-cloning" in data["text/html"] for data in shown(cell_with(cells, "leaderboard verify")))
    (verdict,) = (folder / "board/verdicts").glob("my-cloning*.json")
    assert '"reproduced"' in verdict.read_text(encoding="utf-8")
    assert (folder / "board/index.html").stat().st_size > 10_000
    assert "my-cloning" in (folder / "board/standings.json").read_text(encoding="utf-8")
