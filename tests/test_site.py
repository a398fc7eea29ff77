"""The site: docstrings as plain text, what pages take from the code, every public name; `pytest -m slow` builds it."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from offdyn_envs.cli import build_app

ROOT = Path(__file__).parents[1]
PACKAGES = ("offdyn", "offdyn_envs", "offdyn_agents")


@pytest.fixture(scope="module")
def generated():
    return extension("generated")


def extension(name):
    sys.path.insert(0, str(ROOT / "docs/_ext"))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(ROOT / "docs/_ext"))


def modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("States [N, |S|].", r"States [N, \|S\|]."),
        ("*args and [*lead], a trailing_ and a_b", r"\*args and [\*lead], a trailing\_ and a_b"),
        ("`|S|` and ``a*b`` stay", "`|S|` and ``a*b`` stay"),
        (">>> a * b", ">>> a * b"),
    ],
)
def test_docstrings_are_plain_text(text, expected):
    assert extension("plain_docstrings").plain([text]) == [expected]


def test_code_may_go_on_over_the_end_of_a_line():
    plain = extension("plain_docstrings").plain
    assert plain(["a `b *", "c` |d|", "", ">>> |x|", "|x|", "", "|y|"]) == [
        "a `b *", r"c` \|d\|", "", ">>> |x|", "|x|", "", r"\|y\|"
    ]  # fmt: skip


def test_every_public_name_has_a_place_in_the_reference(generated):
    """A name is documented in the module that defines it, and listed with a link where it comes from there."""
    seen = 0
    for module in modules():
        for name, home in generated.homes(module).items():
            foreign = home.partition(".")[0] not in PACKAGES
            assert name in generated.own(module) or name in [taken for taken, *_ in generated.taken(module)]
            assert foreign or generated.homes(home)[name] == home, (module, name)
            seen += 1
    assert seen > 800


def test_every_module_is_listed_below_its_package(generated):
    found, todo = set(), list(PACKAGES)
    while todo:
        found.add(name := todo.pop())
        todo += [f"{name}.{below}" for below in generated.submodules(name)]
    assert found == set(modules())


def test_settings_are_those_of_the_registry(generated):
    from offdyn_agents.runs.settings_page import setting_rows

    shown = generated.settings("droco")
    for row in setting_rows("droco"):
        assert f"| `{row['setting']}` | `{row['value']}` |" in shown


def test_results_are_those_of_the_files(generated):
    droco = generated.results("droco")
    assert "| `walker2d-gravity-5.0-medium` | `droco` | 38.6 \\[30.5, 46.7\\] |" in droco
    assert "| `walker2d-gravity-5.0-medium` | `droco@paper` | 40.6 \\[15.4, 65.7\\] |" in droco
    assert "| `hopper-gravity-0.5-medium` | `leaderboard: offdyn-droco` |" in droco
    assert generated.results("newcomer") == "No run of `newcomer` is published yet."


def test_scores_of_a_variant_are_those_of_its_runs(generated, tmp_path, monkeypatch):
    """An agent a row, a task a column; other variants and plain runs stay out."""
    hopper, walker = "hopper-gravity-0.5-medium", "walker2d-gravity-5.0-medium"
    shown = dict(re.findall(r"\| `([^`]+)` \| `iql` \| (.*) \|", generated.results("iql")))
    monkeypatch.setattr(generated, "DOCS", tmp_path)
    assert generated.scores("first") == "No run `@first` is published yet."
    names = ["iql@first", "lodada@first", "oracle-filter@first", "iql", "droco@first-other"]
    for task, name in [(hopper, "iql@first"), *((walker, name) for name in names)]:
        folder = tmp_path / "results" / task / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"updates": 50_000}))
        shipped = ROOT / f"docs/results/{task}/iql/evaluation.json"
        (folder / "evaluation.json").write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    about, _, heads, _, *lines = generated.scores("first").splitlines()
    assert "after 50,000 updates" in about and heads == f"| agent | {hopper} | {walker} |"
    assert lines == [
        f"| `iql` | {shown[hopper]} | {shown[walker]} |",
        f"| `oracle-filter` (diagnosis) | - | {shown[walker]} |",
        f"| `lodada` (our reading) | - | {shown[walker]} |",
    ]


def test_every_command_is_in_the_reference(generated):
    import typer

    shown = generated.commands()
    for name, command in typer.main.get_command(build_app()).commands.items():
        assert command.hidden or f"## `offdyn {name}`" in shown
    train = shown.partition("## `offdyn train`")[2].partition("\n## ")[0]
    assert "| `--seeds " in train and "offdyn train [OPTIONS]" in train and "\\[default: 5\\]" in train


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("methods/dara", "../../offdyn_agents/algorithms/bc.py", "[m](/reference/api/offdyn_agents.algorithms.bc.rst)"),
        ("methods/dara", "README.md", "[m](/methods/README.md)"),
        ("methods/dara", "../../README.md", "[m](/index.md)"),
        ("index", "../leaderboard/README.md#what", "[m](/leaderboard.md#what)"),
        ("leaderboard", "../CHANGELOG.md", "[m](/contribute/changes.md)"),
        ("methods/cql", "../../offdyn_agents/presets/cql.yaml", "m (`offdyn_agents/presets/cql.yaml`)"),
    ],
)
def test_links_of_the_repository_are_links_of_the_site(generated, page, link, expected):
    assert generated.LINK.sub(lambda found: generated._linked(page, found), f"[m]({link})") == expected


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    """Its notebooks are run by tests/test_notebook.py."""
    sphinx = pytest.importorskip("sphinx")
    env = os.environ | {"OFFDYN_DOCS_NOTEBOOKS": "off", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "trees")]
    done = subprocess.run(
        [*command, str(ROOT / "docs"), str(tmp_path / "html")], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0 and "warning" not in done.stdout.splitlines()[-1], (sphinx.__version__, done.stderr)
    from sphinx.util.inventory import InventoryFile

    with (tmp_path / "html/objects.inv").open("rb") as file:
        found = InventoryFile.load(file, "", lambda _, name: name)
    names = {name for kind, objects in found.items() if kind.startswith("py:") for name in objects}
    generated = extension("generated")
    public = {f"{module}.{name}" for module in modules() for name in generated.own(module)}
    assert len(public) > 800 and public - names == set()
    page = (tmp_path / "html/leaderboard.html").read_text(encoding="utf-8")
    assert re.search(r'id="an-entry-from-any-framework"', page)
