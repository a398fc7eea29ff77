"""`offdyn dev`: what maintainers of the suite need and users do not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["environments_page"]


def environments_page(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The page, for instance docs/environments.md.")],
) -> None:
    """Write the page of all environments from the published figures of `offdyn envs verify`."""
    from offdyn_envs.verification.page import main

    main(file)
    typer.echo(file)
