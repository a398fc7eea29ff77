"""Makes entries of the leaderboard from finished and evaluated runs; `submissions` reads and checks them."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offdyn_envs.atomic import write_json
from offdyn_envs.benchmark.entries.disclosed import is_reference, own_seconds
from offdyn_envs.benchmark.entries.placing import check_free, placed, store_model, today
from offdyn_envs.benchmark.entries.submissions import SCHEMA, policy_path
from offdyn_envs.benchmark.gate.gate import ModelKind
from offdyn_envs.benchmark.gate.printable import printable
from offdyn_envs.benchmark.gate.strict_json import read_json
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.errors import OffDynError, unknown

__all__ = ["Details", "FinishedRun", "add_entry"]

RUN_FORMAT = 1
SUITE = "suite"
"""The setting `form` of this suite's own form of a method."""
CURVE_POINTS = 50
"""Most points of a learning curve in an entry."""


@dataclass(frozen=True)
class Details:
    """What an entry says beyond its runs.

    Attributes:
        method: Name of the method; None takes the agent's.
        family: Kind of the method; None takes what the runs say.
        authors: Names.
        code: https link to the code.
        commit: Commit of that code; None takes the runs' own.
        paper: https link to the paper.
        command: Command that reproduces the training; None takes the suite's own for the run.
        reference: Whether the entry is a reference row; those of source, target or oracle rows alone always are.
        critics: Whether the runs' own critics are part of the entry, for the attack with an entry's own critic.
    """

    method: str | None = None
    family: str | None = None
    authors: tuple[str, ...] = ()
    code: str | None = None
    commit: str | None = None
    paper: str | None = None
    command: str | None = None
    reference: bool = False
    critics: bool = False


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
        The entry's folder. It appears whole or not at all. A killed command leaves a hidden folder; the next one
        brings an entry back that was being replaced, and removes the rest.

    Raises:
        OffDynError: A run is unfinished, not evaluated or broken, or the entry exists.
    """
    check_free(board, name, replace)
    if not runs:
        raise OffDynError(f"entry '{name}': at least one run folder is needed")
    loaded = [FinishedRun.load(Path(run)) for run in runs]
    with placed(board, name) as built:
        _write_entry(loaded, name, built, details or Details())
    return board / "submissions" / name


@dataclass(frozen=True)
class FinishedRun:
    """A finished, evaluated run folder.

    Attributes:
        folder: The folder.
        run: Its run.json.
        evaluation: Its evaluation.json.
    """

    folder: Path
    run: Mapping[str, Any]
    evaluation: Mapping[str, Any]

    @staticmethod
    def load(folder: Path, protocols: Sequence[int] = (protocol.PROTOCOL,)) -> "FinishedRun":
        """Reads a run folder.

        Args:
            folder: The folder.
            protocols: Versions of the protocol under which it may have been evaluated.

        Raises:
            OffDynError: The run is unfinished, not evaluated, broken, or none that the leaderboard takes.
        """
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
        if run.get("diagnosis"):
            raise OffDynError(f"run '{folder}' is a diagnosis, which knows the true target; it has no place here")
        if run.get("target_rows"):
            raise OffDynError(f"run '{folder}' learned from {run['target_rows']} target rows, not from its task's own")
        if "pair" in run:
            raise OffDynError(f"run '{folder}' is of own data; the leaderboard takes runs of tasks (offdyn tasks)")
        if evaluation.get("protocol") not in protocols:
            raise OffDynError(
                f"run '{folder}' is evaluated under protocol {evaluation.get('protocol')!r}, not {protocols[-1]}"
            )
        if (run.get("task"), run.get("agent")) != (evaluation.get("task"), evaluation.get("agent")):
            raise OffDynError(f"run '{folder}': its evaluation.json is of another task or agent")
        _check_seeds(folder, run, evaluation)
        return FinishedRun(folder, run, evaluation)

    @property
    def task(self) -> str:
        """Name of its task."""
        return str(self.run["task"])

    @property
    def method(self) -> str:
        """The agent, which variant of it, as its folder is called, and what tables say behind it: "(our reading)"."""
        agent = str(self.run["agent"])
        variant = self.run.get("variant") or self._unwritten()
        label = f"{agent}@{variant}" if isinstance(variant, str) and variant else agent
        return f"{label}{self.marked}"

    @property
    def marked(self) -> str:
        """What tables say behind the method's name, for instance of one that is read out of an abstract."""
        reading = self.run.get("reading")
        return f" ({reading})" if isinstance(reading, str) and reading else ""

    def _unwritten(self) -> str:
        """The variant of an older run, whose run.json does not name it: its folder does, or the form of its method."""
        agent, _, variant = self.folder.resolve().name.partition("@")
        form = self._setting("form")
        if agent == self.run["agent"] and variant:
            return variant
        return f"form-{form}" if isinstance(form, str) and form not in ("", SUITE) else ""

    def _setting(self, name: str) -> Any:
        settings = self.run.get("settings")
        return settings.get(name) if isinstance(settings, Mapping) else None

    @property
    def has_policies(self) -> bool:
        """Whether the final policies of all its seeds lie in it: without them it cannot become an entry."""
        return all((self.folder / "seeds" / str(seed) / "policy.onnx").is_file() for seed in self.run["seeds"])

    @property
    def data(self) -> Any:
        """The rows that it learned from: "merged", "source", "target" or "oracle"; None where it does not say."""
        return self._setting("data")

    @property
    def family(self) -> str | None:
        """Kind of the method, None where an older run does not say."""
        found = self.run.get("family")
        return found if isinstance(found, str) and found else None


