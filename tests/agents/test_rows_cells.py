"""`offdyn diagnose rows`: a file for each agent, settings and task; resumed, refused in time, collected into a page."""

import json
import re
from types import SimpleNamespace

import pytest

from offdyn_agents.judging import rows_cells, rows_page
from offdyn_agents.judging.rows_cells import diagnose_cells, make_cell
from offdyn_agents.judging.rows_report import actions_table, draw_rows, rows_table, title_of
from offdyn_envs.cli import main
from offdyn_envs.errors import OffDynError
from tests.agents.test_judging import TASK, datasets  # noqa: F401 - a fixture

OTHER = "hopper-gravity-0.5-medium"
SMALL = {"dara.updates": "20"}
DRAW = draw_rows


@pytest.fixture(autouse=True)
def world(datasets, monkeypatch):  # noqa: F811
    """The small datasets in the place of all tasks' own; counts how often they are loaded."""
    loads = []

    def load(name):
        loads.append(name)
        return (SimpleNamespace(close=lambda: None), *datasets)

    monkeypatch.setattr("offdyn_envs.load_task", load)
    # A compiler takes longer than these trainings.
    monkeypatch.setattr("offdyn_agents.models.short_training.can_compile", lambda device: False)
    monkeypatch.setattr("offdyn_agents.diagnosing.refuse_without_data", lambda names: None)
    # One test draws: pictures take longer than all else here.
    monkeypatch.setattr("offdyn_agents.judging.rows_report.draw_rows", lambda record, path: path.touch())
    return loads


def cell(agent, out, seeds=(0,), rows=300, task=TASK, **more):
    return make_cell(agent, task, more, seeds, rows, out)


def diagnosed(*cells):
    return diagnose_cells(cells, 1)


def files(folder):
    return sorted(path.name for path in folder.glob("*/rows/*"))


@pytest.mark.parametrize(
    ("agent", "settings", "name"),
    [
        ("dara", {}, "dara"),
        ("dara", {"dara.noise": "0.1"}, "dara@dara.noise=0.1"),
        ("dara", {"dara.noise": "0"}, "dara"),
        ("dara", {"dara.noise": "1.0"}, "dara@dara.noise=1"),
        ("dara", {"dara.noise": "0.1", "dara.form": "code"}, "dara@dara.form=code+dara.noise=0.1"),
        ("igdf", {"form": "code"}, "igdf@form=code"),
        ("igdf", {"encoders.updates": "0"}, "igdf@encoders.updates=0"),
        ("igdf", {"keep_share": "0.25"}, "igdf"),
        ("igdf", {"encoders.normalise": "true"}, "igdf@encoders.normalise=True"),
    ],
)
def test_a_file_is_called_after_what_is_not_the_presets(agent, settings, name, tmp_path):
    found = make_cell(agent, TASK, settings, (0,), 300, tmp_path)
    parts = name.partition("@")[2].split("+")
    assert found.name.partition("@")[0] == agent and sorted(found.name.partition("@")[2].split("+")) == sorted(parts)
    assert found.path == tmp_path / TASK / "rows" / f"{found.name}.json"


def test_settings_do_not_overwrite_each_other_and_nothing_is_done_twice(world, tmp_path, monkeypatch):
    plain, noisy = cell("dara", tmp_path, **SMALL), cell("dara", tmp_path, **SMALL, **{"dara.noise": "1"})
    first, second = diagnosed(plain, noisy)
    assert files(tmp_path) == sorted(f"{one.name}.{kind}" for one in (plain, noisy) for kind in ("json", "png"))
    assert first["columns"] != second["columns"] and world == [TASK]
    assert json.loads(noisy.path.read_text()) == second
    # A finished cell is not computed again, and needs no data; one of another seed is.
    monkeypatch.setattr(rows_cells, "_diagnosed", lambda *_: pytest.fail("computed again"))
    again = [cell("dara", tmp_path, **SMALL), cell("dara", tmp_path, **SMALL, **{"dara.noise": "1"})]
    assert diagnosed(*again) == [first, second] and world == [TASK]
    for other in (cell("dara", tmp_path, (0, 1), **SMALL), cell("dara", tmp_path, rows=200, **SMALL)):
        assert other.path == plain.path and not other.finished
    plain.path.write_text("{")
    assert not cell("dara", tmp_path, **SMALL).finished


def test_seconds_are_those_of_stages_that_ran(tmp_path):
    (first,) = diagnosed(cell("dara", tmp_path, **SMALL))
    assert first["stages_s"] > 0.0
    (again,) = diagnosed(cell("dara", tmp_path, rows=200, **SMALL))
    assert again["stages_s"] == first["stages_s"]
    cell("dara", tmp_path, **SMALL).path.unlink()
    (found,) = diagnosed(cell("dara", tmp_path, **SMALL))
    assert found["stages_s"] is None


