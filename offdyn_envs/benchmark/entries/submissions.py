"""Entries of the leaderboard, read with suspicion; `entries_from_runs` makes them.

An entry is a folder `submissions/<name>/` with `entry.json` (see `entry.schema.json`) and
`policies/<task>/<seed>.onnx`, next to which `<seed>.critic.onnx` may lie. `load_entry` checks everything that can be
checked without running anything: the format, the lengths, the paths and the hashes. What the policies do is the
business of `verification`.
"""

import hashlib
import json
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from offdyn_envs.benchmark.entries.disclosed import is_reference
from offdyn_envs.benchmark.entries.schemas import ENTRY_SCHEMA, schema_fault
from offdyn_envs.benchmark.gate.gate import read_model
from offdyn_envs.benchmark.gate.printable import printable
from offdyn_envs.benchmark.gate.strict_json import read_json
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.cells import Cell, cell_name, cell_rows
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import get_task

__all__ = [
    "REPLACED",
    "SCHEMA",
    "CellResult",
    "Entry",
    "Result",
    "check_name",
    "entry_folders",
    "load_entries",
    "load_entry",
    "policy_path",
    "unfinished",
]

SCHEMA = 1
MAX_RETURN = 1e6
REPLACED = "replaced"
"""Where the old entry waits inside an unfinished folder while a new one takes its place."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Result:
    """One policy of an entry.

    Attributes:
        task: Task name.
        seed: Id of the run.
        policy: Path inside the entry's folder.
        policy_sha256: Hex digest of that file.
        critic: Path of the critic, or None.
        critic_sha256: Hex digest of the critic, or None.
        returns: Claimed returns in the unperturbed target, one an episode.
    """

    task: str
    seed: int
    policy: str
    policy_sha256: str
    critic: str | None
    critic_sha256: str | None
    returns: tuple[float, ...]


@dataclass(frozen=True)
class CellResult:
    """Claimed returns of one policy in one perturbed cell, one an episode."""

    task: str
    seed: int
    family: str
    level: float
    returns: tuple[float, ...]


@dataclass(frozen=True)
class Entry:
    """A checked entry.

    Attributes:
        folder: Where it lies.
        name: Its name, equal to the folder's.
        protocol: Version of the protocol that it follows; one before today's is retired.
        date: Day on which it was made, "2026-11-29"; "" where it does not say.
        method: Name of the method.
        family: Kind of the method, one of `protocol.METHOD_FAMILIES`, or None.
        authors: Names.
        links: `code`, `paper`, `data`; https only.
        reference: Whether it is a reference row: it says so, or by the rows that its runs learned from it is one.
        episodes: Length of every list of clean returns.
        cell_episodes: Length of every list of perturbed returns.
        disclosure: How the runs were trained, as in the schema.
        results: One per policy, ordered by task and seed.
        perturbed: Ordered by task, family, level and seed.
        curves: Mean returns during training, as in the schema; only shown.
    """

    folder: Path
    name: str
    protocol: int
    date: str
    method: str
    family: str | None
    authors: tuple[str, ...]
    links: Mapping[str, str]
    reference: bool
    episodes: int
    cell_episodes: int
    disclosure: Mapping[str, Any]
    results: tuple[Result, ...]
    perturbed: tuple[CellResult, ...]
    curves: Mapping[str, Any]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks covered, in order."""
        return tuple(dict.fromkeys(result.task for result in self.results))

    @property
    def policy_hashes(self) -> dict[str, str]:
        """SHA-256 of every policy, keyed `task/seed`."""
        return {f"{result.task}/{result.seed}": result.policy_sha256 for result in self.results}

    def digest(self) -> str:
        """Returns a SHA-256 over every claimed number and hash: what a verdict is bound to."""
        claims = [(r.task, r.seed, r.policy_sha256, r.critic_sha256, r.returns) for r in self.results]
        cells = [(c.task, c.seed, c.family, c.level, c.returns) for c in self.perturbed]
        return hashlib.sha256(json.dumps([claims, cells]).encode()).hexdigest()


