"""What a verification finds, and the published figures that travel with the package."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from offdyn_envs.atomic import write_json

__all__ = [
    "FIRST",
    "FORMAT",
    "FROZEN",
    "CheckFailed",
    "Verification",
    "freeze",
    "frozen_record",
    "published",
    "run_checks",
]

FORMAT = "1"
FROZEN = Path(__file__).with_name("verified.json")
"""The published figures; written by `offdyn envs verify --out`."""
FIRST = [b"{", b'"environments":']
"""The first words of such a file."""

Facts = dict[str, Any]


class CheckFailed(Exception):
    """A check's finding: one line that says what is wrong, with the value found and the one expected."""


@dataclass(frozen=True)
class Verification:
    """What was found about one environment.

    Attributes:
        name: The environment.
        facts: What was measured, plain JSON.
        passed: The checks that passed.
        failures: What is wrong, by check; empty for a good environment.
        skipped: Why nothing was checked; empty otherwise.
    """

    name: str
    facts: Facts = field(default_factory=dict[str, Any])
    passed: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the plain-JSON form."""
        if self.skipped:
            return {"environment": self.name, "skipped": self.skipped}
        return {"environment": self.name, **self.facts, "passed": list(self.passed), "failures": dict(self.failures)}


def run_checks(name: str, checks: Mapping[str, Callable[[], Facts]]) -> Verification:
    """Run checks one after another; one that fails does not stop the others.

    Args:
        name: The environment.
        checks: Functions by name; each returns facts or raises `CheckFailed`.

    Returns:
        What they found. Any other exception counts as a failure too: a verification must not end at the first fault.
    """
    facts: Facts = {}
    failures: dict[str, str] = {}
    for check, function in checks.items():
        measured, failure = _run(function)
        facts |= measured
        if failure:
            failures[check] = failure
    return Verification(name, facts, tuple(check for check in checks if check not in failures), failures)


def _run(function: Callable[[], Facts]) -> tuple[Facts, str]:
    try:
        return function(), ""
    except CheckFailed as error:
        return {}, str(error)
    except Exception as error:
        return {}, f"{type(error).__name__}: {' '.join(str(error).split())}"


def frozen_record(found: Sequence[Verification]) -> dict[str, Any]:
    """Return the published form of verifications, figures rounded to four digits.

    Args:
        found: Verifications, all of them good.

    Returns:
        Versions, platform, recipe, SHA-256 of the medium policies by robot, and figures by environment.
    """
    from offdyn_envs.datasets.store.card import platform_facts, versions
    from offdyn_envs.verification.divergence import LONG_STATES, LONG_STEPS
    from offdyn_envs.verification.states import RECIPE

    return {
        "format": FORMAT,
        "versions": versions(),
        "platform": platform_facts(),
        "recipe": {**RECIPE, "long_states": LONG_STATES, "long_steps": LONG_STEPS},
        "policies": _policies(),
        "environments": {one.name: _rounded({**one.facts, "passed": list(one.passed)}) for one in found},
    }


def _policies() -> dict[str, str]:
    from offdyn_envs.policies import read_card
    from offdyn_envs.robots import WALKERS
    from offdyn_envs.shipped import behaviour_path

    paths = {name: behaviour_path(name, "nominal", "medium") for name in WALKERS}
    return {name: str(read_card(path)["policy_sha256"]) for name, path in paths.items() if path.exists()}


def freeze(found: Sequence[Verification], path: Path) -> None:
    """Write the published form of verifications; those that were skipped are left out.

    Args:
        found: Verifications, all of them good.
        path: A JSON file, written atomically.
    """
    write_json(path, frozen_record([one for one in found if not one.skipped]))


@lru_cache(maxsize=1)
def published() -> Mapping[str, Any]:
    """Return the figures that travel with the package, as `frozen_record` has them."""
    return json.loads(FROZEN.read_text(encoding="utf-8")) if FROZEN.exists() else {"environments": {}}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
