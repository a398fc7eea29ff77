"""`offdyn envs verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offdyn_envs.commands.options import Json

__all__ = ["envs_verify"]


def envs_verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Environments; all named ones by default.")
    ] = None,
    json_output: Json = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write the results to this JSON file, unless a check failed.")
    ] = None,
) -> None:
    """Verify that environments are what they claim to be, and measure the size of their shifts.

    share: share of the transitions that the shift changes in any bit, on 2,000 fixed states that random actions visit
    on the nominal robot. size: the mean change of the next state there, per dimension in units of its standard
    deviation over these states. 50 steps: the same after 50 steps, from 100 of them. Exit status 1 where a check
    failed.
    """
    from offdyn_envs.atomic import refuse_foreign
    from offdyn_envs.progress import progress
    from offdyn_envs.verification.results import FIRST, Verification, freeze
    from offdyn_envs.verification.runner import verify_all
    from offdyn_envs.verification.subjects import find_subject, named_subjects
    from offdyn_envs.verification.table import print_failures, print_verifications

    if out is not None:
        refuse_foreign(out, lambda begins: begins.split()[:2] == FIRST, "a file of this command")
    subjects = [find_subject(name) for name in names] if names else list(named_subjects().values())
    with progress("verifying environments", len(subjects), resumes=False) as advance:

        def done(one: Verification) -> None:
            advance(1, last=one.name)

        found = verify_all(subjects, done)
    print_verifications(found, json_output)
    if any(one.failures for one in found):
        print_failures(found)
        raise typer.Exit(1)
    if out is not None:
        freeze(found, out)
