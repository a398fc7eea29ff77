"""The 36 kinds of published target files, with rows that lead into another episode and time limits as terminals."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from offdyn_envs.datasets.importing import import_file
from offdyn_envs.datasets.importing.faults import contradicted, hidden_resets, impossible, unflagged_falls
from offdyn_envs.datasets.importing.own import import_own
from offdyn_envs.datasets.loading import load_dataset
from offdyn_envs.datasets.own.arrays import from_arrays
from offdyn_envs.datasets.own.spec import Spec
from offdyn_envs.datasets.store.folders import local_ids
from offdyn_envs.datasets.store.imported import ImportedDataset, load_imported
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import WALKERS, get_robot
from offdyn_envs.shipped import shipped_root
from tests.datasets.collector import KINDS, Collected, collect, write_target
from tests.datasets.foreign import write

RESETS = "rows that lead into the next episode's reset"
LOST = "terminations lost with rows that lead into another episode"
BELIEVED = "terminations that are truncations"

collected = cache(collect)


def imported(path: Path, robot: str) -> ImportedDataset:
    done = import_file(path, robot=robot, root=path.parent, force=True)
    return load_imported(done.card["id"], root=path.parent)


def assert_kept(found: ImportedDataset, data: Collected, kept: np.ndarray, falls: np.ndarray) -> None:
    """The rows that are right are all there, with what they led to, and end where episodes do."""
    np.testing.assert_array_equal(found.observations, data.observations[: len(kept)][kept])
    np.testing.assert_array_equal(found.next_observations, data.following[: len(kept)][kept])
    np.testing.assert_array_equal(found.terminations, falls[: len(kept)][kept])
    ends = np.flatnonzero(found.terminations | found.truncations)
    np.testing.assert_array_equal(ends, np.cumsum(found.lengths) - 1)
    within = np.delete(np.arange(len(found)), ends)
    np.testing.assert_array_equal(found.next_observations[within], found.observations[within + 1])


@pytest.mark.parametrize(("robot", "shift", "quality"), KINDS)
def test_resets_stored_as_next_observations(tmp_path: Path, robot: str, shift: str, quality: str) -> None:
    data = collected(robot, shift, quality)
    found = imported(write_target(tmp_path / "a.hdf5", data, data.returned, data.falls), robot)
    assert_kept(found, data, ~data.ends, data.falls)
    lost = {LOST: int(data.falls.sum())} if data.falls.any() else {}
    assert found.card["dropped"] == {RESETS: int(data.ends.sum())}
    assert {key: value for key, value in found.card["counted"].items() if "without a flag" not in key} == lost


@pytest.mark.parametrize(("robot", "shift", "quality"), KINDS)
def test_time_limits_stored_as_terminals(tmp_path: Path, robot: str, shift: str, quality: str) -> None:
    data = collected(robot, shift, quality)
    found = imported(write_target(tmp_path / "a.hdf5", data, data.following, data.ends), robot)
    assert_kept(found, data, np.ones(len(data.ends), dtype=bool), data.falls)
    assert found.card["dropped"] == {}
    assert found.card["counted"][BELIEVED] == data.limits.sum()
    assert any("never terminates" in note for note in found.card["notes"]) == (robot == "halfcheetah")


@pytest.mark.parametrize(("robot", "shift", "quality"), KINDS)
def test_following_rows_as_next_observations(tmp_path: Path, robot: str, shift: str, quality: str) -> None:
    """`next_observations = observations[1:]`: limits and cuts are not marked, falls are."""
    data = collected(robot, shift, quality)
    found = imported(write_target(tmp_path / "a.hdf5", data, data.observations[1:], data.falls), robot)
    wrong = (data.ends | data.cut)[:-1]
    assert_kept(found, data, ~wrong, data.falls)
    assert found.card["dropped"] == {RESETS: int(wrong.sum())}


@pytest.mark.parametrize("robot", WALKERS)
def test_other_layouts(tmp_path: Path, robot: str) -> None:
    """D4RL's with flags at the resets, D4RL's without marks and next observations, Minari's with a reset at the end."""
    data = collected(robot, "kinematic-severe", "medium")
    keys = {"observations": data.observations, "actions": data.actions, "rewards": data.rewards}
    flags = {"terminals": data.falls, "timeouts": data.limits | data.cut}
    found = imported(write(tmp_path / "a.hdf5", {**keys, **flags, "next_observations": data.returned}), robot)
    assert_kept(found, data, ~data.ends, data.falls)
    silent = {name: np.zeros(len(data.cut), dtype=bool) for name in flags}
    found = imported(write(tmp_path / "b.hdf5", {**keys, **silent}), robot)
    assert_kept(found, data, ~(data.ends | data.cut), data.falls)
    starts = np.flatnonzero(np.append(True, (data.ends | data.cut)[:-1]))
    episodes = {}
    for number, (start, stop) in enumerate(zip(starts, [*starts[1:], len(data.cut)], strict=True)):
        group, rows = f"episode_{number}", slice(start, stop)
        episodes |= {f"{group}/{name}": array[rows] for name, array in keys.items() if name != "observations"}
        shown = np.concatenate((data.observations[rows], data.returned[stop - 1 : stop]))
        episodes |= {f"{group}/observations": shown, f"{group}/terminations": data.falls[rows]}
        episodes[f"{group}/truncations"] = (data.limits | data.cut)[rows]
    found = imported(write(tmp_path / "c.hdf5", episodes), robot)
    assert_kept(found, data, ~data.ends, data.falls)


