from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from offdyn_envs.datasets import Dataset, counterfactual, dynamics_gap, load_dataset
from offdyn_envs.datasets.commands import app
from offdyn_envs.datasets.describing.derived import shift_size
from offdyn_envs.datasets.gap.measure import Gap
from offdyn_envs.datasets.gap.report import draw_gap, gap_histogram, task_gap
from offdyn_envs.errors import OffDynError
from tests.datasets.conftest import NOMINAL, SMALL

TASK = "hopper-gravity-0.5-random"
runner = CliRunner()


def run(*arguments: str) -> str:
    result = runner.invoke(app, ["gap", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def source(root: Path) -> Dataset:
    return load_dataset(NOMINAL)


def measure(source: Dataset, env: Any, rows: Any = None, **kwargs: Any) -> Gap:
    return dynamics_gap(source, env, rows, num_threads=1, quiet=True, **kwargs)


def test_own_dynamics_have_no_gap(source: Dataset) -> None:
    gap = measure(source, "nominal")
    facts = gap.summary()
    assert not gap.values.any()
    assert (facts["changed"], facts["mean"], facts["max"], facts["masked"]) == (0.0, 0.0, 0.0, 0.0)
    assert (facts["reward_change"], facts["terminations_changed"], facts["exact"]) == (0.0, 0.0, True)
    assert gap_histogram(gap) == {"unchanged": 500, "edges": [], "counts": []}


@pytest.mark.parametrize("units", ["observation", "step"])
def test_values_are_differences_in_the_stated_unit(source: Dataset, units: str) -> None:
    rows = np.array([499, 3, 77])
    gap = measure(source, "gravity-0.5", rows, units=units)
    answer = counterfactual(source, "gravity-0.5", rows, quiet=True)
    following = source.next_observations.astype(np.float64)
    unit = (following if units == "observation" else following - source.observations).std(axis=0)
    np.testing.assert_allclose(gap.spread, unit, rtol=1e-5)
    expected = (answer.next_observations.astype(np.float64) - following[rows]) / unit
    np.testing.assert_allclose(gap.values, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(gap.sizes, np.abs(gap.values).mean(axis=1), rtol=1e-6)
    assert len(gap) == 3
    assert gap.changed.all()


def test_mean_is_the_published_shift_size(source: Dataset) -> None:
    """Same definition, measured from the other side: the shifted set's own shift size on its own states."""
    shifted = load_dataset(SMALL)
    gap = measure(shifted, "nominal").summary()["mean"]
    assert gap == pytest.approx(shift_size(shifted), rel=0.05)


def test_summary_counts_only_valid_rows(source: Dataset) -> None:
    gap = measure(source, "kinematic-severe")
    facts, valid = gap.summary(), gap.valid
    assert 0 < facts["valid"] < 500
    assert facts["masked"] == pytest.approx(1 - facts["valid"] / 500)
    assert facts["masked"] == pytest.approx(facts["reasons"]["limit"])
    assert np.isnan(gap.sizes[~valid]).all()
    assert np.isfinite(gap.sizes[valid]).all()
    assert not gap.changed[~valid].any()
    assert facts["mean"] == pytest.approx(float(np.nanmean(gap.sizes)))
    assert facts["quantiles"]["0.5"] == facts["median"] == pytest.approx(float(np.nanmedian(gap.sizes)))
    assert list(facts["quantiles"].values()) == sorted(facts["quantiles"].values())
    moved = (gap.answer.next_observations != source.next_observations).any(axis=1) & valid
    assert facts["changed"] == moved.sum() / valid.sum()
    histogram = gap_histogram(gap)
    assert histogram["unchanged"] + sum(histogram["counts"]) == facts["valid"]
    json.dumps(facts, allow_nan=False)


def test_no_valid_row(source: Dataset) -> None:
    qpos = np.array(source.arrays.qpos)
    qpos[:, 3] = -1.5
    gap = measure(replace(source, arrays=replace(source.arrays, qpos=qpos)), "kinematic-severe")
    facts = gap.summary()
    assert (facts["valid"], facts["masked"], facts["mean"], facts["quantiles"]) == (0, 1.0, None, None)
    with pytest.raises(OffDynError, match="can take none of 500 rows; no gap to draw"):
        draw_gap("task", gap, Path("none.png"))


def test_terminations_and_rewards_that_change_are_counted(source: Dataset) -> None:
    gap = measure(source, [{"kind": "gravity", "scale": 50.0}])
    facts = gap.summary()
    flips = gap.answer.terminations != source.terminations
    assert facts["terminations_changed"] == flips.mean() > 0
    assert facts["reward_change"] == pytest.approx(np.abs(gap.answer.rewards - source.rewards).mean(), rel=1e-5)


def test_dimension_that_does_not_move_is_left_out(source: Dataset) -> None:
    still = np.array(source.next_observations)
    still[:, 4] = 1.0
    gap = measure(replace(source, arrays=replace(source.arrays, next_observations=still)), "nominal")
    assert (gap.spread[4], gap.values[:, 4].any(), gap.sizes.any()) == (0.0, False, False)


def with_sizes(gap: Gap, sizes: Any) -> Gap:
    """A gap whose rows have these sizes, one per row."""
    values = np.repeat(np.asarray(sizes, np.float32)[:, None], gap.values.shape[1], axis=1)
    return replace(gap, values=values)


def test_histogram_bins(source: Dataset) -> None:
    gap = measure(source, "gravity-0.5", np.arange(7))
    histogram = gap_histogram(with_sizes(gap, [0, 0, 1e-9, 0.03, 0.04, 0.3, 0.049]))
    assert histogram["unchanged"] == 2
    assert histogram["edges"] == [0.0, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    assert histogram["counts"] == [1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 1]
    narrow = gap_histogram(with_sizes(gap, [3.0] * 6 + [700.0]))
    assert (narrow["edges"][0], narrow["edges"][-1], sum(narrow["counts"])) == (2.0, 1000.0, 7)
    tiny = gap_histogram(with_sizes(gap, [1e-12] * 7))
    assert (tiny["edges"][:2], sum(tiny["counts"])) == ([0.0, 1e-4], 7)


def test_command(root: Path) -> None:
    picture = root / "gap.png"
    text = run(TASK, "--source", NOMINAL, "--plot", str(picture), "--threads", "1")
    for word in (TASK, NOMINAL, "500 simulated again", "changed", "█", "For diagnosis, never for training"):
        assert word in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    record = json.loads(run(TASK, "--source", NOMINAL, "--rows", "100", "--json", "--threads", "1"))
    assert (record["task"], record["source"], record["rows"]) == (TASK, NOMINAL, 100)
    assert record["histogram"]["unchanged"] + sum(record["histogram"]["counts"]) == record["valid"] == 100
    assert len(record["dimensions"]) == 11
    assert "never for training" in record["use"]
    again = json.loads(run(TASK, "--source", NOMINAL, "--rows", "100", "--json", "--threads", "2"))
    assert again == record


def test_command_says_what_is_masked(root: Path) -> None:
    text = run("hopper-kinematic-severe-random", "--source", NOMINAL, "--units", "step")
    assert "a joint would be beyond its limit in the other body" in text
    assert "standard deviations of the source's one-step changes" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hopper-gravity-0.6-random"], "unknown task 'hopper-gravity-0.6-random'; did you mean"),
        (["hopper-gravity-0.5-expert"], "build it with: offdyn data build offdyn/hopper/nominal/expert-1m-v0"),
        (["hopper-nominal-random"], "has one dynamics, nominal, and no gap"),
        (["ant-gravity-0.5-random", "--source", NOMINAL], "env is a ant and the dataset's robot a hopper"),
    ],
)
def test_refusals(root: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(OffDynError, match=message):
        runner.invoke(app, ["gap", *arguments], catch_exceptions=False)


def test_other_units_are_refused() -> None:
    refused = runner.invoke(app, ["gap", TASK, "--source", NOMINAL, "--units", "metres"])
    assert refused.exit_code == 2
    assert "'metres' is not one of" in refused.output


def test_rows_below_one_are_refused(root: Path) -> None:
    with pytest.raises(OffDynError, match="rows must be at least 1, got 0"):
        task_gap(TASK, 0, source=NOMINAL)
