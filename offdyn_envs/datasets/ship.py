"""What the repository ships: the 5,000-row medium datasets of every behaviour that it holds, and the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offdyn_envs.datasets.build import Built, build
from offdyn_envs.datasets.manifest import record
from offdyn_envs.datasets.store import read_metadata
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import ROBOTS
from offdyn_envs.shipped import shipped_root
from offdyn_envs.tasks import DYNAMICS, DatasetId

__all__ = ["checkout", "record_built", "ship", "shipped_ids"]


def shipped_ids() -> list[DatasetId]:
    """Return the datasets that the repository ships: medium, 5,000 rows, of every dynamics with a medium policy."""
    policies = shipped_root() / "behaviours"
    return [
        DatasetId(robot, dynamics, "medium", "5k")
        for robot in ROBOTS
        for dynamics in DYNAMICS[robot]
        if (policies / robot / dynamics / "medium.safetensors").is_file()
    ]


def ship(
    datasets: list[DatasetId] | None = None, *, force: bool = False, num_threads: int | None = None, quiet: bool = False
) -> list[Built]:
    """Build what the repository ships into `datasets/` and put the cards into the manifest.

    Args:
        datasets: By default `shipped_ids()`.
        force: Replace what is there.
        num_threads: Threads of the simulation.
        quiet: No progress bars.

    Returns:
        One entry per dataset.

    Raises:
        OffDynError: This is no checkout, or a dataset cannot be built.
    """
    root = checkout()
    chosen = shipped_ids() if datasets is None else datasets
    if not chosen:
        raise OffDynError(f"nothing to ship: {root / 'behaviours'} holds no medium policy")
    built = [
        build(dataset, root=root, force=force, ship=True, num_threads=num_threads, quiet=quiet) for dataset in chosen
    ]
    record({str(item.id): _card(item.path) for item in built}, shipped=True)
    return built


def record_built(built: list[Built]) -> None:
    """Put the cards of datasets that are built by command into the manifest; those of shipped ones stay as they are.

    Args:
        built: What `build` returned.

    Raises:
        OffDynError: This is no checkout.
    """
    root = checkout()
    cards = {str(item.id): _card(item.path) for item in built if not (root / str(item.id)).exists()}
    record(cards, shipped=False)


def _card(path: Path) -> dict[str, Any]:
    return read_metadata(path)["offdyn"]


def checkout() -> Path:
    """Return `datasets/` of the checkout that runs.

    Raises:
        OffDynError: The code that runs belongs to an installed package.
    """
    root = shipped_root()
    if root.name != "datasets":
        raise OffDynError(f"{root} belongs to an installed package; expected a checkout of the repository")
    return root
