"""The results of a verification as a table, and its failures as lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from offdyn_envs.verification.results import Verification

__all__ = ["print_failures", "print_verifications"]


def print_verifications(found: Sequence[Verification], as_json: bool) -> None:
    """Print what was found.

    Args:
        found: The results.
        as_json: Print a JSON list with every figure instead of a table.
    """
    if as_json:
        print(json.dumps([one.to_json() for one in found], indent=2, allow_nan=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="Environments",
        title_justify="left",
        caption="share: transitions changed, %; size: shift size, the divergence after 1 step; medium: both on states "
        "of the shipped medium policy. Units and states: offdyn envs verify --help.",
        caption_justify="left",
    )
    table.add_column("environment", no_wrap=True)
    for column in ("fields set", "share", "size", "50 steps", "medium", "kg", "friction", "hash", "verdict"):
        table.add_column(column, overflow="fold")
    for one in found:
        table.add_row(*map(Text, _row(one)))
    # Into a file or a pipe the table goes unfolded.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def print_failures(found: Sequence[Verification]) -> None:
    """Print one line on standard error for every check that failed.

    Args:
        found: The results.
    """
    for one in found:
        for check, failure in one.failures.items():
            print(f"offdyn: {one.name}: {check}: {failure}", file=sys.stderr)
    bad = sum(bool(one.failures) for one in found)
    print(f"offdyn: {bad} of {len(found)} environments failed verification", file=sys.stderr)


def _row(one: Verification) -> list[str]:
    facts = one.facts
    policy = ""
    if facts.get("policy_share_changed") is not None:
        policy = f"{_percent(facts['policy_share_changed'])} {_figure(facts['policy_shift_size'])}"
    return [
        one.name.removeprefix("OffDyn/").removesuffix("-v0"),
        " ".join(facts.get("set_fields", ())),
        _percent(facts.get("share_changed")),
        _figure(facts.get("shift_size")),
        _figure(facts.get("divergence_50_steps")),
        policy,
        _figure(facts.get("mass_kg")),
        " ".join(dict.fromkeys(f"{value:.4g}" for value in facts.get("contact_friction", {}).values())),
        str(facts.get("model_sha256", ""))[:8],
        _verdict(one),
    ]


def _verdict(one: Verification) -> str:
    if one.skipped:
        return f"skipped, {one.skipped}"
    return f"FAILED: {', '.join(one.failures)}" if one.failures else "verified"


def _percent(share: Any) -> str:
    return "" if share is None else f"{100.0 * share:.4g}"


def _figure(value: Any) -> str:
    return "" if value is None else f"{value:.3g}"
