"""Sizes and qualities: a small dataset is the beginning of a large one, share by share, and every build is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offdyn_envs.datasets.checking.check import verify
from offdyn_envs.datasets.collecting.build import build, ingredients
from offdyn_envs.datasets.store.folders import read_dataset
from offdyn_envs.datasets.store.spec import Arrays
from offdyn_envs.tasks import QUALITIES, DatasetId

STEPS = ("observations", "actions", "next_observations", "rewards", "terminations")


def built(quality: str, rows: str, root: Path) -> Arrays:
    dataset = DatasetId("hopper", "nominal", quality, rows)
    # Built here even where it is shipped: bits are promised on one processor family, and the shipped one has its own.
    return read_dataset(build(dataset, root=root, num_threads=1, force=True, quiet=True).path).arrays


def shares(quality: str, rows: str) -> list[slice]:
    """Return the rows that each behaviour collected."""
    counts = [part.rows for part in ingredients(DatasetId("hopper", "nominal", quality, rows))]
    ends = np.cumsum(counts).tolist()
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]


def assert_beginning(small: Arrays, large: Arrays, quality: str, sizes: tuple[str, str]) -> None:
    """Every share of the small one, but for the cut at its end, is the beginning of the large one's share."""
    pairs = list(zip(*(shares(quality, rows) for rows in sizes), strict=True))
    for few, many in pairs:
        count = few.stop - few.start
        for key in STEPS:
            ours, theirs = getattr(small, key)[few], getattr(large, key)[many]
            np.testing.assert_array_equal(ours, theirs[:count], err_msg=key)
        cut = small.truncations[few]
        np.testing.assert_array_equal(cut[:-1], large.truncations[many][: count - 1])
        assert cut[-1] or small.terminations[few][-1]
    # The states belong to them: one more than steps in every episode.
    np.testing.assert_array_equal(small.qpos[0], large.qpos[0])
    whole = [length for length in small.lengths[:-1].tolist() if length] if len(pairs) == 1 else []
    assert large.lengths[: len(whole)].tolist() == whole
    assert large.seeds[: len(whole)].tolist() == small.seeds[: len(whole)].tolist()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nested")


@pytest.mark.parametrize("quality", QUALITIES)
def test_each_quality_is_built_verified_nested_and_the_same_again(quality: str, place: Path, tmp_path: Path) -> None:
    small, large = built(quality, "500", place), built(quality, "5k", place)
    assert (len(small.rewards), len(large.rewards)) == (500, 5000)
    assert_beginning(small, large, quality, ("500", "5k"))
    dataset = DatasetId("hopper", "nominal", quality, "500")
    first = read_dataset(place / str(dataset))
    assert verify(first.path, rows=100).mode == "exact"
    again = build(dataset, root=tmp_path, num_threads=2, quiet=True)
    assert again.sha256 == first.card["sha256"]
    files = [root / str(dataset) / "data" / "main_data.hdf5" for root in (place, tmp_path)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_qualities_rank_by_return(place: Path) -> None:
    # The policies are shipped: which of them is better is what their names say.
    returns: list[float] = []
    for quality in ("random", "medium", "expert"):
        dataset = DatasetId("hopper", "nominal", quality, "5k")
        path = build(dataset, root=place, num_threads=1, quiet=True).path
        returns.append(read_dataset(path).card["returns"]["mean"])
    assert returns == sorted(returns)


@pytest.mark.slow
@pytest.mark.parametrize("quality", QUALITIES)
def test_large_sizes_are_nested_and_deterministic(quality: str, tmp_path: Path) -> None:
    arrays = {rows: built(quality, rows, tmp_path / "one") for rows in ("500", "5k", "50k", "100k")}
    for sizes in (("500", "5k"), ("5k", "50k"), ("50k", "100k")):
        assert_beginning(arrays[sizes[0]], arrays[sizes[1]], quality, sizes)
    dataset = DatasetId("hopper", "nominal", quality, "100k")
    again = build(dataset, root=tmp_path / "two", num_threads=2, quiet=True)
    assert again.sha256 == read_dataset(tmp_path / "one" / str(dataset)).card["sha256"]
