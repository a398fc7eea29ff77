"""Filters are graded by the exact gap: the oracle best, noise worst; in run.json, and which columns rate rows."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.registry import AGENTS, agent_class
from offdyn_agents.algorithms.rowwise.oracle_filter import OracleFilter, OracleFilterSettings
from offdyn_agents.engine.rows import Layout, RowColumns, pack
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.judging.rows import BINS, grade, grade_columns, graded, rank_correlation, resimulated
from offdyn_agents.testing.conformance import SOURCE, TARGET
from offdyn_agents.testing.data import A, S
from offdyn_agents.testing.sizes import small_agent
from offdyn_envs.benchmark.entries.entries_from_runs import RUN_FORMAT, FinishedRun
from offdyn_envs.datasets import counterfactual
from offdyn_envs.datasets.gap.measure import pair_gap
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
    assert "share" not in best and "kept_gap" not in best


def test_the_gap_of_what_is_kept():
    """Gaps 1 to 4, the mean 2.5; rows of which the same is said are kept in part."""
    said, gaps = np.array([4.0, 3.0, 2.0, 1.0]), np.arange(1.0, 5.0)
    assert grade(said, gaps, 0.25)["kept_gap"] == pytest.approx(1.0 / 2.5)
    assert grade(said, gaps, 0.75)["kept_gap"] == pytest.approx(2.0 / 2.5)
    assert grade(np.array([1.0, 0.0, 0.0, 0.0]), gaps, 0.5)["kept_gap"] == pytest.approx((1.0 + 3.0) / 2 / 2.5)
    assert grade(said, gaps, 0.25)["share"] == 0.25
    # The worst filter beside the best: of its half the mean gap is 3.5, of the oracle's 1.5.
    worst = grade(-said, gaps, 0.5)
    assert (worst["kept_gap"], worst["oracle_kept_gap"]) == (pytest.approx(3.5 / 2.5), pytest.approx(1.5 / 2.5))


def test_rows_that_the_target_cannot_take_are_left_out():
    gap = SimpleNamespace(
        rows=np.array([0, 2, 4]), valid=np.array([True, False, True]), sizes=np.array([1.0, np.nan, 3.0])
    )
    columns = RowColumns(
        rewards=torch.tensor([3.0, 0.0, 9.0, 0.0, 1.0]),
        keep=torch.tensor([True, True, True, True, False]),
        extras={"z": torch.zeros(5, 2), "target_rewards": torch.arange(5.0)},
    )
    ratings = {"rewards": 1.0, "keep": 1.0, "elsewhere": 1.0}
    found = grade_columns(ratings, columns, gap)
    # What the target would pay is no rating of rows.
    assert found.keys() == {"rewards", "keep"}
    assert found["rewards"]["rank_correlation"] == found["keep"]["rank_correlation"] == pytest.approx(-1.0)
    told = graded(ratings, [columns, columns], [columns.figures(), None], gap)
    assert told[1] is None
    assert told[0]["rewards"]["gap_rank_correlation"] == pytest.approx(-1.0) and told[0]["rewards"]["max"] == 9.0
    best = {"oracle_kept_gap": 0.5}
    assert told[0]["keep"] == {"share": 0.8, "gap_rank_correlation": pytest.approx(-1.0), "kept_gap": 0.5, **best}
    assert told[0]["target_rewards"] == columns.figures()["target_rewards"]


def test_run_json_has_the_grades_and_the_gap_of_what_is_kept(task, tmp_path):  # noqa: F811
    _, folder = trained("oracle-filter", tmp_path, keep_share="0.25", batch_size="16")
    facts = json.loads((folder / "run.json").read_text())
    assert facts["diagnosis"] is True
    (said, other) = facts["stages"]["rows"]
    assert said == other and said["scores"]["gap_rank_correlation"] == pytest.approx(-1.0)
    assert said["scores"]["share"] == 0.25 and 0.0 < said["scores"]["kept_gap"] < 1.0
    assert said["scores"]["oracle_kept_gap"] == pytest.approx(said["scores"]["kept_gap"])


@pytest.mark.parametrize("name", AGENTS)
def test_whoever_speaks_of_rows_names_the_columns_that_rate_them(name, tmp_path):
    """What is told of rows before the policy can be graded, and what is graded is one number of a row."""
    agent = small_agent(agent_class(name))
    layout, domains = Layout(S, A, agent.columns), (SOURCE, TARGET)
    rows = (pack(SOURCE, "source"), pack(TARGET, "target"))
    context = StageContext(layout, *rows, (0,), 1, cache=tmp_path, compiled=False, domains=domains)
    told = [columns.named() for columns in agent.row_columns(context)]
    assert bool(agent.ratings) == any(told)
    assert all(named[rating].dim() == 1 for named in told for rating in agent.ratings)
    assert all(0.0 < share <= 1.0 for share in agent.ratings.values())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dara", {"dara.weight": 0.0}),
        ("dara", {"schedule": "loop"}),
        ("igdf", {"keep_share": 1.0, "alpha": 0.0}),
        ("otdf", {"keep_share": 1.0, "sharpness": 0.0}),
        ("stc", {"kappa": 0.0}),
        ("lodada", {"share": 1.0}),
        ("tabb", {"strength": 0.0}),
        ("bosa", {"masked": False}),
        ("mobody", {"dara.weight": 0.0}),
    ],
)
def test_what_says_nothing_rates_nothing(name, settings):
    assert not small_agent(agent_class(name), settings).ratings


@pytest.mark.parametrize(
    ("name", "column", "share"),
    [("igdf", "scores", 0.25), ("otdf", "scores", 0.25), ("oracle-filter", "scores", 0.25), ("dvdf", "g", 0.25)],
)
def test_filters_say_which_share_is_kept_by_what(name, column, share):
    assert small_agent(agent_class(name), {"keep_share": share}).ratings[column] == share


def test_actions_of_the_targets_own_lead_nearer_and_others_away(datasets):  # noqa: F811
    """The premise of STC: where another action stands, the target's simulator says where it leads.

    F14 (docs/methods/README.md): its own check shares its data with the correction.
    """
    source, target = datasets
    gap = pair_gap(source, target, 200, num_threads=1)
    own = torch.from_numpy(np.array(source.actions))
    assert resimulated(source, target, RowColumns(), gap) is None
    same = resimulated(source, target, RowColumns(actions=own), gap, threads=1)
    assert same == {"share": 0.0, "own_gap": None, "gap": None, "nearer": None}
    some = own.clone()
    changed = gap.rows[gap.valid][::2]
    some[changed] = -some[changed]
    found = resimulated(source, target, RowColumns(actions=some), gap, threads=1)
    # By hand: the counterfactual of these rows with turned actions.
    acted = np.array(source.actions)
    acted[changed] = -acted[changed]
    turned = replace(source, arrays=replace(source.arrays, actions=acted))
    reached = counterfactual(turned, "gravity-0.5", changed, quiet=True).next_observations
    sizes = (np.abs(reached - source.next_observations[changed]) / gap.spread)[:, gap.spread > 1e-9].mean(axis=1)
    before = gap.sizes[gap.valid][::2]
    assert found["share"] == pytest.approx(0.5, abs=0.01)
    assert found["gap"] == pytest.approx(sizes.mean(), rel=1e-5)
    assert found["own_gap"] == pytest.approx(before.mean())
    assert found["nearer"] == pytest.approx((sizes < before).mean(), abs=0.011)


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
