"""What the `offdyn data` commands print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offdyn_envs.datasets.collecting.build import Built
from offdyn_envs.datasets.describing.derived import score, shift_size
from offdyn_envs.datasets.store.folders import data_root, find, local_ids, read_dataset, read_metadata
from offdyn_envs.datasets.store.manifest import compare, read_manifest, shipped_ids
from offdyn_envs.errors import OffDynError
from offdyn_envs.report import print_table
from offdyn_envs.robots import get_robot
from offdyn_envs.shifts import parse_shifts
from offdyn_envs.shipped import shipped_root
from offdyn_envs.tasks import DatasetId

__all__ = [
    "FEW",
    "TO_BUILD",
    "bar",
    "card_of",
    "inventory",
    "place_of",
    "print_built",
    "print_card",
    "print_inventory",
    "print_reports",
    "refuse_different",
]

TO_BUILD = "to build"
_BAR = 40
FEW = 40
"""Episodes up to which each of them is a dot, here and in pictures; more are bars."""


def bar(count: int, most: int) -> str:
    """Return one bar of a histogram in the terminal; whatever is counted at all is seen."""
    return "█" * round(_BAR * count / most) or ("▏" if count else "")


def inventory() -> list[dict[str, Any]]:
    """Return a row for every dataset that is here, shipped, or named by the manifest, sorted by id."""
    manifest = read_manifest()["datasets"]
    shipped, local = local_ids(shipped_root()), local_ids()
    names = {*manifest, *shipped, *local, *map(str, shipped_ids())}
    rows: list[dict[str, Any]] = []
    for name in sorted(names):
        place = "built" if name in local else "shipped" if name in shipped else TO_BUILD
        card = _card_or_reason(name) if place != TO_BUILD else manifest.get(name, {})
        returns = card.get("returns") or {}
        rows.append(
            {
                "dataset": name,
                "where": place,
                "rows": card.get("rows", ""),
                "episodes": card.get("episodes", ""),
                "mean return": returns.get("mean", ""),
                "sha256": card.get("sha256", ""),
                "problem": card.get("problem", ""),
            }
        )
    return rows


def _card_or_reason(name: str) -> dict[str, Any]:
    try:
        dataset = DatasetId.parse(name)
        folder = find(dataset)
        assert folder is not None
        return read_metadata(folder, dataset)["offdyn"]
    except OffDynError as error:
        return {"problem": str(error)}


def card_of(name: str) -> dict[str, Any]:
    """Return the card of a dataset that is here, else the manifest's.

    Args:
        name: Id of the dataset.

    Returns:
        The card, with "path" (empty where it has not been built), "manifest", the comparison with the manifest,
        "normalised_score" of the mean return (None without reference returns) and "shift_size" (None where it has not
        been built and the manifest does not know it; see `derived`).

    Raises:
        OffDynError: Unknown id, damaged, or neither here nor in the manifest.
    """
    dataset = DatasetId.parse(name)
    folder, reference = find(dataset), read_manifest()["datasets"].get(name)
    if folder is not None:
        card = read_metadata(folder, dataset)["offdyn"]
        data = read_dataset(folder, dataset, cache=folder.is_relative_to(data_root()))
        derived = {"normalised_score": score(card), "shift_size": shift_size(data)}
        return {**card, "path": str(folder), "manifest": compare(card, reference), **derived}
    if reference is None:
        raise OffDynError(f"dataset '{name}' is not in {data_root()}; build it with: offdyn data build {name}")
    derived = {"normalised_score": score(reference), "shift_size": reference.get("shift_size")}
    return {**reference, "path": "", "manifest": {"verdict": "not built here"}, **derived}


def print_card(card: Mapping[str, Any]) -> None:
    """Print a card for people: facts, histogram of returns, moments.

    Args:
        card: From `card_of`.
    """
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    console.print(f"[bold]{card['id']}[/bold]")
    for key, value in _facts(card).items():
        console.print(f"  [dim]{key:<12}[/dim] {escape(value)}", soft_wrap=True)
    if card["returns"]:
        console.print("  [dim]returns of whole episodes[/dim]")
        histogram = card["returns"]["histogram"]
        for line in _histogram_lines(histogram["edges"], histogram["counts"]):
            console.print(line)
    _print_moments(console, card["moments"])


def _histogram_lines(edges: Sequence[float], counts: Sequence[int]) -> list[str]:
    """Return a line with a dot for each of a few episodes, or bars for many."""
    if sum(counts) <= FEW:
        dots = "".join(" " if not count else "•" if count == 1 else str(min(count, 9)) for count in counts)
        return [f"  {edges[0]:.1f} |{' '.join(dots)}| {edges[-1]:.1f}  (episodes)"]
    return [
        f"  {low:10.1f} … {high:9.1f} {bar(count, max(counts))} {count}"
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _facts(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the lines of a card, in words."""
    robot, shifts = get_robot(card["robot"]), parse_shifts(card["shifts"] or None)
    return {
        "where": card["path"] or "not built here",
        "rows": f"{card['rows']:,} in {card['episodes']:,} episodes, {card['terminated_episodes']:,} ended by falling",
        "returns": _spread(card["returns"]),
        "score": _score(card["normalised_score"]),
        "lengths": _spread(card["lengths"]),
        "shifts": "; ".join(shift.describe(robot) for shift in shifts) or "none: the nominal robot",
        "shift size": _size(card["shift_size"]),
        "behaviour": _behaviours(card["behaviour"]),
        "MuJoCo": f"{card['versions']['mujoco']} on {card['platform']['system']} {card['platform']['machine']}",
        "model": card["model_sha256"],
        "SHA-256": card["sha256"],
        "manifest": card["manifest"]["verdict"],
        "licence": card["licence"],
        "rebuild": card["rebuild"],
    }


