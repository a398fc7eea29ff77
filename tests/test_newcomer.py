"""A newcomer's walk on terminals of 80 and 120 columns: each command answers as it should, with no traceback."""

import subprocess
import sys

import pytest

from benchmarks.newcomer import STEPS, complaints, walk
from offdyn_envs import cli

# What trains, evaluates or draws takes longer; the slow walk has all of them.
QUICK = tuple(
    step
    for step in STEPS
    if step.status == 2 and not step.typed.startswith(("train iql hopper-gravity-0.5-medium", "compare"))
) + tuple(step for step in STEPS if step.typed.split(" ")[0] in ("", "--version", "tasks", "agents", "envs"))


@pytest.mark.parametrize("columns", [80, 120])
def test_quick_steps(tmp_path, columns):
    assert len(QUICK) > 20
    # The width matters to tables alone.
    answers = walk(columns, tmp_path, QUICK if columns == 80 else tuple(step for step in QUICK if not step.status))
    assert {answer.step.typed: found for answer in answers if (found := complaints(answer, columns))} == {}


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 120])
def test_whole_walk(tmp_path, columns, monkeypatch):
    # Without a compiler: to compile takes a minute.
    monkeypatch.setenv("PATH", str(tmp_path))
    answers = walk(columns, tmp_path)
    assert {answer.step.typed: found for answer in answers if (found := complaints(answer, columns))} == {}


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("offdyn train dro", "droco"),
        ("offdyn train iql --device c", "cuda"),
        ("offdyn tasks --track co", "core-12"),
    ],
)
def test_a_shell_completes(monkeypatch, typed, found):
    import os

    words = {"_OFFDYN_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    code = "from offdyn_envs.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **words}, capture_output=True, text=True, check=False
    )
    assert found in done.stdout.split()


def test_earlier_spellings_work_and_are_not_shown(capsys):
    for words in (
        ["judge", "--help"],
        ["behaviour", "status", "--help"],
        ["data", "gap", "--help"],
        ["data", "ship", "-h"],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0
    for words, hidden in (([], "judge"), ([], "behaviour"), (["data"], "gap"), (["data"], "ship")):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            cli.main([*words, "--help"])
        assert f"│ {hidden} " not in capsys.readouterr().out
