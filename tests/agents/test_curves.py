"""Pictures of learning curves: what is drawn, and that nothing in a run's numbers breaks them."""

import json

import numpy as np
import pytest
from PIL import Image

from offdyn_agents.runs import curves
from offdyn_agents.runs.curves import NAME, compare_curves, draw_curves, draw_ended
from offdyn_agents.runs.metrics import late_evaluations, read_metrics
from offdyn_envs import cli
from offdyn_envs.errors import OffDynError

TASK = "hopper-gravity-0.5-medium"
HEADER = "updates,critic_loss,actor_loss,seed_updates_per_second,score,return_0,return_1"
LINES = ("6,1.5,-0.3,90,,,", "12,0.01,-0.4,91,3.5,100.0,140.0", "18,0.002,-0.2,92,,,", "24,0.001,0.1,93,9,300.0,400.0")


@pytest.fixture
def facts():
    return {"format": 1, "agent": "iql", "task": TASK, "seeds": [0, 1], "updates": 24, "settings": {}, "status": "x"}


def write(folder, *lines, header=HEADER):
    (folder / "metrics.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder


def drawn(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_numbers_are_read_as_they_are(tmp_path):
    found = read_metrics(write(tmp_path, *LINES, "30,0.1,", "36,nan,inf,1,,7") / "metrics.csv")
    assert list(found) == HEADER.split(",")
    assert found["updates"].tolist() == [6, 12, 18, 24]
    np.testing.assert_array_equal(found["return_1"], [np.nan, 140.0, np.nan, 400.0])


def test_the_same_numbers_are_the_same_bytes(tmp_path, facts):
    path = draw_curves(write(tmp_path, *LINES), facts)
    assert path == tmp_path / "curves.png"
    first = path.read_bytes()
    assert drawn(path).std() > 0
    assert draw_curves(tmp_path, facts).read_bytes() == first
    write(tmp_path, *LINES[:3], "24,0.001,0.1,93,9,300.0,200.0")
    assert draw_curves(tmp_path, facts).read_bytes() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "metrics.csv"]


def axes_of(monkeypatch, *arguments, draw=draw_curves):
    """Draw, and return the panels."""
    from matplotlib.figure import Figure

    kept = []
    init = Figure.__init__
    monkeypatch.setattr(Figure, "__init__", lambda self, *a, **k: (kept.append(self), init(self, *a, **k))[1])
    draw(*arguments)
    return kept[-1].axes


def test_scores_of_seeds_and_their_mean(monkeypatch, tmp_path, facts):
    from offdyn_envs.benchmark.scoring.scores import task_reference

    axes = axes_of(monkeypatch, write(tmp_path, *LINES), facts)
    assert [panel.get_title() for panel in axes] == ["normalised score, 2 seeds", "critic loss", "actor loss"]
    first, second, mean, *levels = (line.get_xydata() for line in axes[0].lines)
    reference = task_reference(TASK)
    np.testing.assert_allclose(first, [[12, reference.normalise(100.0)], [24, reference.normalise(300.0)]])
    np.testing.assert_allclose(mean[:, 1], (first + second)[:, 1] / 2)
    assert [panel.get_yscale() for panel in axes] == ["linear", "log", "linear"]
    # What a score is held against: random, the behaviour of the target dataset, expert.
    assert [line[0, 1] for line in levels] == [0.0, pytest.approx(48.1, abs=0.1), 100.0]


def test_without_references_returns_are_drawn(monkeypatch, tmp_path, facts):
    monkeypatch.setattr("offdyn_envs.benchmark.scoring.scores.task_reference", lambda name: None)
    axes = axes_of(monkeypatch, write(tmp_path, *LINES), facts)
    assert axes[0].get_title() == "mean return, 2 seeds"
    assert axes[0].lines[2].get_ydata().tolist() == [120.0, 350.0]


def test_a_stopped_seed_is_drawn_to_its_end_and_not_in_the_mean(monkeypatch, tmp_path, facts):
    monkeypatch.setattr("offdyn_envs.benchmark.scoring.scores.task_reference", lambda name: None)
    facts |= {"stopped": {"1": {"updates": 18, "why": "x"}}}
    write(tmp_path, *LINES[:3], "24,0.001,0.1,93,9,300.0,")
    axes = axes_of(monkeypatch, tmp_path, facts)
    assert axes[0].get_title() == "mean return, 2 seeds, 1 stopped"
    lines = [line.get_xydata().tolist() for line in axes[0].lines]
    assert lines == [[[12, 100], [24, 300]], [[12, 140]], [[12, 100], [24, 300]]]


@pytest.mark.parametrize(
    ("header", "lines"),
    [
        ("updates,critic_loss,seed_updates_per_second", ["6,1.0,2"]),
        (HEADER, ["6,1.0,2.0,3,,,", "12,inf,nan,3,,,"]),
        (HEADER, ["6,1.0,2.0,3,inf,inf,-inf"]),
        (HEADER, ["6,1e-30,1e30,3,,5,nan", "12,1e30,1e-30,3,,,"]),
        ("updates", ["6"]),
    ],
)
def test_odd_numbers_are_drawn_too(tmp_path, facts, header, lines):
    write(tmp_path, *lines, header=header)
    assert drawn(draw_curves(tmp_path, facts)).size
    draw_curves(tmp_path, facts | {"stopped": {"0": {}, "1": {}}})


@pytest.mark.parametrize("text", ["", "\n", HEADER, "a,b\n1,2\n", HEADER + "\n6,1"])
def test_nothing_to_draw_is_one_line(tmp_path, facts, text):
    with pytest.raises(OffDynError, match=r"metrics\.csv' does not exist; training writes it"):
        draw_curves(tmp_path, facts)
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(OffDynError, match="holds no line of numbers to draw"):
        draw_curves(tmp_path, facts)
    assert not (tmp_path / NAME).exists()


def test_training_does_not_fail_for_want_of_a_picture(monkeypatch, tmp_path, facts, capsys):
    draw_ended(tmp_path, facts)
    draw_ended(tmp_path, facts, quiet=True)
    assert capsys.readouterr().err.count("no curves.png: ") == 1
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    draw_ended(write(tmp_path, *LINES), facts)
    assert "pip install '.[plots]'" in capsys.readouterr().err
    assert not (tmp_path / NAME).exists()


def offdyn(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


def test_command_draws_again(tmp_path, facts, capsys):
    (write(tmp_path, *LINES) / "run.json").write_text(json.dumps(facts | {"status": "running"}))
    code, out, err = offdyn(capsys, "curves", tmp_path)
    assert (code, out, err) == (0, f"{tmp_path / NAME}\n", "")
    assert (tmp_path / NAME).exists()
    code, out, err = offdyn(capsys, "curves", tmp_path / "none")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is no run" in err


def two_runs(root, facts, **second):
    """The lines of one run, and the same with other returns."""
    runs = []
    for name, lines, more in (("a", LINES, {}), ("b", [*LINES[:3], "24,0.001,0.1,93,9,500.0,"], second)):
        (root / name).mkdir()
        runs.append((write(root / name, *lines), facts | more))
    return runs


def test_runs_beside_each_other(monkeypatch, tmp_path, facts):
    monkeypatch.setattr("offdyn_envs.benchmark.scoring.scores.task_reference", lambda name: None)
    runs = two_runs(tmp_path, facts, precision="bf16", stopped={"1": {"updates": 18, "why": "x"}})
    axes = axes_of(monkeypatch, runs, tmp_path / "both.png", draw=compare_curves)
    assert [panel.get_title() for panel in axes] == [f"{TASK}, mean return", "critic loss", "actor loss"]
    assert [line.get_label() for line in axes[0].lines] == ["iql, fp32, 2 seeds", "iql, bf16, 1 seeds, 1 stopped"]
    assert [line.get_xydata().tolist() for line in axes[0].lines] == [[[12, 120], [24, 350]], [[12, 100], [24, 500]]]
    low, high = (edge(axes[0].collections[0].get_paths()[0].vertices[:, 1]) for edge in (min, max))
    assert (low, high) == (100.0, 400.0)
    assert len(axes[1].lines) == 2
    first = (tmp_path / "both.png").read_bytes()
    assert compare_curves(runs, tmp_path / "both.png").read_bytes() == first


def test_runs_are_told_apart_by_what_differs(monkeypatch, tmp_path, facts):
    for name, second, expected in (
        ("agent", {"agent": "droco"}, ["iql", "droco"]),
        ("task", {"task": "hopper-friction-0.5-medium"}, ["iql", "iql"]),
        ("nothing", {}, [str(tmp_path / "nothing/a"), str(tmp_path / "nothing/b")]),
    ):
        (tmp_path / name).mkdir()
        axes = axes_of(
            monkeypatch, two_runs(tmp_path / name, facts, **second), tmp_path / f"{name}.png", draw=compare_curves
        )
        scores = [line for panel in axes for line in panel.lines if "seeds" in str(line.get_label())]
        assert [str(line.get_label()).removesuffix(", 2 seeds") for line in scores] == expected
        assert len({id(line.axes) for line in scores}) == (2 if name == "task" else 1)


def test_runs_without_common_losses_or_scores(tmp_path, facts):
    first, second = two_runs(tmp_path, facts, agent="bc")
    write(second[0], "6,1", "12,2", header="updates,other_loss")
    assert drawn(compare_curves([first, second], tmp_path / "both.png")).size


def test_command_compares(tmp_path, facts, capsys):
    runs = two_runs(tmp_path, facts, agent="bc")
    for folder, told in runs:
        (folder / "run.json").write_text(json.dumps(told))
    out = tmp_path / "both.png"
    assert offdyn(capsys, "curves", runs[0][0], runs[1][0], "--compare", out) == (0, f"{out}\n", "")
    assert out.exists()
    assert not (runs[0][0] / NAME).exists()
    code, _, err = offdyn(capsys, "curves", runs[0][0], tmp_path, "--compare", tmp_path / "x.png")
    assert (code, "is no run" in err, (tmp_path / "x.png").exists()) == (2, True, False)


def test_no_heavy_import():
    assert not {"torch", "matplotlib"} & set(vars(curves))


def test_late_evaluations_are_the_last_ten(tmp_path):
    lines = [f"{10 * i},,{100 + i},{200 + i if i < 7 else ''},{0.5 * i}" for i in range(1, 14)]
    path = write(tmp_path, *lines, header="updates,loss,return_0,return_3,score") / "metrics.csv"
    found = late_evaluations(path, (0, 3, 4), lambda means: means / 10.0)
    assert found["evaluations"] == 10
    # Seed 3 was stopped after its sixth, seed 4 before its first.
    assert found["returns"] == {"0": pytest.approx(108.5), "3": pytest.approx(203.5)}
    assert found["score"] == pytest.approx((10.85 + 20.35) / 2)
    assert "score" not in late_evaluations(path, (0,))
    assert late_evaluations(path, (7,)) is None
