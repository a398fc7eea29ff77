"""What the agents' commands have in common; it imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

import typer

from offdyn_agents.algorithms import registry
from offdyn_envs.errors import OffDynError, beginning

if TYPE_CHECKING:
    from offdyn_agents.runs.own_pairs import OwnPair
    from offdyn_envs.datasets.describing.states import Time

__all__ = [
    "DEFAULT_EVERY",
    "DEFAULT_SEEDS",
    "DeviceOption",
    "EveryOption",
    "PrecisionOption",
    "QuietOption",
    "ScheduleOption",
    "SeedsOption",
    "SetOption",
    "ThreadsOption",
    "UpdatesOption",
    "count",
    "missing_agent",
    "own_pair",
    "quiet_waiting",
    "refuse_without_data",
    "seed_numbers",
    "seeds_text",
    "several_agents",
    "task_names",
]

DEFAULT_SEEDS, DEFAULT_EVERY = 5, 2_000
MOST_SEED = 2**31 - 1

_COUNT = re.compile(r"(\d+(?:_\d+)*(?:\.\d+)?(?:e\+?\d{1,2})?)([km]?)", re.IGNORECASE)
_SCALES = {"": 1, "k": 1_000, "m": 1_000_000}


def count(text: str | int) -> int:
    """Return a count that may be written as 100000, 100_000, 100k, 1.5m or 1e5.

    Raises:
        OffDynError: It is no whole number from 1 on.
    """
    written = _COUNT.fullmatch(str(text).strip())
    # Decimals: 1.1e6 is a whole number there.
    value = Decimal(written[1]) * _SCALES[written[2].lower()] if written else Decimal(0)
    if value < 1 or value != value.to_integral_value():
        raise OffDynError(
            f"'{beginning(text, 40)}' is no whole number from 1 on; 100000, 100_000, 100k, 1m and 1e5 are allowed"
        )
    return int(value)


def seed_numbers(text: str | int | Sequence[int]) -> tuple[int, ...]:
    """Return seeds in ascending order: "5" stands for 0 to 4, "0,3,4" for these three and "3," for one alone.

    Args:
        text: As above; or a number, or chosen seeds.

    Raises:
        OffDynError: There are none, one is no whole number from 0 on, or one is there twice.
    """
    told = str(text) if isinstance(text, str | int) else seeds_text(tuple(text))
    words = [word.strip() for word in told.removesuffix(",").split(",")]
    if not all(word.isascii() and word.isdecimal() and len(word) <= 10 and int(word) <= MOST_SEED for word in words):
        raise OffDynError(
            f"seeds '{beginning(told, 40)}' are neither a number of seeds nor seeds; 5 (for 0 to 4), 0,3,4 and 3, "
            "(for seed 3 alone) are allowed"
        )
    numbers = [int(word) for word in words]
    if "," not in told:
        if not numbers[0]:
            raise OffDynError("0 seeds train nothing; at least 1 is allowed")
        return tuple(range(numbers[0]))
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise OffDynError(f"seed {twice[0]} is there twice in '{beginning(told, 40)}'; each seed once is allowed")
    return tuple(sorted(numbers))


def seeds_text(seeds: Sequence[int]) -> str:
    """Return how `seed_numbers` takes these seeds."""
    if list(seeds) == list(range(len(seeds))) and seeds:
        return str(len(seeds))
    return ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")


def missing_agent() -> NoReturn:
    """Say which agents there are.

    Raises:
        OffDynError: Always.
    """
    raise OffDynError(f"name an agent, one of {', '.join(registry.names())}, or several with --agents")


def several_agents(text: str, not_with: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the agents that --agents names; nothing of them is imported.

    Args:
        text: Names with commas between them, or "all".
        not_with: Options that belong to one agent, and what is given for them.

    Raises:
        OffDynError: No such agent, or an option that belongs to one agent.
    """
    for option, value in not_with.items():
        if value:
            raise OffDynError(f"{option} belongs to one agent; --agents takes several, each as its preset has it")
    if text == "all":
        return registry.names()
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    return tuple(registry.check_name(name) for name in found)


