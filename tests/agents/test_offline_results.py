"""The page about offline evaluation says what its files say, and the measurement takes policies of every kind."""

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/results/offline-evaluation"


@pytest.fixture
def measurement(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import offline

    return offline


def test_table_says_what_the_files_say(measurement):
    results = [json.loads(path.read_text()) for path in FOLDER.glob("*.json")]
    assert results
    text = (ROOT / "docs/results/offline-evaluation.md").read_text()
    rows = measurement.table(results)
    for row in rows:
        assert f"| {' | '.join(str(value) for value in row.values())} |" in text
    assert sum(line.startswith(("| hopper", "| walker2d", "| halfcheetah")) for line in text.splitlines()) == len(rows)
    assert all(len(result["policies"]) >= 12 for result in results)


def test_policies_of_every_kind(measurement):
    found = measurement.policies("hopper-gravity-0.5-medium", None)
    assert {"offdyn-iql 0", "behaviour gravity-0.5 medium", "behaviour nominal replay-08"} <= set(found)
    actions = [np.asarray(policy(np.zeros((2, 11), dtype=np.float32))) for policy in found.values()]
    assert {action.shape for action in actions} == {(2, 3)}


def test_rank_correlation(measurement):
    assert measurement.correlation([1.0, 2.0, 5.0], [0.1, 0.2, 0.3]) == pytest.approx(1.0)
    assert measurement.correlation([1.0, 2.0, 5.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
