"""Re-runs every policy of an entry in the sandbox and judges the entry as a whole.

The question is one: could these claimed returns and these re-run returns come from the same policies? Under an honest
claim the two samples of a policy are exchangeable, so one permutation test over all policies of the entry decides,
with no assumption about how returns are distributed (a Hopper that falls once in twenty episodes is far from normal)
and with both errors counted: the claim is a sample too. All policies are permuted together, episode by episode,
because they share their reset seeds.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.atomic import write_json
from offdyn_envs.benchmark.entries.submissions import CellResult, Entry, Result, entry_folders, load_entry
from offdyn_envs.benchmark.entries.verdicts import (
    NOT_REPRODUCED,
    REFUSED,
    REPRODUCED,
    binding,
    check_writable,
    verdict_path,
)
from offdyn_envs.benchmark.gate.printable import printable
from offdyn_envs.benchmark.sandbox.sandbox import Limits, require_sandbox, run_job
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.protocol import ATTACKS
from offdyn_envs.benchmark.scoring.rollouts import target_sigma
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import get_dynamics, get_task

__all__ = [
    "UNVERIFIED",
    "Plan",
    "Verification",
    "Worst",
    "agreement",
    "evaluation_seed",
    "verify_entries",
    "verify_entry",
]

Floats = NDArray[np.float64]

PERMUTATIONS = 20_000
UNVERIFIED = "not verified"
"""State of an entry that could not be re-run for a reason that is not its own; no verdict is written."""


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
class Plan:
    """How an entry is re-run.

    Attributes:
        episodes: Clean episodes per policy, at least 2.
        perturbed: Whether the robustness cells are re-run as well.
        salt: Mixed into the seeds.
        limits: Replaces the limits of each sandboxed process.
    """

    episodes: int = protocol.CLEAN_EPISODES
    perturbed: bool = True
    salt: str = ""
    limits: Limits | None = None

    def __post_init__(self) -> None:
        if self.episodes < 2:
            raise OffDynError(f"verification over {self.episodes} episodes: at least 2 are needed")


@dataclass(frozen=True)
class Worst:
    """The policy whose claim and re-run lie furthest apart, in standard errors of their difference."""

    task: str
    seed: int
    claimed: float
    rerun: float
    distance: float


def evaluation_seed(entry: Entry, salt: str = "") -> int:
    """Returns the first reset seed of an entry's re-run.

    It follows from all policies of the entry and from a salt (a commit made after the submission), so that nobody can
    tune a policy to it or memorise it.
    """
    parts = [f"protocol {protocol.PROTOCOL}", salt, *sorted(entry.policy_hashes.values())]
    return int.from_bytes(hashlib.sha256("\n".join(parts).encode()).digest()[:6], "big")


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

    Args:
        folders: Entry folders; every entry of the board when None. For a folder outside `board/submissions` no
            verdict is written: it would replace the one of a namesake.
        board: The leaderboard's folder.
        plan: How the entries are re-run; by the protocol when None.
        say: Called with each note before anything runs.

    Raises:
        OffDynError: A folder does not exist, there is nothing to verify, this system has no sandbox, or a verdict could
            not be written; nothing has run then.
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
    notes = [
        f"no verdict is written for '{printable(folder)}': it does not lie in '{board / 'submissions'}'"
        for folder in chosen
        if folder not in kept
    ]
    if say is not None:
        for note in notes:
            say(note)
    found = Verification([], [], notes)
    for folder in chosen:
        verdict = _verdict_or_refusal(folder.absolute(), plan or Plan())
        found.verdicts.append(verdict)
        if verdict["status"] != REPRODUCED:
            found.refusals.append(verdict["reason"])
        if "policies" in verdict and folder in kept:
            write_json(verdict_path(board, verdict["entry"]), verdict)
    return found


def _verdict_or_refusal(folder: Path, plan: Plan) -> dict[str, Any]:
    try:
        entry = load_entry(folder)
    except OffDynError as error:
        return {"entry": folder.name, "status": REFUSED, "reason": str(error)}
    try:
        sigmas = _sigmas(entry) if plan.perturbed else {}
    except OffDynError as error:
        # The data of this machine are at fault: that must not stand in a verdict on the entry.
        reason = f"entry '{entry.name}': {error}; or leave its robustness cells out with --no-perturbed"
        return {"entry": entry.name, "status": UNVERIFIED, "reason": reason}
    seed = evaluation_seed(entry, plan.salt)
    base = binding(entry) | {"episodes": plan.episodes, "salt": plan.salt, "seed": seed}
    try:
        return base | _findings(entry, plan, sigmas)
    except OffDynError as error:
        return base | {"status": REFUSED, "reason": str(error)}


def verify_entry(entry: Entry, plan: Plan | None = None) -> dict[str, Any]:
    """Re-runs the policies of one entry.

    Args:
        entry: A checked entry.
        plan: How it is re-run; by the protocol when None.

    Returns:
        The verdict's findings: status, reason, p values, worst policy, re-run returns and the isolation in force.

    Raises:
        OffDynError: A policy breaks a rule of the gate, does not match its hash, fails, or exceeds a limit; or an
            attack needs a target dataset that is not on this machine.
    """
    chosen = plan or Plan()
    return _findings(entry, chosen, _sigmas(entry) if chosen.perturbed else {})


def _findings(entry: Entry, plan: Plan, sigmas: Mapping[str, list[float]]) -> dict[str, Any]:
    from offdyn_envs.progress import progress

    answers: list[dict[str, Any]] = []
    # A file that is refused is found in seconds, not after hours of the others.
    with progress(f"look at {entry.name}", len(entry.results)) as advance:
        for result in entry.results:
            _run(entry, result, [], plan)
            advance(1)
    cells = [_cells_of(entry, result) if plan.perturbed else [] for result in entry.results]
    with progress(f"verify {entry.name}", len(entry.results)) as advance:
        for result, own in zip(entry.results, cells, strict=True):
            answers.append(_run(entry, result, _asked(entry, own, plan), plan, sigmas.get(result.task)))
            advance(1)
    reruns = [answer["returns"][0] for answer in answers]
    findings = _judge(entry, reruns, [answer["returns"][1:] for answer in answers], cells)
    return findings | {"isolation": sorted(set.intersection(*(set(answer["measures"]) for answer in answers)))}


def _sigmas(entry: Entry) -> dict[str, list[float]]:
    """Returns the standard deviations [|S|] of the target dataset of every task that the entry reports an attack on."""
    tasks = sorted({cell.task for cell in entry.perturbed if cell.family in ATTACKS})
    return {task: target_sigma(get_task(task)).tolist() for task in tasks}


def _asked(entry: Entry, cells: Sequence[CellResult], plan: Plan) -> list[dict[str, Any]]:
    """Returns the episodes that the sandbox is asked for: the clean ones first, then those of each cell."""
    seed = evaluation_seed(entry, plan.salt)
    clean = {"family": None, "level": None, "episodes": plan.episodes, "seed": seed}
    again = [{"family": c.family, "level": c.level, "episodes": entry.cell_episodes, "seed": seed} for c in cells]
    return [clean, *again]


def _run(
    entry: Entry, result: Result, cells: list[dict[str, Any]], plan: Plan, sigma: list[float] | None = None
) -> dict[str, Any]:
    """Passes a policy and its critic through the gate and the probe, in the sandbox, and runs the episodes of cells."""
    task = get_task(result.task)
    job: dict[str, Any] = {
        "robot": task.robot,
        "shifts": [shift.to_json() for shift in get_dynamics(task.robot, task.scoring)],
        "policy": str(entry.folder / result.policy),
        "critic": None if result.critic is None else str(entry.folder / result.critic),
        "sigma": sigma,
        "cells": cells,
    }
    label = f"entry '{entry.name}': task '{result.task}' seed {result.seed}"
    answer = run_job(job, plan.limits or _limits(task.robot, cells), label)
    _check_answer(answer, result, [cell["episodes"] for cell in cells], label)
    return answer


def _limits(robot: str, cells: Sequence[Mapping[str, Any]]) -> Limits:
    """Generous for an honest policy of the largest robot on a slow machine, and still an end for the others."""
    horizon = get_robot(robot).max_episode_steps
    inferences = sum(cell["episodes"] * horizon * (51 if cell["family"] == "min-q" else 1) for cell in cells)
    steps = sum(cell["episodes"] * horizon for cell in cells)
    cpu = round(60 + 2e-3 * steps + 5e-4 * inferences)
    return Limits(cpu=cpu, wall=120.0 + 6.0 * cpu)


def _check_answer(answer: Mapping[str, Any], result: Result, lengths: list[int], label: str) -> None:
    if answer["sha256"] != result.policy_sha256 or answer["critic_sha256"] != result.critic_sha256:
        raise OffDynError(f"{label}: the file that ran is not the one that the entry names")
    returns = answer["returns"]
    if [len(values) for values in returns] != lengths:
        raise OffDynError(f"{label}: the sandbox answered with {[len(values) for values in returns]} returns")
    failed = sum(value is None for values in returns for value in values)
    if failed:
        raise OffDynError(f"{label}: {failed} episodes failed because the policy gave a non-finite action")


def _cells_of(entry: Entry, result: Result) -> list[CellResult]:
    return [cell for cell in entry.perturbed if (cell.task, cell.seed) == (result.task, result.seed)]


def _judge(
    entry: Entry, reruns: list[list[float]], cell_reruns: list[list[list[float]]], cells: list[list[CellResult]]
) -> dict[str, Any]:
    claimed = np.array([result.returns for result in entry.results])
    p_clean, distances = agreement(claimed, np.array(reruns, dtype=np.float64))
    p_values = {"clean": p_clean}
    pairs = [
        (cell.returns, again)
        for own, runs in zip(cells, cell_reruns, strict=True)
        for cell, again in zip(own, runs, strict=True)
    ]
    if pairs:
        p_values["perturbed"], _ = agreement(
            np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
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
    if pairs:
        findings["perturbed"] = [
            {"task": cell.task, "seed": cell.seed, "family": cell.family, "level": cell.level, "returns": again}
            for own, runs in zip(cells, cell_reruns, strict=True)
            for cell, again in zip(own, runs, strict=True)
        ]
    return findings


def _worst(entry: Entry, reruns: list[list[float]], distances: Floats) -> Worst:
    index = int(distances.argmax())
    result = entry.results[index]
    claimed, rerun = float(np.mean(result.returns)), float(np.mean(reruns[index]))
    return Worst(result.task, result.seed, claimed, rerun, float(distances[index]))
