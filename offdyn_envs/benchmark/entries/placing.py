"""How a new entry gets to its place: whole or not at all, whatever stood there kept until it does."""

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from offdyn_envs.atomic import made_folder, named, write_bytes
from offdyn_envs.benchmark.entries.submissions import REPLACED, check_name, load_entry, unfinished
from offdyn_envs.benchmark.gate.gate import ModelKind, inspect_model, read_model
from offdyn_envs.benchmark.gate.half import halved
from offdyn_envs.errors import OffDynError
from offdyn_envs.interruption import undone
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import get_task

__all__ = ["check_free", "placed", "store_model", "today"]


def today() -> str:
    """Returns the day, UTC, as entries and verdicts name it: "2026-11-29"."""
    return datetime.now(timezone.utc).date().isoformat()


def check_free(board: Path, name: str, replace: bool) -> None:
    """Sees whether an entry may be put under a name, after what a killed command left there is cleared.

    Args:
        board: The leaderboard's folder.
        name: Name of the entry.
        replace: Whether an entry of that name may be replaced.

    Raises:
        OffDynError: It is no name, or it is taken.
    """
    final = board / "submissions" / check_name(name)
    _recover(board, name)
    if final.exists() and not replace:
        raise OffDynError(f"entry '{name}' exists in '{board}'; give another name or --replace")


@contextmanager
def placed(board: Path, name: str) -> Generator[Path]:
    """Gives an empty folder to write an entry into, which is checked and gets to its place at the end.

    A killed command leaves a hidden folder; the next one brings an entry back that was being replaced, and removes the
    rest.

    Args:
        board: The leaderboard's folder; the entry goes to `submissions/<name>`.
        name: Name of the entry.
    """
    final = board / "submissions" / name
    # No name holds a plus: the folders of entry "a" are never those of an entry "a.b".
    with made_folder(final.parent), undone(lambda: _recover(board, name)):
        work = Path(tempfile.mkdtemp(prefix=f".{name}+", suffix=".part", dir=final.parent))
        try:
            built = work / name
            built.mkdir()
            with named(built, final):
                yield built
            load_entry(built)
            _put(built, final, work / REPLACED)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _recover(board: Path, name: str) -> None:
    """Brings back an entry whose replacement was killed between its two steps, and clears what is left over."""
    final = board / "submissions" / name
    for stale in unfinished(board, name):
        if (stale / REPLACED).is_dir() and not final.exists():
            (stale / REPLACED).rename(final)
        shutil.rmtree(stale)


def _put(built: Path, final: Path, old: Path) -> None:
    """Moves an entry to its place; whatever stood there is kept until the new one stands."""
    if final.exists():
        final.rename(old)
    try:
        built.rename(final)
    except BaseException:
        if old.exists() and not final.exists():
            old.rename(final)
        raise


def store_model(source: Path, kind: ModelKind, folder: Path, path: str, task: str) -> dict[str, str]:
    """Puts a policy or critic into an entry, its weights at half the bytes: what is stored is what is scored.

    Args:
        source: The ONNX file.
        kind: What it is.
        folder: Folder of the entry.
        path: Where it goes inside.
        task: Name of its task.

    Returns:
        `policy` and `policy_sha256`, or the same of a critic, as entry.json has them.

    Raises:
        OffDynError: It breaks a rule of the gate.
    """
    robot, label, data = get_robot(get_task(task).robot), f"{kind} '{source}'", read_model(source)
    widths = {"observation_dim": robot.observation_dim, "action_dim": robot.action_dim}
    inspect_model(data, kind, label=label, **widths)
    data = halved(data)
    signature = inspect_model(data, kind, label=label, **widths)
    write_bytes(folder / path, data)
    return {kind: path, f"{kind}_sha256": signature.sha256}
