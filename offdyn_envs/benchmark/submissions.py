"""Entries of the leaderboard: reading them with suspicion, and making them from finished runs.

An entry is a folder `submissions/<name>/` with `entry.json` (see `entry.schema.json`) and
`policies/<task>/<seed>.onnx`, next to which `<seed>.critic.onnx` may lie. `load_entry` checks everything that can be
checked without running anything: the format, the lengths, the paths and the hashes. What the policies do is the
business of `verification`.
"""

import hashlib
import json
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offdyn_envs.atomic import write_json
from offdyn_envs.benchmark import protocol
from offdyn_envs.benchmark.gate import ModelKind, inspect_model, read_model
from offdyn_envs.benchmark.strict_json import read_json
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import get_task

SCHEMA = 1
SCHEMA_PATH = Path(__file__).with_name("entry.schema.json")
RUN_FORMAT = 1
MAX_RETURN = 1e6
REFERENCE_AGENTS = frozenset({"bc", "target-bc", "behaviour-cloning"})
"""Agents whose entries are reference rows: they stand for the data, not for a method."""
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
        method: Name of the method.
        authors: Names.
        links: `code`, `paper`, `data`; https only.
        reference: Whether it is a reference row.
        episodes: Length of every list of clean returns.
        cell_episodes: Length of every list of perturbed returns.
        disclosure: How the runs were trained, as in the schema.
        results: One per policy, ordered by task and seed.
        perturbed: Ordered by task, family, level and seed.
    """

    folder: Path
    name: str
    method: str
    authors: tuple[str, ...]
    links: Mapping[str, str]
    reference: bool
    episodes: int
    cell_episodes: int
    disclosure: Mapping[str, Any]
    results: tuple[Result, ...]
    perturbed: tuple[CellResult, ...]

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


@dataclass(frozen=True)
class Details:
    """What an entry says beyond its runs.

    Attributes:
        method: Name of the method; None takes the agent's.
        authors: Names.
        code: https link to the code.
        commit: Commit of that code.
        paper: https link to the paper.
        command: Command that reproduces the training; None takes the suite's own for the run.
        reference: Whether the entry is a reference row.
    """

    method: str | None = None
    authors: tuple[str, ...] = ()
    code: str | None = None
    commit: str | None = None
    paper: str | None = None
    command: str | None = None
    reference: bool = False


def check_name(name: str) -> str:
    """Returns the name of an entry if it is one.

    Raises:
        OffDynError: It is not 1 to 64 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        shown = "".join(character if character.isprintable() else "?" for character in name[:70])
        raise OffDynError(
            f"entry name '{shown}': 1 to 64 of a-z, 0-9, '.', '-', '_' are allowed, the first a letter or digit"
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
    _check_schema(data, name)
    _check_texts(data, name)
    if data["name"] != name:
        raise OffDynError(f"entry '{name}': its entry.json calls itself '{data['name']}'")
    results = tuple(sorted((_result(item) for item in data["results"]), key=lambda r: (r.task, r.seed)))
    cells = tuple(sorted((_cell(c) for c in data["perturbed"]), key=lambda c: (c.task, c.family, c.level, c.seed)))
    entry = Entry(
        folder=folder,
        name=name,
        method=data["method"],
        authors=tuple(data["authors"]),
        links=data["links"],
        reference=data["reference"],
        episodes=data["episodes"],
        cell_episodes=data["cell_episodes"],
        disclosure=data["disclosure"],
        results=results,
        perturbed=cells,
    )
    _check_results(entry)
    _check_cells(entry)
    _check_files(entry)
    return entry


def load_entries(board: Path) -> tuple[list[Entry], list[str]]:
    """Reads every entry of a leaderboard.

    Args:
        board: Folder with `submissions/`; hidden folders in it are unfinished and skipped.

    Returns:
        The good entries by name, and one line for each refused one: a bad entry never keeps the others off the page.
    """
    entries: list[Entry] = []
    refusals: list[str] = []
    for folder in entry_folders(board):
        loaded = load_or_refuse(folder)
        if isinstance(loaded, Entry):
            entries.append(loaded)
        else:
            refusals.append(loaded)
    return entries, refusals


def load_or_refuse(folder: Path) -> Entry | str:
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


def _check_schema(data: Any, name: str) -> None:
    import jsonschema

    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    error: Any = next(iter(jsonschema.Draft202012Validator(schema).iter_errors(data)), None)
    if error is None:
        return
    place = "/".join(str(part) for part in error.absolute_path) or "top level"
    text = "".join(character if character.isprintable() else "?" for character in f"{place}: {error.message}")
    raise OffDynError(f"entry '{name}': entry.json breaks its schema at {text[:240]}")


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
        missing = {seed for name, seed in runs if name == task} - seeds
        if missing:
            raise OffDynError(
                f"entry '{entry.name}': perturbed {family} {level:g} of '{task}' lacks seed {min(missing)}"
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


def add_entry(
    runs: Sequence[Path],
    name: str,
    board: Path,
    *,
    details: Details | None = None,
    replace: bool = False,
) -> Path:
    """Makes an entry from finished and evaluated runs, one run folder per task.

    Args:
        runs: Run folders with `run.json`, `evaluation.json` and `seeds/<seed>/policy.onnx`.
        name: Name of the entry.
        board: The leaderboard's folder; the entry goes to `submissions/<name>`.
        details: What the runs do not say themselves.
        replace: Whether an entry of that name may be replaced.

    Returns:
        The entry's folder. It appears whole or not at all; a killed command leaves a hidden folder that the next one
        removes.

    Raises:
        OffDynError: A run is unfinished, not evaluated or broken, or the entry exists.
    """
    final = board / "submissions" / check_name(name)
    if final.exists() and not replace:
        raise OffDynError(f"entry '{name}' exists in '{board}'; give another name or --replace")
    if not runs:
        raise OffDynError(f"entry '{name}': at least one run folder is needed")
    loaded = [_Run.load(Path(run)) for run in runs]
    final.parent.mkdir(parents=True, exist_ok=True)
    for stale in final.parent.glob(f".{name}.*.part"):
        shutil.rmtree(stale)
    work = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=final.parent))
    try:
        built = work / name
        built.mkdir()
        _write_entry(loaded, name, built, details or Details())
        load_entry(built)
        if final.exists():
            final.rename(work / "replaced")
        built.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return final


