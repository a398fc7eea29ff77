"""What the README and the pages say can be done, is done, and so are the commands of the results."""

import re
import shlex
from pathlib import Path

import pytest

from offdyn_agents.algorithms.table import with_table
from offdyn_envs.cli import main
from offdyn_envs.errors import OffDynError
from tests.api import stand_in

ROOT = Path(__file__).parents[1]
TEXT, RESULTS, OWN_DATA = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/results/README.md", "docs/your-own-data.md")
)


def blocks(text):
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def commands(text):
    return [
        shlex.split(line, comments=True)[1:]
        for language, block in blocks(text)
        for line in block.replace("\\\n", " ").splitlines()
        if not language and line.startswith("offdyn ")
    ]


PYTHON = [block for language, block in blocks(TEXT) if language == "python"]
COMMANDS = commands(TEXT)


def sets_up_data(block):
    return "load_task" in block or "load_dataset" in block


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """An empty folder to work in, and updates that are not compiled: that takes longer than these runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path / "data"))
    for module in ("engine.execution", "models.ensemble.training"):
        monkeypatch.setattr(f"offdyn_agents.{module}.can_compile", lambda _: False)


@pytest.mark.parametrize("block", [block for block in PYTHON if not sets_up_data(block)])
def test_python_blocks_run(block, quick):
    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in PYTHON if sets_up_data(block)])
def test_python_blocks_with_data_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["data", "build", "hopper-gravity-0.5-medium"])
    assert ended.value.code == 0
    exec(compile(block, "README.md", "exec"), {})


def run_block(language, block, names):
    """Do what a block of a page says; one of YAML is the file that its first line names."""
    if language == "python":
        exec(compile(block, "page", "exec"), names)
    elif language == "yaml":
        Path(block.splitlines()[0].removeprefix("# ")).write_text(block, encoding="utf-8")
    for command in [] if language else commands(f"```\n{block}```"):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 0, command


def test_the_first_snippet_is_ten_lines_that_run(quick, monkeypatch, capsys):
    """On stand-ins and small networks; `pytest -m slow` runs it on the real data."""
    first = next(block for language, block in blocks(TEXT) if language)
    assert first == PYTHON[0] and len(first.splitlines()) == 10
    assert all(word in first for word in ("load_task", "DROCO", "updates=2_000", "evaluate", "curves", "make"))
    stand_in.install(monkeypatch)
    stand_in.shrink(monkeypatch)
    names = {}
    run_block("python", first, names)
    run, shown = names["run"], capsys.readouterr().out
    assert run.facts["updates"] == 2_000 and run.facts["agent"] == "droco" and run.seeds == [0, 1]
    assert run.curves().column("updates")[-1] == 2_000 and "score" in run.curves().columns
    assert re.search(r"seed +episodes +return +std +score\n", shown) and re.search(
        r"seed +episodes +return +std\n", shown
    )


# What Lightning warns of in a trainer of one's own: its loaders are a batch a step, its own old imports.
@pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore::FutureWarning")
@pytest.mark.parametrize("page", ["python.md", "lightning.md"])
def test_pages_run_from_top_to_bottom(page, quick, capsys):
    run_page((ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert capsys.readouterr().out


def run_page(text):
    names = {}
    for language, block in blocks(text):
        run_block(language, block, names)


def test_page_on_own_data_runs_from_top_to_bottom(quick, capsys):
    run_page(OWN_DATA)
    shown = capsys.readouterr().out
    assert len(commands(OWN_DATA)) >= 7
    for name in ("pusher", "pusher-heavy", "pusher-parquet"):
        assert f"imported/{name}: imported, 300 rows of 23 observations and 7 actions in 3 episodes" in shown
    for name in ("pusher-log", "arm", "pusher-close"):
        assert f"imported/{name}: imported, 297 rows of 23 observations and 7 actions in 3 episodes" in shown


@pytest.mark.parametrize("command", COMMANDS + commands(RESULTS), ids=" ".join)
def test_commands_exist_with_their_options(command, capsys):
    words = [word for word in command if not word.startswith("-")]
    group = words[:2] if words[0] in ("envs", "data", "leaderboard", "behaviour") else words[:1]
    with pytest.raises(SystemExit) as ended:
        main([*group, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in (word.partition("=")[0] for word in command if word.startswith("--")):
        assert re.search(rf"{option}(?![\w-])", shown), option


def test_readme_names_the_two_commands():
    assert len(COMMANDS) >= 8 and len(PYTHON) >= 3 and len(commands(RESULTS)) >= 8
    assert "make demo" in TEXT and "make test" in TEXT
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\ndemo:" in makefile and "\ntest:" in makefile
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_table_of_agents_is_what_make_docs_writes():
    assert with_table(TEXT) == TEXT, "stale: make docs"
    with pytest.raises(OffDynError, match="the page lacks"):
        with_table("# A page")