def check_name(name: str) -> str:
    """Returns the name of an entry if it is one.

    Raises:
        OffDynError: It is not 1 to 64 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise OffDynError(
            f"entry name '{printable(name, 70)}': 1 to 64 of a-z, 0-9, '.', '-', '_' are allowed, "
            "the first a letter or digit"
        )
    return name


def load_entry(folder: Path) -> Entry:
    """Reads and checks one entry without running anything.

    Args:
        folder: `submissions/<name>`.

    Returns:
        The entry; every policy file exists inside the folder and has the hash that the entry gives.

    Raises:
        OffDynError: The first rule that the entry breaks, in one line that begins with its name.
    """
    name = check_name(folder.name)
    if folder.is_symlink() or not folder.is_dir():
        raise OffDynError(f"entry '{name}': '{folder}' is no folder")
    data = read_json(folder / "entry.json", f"entry '{name}': entry.json")
    fault = schema_fault(data, ENTRY_SCHEMA)
    if fault is not None:
        raise OffDynError(f"entry '{name}': entry.json breaks its schema at {fault}")
    _check_texts(data, name)
    _check_date(data.get("date"), name)
    if data["name"] != name:
        raise OffDynError(f"entry '{name}': its entry.json calls itself '{data['name']}'")
    results = tuple(sorted((_result(item) for item in data["results"]), key=lambda r: (r.task, r.seed)))
    cells = tuple(sorted((_cell(c) for c in data["perturbed"]), key=lambda c: (c.task, c.family, c.level, c.seed)))
    entry = Entry(
        folder=folder,
        name=name,
        protocol=data["protocol"],
        date=data.get("date", ""),
        method=data["method"],
        family=data.get("family"),
        authors=tuple(data["authors"]),
        links=data["links"],
        reference=data["reference"] or _stands_for_data(data),
        episodes=data["episodes"],
        cell_episodes=data["cell_episodes"],
        disclosure=data["disclosure"],
        results=results,
        perturbed=cells,
        curves=data.get("curves", {}),
    )
    _check_results(entry)
    _check_cells(entry)
    _check_curves(entry)
    _check_files(entry)
    _check_size(entry)
    return entry


def _stands_for_data(data: Mapping[str, Any]) -> bool:
    """Whether by what it discloses an entry is a reference row, whatever it calls itself."""
    trainings = data["disclosure"]["tasks"].values()
    return any(is_reference(data.get("family"), training["hyperparameters"].get("data")) for training in trainings)


def load_entries(board: Path) -> tuple[list[Entry], list[str]]:
    """Reads every entry of a leaderboard.

    Args:
        board: Folder with `submissions/`; hidden folders in it are unfinished and skipped.

    Returns:
        The good entries by name, and one line for each refused or missing one: a bad entry never keeps the others off
        the page.
    """
    entries: list[Entry] = []
    refusals: list[str] = []
    for folder in entry_folders(board):
        loaded = _load_or_refuse(folder)
        if isinstance(loaded, Entry):
            entries.append(loaded)
        else:
            refusals.append(loaded)
    return entries, refusals + _interrupted(board)


def _load_or_refuse(folder: Path) -> Entry | str:
    """Returns a checked entry, or the line that says why it is refused."""
    try:
        return load_entry(folder)
    except OffDynError as error:
        return str(error)


def entry_folders(board: Path) -> list[Path]:
    """Returns the folders of a leaderboard's entries, by name."""
    root = board / "submissions"
    if not root.is_dir():
        return []
    return sorted(
        path for path in root.iterdir() if not path.name.startswith(".") and (path.is_dir() or path.is_symlink())
    )


def unfinished(board: Path, name: str = "*") -> list[Path]:
    """Returns the hidden folders in which entries of this name are being made, or were when the command was killed."""
    return sorted((board / "submissions").glob(f".{name}+*.part"))