def test_a_record_has_figures_of_all_columns_and_grades_of_ratings(tmp_path):
    (record,) = diagnosed(cell("oracle-filter", tmp_path, keep_share="0.25"))
    (columns,) = record["columns"]
    assert columns["scores"]["bins"] == record["oracle"]["bins"] and columns["scores"]["share"] == 0.25
    assert columns["scores"]["kept_gap"] < columns["scores"]["better_half"] < 1.0
    line, oracle = rows_table(record)
    assert (line["column"], line["kept share"], line["correlation"]) == ("scores", "0.25", "-1")
    assert line["gap of the kept"] == line["oracle's gap"] == f"{columns['scores']['kept_gap']:.3g}"
    assert oracle["column"] == "oracle" and not actions_table(record)


def test_seeds_differ_and_their_mean_is_shown(tmp_path):
    (record,) = diagnosed(cell("dara", tmp_path, (0, 1), **SMALL))
    DRAW(record, tmp_path / "seeds.png")
    assert (tmp_path / "seeds.png").stat().st_size > 1000
    first, second = (run["rewards"]["rank_correlation"] for run in record["columns"])
    assert first != second
    assert rows_table(record)[0]["correlation"] == f"{(first + second) / 2:.3g}"
    spread = abs(first - second) / 2**0.5
    shown = f"| `dara@dara.updates=20` | rewards | {round((first + second) / 2, 2) + 0.0:.2f} ±{spread:.2f} |"
    assert shown in rows_page.markdown([record])


def test_stc_is_told_what_the_target_does_with_its_actions(tmp_path, capsys):
    small = {"models.updates": "200", "models.width": "16"}
    (record,) = diagnosed(cell("stc", tmp_path, **small))
    (moved,) = record["actions"]
    assert moved["share"] == pytest.approx(record["columns"][0]["corrected"]["mean"], abs=0.1)
    assert moved["own_gap"] > 0.0 and moved["gap"] > 0.0 and 0.0 <= moved["nearer"] <= 1.0
    (line,) = actions_table(record)
    assert line["gap with its own"] == f"{moved['own_gap']:.3g}"
    # Corrections of rewards rate no rows: mean and spread only.
    assert "rank_correlation" not in record["columns"][0]["rewards"] and record["columns"][0]["rewards"]["std"] > 0.0
    told = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    main_ends(["diagnose", "rows", "stc", TASK, "--rows", "300", "--out", str(tmp_path), *told])
    said = capsys.readouterr().out
    assert "changed actions" in said and line["gap with the new"] in said and "there already" in said


def test_our_reading_is_told_wherever_its_name_is(tmp_path):
    small = {"clusters.restarts": "1", "clusters.clusters": "4", "classifiers.updates": "20"}
    (record,) = diagnosed(cell("lodada", tmp_path, **small))
    assert title_of(record).endswith(" (our reading)") and title_of(record).startswith("lodada@")
    keep = record["columns"][0]["keep"]
    assert {"share", "kept_gap", "rank_correlation"} <= keep.keys()
    assert "` (our reading) | keep |" in rows_page.markdown([record])


@pytest.mark.parametrize(
    ("agent", "settings", "message"),
    [
        ("iql", {}, "agent 'iql' says nothing of source rows before it is trained"),
        ("mopo", {}, "agent 'mopo' learns from no source rows|agent 'mopo' says nothing"),
        ("bc", {}, "agent 'bc' learns from no source rows"),
        ("dara", {"dara.weight": "0"}, "agent 'dara' says nothing of source rows"),
        ("dara", {"dara.updatez": "5"}, "dara.updatez"),
        ("tabb", {"elites": "9"}, "elites"),
    ],
)
def test_refusals_come_before_data(agent, settings, message, world, tmp_path):
    with pytest.raises(OffDynError, match=message):
        make_cell(agent, TASK, settings, (0,), 300, tmp_path)
    assert not world and not list(tmp_path.iterdir())


