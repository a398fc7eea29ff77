"""More transitions of a dataset's behaviours: of the same kind, the same at every call, and none that it holds."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from offdyn_envs.datasets import load_dataset
from offdyn_envs.datasets.collecting.unseen import collect_unseen
from offdyn_envs.datasets.store.spec import Dataset, validate
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot


@pytest.fixture(scope="module")
def shipped() -> Dataset:
    return load_dataset("offdyn/hopper/gravity-0p5/medium-5k-v0")


def test_rows_are_new_and_of_the_same_behaviour(shipped: Dataset) -> None:
    found = collect_unseen(shipped, 1500, num_threads=1)
    validate(found, get_robot("hopper"), "unseen")
    assert len(found.rewards) == found.lengths.sum() == 1500
    assert not {*found.seeds.tolist()} & {*shipped.arrays.seeds.tolist()}
    rows = np.concatenate([found.observations, found.actions], axis=1)
    own = np.concatenate([shipped.observations, shipped.actions], axis=1)
    assert not {row.tobytes() for row in rows} & {row.tobytes() for row in own}
    # A mean return of one reward a step or so: another policy would walk at another pace.
    assert found.rewards.mean() == pytest.approx(shipped.rewards.mean(), rel=0.1)
    again = collect_unseen(shipped, 1500, num_threads=2)
    for (name, first), (_, second) in zip(found.items(), again.items(), strict=True):
        np.testing.assert_array_equal(first, second, err_msg=name)


def test_they_are_of_the_same_dynamics(shipped: Dataset) -> None:
    from offdyn_envs.datasets import counterfactual

    found = collect_unseen(shipped, 100, num_threads=1)
    answer = counterfactual(replace(shipped, arrays=found), "gravity-0.5", num_threads=1, quiet=True)
    np.testing.assert_array_equal(answer.next_observations, found.next_observations)


def test_behaviours_share_the_rows(shipped: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from offdyn_envs.datasets.collecting import unseen

    real, asked = unseen.collect, list[tuple[int, int]]()

    def collect(*args: Any, **named: Any) -> Any:
        asked.append((args[3], named["part"]))
        return real(*args, **named)

    monkeypatch.setattr(unseen, "collect", collect)
    identity = replace(shipped.id, dynamics="nominal", quality="medium-expert")
    facts = [part.facts for part in unseen.ingredients(identity)]
    card = {**shipped.card, "behaviour": facts}
    mixed = replace(shipped, id=identity, metadata={**shipped.metadata, "offdyn": card})
    assert len(collect_unseen(mixed, 101, num_threads=1).rewards) == 101
    assert asked == [(51, 0), (50, 1)]


def test_what_came_from_elsewhere_is_refused(shipped: Dataset) -> None:
    stranger: Any = SimpleNamespace(id="imported/theirs")
    with pytest.raises(OffDynError, match="'imported/theirs' was not collected in this simulator"):
        collect_unseen(stranger, 10)
    card = {**shipped.card, "behaviour": [{**shipped.card["behaviour"][0], "policy_sha256": "0" * 64}]}
    with pytest.raises(OffDynError, match="was collected by another 'medium' policy than is here"):
        collect_unseen(replace(shipped, metadata={**shipped.metadata, "offdyn": card}), 10)