def _interrupted(board: Path) -> list[str]:
    """Names the entries that are missing because their replacement was killed halfway."""
    names = {path.name[1:].split("+")[0] for path in unfinished(board) if (path / REPLACED).is_dir()}
    return [
        f"entry '{name}' is missing: its replacement was interrupted; offdyn leaderboard add brings it back"
        for name in sorted(names)
        if not (board / "submissions" / name).exists()
    ]


def _check_texts(value: Any, name: str) -> None:
    """Refuses control and direction characters anywhere: they could rewrite a terminal line or the order of words."""
    if isinstance(value, str):
        if not value.isprintable():
            raise OffDynError(f"entry '{name}': the text {ascii(value)[:60]} holds a control character")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_texts(key, name)
            _check_texts(item, name)
    elif isinstance(value, list):
        for item in value:
            _check_texts(item, name)


def _result(item: Mapping[str, Any]) -> Result:
    return Result(
        item["task"],
        item["seed"],
        item["policy"],
        item["policy_sha256"],
        item.get("critic"),
        item.get("critic_sha256"),
        tuple(float(value) for value in item["returns"]),
    )


def _cell(item: Mapping[str, Any]) -> CellResult:
    returns = tuple(float(value) for value in item["returns"])
    return CellResult(item["task"], item["seed"], item["family"], float(item["level"]), returns)


def _check_results(entry: Entry) -> None:
    seen: set[tuple[str, int]] = set()
    policies: dict[tuple[str, str], int] = {}
    for result in entry.results:
        where = f"entry '{entry.name}': task '{result.task}' seed {result.seed}"
        _check_task(result.task, entry.name)
        if (result.task, result.seed) in seen:
            raise OffDynError(f"{where} appears twice")
        seen.add((result.task, result.seed))
        twin = policies.setdefault((result.task, result.policy_sha256), result.seed)
        if twin != result.seed:
            raise OffDynError(f"{where} has the same policy as seed {twin}; every seed is a run of its own")
        _check_returns(result.returns, entry.episodes, where)
    for task in entry.tasks:
        seeds = sorted(seed for name, seed in seen if name == task)
        if len(seeds) < protocol.LISTED_SEEDS:
            raise OffDynError(
                f"entry '{entry.name}': '{task}' has {len(seeds)} seeds; at least {protocol.LISTED_SEEDS} are needed"
            )
    if set(entry.disclosure["tasks"]) != set(entry.tasks):
        raise OffDynError(f"entry '{entry.name}': the disclosure must cover exactly the tasks {', '.join(entry.tasks)}")


def _check_task(task: str, name: str) -> None:
    try:
        get_task(task)
    except OffDynError as error:
        raise OffDynError(f"entry '{name}': {error}") from None


def _check_cells(entry: Entry) -> None:
    runs = {(result.task, result.seed) for result in entry.results}
    covered: dict[tuple[str, str, float], set[int]] = {}
    for cell in entry.perturbed:
        where = f"entry '{entry.name}': perturbed {cell.family} {cell.level:g} of '{cell.task}' seed {cell.seed}"
        if (cell.task, cell.seed) not in runs:
            raise OffDynError(f"{where} belongs to no policy of the entry")
        seeds = covered.setdefault((cell.task, cell.family, cell.level), set())
        if cell.seed in seeds:
            raise OffDynError(f"{where} appears twice")
        seeds.add(cell.seed)
        _check_returns(cell.returns, entry.cell_episodes, where)
    for (task, family, level), seeds in covered.items():
        _check_cell(entry, task, Cell(family, level))
        missing = {seed for name, seed in runs if name == task} - seeds
        if missing:
            raise OffDynError(
                f"entry '{entry.name}': perturbed {family} {level:g} of '{task}' lacks seed {min(missing)}"
            )


