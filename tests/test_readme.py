"""The README: short, in plain sentences, and every block of it does what it says."""

import re
from pathlib import Path

import pytest

from offdyn_agents.algorithms.table import with_table
from offdyn_envs.benchmark.scoring.critics import find_critic
from offdyn_envs.cli import main
from offdyn_envs.errors import OffDynError
from tests.api import stand_in
from tests.pages import ROOT, blocks, commands, read, sentences

TEXT = read("README.md")
((FIRST, OUTPUT),) = [
    (first.text, then.text)
    for first, then in zip(blocks(TEXT), blocks(TEXT)[1:], strict=False)
    if first.language == "python"
]
FEWER = {
    "train": ["--updates", "60", "--eval-every", "60", "--quiet"],
    "evaluate": ["--episodes", "2", "--cell-episodes", "2"],
}


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """An empty folder, small stand-ins for the data, and small networks."""
    monkeypatch.chdir(tmp_path)
    stand_in.install(monkeypatch)
    stand_in.shrink(monkeypatch)


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 130
    longest = max(sentences(TEXT), key=lambda sentence: len(sentence.split()))
    assert len(longest.split()) <= 30, longest
    assert len(sentences(TEXT)) > 40


def test_the_ten_lines_run_and_print_what_is_shown(quick, capsys):
    """On stand-ins and with fewer updates; `pytest -m slow` runs them on the real data."""
    assert len(FIRST.splitlines()) == 10
    names = {}
    exec(compile(FIRST.replace("2_000", "100"), "README.md", "exec"), names)
    run, shown = names["run"], capsys.readouterr().out
    assert run.facts["updates"] == 100 and run.facts["agent"] == "droco" and run.seeds == [0, 1]
    assert without_numbers(shown) == without_numbers(OUTPUT)


@pytest.mark.slow
def test_the_ten_lines_on_the_real_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["data", "build", "hopper-gravity-0.5-medium"])
    assert ended.value.code == 0
    capsys.readouterr()
    exec(compile(FIRST, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert without_numbers(shown) == without_numbers(OUTPUT)
    # The data are the same everywhere; what is learned from them is not.
    assert shown.splitlines()[:2] == OUTPUT.splitlines()[:2]


def without_numbers(text):
    """Return the words of an output."""
    return re.findall(r"[A-Za-z]+", text)


def test_the_commands_run(quick, capsys):
    """Those of blocks that are not marked, with fewer updates and episodes."""
    run = [block for block in blocks(TEXT) if not block.why_not]
    lines = [line for block in run for line in commands(f"```\n{block.text}```") if not block.language]
    assert [line[1] for line in lines] == ["train", "evaluate"]
    for _, *words in lines:
        with pytest.raises(SystemExit) as ended:
            main([*words, *FEWER[words[0]]])
        assert ended.value.code == 0, words
    shown, attacked = capsys.readouterr().out, find_critic("hopper-gravity-0.5-medium") is not None
    assert "gravity 0.5" in shown and ("min-q 0.2" in shown) == attacked != ("no min-Q attack" in shown)


@pytest.mark.parametrize("line", re.findall(r"`offdyn ([^`]+)`", TEXT))
def test_a_command_inside_a_sentence_runs(line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 0 and capsys.readouterr().out


@pytest.mark.parametrize("shift", re.findall(r"`offdyn\.(\w+\([^`]*\))`", TEXT))
def test_a_shift_of_the_table_is_one(shift):
    import offdyn

    env = offdyn.make("OffDyn/Hopper-v0", shifts=[eval(f"offdyn.{shift}", {"offdyn": offdyn})])
    assert env.reset(seed=0)[0].shape == (11,)


def test_its_counts_are_those_of_the_code():
    import offdyn
    from offdyn_envs import list_env_ids, list_tasks
    from offdyn_envs.datasets.describing.states import BUILDABLE, HERE, task_states
    from offdyn_envs.robots import HANDS

    hand = sum(robot.name in HANDS for robot, _ in list_env_ids().values())
    robots = len(list_env_ids()) - hand
    targets = len(list((ROOT / "datasets/offdyn").glob("*/*/*")))
    assert f"**{robots + hand} environments" in TEXT and f"with {robots} named" in TEXT and f"with {hand}." in TEXT
    states = task_states(list_tasks())
    ready = sum(state in (HERE, BUILDABLE) for state in states)
    assert f"**{len(states)} tasks.** {ready} can be built now" in TEXT and f"{targets} target datasets" in TEXT
    assert f"**{len(offdyn.agents.names())} agents.**" in TEXT


def test_it_names_make_targets_that_exist():
    makefile, named = read("Makefile"), set(re.findall(r"\bmake ([a-z]+)", TEXT))
    assert {"install", "demo", "test", "docs"} <= named
    assert not [name for name in named if f"\n{name}:" not in makefile]
    assert {"make -j2 lint", "make docs NOTEBOOKS=off", "make test"} <= set(read(".ci/run").splitlines())


def test_the_table_of_agents_is_what_make_docs_writes():
    page = read("docs/methods/README.md")
    assert with_table(page) == page, "stale: make docs"
    with pytest.raises(OffDynError, match="the page lacks"):
        with_table("# A page")


def test_it_is_cited_as_the_file_says():
    citation = (Path(ROOT) / "CITATION.cff").read_text(encoding="utf-8")
    for name in ("title", "version"):
        found = re.search(rf'^{name}: "?(.*?)"?$', citation, re.MULTILINE)
        assert found and f"{name} = {{{found[1]}}}" in TEXT
    from offdyn_envs import __version__

    assert f"version: {__version__}\n" in citation
