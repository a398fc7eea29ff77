"""`docs/shifts.md`: its blocks run, its table has every kind and its parameters."""

import inspect
import re
from pathlib import Path

import pytest

from offdyn_envs.shifts import KINDS, BaseShift
from offdyn_envs.shifts import registry as register

TEXT = (Path(__file__).parents[2] / "docs" / "shifts.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
ROWS = re.findall(r"^\| `([\w-]+)`[^|]* \| ([^|]*)", TEXT, flags=re.MULTILINE)


@pytest.fixture
def kinds():
    """Kinds that a block registers are gone after it."""
    before = dict(KINDS)
    yield
    register._KINDS.clear()
    register._KINDS.update(before)


def test_blocks_run(kinds, capsys):
    names = {}
    for block in BLOCKS:
        exec(compile(block, "docs/shifts.md", "exec"), names)  # As a reader does: one after the other.
    wind = names["env"].unwrapped
    assert issubclass(names["Wind"], BaseShift) and wind.model.opt.wind[0] == -3.0
    assert "(13,) ('gravity', 'mass:torso')" in capsys.readouterr().out
    names["humanoid"].step(names["humanoid"].action_space.sample())


def test_a_kind_of_ones_own_is_short():
    (block,) = (block for block in BLOCKS if "register_shift" in block)
    assert block.count("\n") < 30


def test_the_table_has_every_kind_and_parameter():
    assert sorted(kind for kind, _ in ROWS) == sorted(KINDS)
    for kind, parameters in ROWS:
        assert set(re.findall(r"`(\w+)`", parameters)) == set(inspect.signature(KINDS[kind]).parameters)


def test_it_is_linked_from_the_page_of_environments():
    page = (Path(__file__).parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")
    assert "[shifts](shifts.md)" in page


def test_no_page_counts_the_kinds():
    """A number would be wrong after the next `register_shift`."""
    root, words = Path(__file__).parents[2], "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen"
    counted = re.compile(rf"\b(\d+|{words.replace(' ', '|')}) (built-in )?kinds\b")
    pages = [root / "README.md", *(root / "docs").glob("*.md"), *(root / "docs").glob("[!_]*/*.md")]
    assert len(pages) > 20
    assert not [page.name for page in pages if counted.search(page.read_text(encoding="utf-8"))]
