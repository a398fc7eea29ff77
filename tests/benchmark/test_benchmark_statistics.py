from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offdyn_envs.benchmark.scoring import statistics
from offdyn_envs.errors import OffDynError

# Two-sided 95% and 99% critical values of Student's t, from printed tables.
T_TABLE = [
    (0.975, 1, 12.7062047364),
    (0.975, 2, 4.30265272991),
    (0.975, 3, 3.18244630528),
    (0.975, 4, 2.77644510520),
    (0.975, 9, 2.26215716280),
    (0.975, 30, 2.04227245630),
    (0.975, 120, 1.97993040505),
    (0.995, 4, 4.60409487142),
    (0.995, 2, 9.92484320092),
    (0.9995, 10, 4.58689385870),
    (0.90, 5, 1.47588404882),
]


@pytest.mark.parametrize(("probability", "freedom", "expected"), T_TABLE)
def test_t_quantile_equals_printed_tables(probability: float, freedom: int, expected: float) -> None:
    assert statistics.student_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9)
    assert statistics.student_quantile(1 - probability, freedom) == pytest.approx(-expected, rel=1e-9)


def test_t_quantile_of_one_degree_is_cauchy_and_of_many_is_normal() -> None:
    assert statistics.student_quantile(0.75, 1) == pytest.approx(1.0, rel=1e-12)
    assert statistics.student_quantile(0.975, 1e7) == pytest.approx(1.959963985, rel=1e-6)
    assert statistics.student_quantile(0.5, 3) == 0.0


@pytest.mark.parametrize("arguments", [(0.0, 3), (1.0, 3), (0.5, 0), (math.nan, 3)])
def test_t_quantile_refuses_arguments_outside_their_range(arguments: tuple[float, float]) -> None:
    with pytest.raises(OffDynError, match="t quantile"):
        statistics.student_quantile(*arguments)


@given(st.floats(0.1, 40), st.floats(0.1, 40), st.floats(0.001, 0.999))
def test_incomplete_beta_is_symmetric_and_a_probability(a: float, b: float, x: float) -> None:
    left, right = statistics.incomplete_beta(a, b, x), statistics.incomplete_beta(b, a, 1 - x)
    assert 0 <= left <= 1
    assert left + right == pytest.approx(1.0, abs=1e-11)


def test_incomplete_beta_closed_forms() -> None:
    assert statistics.incomplete_beta(1, 1, 0.3) == pytest.approx(0.3, rel=1e-13)
    assert statistics.incomplete_beta(2, 1, 0.3) == pytest.approx(0.09, rel=1e-13)
    assert statistics.incomplete_beta(0.5, 0.5, 0.25) == pytest.approx(2 / math.pi * math.asin(0.5), rel=1e-12)


def test_t_interval_of_five_seeds_by_hand() -> None:
    # mean 3, sample standard deviation sqrt(2.5), half width 2.7764451 * sqrt(2.5 / 5)
    mean, low, high = statistics.t_interval([1, 2, 3, 4, 5])
    assert mean == 3
    assert high - mean == pytest.approx(2.77644510520 * math.sqrt(0.5), rel=1e-9)
    assert mean - low == pytest.approx(high - mean, rel=1e-12)


def test_t_interval_covers_at_its_level() -> None:
    rng = np.random.default_rng(1)
    inside = [low <= 0 <= high for _, low, high in (statistics.t_interval(rng.normal(size=4)) for _ in range(2_000))]
    # 5 standard errors around .95 with 2,000 trials
    assert abs(np.mean(inside) - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 2_000)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [[1.0, 2.0]]])
def test_t_interval_refuses_what_has_no_interval(values: list[float]) -> None:
    with pytest.raises(OffDynError):
        statistics.t_interval(values)