def _spread(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return "no whole episode"
    se = f" ± {values['se']:.1f} (SE)" if values["se"] is not None else ""
    return f"mean {values['mean']:.1f}{se}, from {values['min']:.1f} to {values['max']:.1f}"


def _score(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return "no reference returns for these dynamics, or no whole episode"
    se = "" if values["se"] is None else f" ± {values['se']:.1f} (SE)"
    return f"{values['mean']:.1f}{se}, where 0 is the random policy and 100 the expert"


def _size(size: float | None) -> str:
    if size is None:
        return "measured on the stored states once it is built"
    return f"{size:.3g}: mean change of the next observation, in standard deviations of the nominal one"


def _behaviours(behaviours: Sequence[Mapping[str, Any]]) -> str:
    """Return one behaviour after the other; of many, the first and the last."""
    if len(behaviours) <= 3:
        return "; ".join(map(_behaviour, behaviours))
    first, last = behaviours[0], behaviours[-1]
    return f"{len(behaviours)} policies with equal shares, from {_behaviour(first)} to {_behaviour(last)}"


def _behaviour(facts: Mapping[str, Any]) -> str:
    returns = facts.get("returns") or {}
    measured = (
        f", policy return {returns['mean']:.1f} ± {returns['se']:.1f}" if {"mean", "se"} <= returns.keys() else ""
    )
    digest = f", policy {facts['policy_sha256'][:12]}" if "policy_sha256" in facts else ""
    return f"{facts['name']}, {facts['rows']:,} rows, {facts['sampling']}{digest}{measured}"


def _print_moments(console: Any, moments: Mapping[str, Mapping[str, list[float]]]) -> None:
    from rich.table import Table

    table = Table(title="per dimension", title_justify="left", title_style="dim")
    for column in ("array", "dim", "mean", "std", "min", "max"):
        table.add_column(column, justify="left" if column == "array" else "right")
    for name, values in moments.items():
        columns = [values[key] for key in ("mean", "std", "min", "max")]
        for index, numbers in enumerate(zip(*columns, strict=True)):
            table.add_row(name, str(index), *(f"{number:.4g}" for number in numbers))
    console.print(table)


def place_of(name: str) -> Path:
    """Return the folder of a dataset that is here.

    Args:
        name: Id of the dataset.

    Returns:
        Its folder.

    Raises:
        OffDynError: Unknown id, or not here; the message names the command that builds it.
    """
    dataset = DatasetId.parse(name)
    folder = find(dataset)
    if folder is None:
        raise OffDynError(f"dataset '{name}' is not on this machine; build it with: offdyn data build {name}")
    return folder


def print_inventory(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print the list of datasets; what is damaged follows the table.

    Args:
        rows: From `inventory`.
        as_json: Print a JSON list instead.
    """
    if as_json:
        print_table("Datasets", rows, True)
        return
    if not rows:
        print(f"no datasets in {data_root()}; build one: offdyn data build offdyn/hopper/nominal/random-5k-v0")
        return
    columns = ("dataset", "where", "episodes", "mean return")
    print_table("Datasets", [{key: row[key] for key in columns} for row in rows], False)
    for row in rows:
        if row["problem"]:
            print(f"damaged: {row['problem']}")


def print_built(built: Sequence[Built], as_json: bool) -> None:
    """Print what a build did.

    Args:
        built: One entry per dataset.
        as_json: Print a JSON list instead.
    """
    rows = [_built_row(item) for item in built]
    if as_json:
        print_table("Built", rows, True)
        return
    for item, row in zip(built, rows, strict=True):
        done = f"built in {item.seconds:.1f} s" if item.built else "was there"
        returns = "no whole episode" if row["mean_return"] is None else f"mean return {row['mean_return']:.1f}"
        print(f"{row['dataset']}: {done}, {item.rows:,} rows, {returns}, manifest: {row['manifest']}")
        print(f"  {item.path}")


def _built_row(item: Built) -> dict[str, Any]:
    card = read_metadata(item.path, item.id)["offdyn"]
    return {
        "dataset": str(item.id),
        "built": item.built,
        "seconds": item.seconds,
        "rows": item.rows,
        "mean_return": card["returns"]["mean"] if card["returns"] else None,
        "manifest": compare(card, read_manifest()["datasets"].get(str(item.id)))["verdict"],
        "sha256": item.sha256,
        "path": str(item.path),
    }


def print_reports(reports: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print what verification found.

    Args:
        reports: One per dataset.
        as_json: Print a JSON list instead.
    """
    if as_json:
        print_table("Verified", reports, True)
        return
    for report in reports:
        gap = "" if report["mode"] == "exact" else f", largest gap {report['largest_gap']:.2g}"
        print(f"{report['id']}: verified ({report['mode']}{gap}; manifest: {report['manifest']['verdict']})")
        for check in report["checks"]:
            print(f"  ok  {check}")


def refuse_different(reports: Sequence[Mapping[str, Any]]) -> None:
    """Fail where a dataset is not the one of the manifest.

    Args:
        reports: One per dataset.

    Raises:
        OffDynError: Naming the datasets and the gaps.
    """
    found = [_gaps(report) for report in reports if report["manifest"]["verdict"] == "different"]
    if found:
        raise OffDynError(f"not what the manifest describes: {'; '.join(found)}")


def _gaps(report: Mapping[str, Any]) -> str:
    gaps = report["manifest"]
    returns = "" if gaps["return_gap"] is None else f"mean returns {gaps['return_gap']:.2g} SE apart, "
    return (
        f"{report['id']} ({returns}means up to {gaps['moment_gap']:.2g} std apart, limit {gaps['moment_limit']:.2g}; "
        "the same recipe on the same platform owes equal arrays)"
    )
