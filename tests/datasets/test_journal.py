"""An interrupted build goes on with the episodes that it had finished, and gives what an uninterrupted one gives."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offdyn_envs.datasets.checking.check import verify
from offdyn_envs.datasets.collecting import build as building
from offdyn_envs.datasets.collecting import journal as journals
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.collecting.collect import Behaviour, PolicyBehaviour, RandomBehaviour, collect
from offdyn_envs.datasets.collecting.journal import Journal, begin
from offdyn_envs.datasets.store.spec import Arrays
from offdyn_envs.tasks import DatasetId
from tests.datasets.conftest import make_policy
from tests.datasets.corruption import flip
from tests.datasets.test_store import assert_equal

ROWS = 1500
NAME = "offdyn/hopper/nominal/medium-expert-5k-v0"


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "EVERY", 200)
    monkeypatch.setattr(building, "RESUMABLE", 0)


def collect_until(limit: int, behaviour: Behaviour, journal: Journal | None, rows: int = ROWS) -> tuple[Arrays, int]:
    """Collect, but die after some rows; return the arrays and how many rows came in how many counts."""
    seen = 0

    def advance(count: int) -> None:
        nonlocal seen
        seen += count
        if seen > limit:
            raise Killed

    return collect("hopper", "nominal", behaviour, rows, seed=3, advance=advance, journal=journal), seen


@pytest.mark.parametrize("behaviour", [RandomBehaviour(), PolicyBehaviour(make_policy("hopper", 2))])
@pytest.mark.parametrize("limits", [(100,), (700,), (400, 900, 1300), (1499,)])
def test_continued_equals_uninterrupted(behaviour: Behaviour, limits: tuple[int, ...], tmp_path: Path) -> None:
    whole, _ = collect_until(ROWS, behaviour, None)
    for limit in limits:
        with pytest.raises(Killed):
            collect_until(limit, behaviour, Journal(tmp_path, 0))
    counts: list[int] = []
    again = collect("hopper", "nominal", behaviour, ROWS, seed=3, advance=counts.append, journal=Journal(tmp_path, 0))
    assert_equal(again, whole)
    assert sum(counts) == ROWS
    if limits[-1] > 600:
        assert counts[0] >= 200  # At once: they are not collected again.
    assert_equal(collect_until(ROWS, behaviour, Journal(tmp_path, 0))[0], whole)  # All of it from the journal.


def test_parts_share_a_folder_and_nothing_else(tmp_path: Path) -> None:
    for part in (0, 1, 11):
        collect("hopper", "nominal", RandomBehaviour(), 400, part=part, journal=Journal(tmp_path, part))
    for part in (0, 1, 11):
        stored = collect("hopper", "nominal", RandomBehaviour(), 400, part=part, journal=Journal(tmp_path, part))
        assert_equal(stored, collect("hopper", "nominal", RandomBehaviour(), 400, part=part))


def test_damaged_files_are_collected_again(tmp_path: Path) -> None:
    behaviour = RandomBehaviour()
    whole, _ = collect_until(ROWS, behaviour, Journal(tmp_path, 0))
    files = sorted(tmp_path.glob("*.npz"))
    assert len(files) >= 3
    for seed in range(12):
        path = files[seed % len(files)]
        content = path.read_bytes()
        if seed % 3:
            flip(Path(path.name), seed)(tmp_path)
        else:
            path.write_bytes(content[: seed * len(content) // 12])
        assert_equal(collect_until(ROWS, behaviour, Journal(tmp_path, 0))[0], whole)
        for old in tmp_path.glob("*.npz"):
            old.unlink()
        collect_until(ROWS, behaviour, Journal(tmp_path, 0))
    files[0].write_bytes(b"")
    (tmp_path / "00-9999999-9999999.npz").write_bytes(b"no archive")
    assert_equal(collect_until(ROWS, behaviour, Journal(tmp_path, 0))[0], whole)
    assert not (tmp_path / "00-9999999-9999999.npz").exists()


def test_only_the_same_recipe_is_continued(tmp_path: Path) -> None:
    folder = tmp_path / "build"
    folder.mkdir()
    begin(folder, {"seed": 0})
    (folder / "00-0000000-0000001.npz").write_bytes(b"x")
    begin(folder, {"seed": 0})
    assert len(list(folder.iterdir())) == 2
    for note in (None, "{", "[" * 100_000):
        if note is not None:
            (folder / "recipe.json").write_text(note)
        begin(folder, {"seed": 1})
        assert [path.name for path in folder.iterdir()] == ["recipe.json"]
        (folder / "00-0000000-0000001.npz").write_bytes(b"x")
        begin(folder, {"seed": 0})


def test_full_disk_does_not_stop_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    whole, _ = collect_until(ROWS, RandomBehaviour(), None)
    monkeypatch.setattr(np, "savez", full)
    assert_equal(collect_until(ROWS, RandomBehaviour(), Journal(tmp_path, 0))[0], whole)
    assert list(tmp_path.iterdir()) == []


# Collects, and dies when so many files of the journal are there.
DIE = """
import os, signal
from pathlib import Path
from offdyn_envs.datasets.collecting import build as building
from offdyn_envs.datasets.collecting import journal
from offdyn_envs.tasks import DatasetId
building.RESUMABLE, journal.EVERY = 0, 200
flush = journal.Journal.flush
def flushed(self):
    flush(self)
    if len(list(self.folder.glob("*.npz"))) >= {files}:
        os.kill(os.getpid(), signal.SIGKILL)
journal.Journal.flush = flushed
building.build(DatasetId.parse({name!r}), num_threads=1, quiet=True, root=Path({root!r}))
"""


def test_killed_builds_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, root = DatasetId.parse(NAME), tmp_path / "root"
    whole = build(dataset, root=tmp_path / "whole", num_threads=1, quiet=True)
    folder = root / ".building" / f"{NAME.replace('/', '__')}.build"
    found = 0
    for files in (2, 5, 9):
        code = DIE.format(files=files, name=NAME, root=str(root))
        done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False)
        assert done.returncode == -signal.SIGKILL
        assert not (root / NAME).exists()
        now = len(list(folder.glob("*.npz")))
        assert now == files > found
        found = now
    read: list[int] = []
    monkeypatch.setattr(Journal, "read", lambda self, old=Journal.read: noted(old(self), read))
    built = build(dataset, root=root, num_threads=2, quiet=True)
    assert sum(read) > 1000
    assert built.sha256 == whole.sha256
    assert not folder.exists()
    assert verify(built.path, rows=100).mode == "exact"


def noted(episodes: dict[int, Any], read: list[int]) -> dict[int, Any]:
    read.append(sum(len(episode["rewards"]) for episode in episodes.values()))
    return episodes


def test_another_seed_begins_anew(tmp_path: Path) -> None:
    dataset = DatasetId.parse("offdyn/hopper/nominal/random-500-v0")
    code = DIE.format(files=1, name=str(dataset), root=str(tmp_path))
    subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False)
    assert list((tmp_path / ".building").glob("*.build/*.npz"))
    other = build(dataset, seed=1, root=tmp_path, num_threads=1, quiet=True)
    assert other.sha256 == build(dataset, seed=1, root=tmp_path / "fresh", num_threads=1, quiet=True).sha256
    assert not list((tmp_path / ".building").glob("*.build"))
