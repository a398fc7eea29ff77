"""Re-runs every policy of an entry in the sandbox and judges the entry as a whole.

The question is one: could these claimed returns and these re-run returns come from the same policies? Under an honest
claim the two samples of a policy are exchangeable, so one permutation test over all policies of the entry decides,
with no assumption about how returns are distributed (a Hopper that falls once in twenty episodes is far from normal)
and with both errors counted: the claim is a sample too. All policies are permuted together, episode by episode,
because they share their reset seeds. Robustness cells are run again whether or not an entry reports them; those that
it reports are tested in the same way. Cells whose episodes have dynamics of their own (parts, wear) mix them alike in
both samples, which makes the test a little more lenient there, never stricter.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.atomic import write_json
from offdyn_envs.benchmark.entries.history import add_step, load_history
from offdyn_envs.benchmark.entries.placing import today
from offdyn_envs.benchmark.entries.precision import load_held
from offdyn_envs.benchmark.entries.renewal import renew_command
from offdyn_envs.benchmark.entries.reruns import Plan, Rerun, Source, evaluation_seed, rerun, sources
from offdyn_envs.benchmark.entries.standings import compute_standings, load_board
from offdyn_envs.benchmark.entries.submissions import Entry, entry_folders, load_entry
from offdyn_envs.benchmark.entries.verdicts import (
    NOT_REPRODUCED,
    REFUSED,
    REPRODUCED,
    binding,
    check_writable,
    verdict_path,
)
from offdyn_envs.benchmark.gate.printable import printable
from offdyn_envs.benchmark.sandbox.sandbox import require_sandbox
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.cells import held_out_shifts
from offdyn_envs.errors import OffDynError
from offdyn_envs.version import __version__

__all__ = [
    "RETIRED",
    "UNVERIFIED",
    "Plan",
    "Verification",
    "Worst",
    "agreement",
    "evaluation_seed",
    "verify_entries",
]

Floats = NDArray[np.float64]

PERMUTATIONS = 20_000
UNVERIFIED = "not verified"
"""State of an entry that could not be re-run for a reason that is not its own; no verdict is written."""
RETIRED = "retired"
"""State of an entry of an earlier protocol, which is not run again."""


class Verification(NamedTuple):
    """What a verification found.

    Attributes:
        verdicts: One per entry.
        refusals: One line for each entry that was refused, not reproduced or could not be re-run.
        notes: One line for each entry outside the board, whose verdict is not written.
    """

    verdicts: list[dict[str, Any]]
    refusals: list[str]
    notes: list[str]


@dataclass(frozen=True)
class Worst:
    """The policy whose claim and re-run lie furthest apart, in standard errors of their difference."""

    task: str
    seed: int
    claimed: float
    rerun: float
    distance: float


def agreement(claimed: Floats, rerun: Floats, seed: int = 0, permutations: int = PERMUTATIONS) -> tuple[float, Floats]:
    """Tests whether claimed and re-run returns come from the same policies.

    Args:
        claimed: Claimed returns, shape [policies, episodes].
        rerun: Re-run returns, shape [policies, episodes of the re-run].
        seed: Seed of the permutations.
        permutations: Their number; the smallest p value is 1 / (permutations + 1).

    Returns:
        The p value of the permutation test on the sum of squared standardised differences, and the distance of each
        policy in standard errors, shape [policies].
    """
    together = np.concatenate([claimed, rerun], axis=1)
    count, size = claimed.shape[1], together.shape[1]
    spread = together.std(axis=1, ddof=1)
    # Policies whose returns never vary agree exactly: they add nothing to the statistic.
    scaled = (together - together.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)[:, None]
    unit = math.sqrt(1.0 / count + 1.0 / (size - count))
    mask = np.zeros(size)
    mask[:count] = 1.0
    rng = np.random.default_rng(seed)
    observed = _distances(scaled, mask[None], unit)[:, 0]
    draws = rng.permuted(np.tile(mask, (permutations, 1)), axis=1)
    statistics = np.square(_distances(scaled, draws, unit)).sum(axis=0)
    # A tiny slack: equal splits must count as equal in spite of rounding.
    exceeding = int((statistics >= np.square(observed).sum() * (1 - 1e-9)).sum())
    return (exceeding + 1) / (permutations + 1), np.abs(observed)


def _distances(scaled: Floats, masks: Floats, unit: float) -> Floats:
    """Mean of the first sample minus mean of the second, for each policy and split, in standard errors."""
    first = masks.sum(axis=1)
    sums = scaled @ masks.T
    totals = scaled.sum(axis=1, keepdims=True)
    return (sums / first - (totals - sums) / (masks.shape[1] - first)) / unit


def verify_entries(
    folders: Sequence[Path] | None,
    board: Path,
    plan: Plan | None = None,
    say: Callable[[str], None] | None = None,
) -> Verification:
    """Verifies entries one after another and writes a verdict for each entry of the board into `board/verdicts`.

    Places that change with a verdict are added to the board's history of places.

    Args:
        folders: Entry folders; every entry of the board when None. For a folder outside `board/submissions` no
            verdict is written: it would replace the one of a namesake.
        board: The leaderboard's folder.
        plan: How the entries are re-run; by the protocol, with a salt that is drawn, when None.
        say: Called with each note before anything runs.

    Raises:
        OffDynError: A folder does not exist, there is nothing to verify, this system has no sandbox, a verdict could
            not be written, or the history of places is damaged; nothing has run then.
    """
    chosen = entry_folders(board) if folders is None else [Path(folder) for folder in folders]
    if not chosen:
        raise OffDynError(f"no entries in '{board / 'submissions'}'")
    for folder in chosen:
        if not folder.exists():
            raise OffDynError(f"entry folder '{printable(folder)}' does not exist")
    require_sandbox()
    kept = [folder for folder in chosen if folder.resolve().parent == (board / "submissions").resolve()]
    for folder in kept:
        check_writable(verdict_path(board, folder.absolute().name))
    load_history(board)
    held = load_held(board)
    notes = [
        f"no verdict is written for '{printable(folder)}': it does not lie in '{board / 'submissions'}'"
        for folder in chosen
        if folder not in kept
    ]
    if say is not None:
        for note in notes:
            say(note)
    found, chosen_plan = Verification([], [], notes), plan or Plan()
    for folder in chosen:
        verdict = _verdict_or_refusal(folder.absolute(), chosen_plan)
        found.verdicts.append(verdict)
        if verdict["status"] not in (REPRODUCED, RETIRED):
            found.refusals.append(verdict["reason"])
        if "policies" in verdict and folder in kept:
            write_json(verdict_path(board, verdict["entry"]), verdict)
            add_step(board, verdict["date"], compute_standings(load_board(board)[0], held=held))
    return found


def _verdict_or_refusal(folder: Path, plan: Plan) -> dict[str, Any]:
    try:
        entry = load_entry(folder)
    except OffDynError as error:
        return {"entry": folder.name, "status": REFUSED, "reason": str(error)}
    if entry.protocol != protocol.PROTOCOL:
        reason = (
            f"entry '{entry.name}' is of protocol {entry.protocol}, retired; its verdict stays as it is. "
            f"Its policies are scored anew by: {renew_command(entry.name)}"
        )
        return {"entry": entry.name, "status": RETIRED, "reason": reason}
    try:
        found = sources(entry) if plan.perturbed else {}
    except OffDynError as error:
        # What is on this machine is at fault: that must not stand in a verdict on the entry.
        reason = f"entry '{entry.name}': {error}; or leave its robustness cells out with --no-perturbed"
        return {"entry": entry.name, "status": UNVERIFIED, "reason": reason}
    seed = evaluation_seed(entry, plan.salt)
    made = {"date": today(), "version": __version__}
    base = binding(entry) | made | {"episodes": plan.episodes, "salt": plan.salt, "seed": seed}
    try:
        return base | _findings(entry, plan, found)
    except OffDynError as error:
        return base | {"status": REFUSED, "reason": str(error)}


def _findings(entry: Entry, plan: Plan, sources: Mapping[str, Source]) -> dict[str, Any]:
    """Return status, reason, p values, worst policy, re-run returns and the isolation in force."""
    answers = rerun(entry, plan, sources)
    findings = _judge(entry, answers)
    if plan.perturbed:
        shifts = [shift.to_json() for shift in held_out_shifts(evaluation_seed(entry, plan.salt))]
        returns = {f"{one.result.task}/{one.result.seed}": one.held_out for one in answers}
        findings["held_out"] = {"shifts": shifts, "returns": returns}
    return findings | {"isolation": sorted(set.intersection(*(set(one.measures) for one in answers)))}


def _judge(entry: Entry, answers: Sequence[Rerun]) -> dict[str, Any]:
    claimed = np.array([result.returns for result in entry.results])
    reruns = [one.clean for one in answers]
    p_clean, distances = agreement(claimed, np.array(reruns, dtype=np.float64))
    p_values = {"clean": p_clean}
    again = {(one.result.task, one.result.seed, *cell): found for one in answers for cell, found in one.cells.items()}
    if again and entry.perturbed:
        p_values["perturbed"], _ = agreement(
            np.array([cell.returns for cell in entry.perturbed]),
            np.array([again[cell.task, cell.seed, cell.family, cell.level] for cell in entry.perturbed]),
        )
    worst = _worst(entry, reruns, distances)
    # Bonferroni over the clean and the perturbed test keeps the level of the entry as a whole.
    agrees = min(p_values.values()) * len(p_values) > 1.0 - protocol.VERIFICATION_LEVEL
    numbers = f"'{worst.task}' seed {worst.seed}: claimed {worst.claimed:.1f}, re-run {worst.rerun:.1f}"
    findings: dict[str, Any] = {
        "status": REPRODUCED if agrees else NOT_REPRODUCED,
        "reason": ("" if agrees else f"entry '{entry.name}' is not reproduced (p = {min(p_values.values()):.2g}); ")
        + f"worst {numbers}",
        "p_values": p_values,
        "worst": {**worst.__dict__},
        "returns": {f"{r.task}/{r.seed}": values for r, values in zip(entry.results, reruns, strict=True)},
    }
    if again:
        findings["perturbed"] = [
            {"task": task, "seed": seed, "family": family, "level": level, "returns": returns}
            for (task, seed, family, level), returns in again.items()
        ]
    return findings


def _worst(entry: Entry, reruns: list[list[float]], distances: Floats) -> Worst:
    index = int(distances.argmax())
    result = entry.results[index]
    claimed, rerun = float(np.mean(result.returns)), float(np.mean(reruns[index]))
    return Worst(result.task, result.seed, claimed, rerun, float(distances[index]))