def test_iqm_cuts_a_quarter_from_each_end() -> None:
    assert float(statistics.iqm([0, 1, 2, 100])) == 1.5
    # 10 values: int(2.5) = 2 are cut from each end
    assert float(statistics.iqm(np.arange(10.0) ** 2)) == pytest.approx(np.mean(np.arange(2.0, 8.0) ** 2))
    assert float(statistics.iqm([7.0])) == 7.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_iqm_ignores_order_and_stays_in_range(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    middle = float(statistics.iqm(values))
    assert middle == pytest.approx(float(statistics.iqm(shuffled)))
    assert min(values) - 1e-6 <= middle <= max(values) + 1e-6


def test_bootstrap_repeats_itself_and_brackets_the_point() -> None:
    rng = np.random.default_rng(0)
    strata = [rng.normal(50, 5, size=15), rng.normal(80, 5, size=13)]
    first = statistics.stratified_bootstrap(strata)
    assert first == statistics.stratified_bootstrap(strata)
    assert first != statistics.stratified_bootstrap(strata, seed=1)
    assert first.low <= first.mean <= first.high
    assert first.mean == pytest.approx(float(statistics.iqm_of_strata([a[None] for a in strata])[0]))


def weighted(*strata: list[float]) -> float:
    return float(statistics.iqm_of_strata([np.array(stratum, dtype=np.float64) for stratum in strata]))


def test_further_runs_of_an_easy_task_change_nothing() -> None:
    hard, easy = [8.0, 9.0, 10.0, 11.0, 12.0], [58.0, 59.0, 60.0, 61.0, 62.0]
    assert weighted(hard, easy) == 35.0
    assert weighted(hard, 5 * easy) == pytest.approx(35.0, abs=1e-12)
    assert weighted(20 * hard, 3 * easy) != weighted(hard, easy)  # The smallest stratum has grown to 15.
    assert weighted(20 * hard, easy) == pytest.approx(35.0, abs=1e-12)


def test_iqm_of_unequal_strata_by_hand() -> None:
    # Smallest stratum: 1 run. Weights 1 and 1/3 x 3; int(2 / 4) = 0 are cut.
    assert weighted([10.0], [50.0, 60.0, 70.0]) == pytest.approx(35.0)
    # Weights 1 x 2 and 1/2 x 4; int(4 / 4) = 1 is cut from each end: 10 below, 70 and 80 above.
    assert weighted([10.0, 20.0], [50.0, 60.0, 70.0, 80.0]) == pytest.approx((20.0 + 0.5 * 50.0 + 0.5 * 60.0) / 2)


def test_a_run_that_is_cut_counts_for_nothing_however_large() -> None:
    huge = [1e13, 50.0, 60.0]
    assert weighted(huge * 3, [52.0, 54.0, 56.0]) == pytest.approx(float(statistics.iqm([*huge, 52.0, 54.0, 56.0])))


@given(st.data(), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_iqm_of_equal_strata_is_that_of_all_runs(data: st.DataObject, runs: int, tasks: int, factor: int) -> None:
    scores = st.lists(st.floats(-1000, 1000), min_size=runs, max_size=runs)
    strata = [data.draw(scores) for _ in range(tasks)]
    expected = pytest.approx(float(statistics.iqm(np.concatenate(strata))), abs=1e-9)
    assert weighted(*strata) == expected
    # One of them listed `factor` times over, in any order.
    if tasks > 1:
        assert weighted(data.draw(st.permutations(strata[0] * factor)), *strata[1:]) == expected


def test_the_bootstrap_weighs_tasks_the_same_too() -> None:
    rng = np.random.default_rng(0)
    hard, easy = rng.normal(10, 1, size=5), rng.normal(60, 1, size=25)
    mean, low, high = statistics.stratified_bootstrap([hard, easy])
    # The cut is that of 5 runs a task, so 3 of 5 runs of either side of the gap remain.
    assert 30 < low <= mean <= high < 40


def test_the_same_runs_have_the_same_interval_in_any_order() -> None:
    rng = np.random.default_rng(0)
    ours = [rng.normal(50, 5, size=size) for size in (5, 3, 4)]
    theirs = [rng.normal(52, 5, size=size) for size in (3, 4, 5)]
    shuffled = [rng.permutation(ours[task]) for task in (2, 0, 1)]
    assert statistics.stratified_bootstrap(ours) == statistics.stratified_bootstrap(shuffled)
    improvement = statistics.probability_of_improvement(ours, theirs)
    assert improvement == statistics.probability_of_improvement(shuffled, [theirs[task] for task in (2, 0, 1)])
    # A last bit, which differs between processors, draws the same runs.
    nearly = [stratum * (1 + 1e-15) for stratum in ours]
    np.testing.assert_allclose(
        statistics.stratified_bootstrap(ours), statistics.stratified_bootstrap(nearly), atol=1e-9
    )


def test_equal_runs_on_both_sides_are_drawn_apart() -> None:
    runs = [[1.0, 2.0, 3.0, 4.0, 5.0]] * 2
    mean, low, high = statistics.probability_of_improvement(runs, runs)
    assert mean == 0.5
    assert low < 0.4 < 0.6 < high


def test_bootstrap_draws_inside_strata_only() -> None:
    # Two strata without spread: nothing can vary unless a draw crosses from one to the other.
    strata = [[10.0] * 5, [90.0] * 5]
    assert statistics.stratified_bootstrap(strata, statistics.mean_of_strata) == (50.0, 50.0, 50.0)


def test_bootstrap_of_a_mean_has_the_known_standard_error() -> None:
    values = np.random.default_rng(3).normal(size=400)
    _, low, high = statistics.stratified_bootstrap([values], statistics.mean_of_strata)
    expected = 2 * 1.96 * values.std() / math.sqrt(400)
    assert high - low == pytest.approx(expected, rel=0.05)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=6), st.lists(st.floats(-100, 100), min_size=1, max_size=6))
