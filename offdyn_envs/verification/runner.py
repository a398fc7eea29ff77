"""Verifying environments: which checks belong to which, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from offdyn_envs.verification.other_checks import refrigerator_checks
from offdyn_envs.verification.results import Verification, run_checks
from offdyn_envs.verification.robot_checks import extra_missing, robot_checks
from offdyn_envs.verification.subjects import RobotSubject, Subject

__all__ = ["verify", "verify_all"]


def verify(subject: Subject) -> Verification:
    """Verify one environment.

    Args:
        subject: A named environment (`offdyn_envs.verification.subjects.find_subject`), or any robot under any shifts
            (`robot_subject` in the same module).

    Returns:
        What was found.
    """
    if not isinstance(subject, RobotSubject):
        return run_checks(subject.name, refrigerator_checks(subject))
    if missing := extra_missing(subject.robot):
        return Verification(subject.name, skipped=missing)
    return run_checks(subject.name, robot_checks(subject))


def verify_all(subjects: Sequence[Subject], done: Callable[[Verification], None]) -> list[Verification]:
    """Verify environments one after another.

    Args:
        subjects: The environments.
        done: Called with each result.

    Returns:
        The results.
    """
    found: list[Verification] = []
    for subject in subjects:
        found.append(verify(subject))
        done(found[-1])
    return found