def _check_seeds(folder: Path, run: Mapping[str, Any], evaluation: Mapping[str, Any]) -> None:
    """Refuse an evaluation of fewer seeds than the run has by now."""
    seeds, evaluated = run.get("seeds"), evaluation.get("clean")
    if not (isinstance(seeds, list) and isinstance(evaluated, dict)):
        return  # What lacks them is said where they are needed.
    missing = [str(seed) for seed in seeds if str(seed) not in evaluated]
    if missing:
        raise OffDynError(
            f"run '{folder}' is not evaluated for seeds {', '.join(missing)}; use: offdyn evaluate {folder}"
        )


def _write_entry(runs: Sequence[FinishedRun], name: str, folder: Path, details: Details) -> None:
    agents = sorted({str(run.run["agent"]) for run in runs})
    if len(agents) != 1 or len({run.task for run in runs}) != len(runs):
        raise OffDynError(
            f"entry '{name}': one run per task and one agent are needed, not {len(runs)} runs of {', '.join(agents)}"
        )
    family = _family(runs, name, details)
    try:
        results = [item for run in runs for item in _results(run, folder, details.critics)]
        perturbed = [item for run in runs for item in _perturbed(run, details.critics)]
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
        "date": today(),
        "method": _method(runs, name, details.method),
        "authors": list(details.authors),
        "links": {key: link for key, link in (("code", details.code), ("paper", details.paper)) if link},
        "reference": details.reference or any(is_reference(family.get("family"), run.data) for run in runs),
        "episodes": episodes,
        "cell_episodes": cell_episodes,
        "disclosure": {"commit": _commit(runs, name) if details.commit is None else details.commit, "tasks": training},
        "results": results,
        "perturbed": perturbed,
    }
    write_json(folder / "entry.json", entry | family | _curves(runs))


def _method(runs: Sequence[FinishedRun], name: str, given: str | None) -> str:
    """Returns the name that was given, else that of the agent and its variant; marked."""
    if given:
        return given if runs[0].marked in given else f"{given}{runs[0].marked}"
    method, *others = sorted({run.method for run in runs})
    if others:
        raise OffDynError(
            f"entry '{name}': its runs are of different variants ({', '.join((method, *others))}); name what they have "
            "in common with --method"
        )
    return method


def _family(runs: Sequence[FinishedRun], name: str, details: Details) -> dict[str, str]:
    """Returns the kind of the method; nothing where neither the runs nor the details say it."""
    found = details.family or next((run.family for run in runs if run.family), None)
    if found is None:
        return {}
    if found not in protocol.METHOD_FAMILIES:
        raise OffDynError(f"entry '{name}': {unknown('family', found, protocol.METHOD_FAMILIES)}")
    return {"family": found}