@pytest.mark.parametrize("robot", WALKERS)
def test_first_observations_that_are_no_reset(tmp_path: Path, robot: str) -> None:
    """Episodes that begin in mid-motion, each flagged end storing the first observation of one later in the file."""
    data = collected(robot, "gravity-0.5", "medium", limit=20)
    age = np.concatenate([np.arange(stop) for stop in np.diff(np.flatnonzero(data.ends | data.cut), prepend=-1)])
    moving = age >= 4
    parts = Collected(**{name: value[moving] for name, value in vars(data).items()})
    ends = np.flatnonzero(parts.ends | parts.cut)
    following, firsts = parts.following.copy(), np.append(0, ends[:-1] + 1)
    wrong = np.isin(np.arange(len(parts.ends)), ends[:-2])
    following[wrong] = parts.observations[firsts[2:]]
    found = imported(write_target(tmp_path / "a.hdf5", parts, following, wrong), robot)
    missed = len(found) - int((~wrong).sum())
    assert 0 <= missed <= 0.06 * wrong.sum()  # HalfCheetah may well have moved that far


def test_own_data_that_lead_into_another_episode_are_noted(tmp_path: Path) -> None:
    """Nobody knows the rules of an unknown robot: nothing is dropped, and the number of such episodes is said."""
    data = collected("hopper", "gravity-0.5", "medium")
    keys = {"observations": data.observations, "actions": data.actions, "rewards": data.rewards}
    keys |= {"next_observations": data.returned, "terminations": data.falls, "truncations": data.limits | data.cut}
    np.savez(tmp_path / "a.npz", **keys)
    said = f"{(data.ends & ~data.cut).sum()} episodes end in the first observation of another one"
    done = import_own(tmp_path / "a.npz", Spec(), root=tmp_path)
    assert said in done.card["notes"][0]
    assert done.card["rows"] == len(data.cut)
    assert said in from_arrays(keys, "target").notes[0]
    assert from_arrays({**keys, "next_observations": data.following}, "target").notes == ()
    without = import_own(tmp_path / "a.npz", Spec(next_observations=()), root=tmp_path, force=True)
    assert (without.card["notes"], without.card["rows"]) == ([], int((~(data.ends | data.cut)).sum()))


def test_robots_that_can_fall_do() -> None:
    falls = {robot: sum(int(collected(*kind).falls.sum()) for kind in KINDS if kind[0] == robot) for robot in WALKERS}
    assert falls.pop("halfcheetah") == 0
    assert min(falls.values()) >= 9


@pytest.mark.parametrize("robot", WALKERS)
@pytest.mark.parametrize("limit", [2, 3, 7])
@pytest.mark.parametrize("flagged", [False, True])
def test_short_episodes(tmp_path: Path, robot: str, limit: int, flagged: bool) -> None:
    data = collected(robot, "gravity-0.5", "medium", limit=limit)
    terminals = data.ends if flagged else data.ends & False
    found = imported(write_target(tmp_path / "a.hdf5", data, data.observations[1:], terminals), robot)
    assert_kept(found, data, ~(data.ends | data.cut)[:-1], data.falls)


@pytest.mark.parametrize("robot", WALKERS)
def test_episodes_of_one_step_leave_nothing(tmp_path: Path, robot: str) -> None:
    data = collected(robot, "gravity-0.5", "medium", limit=1)
    file = write_target(tmp_path / "a.hdf5", data, data.returned, data.ends)
    with pytest.raises(OffDynError, match=r"a\.hdf5: no row is left: every row leads into another episode"):
        import_file(file, robot=robot, root=tmp_path)
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("robot", WALKERS)
def test_rows_of_a_batch_in_turn_are_noted(tmp_path: Path, robot: str) -> None:
    """Every row leads into another robot's episode, in the middle of it: nothing to keep, and it is said."""
    data = collected(robot, "gravity-0.5", "medium")
    order = np.arange(len(data.ends)).reshape(8, -1).T.ravel()[100:]
    turned = Collected(**{name: value[order] for name, value in vars(data).items()})
    file = write_target(tmp_path / "a.hdf5", turned, turned.observations[1:], turned.falls)
    try:
        found = imported(file, robot)
    except OffDynError as error:
        assert "no row is left" in str(error)
        return
    said = found.card["dropped"].get("rows that no step of the robot explains", 0)
    assert said > 20 or any("rows of several episodes in turn" in note for note in found.card["notes"])


def test_a_collector_that_goes_on_through_its_flags_loses_no_row(tmp_path: Path) -> None:
    data = collected("hopper", "gravity-0.5", "expert")
    count = int(np.flatnonzero(data.ends)[0])
    flags = np.arange(len(data.ends)) % 5 == 4
    file = write_target(tmp_path / "a.hdf5", data, data.following[:count], flags)
    found = imported(file, "hopper")
    assert (len(found), found.card["dropped"], found.terminations.sum()) == (count, {}, 0)
    assert found.card["counted"][BELIEVED] == flags[:count].sum()


def test_falls_without_a_flag_are_noted(tmp_path: Path) -> None:
    data = collected("hopper", "gravity-0.5", "medium")
    found = imported(write_target(tmp_path / "a.hdf5", data, data.following, data.falls & False), "hopper")
    assert_kept(found, data, np.ones(len(data.ends), dtype=bool), data.falls & False)
    assert f"{data.falls.sum()} steps end in a fall and are no terminations" in found.card["notes"][0]


def test_nothing_is_found_in_shipped_datasets() -> None:
    rows = found = 0
    for name in local_ids(shipped_root()):
        data = load_dataset(name)
        robot, steps = get_robot(data.card["robot"]), (data.observations, data.next_observations)
        rows += len(data)
        found += int(hidden_resets(robot, *steps).sum() + impossible(robot, *steps).sum())
        found += int(contradicted(robot, data.terminations, data.next_observations).sum())
        found += unflagged_falls(robot, data.terminations, data.next_observations)
    assert (rows, found) == (220_000, 0)
