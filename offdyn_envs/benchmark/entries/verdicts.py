"""Verdicts: what the suite found when it re-ran an entry, kept outside the entry and bound to what was run.

A verdict holds for exactly the policies, claims, protocol and verifier that it names; one that is bound to an entry
but damaged is refused with its file's name, and the entry counts as not verified.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offdyn_envs.benchmark.entries.schemas import VERDICT_SCHEMA, schema_fault
from offdyn_envs.benchmark.entries.submissions import Entry
from offdyn_envs.benchmark.gate.strict_json import read_json
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.errors import OffDynError

__all__ = ["NOT_REPRODUCED", "REFUSED", "REPRODUCED", "binding", "check_writable", "load_verdict", "verdict_path"]

REPRODUCED, NOT_REPRODUCED, REFUSED = "reproduced", "not reproduced", "refused"


def verdict_path(board: Path, name: str) -> Path:
    """Returns where the verdict on an entry lies: outside the entry, which can therefore not carry its own."""
    return board / "verdicts" / f"{name}.json"


def check_writable(path: Path) -> None:
    """See whether a verdict could be written, and leave nothing behind.

    Args:
        path: Where it would lie.

    Raises:
        OffDynError: It could not; the line says why.
    """
    place = next(folder for folder in path.parents if folder.exists() or folder.is_symlink())
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OffDynError(f"verdict '{path}' cannot be written: {error.strerror or error}; nothing was run") from None


def binding(entry: Entry) -> dict[str, Any]:
    """Returns what a verdict must name to hold for an entry."""
    return {
        "entry": entry.name,
        "protocol": entry.protocol,
        "verifier": protocol.VERIFIERS[entry.protocol],
        "claims": entry.digest(),
        "policies": entry.policy_hashes,
    }


def load_verdict(board: Path, entry: Entry) -> Mapping[str, Any] | None:
    """Reads the verdict on an entry.

    Args:
        board: The leaderboard's folder.
        entry: A checked entry.

    Returns:
        The verdict, whole and consistent, or None when there is none for exactly these claims, policies and versions.

    Raises:
        OffDynError: The file is no strict JSON object, or is bound to the entry and lacks or misstates something.
    """
    path = verdict_path(board, entry.name)
    if not path.exists():
        return None
    verdict = read_json(path, f"verdict '{path}'")
    if not isinstance(verdict, dict):
        raise OffDynError(f"verdict '{path}' is no JSON object")
    if any(verdict.get(key) != value for key, value in binding(entry).items()):
        return None
    fault = schema_fault(verdict, VERDICT_SCHEMA) or _mismatch(verdict, entry)
    if fault is not None:
        raise OffDynError(f"verdict '{path}' is damaged at {fault}; verify '{entry.name}' again")
    return verdict


def _mismatch(verdict: Mapping[str, Any], entry: Entry) -> str | None:
    """Returns where the re-run figures of a verdict do not fit the entry's policies and cells, or None."""
    if verdict["status"] == REFUSED:
        return None
    if set(verdict["returns"]) != set(entry.policy_hashes):
        return "returns: not one list for each policy"
    if any(len(values) != verdict["episodes"] for values in verdict["returns"].values()):
        return f"returns: not {verdict['episodes']} for each policy"
    if "held_out" in verdict:
        lists = verdict["held_out"]["returns"]
        if set(lists) != set(entry.policy_hashes):
            return "held_out: not one list for each policy"
        if any(len(values) != protocol.CELL_EPISODES for values in lists.values()):
            return f"held_out: not {protocol.CELL_EPISODES} returns for each policy"
    return _cell_mismatch(verdict, entry) if "perturbed" in verdict else None


def _cell_mismatch(verdict: Mapping[str, Any], entry: Entry) -> str | None:
    again = [(cell["task"], cell["seed"], cell["family"], cell["level"]) for cell in verdict["perturbed"]]
    claimed = {(cell.task, cell.seed, cell.family, cell.level) for cell in entry.perturbed}
    # The first protocol's re-runs were those that an entry reported; now every cell is run with all policies of a task.
    first = entry.protocol == 1
    asked = {(task, *cell) for task, _, *cell in again}
    whole = {(one.task, one.seed, *cell) for one in entry.results for task, *cell in asked if task == one.task}
    if len(set(again)) != len(again) or not claimed <= set(again) or set(again) != (claimed if first else whole):
        return "perturbed: not the cells of the entry's policies"
    episodes = entry.cell_episodes if first else protocol.CELL_EPISODES
    if any(len(cell["returns"]) != episodes for cell in verdict["perturbed"]):
        return f"perturbed: not {episodes} returns for each cell"
    return None
