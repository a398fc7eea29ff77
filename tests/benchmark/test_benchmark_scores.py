from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offdyn_envs.benchmark.scoring import scores
from offdyn_envs.errors import OffDynError

TABLE = {
    "protocol": 2,
    "returns": {
        "hopper": {
            "gravity-0.5": {
                "random": {"mean": 20.0, "se": 1.0, "episodes": 100},
                "expert": {"mean": 3020.0, "se": 10.0, "episodes": 100},
            },
            "gravity-5.0": {
                "random": {"mean": 20.0, "se": 4.0, "episodes": 100},
                "expert": {"mean": 40.0, "se": 3.0, "episodes": 100},
            },
        }
    },
}


def test_own_references_map_random_to_0_and_expert_to_100() -> None:
    result = scores.normalised_score("hopper", "gravity-0.5", [20.0, 3020.0, 1520.0], table=TABLE)
    np.testing.assert_allclose(result, [0, 100, 50])


def test_published_constants() -> None:
    assert float(scores.normalised_score("hopper", "gravity-0.5", 3234.3, "d4rl")) == pytest.approx(100)
    assert float(scores.normalised_score("walker2d", "nominal", 1.629008, "d4rl")) == pytest.approx(0)
    assert float(scores.normalised_score("halfcheetah", "friction-0.1", 41696.546875, "odrl")) == pytest.approx(100)
    assert float(scores.normalised_score("ant", "morphology-torso-easy", 5139.832, "odrl")) == pytest.approx(100)
    assert float(scores.normalised_score("hopper", "friction-5.0", -26.3360015, "odrl")) == pytest.approx(0)


@given(st.floats(-1e4, 1e4), st.floats(0, 1e3))
def test_a_spread_is_scaled_and_not_shifted(mean: float, spread: float) -> None:
    arguments = ("hopper", "gravity-0.5")
    low, high = scores.normalised_score(*arguments, [mean - spread, mean + spread], table=TABLE)
    assert high - low == pytest.approx(2 * float(scores.get_reference(*arguments, table=TABLE).scale(spread)), abs=1e-6)
    assert float(scores.get_reference(*arguments, table=TABLE).scale(0.0)) == 0.0


def test_a_gap_under_five_standard_errors_is_not_scored() -> None:
    # 20 against 5 * hypot(4, 3) = 25
    assert not scores.get_reference("hopper", "gravity-5.0", table=TABLE).scored
    assert scores.get_reference("hopper", "gravity-0.5", table=TABLE).scored


@pytest.mark.parametrize(
    ("robot", "dynamics", "reference", "message"),
    [
        ("hoper", "nominal", "d4rl", "did you mean 'hopper'"),
        ("hoper", "gravity-0.5", "odrl", "did you mean 'hopper'"),
        ("hopper", "gravty-0.5", "odrl", "did you mean 'gravity-0.5'"),
        ("hopper", "nominal", "odrl", "unknown ODRL dynamics"),
        ("hopper", "gravity-0.5", "d4r", "did you mean 'd4rl'"),
        ("ant", "gravity-0.5", "offdyn", "no reference returns for 'ant'"),
    ],
)
def test_unknown_names_are_refused(robot: str, dynamics: str, reference: str, message: str) -> None:
    with pytest.raises(OffDynError, match=message):
        scores.normalised_score(robot, dynamics, 0.0, reference, table=TABLE)


def test_missing_broken_and_old_references_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OffDynError, match="are missing"):
        scores.load_references(tmp_path / "references.json")
    broken, old = tmp_path / "broken.json", tmp_path / "old.json"
    broken.write_text('{"protocol": 1')
    old.write_text(json.dumps({"protocol": 0, "returns": {}}))
    with pytest.raises(OffDynError, match="cannot be read"):
        scores.load_references(broken)
    with pytest.raises(OffDynError, match="protocol 0; 2 is allowed"):
        scores.load_references(old)


def test_degradation_sums_only_tasks_with_a_clean_score_above_10() -> None:
    assert scores.degradation([40, 30, -500], [80, 60, 10]) == pytest.approx(0.5)
    assert scores.degradation([5.0], [10.0]) is None
    with pytest.raises(OffDynError, match="equal length"):
        scores.degradation([1.0], [1.0, 2.0])
    with pytest.raises(OffDynError, match="finite"):
        scores.degradation([float("nan")], [50.0])


@pytest.mark.parametrize(
    ("lost", "words"),
    [(None, "-"), (0.28, "72 % kept"), (0.0, "100 % kept"), (-2.19, "gain of 219 %"), (1.1, "nothing kept")],
)
def test_what_is_kept_is_said_in_words(lost: float | None, words: str) -> None:
    assert scores.kept_words(lost) == words