def _check_cell(entry: Entry, task: str, cell: Cell) -> None:
    """Refuse cells that cannot be run again: levels that do not exist, an attack with critics that are not there."""
    where = f"entry '{entry.name}': perturbed {cell_name(*cell)} of '{task}'"
    place = get_task(task)
    try:
        cell_rows(get_robot(place.robot), (), cell, entry.cell_episodes)
    except OffDynError as error:
        raise OffDynError(f"{where}: {error}") from None
    own = all(result.critic is not None for result in entry.results if result.task == task)
    if cell.family == protocol.MIN_Q_OWN and not own:
        raise OffDynError(f"{where} needs a critic of every seed, and the entry has none")


def _check_curves(entry: Entry) -> None:
    for task, curve in entry.curves.items():
        where = f"entry '{entry.name}': curve of '{printable(task, 80)}'"
        seeds = {str(result.seed) for result in entry.results if result.task == task}
        if not seeds or set(curve["returns"]) != seeds:
            raise OffDynError(f"{where} is not of the seeds {', '.join(sorted(seeds)) or 'of any policy'}")
        if curve["updates"] != sorted(set(curve["updates"])):
            raise OffDynError(f"{where}: its updates do not rise")
        for returns in curve["returns"].values():
            _check_returns(returns, len(curve["updates"]), where)


def _check_date(told: str | None, name: str) -> None:
    try:
        date.fromisoformat(told or "2000-01-01")
    except ValueError:
        raise OffDynError(f"entry '{name}': date '{told}' is no day; as in 2026-11-29") from None


def _check_size(entry: Entry) -> None:
    """Keep the repository small; entries of an earlier protocol had no such limit."""
    most = round(protocol.ENTRY_BYTES * max(1.0, len(entry.tasks) / 6))
    named = (path for result in entry.results for path in (result.policy, result.critic) if path is not None)
    size = sum((entry.folder / path).stat().st_size for path in named)
    if entry.protocol == protocol.PROTOCOL and size > most:
        raise OffDynError(
            f"entry '{entry.name}': its policies and critics have {size:,} bytes, {most:,} are allowed; store weights "
            "as fp16, as offdyn leaderboard add does, or leave critics out"
        )


def _check_returns(returns: Sequence[float], length: int, where: str) -> None:
    if len(returns) != length:
        raise OffDynError(f"{where} has {len(returns)} returns; the entry says {length}")
    if max(abs(value) for value in returns) > MAX_RETURN:
        raise OffDynError(f"{where} has a return beyond {MAX_RETURN:g}")


def _check_files(entry: Entry) -> None:
    for result in entry.results:
        where = f"entry '{entry.name}': task '{result.task}' seed {result.seed}"
        expected = policy_path(result.task, result.seed)
        _check_file(entry.folder, result.policy, expected, result.policy_sha256, where)
        if result.critic is not None and result.critic_sha256 is not None:
            expected = policy_path(result.task, result.seed, "critic.onnx")
            _check_file(entry.folder, result.critic, expected, result.critic_sha256, where)


def policy_path(task: str, seed: int, ending: str = "onnx") -> str:
    """Returns the only path inside an entry at which a file of this task and seed may lie."""
    return f"policies/{task}/{seed}.{ending}"


def _check_file(folder: Path, path: str, expected: str, digest: str, where: str) -> None:
    if path != expected:
        raise OffDynError(f"{where} names the file '{path[:80]}'; '{expected}' is allowed")
    place = folder
    for part in expected.split("/")[:-1]:
        place /= part
        if not place.exists() or not stat.S_ISDIR(place.lstat().st_mode):
            raise OffDynError(f"{where}: '{place.relative_to(folder)}' is no folder inside the entry")
    try:
        found = hashlib.sha256(read_model(folder / expected)).hexdigest()
    except OffDynError as error:
        raise OffDynError(f"{where}: {error}") from None
    if found != digest:
        raise OffDynError(f"{where}: '{expected}' has SHA-256 {found[:12]}..., the entry says {digest[:12]}...")
