"""Filters are graded by the exact gap: the oracle best, noise worst; in files, in run.json and by the command."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.rowwise.oracle_filter import OracleFilter, OracleFilterSettings
from offdyn_agents.engine.rows import Layout, RowColumns, pack
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.judging.rows import BINS, grade, grade_columns, graded, rank_correlation
from offdyn_agents.judging.rows_report import diagnose_rows, rows_table
from offdyn_agents.testing.conformance import SOURCE, TARGET
from offdyn_agents.testing.data import A, S
from offdyn_envs.benchmark.entries.entries_from_runs import RUN_FORMAT, FinishedRun
from offdyn_envs.cli import main
from offdyn_envs.errors import OffDynError
from tests.agents.test_judging import TASK, datasets  # noqa: F401 - a fixture
from tests.agents.test_run_judging import here, task, trained  # noqa: F401 - fixtures

RNG = np.random.default_rng(0)


def test_rank_correlation_shares_ranks_of_equal_numbers():
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 5.0, 1.0])) == pytest.approx(-1.0)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4.
    assert rank_correlation(np.array([0.0, 1.0, 1.0, 2.0]), np.arange(4.0)) == pytest.approx(4.5 / np.sqrt(4.5 * 5.0))
    assert rank_correlation(np.ones(4), np.arange(4.0)) is None


def test_grades_of_an_oracle_of_noise_and_of_a_constant():
    gaps = RNG.gamma(1.0, size=4000)
    best, noise, constant = grade(-gaps, gaps), grade(RNG.standard_normal(4000), gaps), grade(np.ones(4000), gaps)
    assert best["rank_correlation"] == pytest.approx(-1.0)
    # The smaller half of an exponential: 1 - ln 2 of its mean.
    assert best["better_half"] == pytest.approx(1.0 - np.log(2.0), abs=0.05)
    assert best["bins"] == sorted(best["bins"], reverse=True) and len(best["bins"]) == BINS
    assert abs(noise["rank_correlation"]) < 0.05 and noise["better_half"] == pytest.approx(1.0, abs=0.05)
    assert constant["rank_correlation"] is None
    assert constant["better_half"] == pytest.approx(1.0) and constant["bins"] == pytest.approx([1.0] * BINS)


def test_rows_that_the_target_cannot_take_are_left_out():
    gap = SimpleNamespace(
        rows=np.array([0, 2, 4]), valid=np.array([True, False, True]), sizes=np.array([1.0, np.nan, 3.0])
    )
    columns = RowColumns(
        rewards=torch.tensor([3.0, 0.0, 9.0, 0.0, 1.0]),
        keep=torch.tensor([True, True, True, True, False]),
        extras={"z": torch.zeros(5, 2)},
    )
    found = grade_columns(columns, gap)
    assert found.keys() == {"rewards", "keep"}
    assert found["rewards"]["rank_correlation"] == found["keep"]["rank_correlation"] == pytest.approx(-1.0)
    told = graded([columns, columns], [columns.figures(), None], gap)
    assert told[1] is None
    assert told[0]["rewards"]["gap_rank_correlation"] == pytest.approx(-1.0) and told[0]["rewards"]["max"] == 9.0
    assert told[0]["keep"] == {"share": 0.8, "gap_rank_correlation": pytest.approx(-1.0)}


def test_run_json_and_the_command_say_the_same(task, tmp_path):  # noqa: F811
    more = {"keep_share": "0.25", "batch_size": "16"}
    _, folder = trained("oracle-filter", tmp_path, **more)
    facts = json.loads((folder / "run.json").read_text())
    assert facts["diagnosis"] is True
    (said, other) = facts["stages"]["rows"]
    assert said == other and said["scores"]["gap_rank_correlation"] == pytest.approx(-1.0)
    record = diagnose_rows("oracle-filter", TASK, (0,), more, 300, tmp_path, 1)
    assert record["columns"][0]["scores"]["bins"] == record["oracle"]["bins"]
    assert record["columns"][0]["scores"]["mean"] == said["scores"]["mean"]
    assert (tmp_path / TASK / "rows" / "oracle-filter.png").exists()
    assert json.loads((tmp_path / TASK / "rows" / "oracle-filter.json").read_text()) == record
    assert [line["column"] for line in rows_table(record)] == ["scores", "oracle"]


def test_a_correction_is_graded_too_and_other_agents_say_nothing(task, tmp_path):  # noqa: F811
    record = diagnose_rows("dara", TASK, (0, 1), {"dara.updates": "20"}, 300, tmp_path, 1)
    assert all(-1.0 <= run["rewards"]["rank_correlation"] <= 1.0 for run in record["columns"])
    assert record["columns"][0] != record["columns"][1]
    with pytest.raises(OffDynError, match="agent 'iql' says nothing of source rows before it is trained"):
        diagnose_rows("iql", TASK, (0,), {}, 300, tmp_path, 1)
    with pytest.raises(OffDynError, match="agent 'bc' learns from no source rows"):
        diagnose_rows("bc", TASK, (0,), {}, 300, tmp_path, 1)


def test_a_diagnosis_has_no_place_on_a_leaderboard(tmp_path):
    run = {"format": RUN_FORMAT, "status": "complete", "task": TASK, "agent": "oracle-filter", "diagnosis": True}
    for name, content in (("run", run), ("evaluation", {})):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(OffDynError, match="is a diagnosis, which knows the true target"):
        FinishedRun.load(tmp_path)


def test_the_oracle_needs_simulator_states(tmp_path):
    known = oracle_filter_scores(tmp_path)
    np.testing.assert_allclose(known, -SOURCE.gap, rtol=1e-6)
    with pytest.raises(OffDynError, match="agent 'oracle-filter' needs datasets with simulator states"):
        oracle_filter_scores(tmp_path, gap=None)


def oracle_filter_scores(folder, **changed):
    """Return what it says of made rows."""
    source = replace(SOURCE, **changed)
    context = StageContext(Layout(S, A), pack(source, "s"), pack(TARGET, "t"), (0,), 1, domains=(source, TARGET))
    return OracleFilter(OracleFilterSettings(), S, A).row_columns(context)[0].extras["scores"].numpy()


def test_an_unknown_agent_is_told_before_torch(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["diagnose", "rows", "daar", TASK])
    assert "did you mean 'dara'" in capsys.readouterr().err
