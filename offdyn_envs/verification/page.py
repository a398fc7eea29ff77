"""`docs/environments.md`, written from the published figures: `make docs`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from offdyn_envs.atomic import write_text
from offdyn_envs.verification.results import published
from offdyn_envs.verification.subjects import RobotSubject, Subject, named_subjects

__all__ = ["HARDLY", "environments_page", "hardly_reached", "main"]

HARDLY = 0.01
"""Shifts that change a smaller share of random transitions are named as hardly reached."""

Record = Mapping[str, Any]


def environments_page(record: Record) -> str:
    """Return the page.

    Args:
        record: Published figures, see `offdyn_envs.verification.results.frozen_record`.

    Returns:
        Markdown, one newline at the end.
    """
    return "\n".join((*_introduction(record), *_reach(record), *_robots(record), *_refrigerator()))


def hardly_reached(record: Record) -> list[str]:
    """Return the ids of shifted environments in which random actions meet the nominal robot's transitions.

    Args:
        record: Published figures.

    Returns:
        Those whose shift changes less than 1% of the random transitions.
    """
    figures = record["environments"]
    return [
        name
        for name, subject in named_subjects().items()
        if subject.dynamics != "nominal" and name in figures and figures[name]["share_changed"] < HARDLY
    ]


def _introduction(record: Record) -> Iterator[str]:
    recipe, versions = record["recipe"], record["versions"]
    count = recipe["rows"] * recipe["steps"] // recipe["every"]
    yield "<!-- Written by `make docs` from offdyn_envs/verification/verified.json: change that, not this page. -->"
    yield "# Environments"
    yield ""
    yield (
        f"{len(record['environments'])} named environments, each verified by `offdyn envs verify` "
        f"(here with MuJoCo {versions['mujoco']}, Gymnasium {versions['gymnasium']}, NumPy {versions['numpy']}; "
        "`make docs` rewrites this page). "
        "`offdyn envs show NAME` prints everything about one of them, masses of all bodies included. Any others can be "
        "made of [shifts](shifts.md)."
    )
    yield ""
    yield "What verified means for a robot's environment:"
    yield ""
    yield "- only the declared fields of the compiled model differ from the nominal robot's, and something does;"
    yield "- no other named environment has the same compiled model;"
    yield "- friction of simulated contacts between a walker's feet and the floor is the nominal one times the scale;"
    yield "- a scalar environment equals a row of a batch of different dynamics, bit for bit, with 1 thread and with 3;"
    yield "- Gymnasium's checker passes; copies through JSON and pickle follow the same path, bit for bit;"
    yield "- a nominal walker is Gymnasium's own with the solver's warm start zeroed, bit for bit over 1000 steps;"
    yield "- every step of the Adroit hand repeats from (positions, velocities, goal), bit for bit."
    yield ""
    yield "## How large a shift is"
    yield ""
    yield (
        f"Nominal and shifted robot are put into the same {count:,} states (positions, velocities, goals; reshaped or "
        "not) and given the same action. The states are those of a seeded rollout of the nominal robot: "
        f"{recipe['rows']} rows of {recipe['steps']:,} control steps, every {recipe['every']}th one kept, actions "
        "uniformly at random."
    )
    yield ""
    yield "- **share**: share of these transitions whose next state the shift changes in any bit."
    yield (
        "- **size**: mean change of the next state over states and dimensions, each dimension in units of its standard "
        "deviation over the states. Horizontal position is left out; velocities are not clipped. This is the "
        "divergence after one step, and the published shift size."
    )
    yield (
        f"- **{recipe['long_steps']} steps**: the same figure after {recipe['long_steps']} control steps of equal "
        f"random actions from {recipe['long_states']} of the states, falls ignored."
    )
    yield "- **policy share, size**: both on the states of the shipped nominal medium policy, its actions sampled."
    yield "- **kg**: mass of the robot, of the Adroit hand (extra `adroit`) with table and door."
    yield "- **start**: how much higher episodes start than on the nominal robot."
    yield ""
    yield "Sizes do not grow steadily with a shift's strength everywhere; they are reported, not asserted."
    yield ""


def _reach(record: Record) -> Iterator[str]:
    figures = record["environments"]
    yield "## What random actions hardly reach"
    yield ""
    yield (
        "Where a shift only narrows a joint's range, nothing changes until the joint gets there. In these environments "
        "fewer than 1% of the random transitions differ from the nominal robot's, so a random dataset of them is "
        "nearly a dataset of the nominal robot:"
    )
    yield ""
    yield "| environment | random share | policy share | 50 steps |"
    yield "|---|---|---|---|"
    for name in hardly_reached(record):
        facts = figures[name]
        cells = (_percent(facts["share_changed"]), _percent(facts["policy_share_changed"]))
        yield f"| {_short(name)} | {cells[0]} | {cells[1]} | {_figure(facts['divergence_50_steps'])} |"
    yield ""
    yield (
        "That they differ all the same is checked at the joints' new limits: a joint that swings out between its old "
        "and its new limit moves otherwise. The last column is measured with falls ignored, on a robot that struggles "
        "on the floor with its joints at their ends. Where the policy share is 0 as well, not even the data of the "
        "nominal medium policy meet the shift."
    )
    yield ""
    yield "## What to know of some bodies"
    yield ""
    yield (
        "- Ant, alllegs and halflegs at hard: the legs are so short that the robot can rest on its torso, and count as "
        "healthy there."
    )
    yield (
        "- Hopper, foot at medium and hard: the tip of the leg lies lower than the foot, so the robot can land on its "
        "leg, with friction 1.0 instead of 2.0."
    )
    yield (
        "- HalfCheetah's model asks for 14 kg in total: a shorter limb makes the others heavier, unless `keep_mass` is "
        "set. Its thighs jump where the level leaves 0, because every published level also replaces the shins."
    )
    yield (
        "- Friction x5: with the pyramidal friction cones of the base models feet sink visibly into the floor, by up "
        "to 0.4 m on Hopper; the models are left as they are, for comparison with published results."
    )
    yield ""


def _robots(record: Record) -> Iterator[str]:
    robots: dict[str, list[RobotSubject]] = {}
    for subject in named_subjects().values():
        if isinstance(subject, RobotSubject):
            robots.setdefault(subject.title, []).append(subject)
    for title, subjects in robots.items():
        known = [(one, record["environments"][one.name]) for one in subjects if one.name in record["environments"]]
        yield f"## {title}"
        yield ""
        yield "| dynamics | share | size | 50 steps | policy share | policy size | kg | start |"
        yield "|---|---|---|---|---|---|---|---|"
        yield from (_robot_row(subject, facts) for subject, facts in known)
        yield ""
        yield "What changes:"
        yield ""
        yield from (f"- **{one.dynamics}**: {_words(facts['differences'])}" for one, facts in known if one.shifts)
        yield ""


def _robot_row(subject: Subject, facts: Record) -> str:
    height = facts["reset_height_m"]
    return _row(
        subject.dynamics,
        _percent(facts["share_changed"]),
        _figure(facts["shift_size"]),
        _figure(facts["divergence_50_steps"]),
        _percent(facts["policy_share_changed"]),
        _figure(facts["policy_shift_size"]),
        _figure(facts["mass_kg"]),
        f"{height:+.3g} m" if abs(height) > 1e-9 else "",
    )


def _refrigerator() -> Iterator[str]:
    yield "## Refrigerator"
    yield ""
    yield (
        "`OffDyn/Refrigerator-v0` has no shift. Checked beside Gymnasium's checker and the copies: a row of a batch is "
        "the scalar environment, and every step repeats bit for bit from (temperature, door clock)."
    )
    yield ""


def _words(differences: Sequence[str]) -> str:
    return "; ".join(line for line in differences if not line.startswith("reset height")) or "nothing"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _short(name: str) -> str:
    return name.removeprefix("OffDyn/").removesuffix("-v0")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100.0 * share:.4g}%"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def main(path: Path) -> None:
    """Write the page.

    Args:
        path: A Markdown file, written atomically.
    """
    write_text(path, environments_page(published()))
