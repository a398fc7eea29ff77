"""Makes entries of an earlier protocol anew under today's: their stored policies are evaluated, nothing is trained."""

from dataclasses import replace as changed
from pathlib import Path
from typing import Any

from offdyn_envs.atomic import write_json
from offdyn_envs.benchmark.entries.placing import check_free, placed, store_model, today
from offdyn_envs.benchmark.entries.reruns import Plan, Rerun, rerun, sources
from offdyn_envs.benchmark.entries.submissions import Entry, load_entry
from offdyn_envs.benchmark.gate.strict_json import read_json
from offdyn_envs.benchmark.sandbox.sandbox import require_sandbox
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.errors import OffDynError

__all__ = ["renew_command", "renew_entry"]


def renew_command(name: str) -> str:
    """Returns the command that makes an entry of an earlier protocol anew in its own place."""
    return f"offdyn leaderboard add --from-entry {name} --name {name} --replace"


def renew_entry(old: str, name: str, board: Path, *, replace: bool = False, plan: Plan | None = None) -> Path:
    """Evaluates the policies of an entry of an earlier protocol under today's and makes an entry of them.

    Their weights are halved first, as today's entries have them. What the entry says of its training stays; critics of
    its own go. The policies run in the sandbox: they may be a stranger's.

    Args:
        old: Name of the entry.
        name: Name of the new one; the same one with `replace`.
        board: The leaderboard's folder.
        replace: Whether an entry of that name may be replaced.
        plan: How the policies are evaluated; by the protocol when None.

    Returns:
        The new entry's folder; it appears whole or not at all.

    Raises:
        OffDynError: There is no such entry, it is of today's protocol, the name is taken, a policy fails, or this
            system has no sandbox.
    """
    check_free(board, name, replace)
    entry = load_entry(board / "submissions" / old)
    if entry.protocol == protocol.PROTOCOL:
        raise OffDynError(f"entry '{old}' is of protocol {protocol.PROTOCOL} already; verify it as it is")
    require_sandbox()
    told: dict[str, Any] = read_json(entry.folder / "entry.json", f"entry '{old}': entry.json")
    with placed(board, name) as built:
        stored = _stored(entry, name, built)
        answers = rerun(stored, plan or Plan(), sources(stored))
        write_json(built / "entry.json", told | _evaluated(stored, answers))
    return board / "submissions" / name


def _stored(entry: Entry, name: str, folder: Path) -> Entry:
    """Returns an entry of the same policies, halved, in another folder; it claims nothing yet."""
    results = [
        changed(
            result,
            policy_sha256=store_model(entry.folder / result.policy, "policy", folder, result.policy, result.task)[
                "policy_sha256"
            ],
            critic=None,
            critic_sha256=None,
        )
        for result in entry.results
    ]
    return changed(entry, folder=folder, name=name, protocol=protocol.PROTOCOL, results=tuple(results), perturbed=())


def _evaluated(entry: Entry, answers: list[Rerun]) -> dict[str, Any]:
    results, cells = [], []
    for one in answers:
        place = {"task": one.result.task, "seed": one.result.seed}
        hashed = {"policy": one.result.policy, "policy_sha256": one.result.policy_sha256}
        results.append(place | hashed | {"returns": one.clean})
        cells += [
            place | {"family": cell.family, "level": cell.level, "returns": own} for cell, own in one.cells.items()
        ]
    return {
        "protocol": protocol.PROTOCOL,
        "name": entry.name,
        "date": today(),
        "episodes": len(results[0]["returns"]),
        "cell_episodes": protocol.CELL_EPISODES,
        "results": results,
        "perturbed": cells,
    }
