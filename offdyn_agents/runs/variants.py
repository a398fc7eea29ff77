"""Which variant of an agent a run is, so that runs of other data do not meet in one folder.

`runs/<task>/<agent>` holds the agent as its preset has it, `runs/<task>/<agent>@<variant>` a variant: one that was
given a name, or one that learns from other rows or is a published form of its method, and is called after that
("data-source", "target-500", "form-paper"). Other settings give no name by themselves: there are too many of them, and
a run of other settings in a folder is never overwritten.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_agents.runs.plans import Plan

__all__ = ["REFERENCES", "named", "settings_of"]

REFERENCES = ("iql@data-source", "iql@data-target", "iql@data-oracle")
"""What methods are held against: the source's rows alone, the target's few alone, and a million of the target."""
SETTINGS = ("data", "form")
"""Settings that give a variant its name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def named(plan: Plan, name: str = "") -> Plan:
    """Return a plan with the variant that its run is.

    Args:
        plan: The plan.
        name: A name by hand; "" for the one that its rows give it, if they are not those of the agent's preset.

    Raises:
        OffDynError: A name that is none, or as `plan_agent`.
    """
    if name and not _NAME.fullmatch(name):
        raise OffDynError(
            f"variant '{name[:80]}' is no name; up to 64 letters, digits, dots, hyphens, underscores and plus signs"
            " are allowed, a letter or digit first"
        )
    return replace(plan, variant=name or "+".join(_rows(plan)))


def settings_of(variant: str) -> dict[str, str]:
    """Return the settings of a variant such as "data-target" or "data-source+form-paper".

    Raises:
        OffDynError: It names no such setting.
    """
    found = [word.partition("-") for word in variant.split("+")]
    for key, _, value in found:
        if key not in SETTINGS or not value:
            raise OffDynError(
                f"variant '{variant[:80]}' of --agents is not SETTING-VALUE of the settings {' and '.join(SETTINGS)}, "
                "as in iql@data-target"
            )
    return {key: value for key, _, value in found}


def _rows(plan: Plan) -> list[str]:
    """Return what is different in the rows that a plan's run learns from, and in the form of its method."""
    from offdyn_agents.runs.runs import plan_agent

    others = {key: value for key, value in plan.overrides.items() if key not in SETTINGS}
    given, own = (plan_agent(found).settings for found in (plan, replace(plan, overrides=others)))
    return [
        *(f"{name}-{getattr(given, name)}" for name in SETTINGS if getattr(given, name) != getattr(own, name)),
        *([f"target-{plan.target_rows}"] if plan.problem.other_target else []),
    ]