def _curves(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Returns the curves of runs that have one."""
    found = {run.task: curve for run in runs if (curve := learning_curve(run))}
    return {"curves": found} if found else {}


def learning_curve(run: FinishedRun) -> dict[str, Any]:
    """Returns the mean returns of evaluations during training, thinned out where many.

    Args:
        run: The run.

    Returns:
        "updates" and, by seed, "returns", lists of one length; empty where it was not evaluated during training.
    """
    columns = {str(seed): f"return_{seed}" for seed in run.run["seeds"]}
    rows = [row for row in _metrics(run.folder / "metrics.csv") if _evaluated(row, columns.values())]
    rows = rows[:: -(-len(rows) // CURVE_POINTS)] if rows else []
    if not rows:
        return {}
    returns = {seed: [round(float(row[name]), 3) for row in rows] for seed, name in columns.items()}
    return {"updates": [int(row["updates"]) for row in rows], "returns": returns}


def _metrics(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("updates")]


def _evaluated(row: Mapping[str, str], columns: Iterable[str]) -> bool:
    """Whether a line has the return of every seed."""
    try:
        return all(math.isfinite(float(row[column] or "nan")) for column in columns)
    except (KeyError, ValueError):
        return False


def _commit(runs: Sequence[FinishedRun], name: str) -> str:
    """Returns the commit that the runs were made from; empty when they do not say."""
    commits = sorted({str(run.run.get("commit") or "") for run in runs})
    if len(commits) > 1:
        shown = ", ".join(printable(commit, 12) or "an unknown one" for commit in commits)
        raise OffDynError(f"entry '{name}': its runs are of different commits ({shown}); say which with --commit")
    return commits[0]


def _results(run: FinishedRun, folder: Path, critics: bool) -> Iterable[dict[str, Any]]:
    for seed in run.run["seeds"]:
        item: dict[str, Any] = {"task": run.task, "seed": int(seed), "returns": _clean(run, str(seed))}
        kinds: tuple[tuple[ModelKind, str], ...] = (("policy", "onnx"), ("critic", "critic.onnx"))
        for kind, ending in kinds:
            source = run.folder / "seeds" / str(seed) / f"{kind}.onnx"
            if kind == "critic" and not (critics and source.exists()):
                continue
            item |= store_model(source, kind, folder, policy_path(run.task, int(seed), ending), run.task)
        yield item


def _perturbed(run: FinishedRun, critics: bool) -> Iterable[dict[str, Any]]:
    for cell in run.evaluation["perturbed"]:
        if cell["family"] == protocol.MIN_Q_OWN and not critics:
            continue
        for seed, returns in cell["returns"].items():
            what = f"perturbed {cell['family']} {cell['level']} returns of seed {seed}"
            yield {
                "task": run.task,
                "seed": int(seed),
                "family": cell["family"],
                "level": float(cell["level"]),
                "returns": _finite(run, returns, what),
            }


def _clean(run: FinishedRun, seed: str) -> list[float]:
    return _finite(run, run.evaluation["clean"][seed], f"clean returns of seed {seed}")


def _finite(run: FinishedRun, returns: Sequence[Any], what: str) -> list[float]:
    """Passes finite returns on; JSON has no NaN, so a failed episode may stand there as null or as text."""
    for value in returns:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise OffDynError(
                f"run '{run.folder}': the {what} hold {printable(repr(value), 40)}, no finite number; "
                "a policy with failed episodes cannot be added"
            )
    return list(returns)


def _training(run: FinishedRun, command: str | None) -> dict[str, Any]:
    facts = run.run
    count = len(facts["seeds"])
    default = f"offdyn train {facts['agent']} {run.task} --seeds {count} --updates {facts['updates']}"
    training = {
        "updates": int(facts["updates"]),
        "wall_clock_s": round(own_seconds(facts), 1),
        "device": str(facts["device"]),
        "precision": str(facts["precision"]),
        "parameters": int(facts["parameters"]),
        "tuning_evaluations": _tuning_evaluations(run),
        "hyperparameters": dict(sorted(_flat(facts["settings"]))),
        "command": command or str(facts.get("command") or default),
    }
    note = facts.get("tuning_note")
    return training | ({"tuning_note": str(note)} if note else {})


def _tuning_evaluations(run: FinishedRun) -> int:
    """Return how many online evaluations the settings took; an agent from outside need not have stated it."""
    stated = run.run["tuning_evaluations"]
    if stated is None:
        raise OffDynError(
            f"run '{run.folder}': its agent's preset does not state tuning.evaluations, the number of online "
            "evaluations that its settings took, which entries disclose; write tuning_evaluations into run.json"
        )
    return int(stated)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yields `a.b` and a plain value for every leaf of nested settings."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str | int | float | bool | None) else json.dumps(value)
