"""`offdyn data identify`: fit the simulator to logs, in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offdyn_envs.commands.options import Json

if TYPE_CHECKING:
    from offdyn_envs.datasets.identifying.identify import Errors, Identification

__all__ = ["identify"]


def identify(
    target: Annotated[str, typer.Argument(help="A task (its target), an id of a dataset, or a file of your own.")],
    free: Annotated[str, typer.Option(help="What to fit, such as gravity,friction=0.2..5,mass:torso.")],
    robot: Annotated[str | None, typer.Option(help="Robot of the logs, if the file does not say.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the shifts to this JSON file, for shifts=.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Maximum number of rows, evenly spaced.")] = 5000,
    horizon: Annotated[int, typer.Option(min=1, help="Steps to simulate from each row.")] = 1,
    profile: Annotated[str | None, typer.Option(help="Variant of the shifts; by default the dataset's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search's starting points.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Simulation threads; all cores when left out.")] = None,
    json_output: Json = False,
) -> None:
    """Fit gravity, masses and other parameters so that the simulator matches logged steps."""
    from offdyn_envs.datasets.identifying.identify import identify as fit
    from offdyn_envs.report import print_record

    found = fit(target, robot, free, rows=rows, horizon=horizon, profile=profile, seed=seed, num_threads=threads)
    if out is not None:
        found.save(out)
    if json_output:
        print_record(target, found.to_json(), True)
    else:
        _print(found, out)


def _print(found: Identification, out: Path | None) -> None:
    begin = "simulator states" if found.from_states else "observations (float32)"
    left_out = f", {found.left_out:,} left out" if found.left_out else ""
    print(f"{found.target}: {found.robot}, {found.rows:,} rows from {begin}{left_out}")
    width = max(len(item.name) for item in found.estimates)
    for item in found.estimates:
        told = "" if item.told else f"  CANNOT TELL: {item.note}"
        rows = "" if item.rows is None or not item.told else f"  told by {item.rows:,} rows"
        print(f"  {item.name:<{width}}  {item.value:.6g}  95% from {item.low:.6g} to {item.high:.6g}{rows}{told}")
    for name, errors in (("before", found.before), ("left", found.after)):
        print(f"  {name:<{width}}  {_said(errors)}")
    if out is not None:
        print(f"  shifts in {out}")


def _said(errors: Errors) -> str:
    later = "".join(f", {error:.4g} after {step}" for step, error in enumerate(errors.steps[1:], start=2))
    dimensions = " ".join(f"{error:.2g}" for error in errors.dimensions)
    return f"error {errors.steps[0]:.4g} of a step's change{later}; by dimension {dimensions}"