def test_probability_of_improvement_is_antisymmetric(ours: list[float], theirs: list[float]) -> None:
    forward = statistics.probability_of_improvement([ours], [theirs], replicates=10)
    backward = statistics.probability_of_improvement([theirs], [ours], replicates=10)
    assert forward.mean + backward.mean == pytest.approx(1.0)


def test_probability_of_improvement_by_hand() -> None:
    # task 1: 3 of 4 pairs won; task 2: all tied
    result = statistics.probability_of_improvement([[1, 3], [5, 5]], [[0, 2], [5, 5]])
    assert result.mean == pytest.approx((0.75 + 0.5) / 2)
    with pytest.raises(OffDynError, match="same tasks"):
        statistics.probability_of_improvement([[1.0]], [])


def test_a_difference_has_welchs_interval() -> None:
    ours, theirs = [1.0, 2.0, 3.0], [0.0, 1.0, 2.0]
    one = statistics.mean_difference([ours], [theirs])
    half = 2.77644510520 * math.sqrt(2 / 3)  # Equal variances: 4 degrees of freedom.
    np.testing.assert_allclose(one, (1.0, 1.0 - half, 1.0 + half))
    two = statistics.mean_difference([ours, theirs], [theirs, ours])
    assert two.mean == 0.0
    assert two.high == pytest.approx(statistics.student_quantile(0.975, 8) * math.sqrt(1 / 3))
    assert statistics.mean_difference([[5.0, 5.0]], [[2.0, 2.0]]) == (3.0, 3.0, 3.0)


def test_welchs_interval_covers_the_truth_under_unequal_variances() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        left, right = rng.normal(3.0, 10.0, 5), rng.normal(1.0, 1.0, 3)
        found = statistics.mean_difference([left], [right])
        covered += found.low <= 2.0 <= found.high
    assert 930 <= covered <= 970


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([[1, 2]], []), ([[1, 2]], [[1]]), ([[1, math.nan]], [[1, 2]])])
def test_a_difference_needs_tasks_and_runs(ours: list[list[float]], theirs: list[list[float]]) -> None:
    with pytest.raises(OffDynError):
        statistics.mean_difference(ours, theirs)