def test_missing_states_are_told_before_the_stages(tmp_path, monkeypatch):
    plain = (SimpleNamespace(close=lambda: None), SimpleNamespace(id="a"), SimpleNamespace(id="b"))
    monkeypatch.setattr("offdyn_envs.load_task", lambda name: plain)
    monkeypatch.setattr(rows_cells, "_columns", lambda *_: pytest.fail("stages ran"))
    with pytest.raises(OffDynError, match="needs datasets with simulator states"):
        diagnosed(cell("dara", tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_failed_cell_does_not_keep_the_others(tmp_path, monkeypatch):
    real = rows_cells._columns

    def columns(one, *more):
        if one.agent.name == "igdf":
            raise OffDynError("igdf blew up")
        return real(one, *more)

    monkeypatch.setattr(rows_cells, "_columns", columns)
    with pytest.raises(OffDynError, match="igdf blew up"):
        diagnosed(cell("igdf", tmp_path), cell("dara", tmp_path, **SMALL))
    assert files(tmp_path) == ["dara@dara.updates=20.json", "dara@dara.updates=20.png"]


def main_ends(words, code=0):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == code


def test_several_agents_on_several_tasks(tmp_path, capsys, monkeypatch):
    """As `offdyn train` takes them; all has no agent that rates nothing, and none that knows the gap."""
    asked = []

    def diagnose(cells, *_):
        asked.extend((one.agent.name, one.task) for one in cells)
        return []

    monkeypatch.setattr(rows_cells, "diagnose_cells", diagnose)
    out = ["--out", str(tmp_path)]
    main_ends(["diagnose", "rows", TASK, OTHER, "--agents", "igdf,dara", *out])
    assert asked == [(agent, task) for agent in ("igdf", "dara") for task in (TASK, OTHER)]
    asked.clear()
    main_ends(["diagnose", "rows", "dara", "--track", "core-6", *out])
    assert len(asked) == 6
    asked.clear()
    main_ends(["diagnose", "rows", "--agents", "all", TASK, *out])
    named = [agent for agent, _ in asked]
    assert {"dara", "igdf", "otdf", "dvdf", "stc", "lodada", "tabb"} <= set(named)
    assert not {"oracle-filter", "iql", "srpo", "bc"} & set(named)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["daar", TASK], "did you mean 'dara'"),
        (["dara"], "name tasks or --track"),
        ([], "name an agent"),
        (["--agents", "dara,igfd", TASK], "did you mean 'igdf'"),
        (["--agents", "dara,igdf", TASK, "--set", "a=b"], "--set belongs to one agent"),
        (["dara", TASK, "--table", "nowhere.md"], "nowhere.md"),
        (["--table", "-", "--out", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main_ends(["diagnose", "rows", *words], 2)
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_command_prints_its_records_as_json(tmp_path, capsys):
    words = ["diagnose", "rows", "dara", TASK, "--set", "dara.updates=20", "--rows", "300", "--seeds", "2", "--quiet"]
    main_ends([*words, "--json", "--out", str(tmp_path)])
    (record,) = json.loads(capsys.readouterr().out)
    assert record == json.loads((tmp_path / TASK / "rows/dara@dara.updates=20.json").read_text())
    assert record["seeds"] == [0, 1] and "rank_correlation" in record["columns"][0]["rewards"]


def test_a_page_has_the_figures_of_all_files(tmp_path, capsys):
    made = [
        cell("dara", tmp_path, **SMALL),
        cell("oracle-filter", tmp_path),
        cell("dara", tmp_path, task=OTHER, **SMALL),
    ]
    records = diagnosed(*made)
    page = tmp_path / "page.md"
    page.write_text(f"# Why?\n\n{rows_page.BEGIN}\nold\n{rows_page.END}\n\nend\n")
    main_ends(["diagnose", "rows", "--table", str(page), "--out", str(tmp_path)])
    text = page.read_text()
    assert text.startswith("# Why?\n") and text.endswith(f"{rows_page.END}\n\nend\n") and "old" not in text
    assert rows_page.markdown(rows_page.collect(tmp_path)) in text
    figures = records[0]["columns"][0]["rewards"]
    cells = [figures["rank_correlation"], figures["std"], None, None, None, figures["better_half"]]
    shown = " | ".join("-" if one is None else f"{one:.2f}" for one in cells)
    assert f"| `dara@dara.updates=20` | rewards | {shown} | {records[0]['stages_s']:.0f} |" in text
    kept = records[1]["columns"][0]["scores"]["kept_gap"]
    assert re.search(rf"\| `oracle-filter` \| scores \| -1.00 \| [\d.]+ \| 50% \| {kept:.2f} \| {kept:.2f} \|", text)
    lines = rows_page.lines(rows_page.collect(tmp_path))
    capsys.readouterr()
    main_ends(["diagnose", "rows", "--table", "-", "--json", "--out", str(tmp_path)])
    assert json.loads(capsys.readouterr().out) == lines
    assert {line["task"] for line in lines} == {TASK, OTHER}
    assert [line["method"] for line in lines if line["task"] == OTHER] == ["dara@dara.updates=20", "oracle"]
    page.write_text("# no marks\n")
    main_ends(["diagnose", "rows", "--table", str(page), "--out", str(tmp_path)], 2)
    assert page.read_text() == "# no marks\n" and "lacks" in capsys.readouterr().err


def test_a_record_of_an_older_form_is_told(tmp_path):
    folder = tmp_path / TASK / "rows"
    folder.mkdir(parents=True)
    (folder / "dara.json").write_text(json.dumps({"task": TASK, "agent": "dara"}))
    with pytest.raises(OffDynError, match=r"dara\.json.*format 2"):
        rows_page.collect(tmp_path)
