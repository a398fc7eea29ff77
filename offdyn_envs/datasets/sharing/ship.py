"""What the repository ships: the 5,000-row medium datasets of every behaviour, their cards, pictures and page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offdyn_envs.datasets.collecting.build import Built, build, ingredients
from offdyn_envs.datasets.describing.derived import score, shift_size
from offdyn_envs.datasets.describing.pictures import draw_card, drawn_from, picture_path
from offdyn_envs.datasets.sharing.readme import write_readme
from offdyn_envs.datasets.store.folders import find, read_dataset, read_metadata
from offdyn_envs.datasets.store.manifest import SHIPPED_ROWS, read_manifest, record, shipped_ids
from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, model_hash
from offdyn_envs.robots import get_robot
from offdyn_envs.shipped import shipped_root
from offdyn_envs.tasks import ROWS, DatasetId, get_dynamics

__all__ = ["checkout", "record_built", "ship"]


def ship(
    datasets: list[DatasetId] | None = None, *, force: bool = False, num_threads: int | None = None, quiet: bool = False
) -> list[Built]:
    """Bring `datasets/` up to date: build what is missing or outdated, then write manifest, pictures and README.md.

    A dataset is outdated where its policy, the policy's card or the compiled model has changed.

    Args:
        datasets: By default `shipped_ids()`.
        force: Build all of them anew.
        num_threads: Threads of the simulation.
        quiet: No progress bars.

    Returns:
        One entry per dataset.

    Raises:
        OffDynError: This is no checkout, a dataset is too large to be shipped, or one cannot be built.
    """
    root = checkout()
    chosen = shipped_ids() if datasets is None else datasets
    _refuse_large(chosen)
    if not chosen:
        raise OffDynError(f"nothing to ship: {root / 'behaviours'} holds no medium policy")
    built = [
        build(
            dataset,
            root=root,
            force=force or _outdated(dataset, root),
            ship=True,
            num_threads=num_threads,
            quiet=quiet,
        )
        for dataset in chosen
    ]
    known = read_manifest()["datasets"]
    record({str(item.id): _entry(item, known.get(str(item.id))) for item in built}, shipped=True)
    _renew_scores()
    _draw(root)
    write_readme(root)
    return built


def _refuse_large(datasets: list[DatasetId]) -> None:
    """Refuse datasets that would make the repository large, before any of them is built."""
    limit = ROWS[SHIPPED_ROWS]
    for dataset in datasets:
        if dataset.row_count > limit:
            raise OffDynError(
                f"dataset '{dataset}' has {dataset.row_count:,} rows, and the repository ships at most {limit:,}; "
                f"build it with: offdyn data build {dataset} --record"
            )


def _outdated(dataset: DatasetId, root: Path) -> bool:
    """Say whether a dataset is there but would come out otherwise today."""
    folder = find(dataset, root)
    if folder is None:
        return False
    card = read_metadata(folder, dataset)["offdyn"]
    model = compile_model(get_robot(dataset.robot), get_dynamics(dataset.robot, dataset.dynamics))
    behaviour = [part.facts for part in ingredients(dataset)]
    return "metadata_sha256" not in card or card["behaviour"] != behaviour or card["model_sha256"] != model_hash(model)


def record_built(built: list[Built]) -> None:
    """Put the cards of datasets that are built by command into the manifest; those of shipped ones stay as they are.

    Args:
        built: What `build` returned.

    Raises:
        OffDynError: This is no checkout.
    """
    root, known = checkout(), read_manifest()["datasets"]
    cards = {
        str(item.id): _entry(item, known.get(str(item.id))) for item in built if not (root / str(item.id)).exists()
    }
    record(cards, shipped=False)


def _entry(item: Built, known: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the manifest holds of a dataset: its card, its score and the size of its shift."""
    card = read_metadata(item.path)["offdyn"]
    same = known is not None and not item.built and known["sha256"] == card["sha256"]
    size = known.get("shift_size") if known is not None and same else None
    if size is None:
        size = shift_size(read_dataset(item.path, item.id, cache=(item.path / "flat").is_dir()))
    return {**card, "normalised_score": score(card), "shift_size": size}


def _renew_scores() -> None:
    """Bring the manifest's scores up to date: reference returns come later than some datasets, and improve."""
    for shipped in (True, False):
        cards = {name: card for name, card in read_manifest()["datasets"].items() if card["shipped"] == shipped}
        record({name: {**card, "normalised_score": score(card)} for name, card in cards.items()}, shipped=shipped)


def _draw(root: Path) -> None:
    """Draw every dataset of the manifest, except where the picture shows these very arrays."""
    for name, card in read_manifest()["datasets"].items():
        path = picture_path(root, name)
        if card["returns"] and drawn_from(path) != card["sha256"]:
            draw_card(card, path)


def checkout() -> Path:
    """Return `datasets/` of the checkout that runs.

    Raises:
        OffDynError: The code that runs belongs to an installed package.
    """
    root = shipped_root()
    if root.name != "datasets":
        raise OffDynError(f"{root} belongs to an installed package; expected a checkout of the repository")
    return root