@dataclass(frozen=True)
class _Run:
    """A finished, evaluated run folder."""

    folder: Path
    run: Mapping[str, Any]
    evaluation: Mapping[str, Any]

    @staticmethod
    def load(folder: Path) -> "_Run":
        run = read_json(folder / "run.json", f"run '{folder}': run.json")
        evaluation_path = folder / "evaluation.json"
        if not evaluation_path.exists():
            raise OffDynError(f"run '{folder}' is not evaluated; use: offdyn evaluate {folder}")
        evaluation = read_json(evaluation_path, f"run '{folder}': evaluation.json")
        if not (isinstance(run, dict) and isinstance(evaluation, dict)):
            raise OffDynError(f"run '{folder}': run.json and evaluation.json must hold JSON objects")
        if run.get("format") != RUN_FORMAT:
            raise OffDynError(f"run '{folder}' has format {run.get('format')!r}; {RUN_FORMAT} is allowed")
        if run.get("status") != "complete":
            raise OffDynError(f"run '{folder}' is {run.get('status')!r}; only complete runs can be added")
        if evaluation.get("protocol") != protocol.PROTOCOL:
            raise OffDynError(
                f"run '{folder}' is evaluated under protocol {evaluation.get('protocol')!r}, not {protocol.PROTOCOL}"
            )
        if (run.get("task"), run.get("agent")) != (evaluation.get("task"), evaluation.get("agent")):
            raise OffDynError(f"run '{folder}': its evaluation.json is of another task or agent")
        return _Run(folder, run, evaluation)

    @property
    def task(self) -> str:
        return str(self.run["task"])


def _write_entry(runs: Sequence[_Run], name: str, folder: Path, details: Details) -> None:
    agents = sorted({str(run.run["agent"]) for run in runs})
    if len(agents) != 1 or len({run.task for run in runs}) != len(runs):
        raise OffDynError(
            f"entry '{name}': one run per task and one agent are needed, not {len(runs)} runs of {', '.join(agents)}"
        )
    try:
        results = [item for run in runs for item in _results(run, folder)]
        perturbed = [item for run in runs for item in _perturbed(run)]
        episodes = int(runs[0].evaluation["episodes"])
        cell_episodes = len(perturbed[0]["returns"]) if perturbed else protocol.CELL_EPISODES
        training = {run.task: _training(run, details.command) for run in runs}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, OffDynError):
            raise
        raise OffDynError(f"entry '{name}': a run's JSON lacks or misstates {error}") from None
    entry = {
        "schema": SCHEMA,
        "protocol": protocol.PROTOCOL,
        "name": name,
        "method": details.method or agents[0],
        "authors": list(details.authors),
        "links": {key: link for key, link in (("code", details.code), ("paper", details.paper)) if link},
        "reference": details.reference or agents[0] in REFERENCE_AGENTS,
        "episodes": episodes,
        "cell_episodes": cell_episodes,
        "disclosure": {"commit": details.commit or "", "tasks": training},
        "results": results,
        "perturbed": perturbed,
    }
    write_json(folder / "entry.json", entry)


def _results(run: _Run, folder: Path) -> Iterable[dict[str, Any]]:
    robot = get_robot(get_task(run.task).robot)
    widths = {"observation_dim": robot.observation_dim, "action_dim": robot.action_dim}
    for seed in run.run["seeds"]:
        item: dict[str, Any] = {"task": run.task, "seed": int(seed), "returns": run.evaluation["clean"][str(seed)]}
        kinds: tuple[tuple[ModelKind, str], ...] = (("policy", "onnx"), ("critic", "critic.onnx"))
        for kind, ending in kinds:
            source = run.folder / "seeds" / str(seed) / f"{kind}.onnx"
            if kind == "critic" and not source.exists():
                continue
            data = read_model(source)
            signature = inspect_model(data, kind, label=f"{kind} '{source}'", **widths)
            path = policy_path(run.task, int(seed), ending)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
            item |= {kind: path, f"{kind}_sha256": signature.sha256}
        yield item


def _perturbed(run: _Run) -> Iterable[dict[str, Any]]:
    for cell in run.evaluation["perturbed"]:
        for seed, returns in cell["returns"].items():
            yield {
                "task": run.task,
                "seed": int(seed),
                "family": cell["family"],
                "level": float(cell["level"]),
                "returns": returns,
            }


def _training(run: _Run, command: str | None) -> dict[str, Any]:
    facts = run.run
    count = len(facts["seeds"])
    default = f"offdyn train {facts['agent']} {run.task} --seeds {count} --updates {facts['updates']}"
    return {
        "updates": int(facts["updates"]),
        "wall_clock_s": round(float(facts["wall_clock_s"]), 1),
        "device": str(facts["device"]),
        "precision": str(facts["precision"]),
        "parameters": int(facts["parameters"]),
        "tuning_evaluations": int(facts.get("tuning_evaluations", 0)),
        "hyperparameters": dict(sorted(_flat(facts["settings"]))),
        "command": command or str(facts.get("command") or default),
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yields `a.b` and a plain value for every leaf of nested settings."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str | int | float | bool | None) else json.dumps(value)
