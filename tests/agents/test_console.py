"""Numbers as people write them: counts of updates, and seeds."""

import shlex

import pytest

from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.runs.console import count, seed_numbers, seeds_text
from offdyn_agents.runs.plans import Plan
from offdyn_envs import cli
from offdyn_envs.errors import OffDynError

TASK = "hopper-gravity-0.5-medium"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("100000", 100_000),
        ("100_000", 100_000),
        ("100k", 100_000),
        ("2K", 2_000),
        ("1m", 1_000_000),
        ("1.5M", 1_500_000),
        ("1e5", 100_000),
        ("1.1e6", 1_100_000),
        ("1E+3", 1_000),
        (" 7 ", 7),
        (12, 12),
    ],
)
def test_counts(text, number):
    assert count(text) == number
    assert type(count(text)) is int


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1e-3", "1_", "_1", "1__0", "1g", "k", "ten", "1 000", "1e400"])
def test_what_is_no_count(text):
    with pytest.raises(OffDynError, match=r"^'.*' is no whole number from 1 on; 100000, 100_000, 100k, 1m and 1e5 are"):
        count(text)


@pytest.mark.parametrize(
    ("text", "seeds", "told"),
    [
        ("5", (0, 1, 2, 3, 4), "5"),
        (1, (0,), "1"),
        ("0,3,4", (0, 3, 4), "0,3,4"),
        ("4, 0", (0, 4), "0,4"),
        ("3,", (3,), "3,"),
        ("2,1,0", (0, 1, 2), "3"),
        ((7,), (7,), "7,"),
        (range(2), (0, 1), "2"),
    ],
)
def test_seeds(text, seeds, told):
    assert seed_numbers(text) == seeds
    assert seeds_text(seeds) == told
    assert seed_numbers(told) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "0 seeds train nothing"),
        ("", "seeds '' are neither"),
        ("-1", "seeds '-1' are neither"),
        ("0,a", "seeds '0,a' are neither"),
        ("1,,2", "seeds '1,,2' are neither"),
        ("99999999999,", "are neither a number of seeds nor seeds"),
        ("0,3,3", "seed 3 is there twice in '0,3,3'"),
        ((), "seeds '' are neither"),
    ],
)
def test_what_are_no_seeds(text, message):
    with pytest.raises(OffDynError, match=message):
        seed_numbers(text)


@pytest.mark.parametrize("command", [["train", "bc", TASK], ["ablate", "droco-beta", TASK]])
@pytest.mark.parametrize(
    ("option", "value"), [("--updates", "1.5"), ("--eval-every", "0"), ("--seeds", "0"), ("--seeds", "1,1")]
)
def test_the_commands_refuse_them_in_one_line(capsys, command, option, value):
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, option, value])
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert err.startswith(f"offdyn: Invalid value for '{option}': ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("seeds", "told"), [((0, 1, 2, 3, 4), "5"), ((0, 3, 4), "0,3,4"), ((3,), "3,")])
def test_the_command_of_a_plan_can_be_read_again(tmp_path, seeds, told):
    words = shlex.split(Plan("bc", TASK, seeds, {}, Budget(10), Hardware(), tmp_path).command)
    assert words[words.index("--seeds") + 1] == told
