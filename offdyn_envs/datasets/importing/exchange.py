"""What `offdyn data import`, `export` and the commands that meet imported datasets do and print."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offdyn_envs.datasets.describing.pictures import draw_card
from offdyn_envs.datasets.importing import import_file
from offdyn_envs.datasets.importing.exporters import export
from offdyn_envs.datasets.importing.own import NO_ROBOT, import_own, is_own
from offdyn_envs.datasets.importing.pairs import load_named
from offdyn_envs.datasets.own.contract import Contract
from offdyn_envs.datasets.own.spec import Spec
from offdyn_envs.datasets.store.imported import (
    imported_ids,
    is_imported,
    load_imported,
    read_imported_card,
)
from offdyn_envs.errors import OffDynError
from offdyn_envs.report import print_record

__all__ = ["imported_rows", "print_imported", "run_export", "run_import", "split_imported", "verify_all"]


def run_import(path: Path, as_json: bool, *, spec: Path | None, columns: Mapping[str, Any], **options: Any) -> None:
    """Import a file and print what came of it.

    Args:
        path: The file.
        as_json: Print the card as JSON instead.
        spec: What its columns are, as a YAML or JSON file.
        columns: What is said of them beside it; None says nothing.
        options: Of `import_file`.

    Raises:
        OffDynError: As `import_file` and `import_own`; or columns are named of a file of a known robot.
    """
    said = Spec.of(spec, **columns)
    robot = options["robot"]
    if is_own(path, robot, said != Spec()):
        clipped = {"clip_actions": True} if options["clip_actions"] else {}
        done = import_own(path, Spec.of(said, **clipped), **_of_own(options))
    elif said != Spec():
        raise OffDynError(f"columns are named, but --robot {robot} says what they are; --robot {NO_ROBOT} is allowed")
    else:
        done = import_file(path, **options)
    card = {**done.card, "path": str(done.path), "imported": done.imported}
    if as_json:
        print(json.dumps(card, indent=2, allow_nan=False))
        return
    print(f"{card['id']}: {'imported' if done.imported else 'was there'}, {_size(card)}")
    for line in _findings(card):
        print(f"  {line}")
    print(f"  {done.path}")


def _of_own(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that data of any robot have; refuse the others."""
    for key in ("dynamics", "layout", "contact_forces", "no_fall_bonus"):
        if options[key]:
            raise OffDynError(f"--{key.replace('_', '-')} is for robots of this suite; name one with --robot")
    return {key: options[key] for key in ("quality", "out", "sha256", "force")}


def _size(card: Mapping[str, Any]) -> str:
    returns = f"mean return {card['all_returns']['mean']:.1f} over all episodes"
    if card["robot"] is None:  # Nobody knows its time limit, and so which episodes are whole.
        size = f"{len(card['contract']['observations'])} observations and {len(card['contract']['actions'])} actions"
        ended = f"{card['terminated_episodes']:,} terminated"
        return f"{card['rows']:,} rows of {size} in {card['episodes']:,} episodes, {ended}, {returns}"
    whole = (
        "" if card["returns"] is None else f", {card['returns']['mean']:.1f} over the {card['whole_episodes']} whole"
    )
    return f"{card['rows']:,} rows of {card['robot']} in {card['episodes']:,} episodes, {returns}{whole}"


def _findings(card: Mapping[str, Any]) -> list[str]:
    """Return what a user should know of an import, one line each."""
    dropped = [f"dropped {count:,} {what}" for what, count in card["dropped"].items() if count]
    counted = [f"{count:,} {what}" for what, count in card["counted"].items() if count]
    if card["robot"] is None:
        return [*_understood(card), *dropped, *counted, *card["notes"]]
    unknown = [] if card["dynamics"] else ["dynamics unknown: import with --dynamics to score agents on it as a target"]
    return [*dropped, *counted, *card["notes"], *unknown]


def _understood(card: Mapping[str, Any]) -> list[str]:
    """Say what was taken for what, one line each."""
    contract = Contract.from_json(card["contract"])
    bounds = set(zip(contract.action_low, contract.action_high, strict=True))
    shown = [f"[{low:g}, {high:g}]" for low, high in zip(contract.action_low, contract.action_high, strict=True)]
    step = [] if contract.time_step is None else [f"time step {contract.time_step:g} s"]
    columns = [f"{role.replace('_', ' ')} from {names}" for role, names in card["columns"].items()]
    return [*columns, f"bounds of actions {shown[0] if len(bounds) == 1 else ', '.join(shown)}", *step]


def run_export(name: str, path: Path, layout: str, *, force: bool, unpadded: bool) -> None:
    """Export a dataset and say so.

    Args:
        name: Id of the dataset.
        path: The file.
        layout: "d4rl" or "odrl".
        force: Replace an existing file.
        unpadded: Leave Ant's 27 columns as they are.
    """
    dataset = load_named(name)
    export(dataset, path, layout, force=force, pad_ant=not unpadded)
    print(f"{path}: {name}, {len(dataset):,} rows in the layout of {layout}, {path.stat().st_size / 1e6:.1f} MB")


def imported_rows() -> list[dict[str, Any]]:
    """Return a row for every imported dataset, with the columns of `show.inventory`."""
    return [_row(name) for name in imported_ids()]


def _row(name: str) -> dict[str, Any]:
    try:
        card, problem = read_imported_card(name) or {}, ""
    except OffDynError as error:
        card, problem = {}, str(error)
    return {
        "dataset": name,
        "where": "imported",
        "rows": card.get("rows", ""),
        "episodes": card.get("episodes", ""),
        "mean return": (card.get("returns") or card.get("all_returns") or {}).get("mean", ""),
        "sha256": card.get("sha256", ""),
        "problem": problem,
    }


def print_imported(name: str, as_json: bool, picture: Path | None = None) -> None:
    """Print the card of an imported dataset.

    Args:
        name: Its id.
        as_json: Print JSON instead.
        picture: Draw returns and lengths of its episodes into this PNG file, too.

    Raises:
        OffDynError: It is not there, or damaged, or there is nothing to draw.
    """
    dataset = load_imported(name)
    card = dataset.card
    if picture is not None:
        draw_card(card, picture)
    if as_json:
        print_record(name, {**card, "path": str(dataset.path)}, True)
        return
    print(f"{name}: {_size(card)}")
    for line in (*_findings(card), f"from {card['source']['file']}, layout {card['source']['layout']}"):
        print(f"  {line}")
    print(f"  SHA-256 of the file {card['source']['sha256']}")
    print(f"  {dataset.path}")


def split_imported(names: list[str]) -> tuple[list[str], list[str]]:
    """Return the names of the project's own datasets and tasks, and those of imported datasets."""
    return [name for name in names if not is_imported(name)], [name for name in names if is_imported(name)]


def verify_all(names: list[str], as_json: bool) -> list[dict[str, Any]]:
    """Test every checksum of imported datasets; there is nothing to simulate them against.

    Args:
        names: Their ids.
        as_json: Print nothing.

    Returns:
        One report each, with the keys of `check.Report`.

    Raises:
        OffDynError: The first file that is missing or not as it was imported.
    """
    reports: list[dict[str, Any]] = []
    for name in names:
        dataset = load_imported(name)
        checks = ["metadata", "SHA-256, type and shape of every array"]
        report = {"id": name, "path": str(dataset.path), "rows": 0, "mode": "checksums", "largest_gap": 0.0}
        reports.append({**report, "checks": checks, "manifest": {"verdict": "imported"}})
        if not as_json:
            print(f"{name}: verified ({len(dataset):,} imported rows: {', '.join(checks)})")
    return reports