def task_names(tasks: list[str], track: str | None) -> list[str]:
    """Return the tasks that were named, each once, or those of a track.

    Raises:
        OffDynError: Both or neither, or an unknown name.
    """
    from offdyn_envs.tasks import get_task, get_track

    if bool(tasks) == (track is not None):
        raise OffDynError("name tasks or --track, one of the two; `offdyn tasks` lists them")
    return list(dict.fromkeys(get_task(name).name for name in (get_track(track) if track is not None else tasks)))


def refuse_without_data(names: Sequence[str], target_rows: str = "", time: Time = lambda remedy: "") -> None:
    """Refuse tasks whose target dataset is not here and cannot be built; to be called before torch is imported.

    Whether the source is needed, only the agent's settings say.

    Args:
        names: Names of tasks.
        target_rows: Another size of the target dataset; "" for the tasks' own.
        time: Says how long the training of what is missing takes.

    Raises:
        OffDynError: A behaviour policy is missing; the message names the command that helps.
    """
    from offdyn_envs.datasets.describing.states import refuse_unbuildable
    from offdyn_envs.datasets.sharing.sources import configured_url
    from offdyn_envs.tasks import get_task

    if configured_url() is None:
        targets = [get_task(name).target for name in names]
        refuse_unbuildable([replace(one, rows=target_rows) if target_rows else one for one in targets], time)


def own_pair(
    source: str | None, target: str | None, more: Mapping[str, Any], instead: Mapping[str, Any]
) -> OwnPair | None:
    """Return the pair of own data that a command names; None where it names none.

    Args:
        source: Name or path of the source; None for agents that learn from target rows alone.
        target: Likewise of the target.
        more: "env", "termination", "spec" and "name", as `OwnPair` takes them, None or "" for what is not given;
            "termination" may be "module:function".
        instead: What belongs to tasks of the suite, as messages call it; anything that is given does not go with own
            data.

    Raises:
        OffDynError: A source without a target, or what goes with them only; a name, path or function that does not
            exist; unequal dimensions; an environment that does not fit.
    """
    given = {key: value for key, value in more.items() if value}
    if source is None and target is None:
        for key in given:
            raise OffDynError(f"--{key} belongs to own data; name them with --source and --target")
        return None
    if target is None:
        raise OffDynError("--source and --target go together; name both")
    for key, value in instead.items():
        if value:
            raise OffDynError(f"{key} belongs to tasks of the suite; --source and --target stand in their place")
    from offdyn_agents.runs.own_pairs import OwnPair

    pair = OwnPair(source, target, **given)
    pair.inspect()
    return pair


def quiet_waiting() -> None:
    """Let idle threads sleep; to be called before torch is imported."""
    # Set before torch is imported: threads that spin while they wait make a busy machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


T = TypeVar("T")


def _option(parse: Callable[[Any], T]) -> Callable[[Any], T]:
    """Return a parser whose errors say which option they are about."""

    def parser(text: Any) -> T:
        try:
            return parse(text)
        except OffDynError as error:
            raise typer.BadParameter(str(error)) from None

    return parser


UpdatesOption = Annotated[
    int,
    typer.Option(
        parser=_option(count),
        metavar="N",
        help="Updates of each seed, for example 20k, 1m or 1e5.",
        rich_help_panel="Training",
    ),
]
EveryOption = Annotated[
    int,
    typer.Option(parser=_option(count), metavar="N", help="Updates between evaluations.", rich_help_panel="Training"),
]
ScheduleOption = Annotated[
    Literal["cosine", "constant"],
    typer.Option(
        help="cosine: learning rates decay to 0 over the updates. constant: they stay, so runs can be extended.",
        rich_help_panel="Training",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting of the agent; repeatable.", rich_help_panel="Training"
    ),
]
PrecisionOption = Annotated[
    Literal["fp32", "bf16", "tf32"],
    typer.Option(help="Precision of matrix products; tf32 on GPUs only.", rich_help_panel="Machine"),
]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device to use.", rich_help_panel="Machine")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; all by default.", rich_help_panel="Machine")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Show no progress.", rich_help_panel="Output")]
SeedsOption = Annotated[
    # What the parser gives is no type that a command line knows.
    Any,
    typer.Option(
        parser=_option(seed_numbers),
        metavar="N|A,B,...",
        help="Seeds, trained together: a number (5 for seeds 0 to 4), or a list such as 0,3,4 (3, for seed 3 alone).",
        rich_help_panel="Training",
    ),
]
