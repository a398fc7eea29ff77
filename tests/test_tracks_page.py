"""The page of tracks has the table that is written from the code."""

import pytest

from offdyn_envs.commands.dev import PURPOSES, tracks_page, tracks_table
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import TRACKS
from tests.pages import ROOT, read

PAGE = "docs/concepts/tasks-and-tracks.md"


def test_its_table_has_every_track_the_small_one_first():
    assert set(PURPOSES) == set(TRACKS)
    rows = tracks_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows][:2] == ["core-6", "core-12"]
    assert all(f"| `{name}` | {len(tasks)} |" in tracks_table() for name, tasks in TRACKS.items())
    assert [row for row in rows if "start here" in row] == rows[:1]


def test_the_page_is_what_make_docs_writes(tmp_path, capsys):
    copy = tmp_path / "page.md"
    copy.write_text(read(PAGE))
    tracks_page(copy)
    assert copy.read_text() == read(PAGE), "stale: make docs"
    assert f"dev tracks-table {PAGE}" in (ROOT / "Makefile").read_text()
    copy.write_text("# A page")
    with pytest.raises(OffDynError, match="lacks '<!-- tracks: written"):
        tracks_page(copy)
