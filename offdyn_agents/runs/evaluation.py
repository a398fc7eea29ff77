"""Scores of a finished run: the clean target, and the cells of the robustness grid."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_agents.runs.own_pairs import problem_of
from offdyn_agents.runs.plans import ENDED, finishing_command, read_run, run_label, sound_seeds
from offdyn_agents.runs.problems import NamedTask, Problem
from offdyn_envs.atomic import write_json
from offdyn_envs.benchmark.scoring.scores import normaliser
from offdyn_envs.errors import OffDynError

__all__ = ["EvaluationPlan", "clean_returns", "evaluate_run", "has_critics", "left_out", "read_evaluation", "summarise"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EvaluationPlan:
    """How much to run.

    Attributes:
        episodes: Clean episodes of each policy.
        cell_episodes: Episodes of each policy in each perturbed cell.
        threads: Simulation threads.
        quiet: Show no progress.
        own_critics: Whether the min-Q attack is run with the runs' own critics too.
    """

    episodes: int
    cell_episodes: int
    threads: int = 1
    quiet: bool = False
    own_critics: bool = False


def evaluate_run(folder: Path, plan: EvaluationPlan) -> dict[str, Any]:
    """Run the exported policies of a complete run and write `evaluation.json`.

    One of a task that says all that is asked for, of the same policies, is taken as it is; own environments may have
    changed, and are run again. The policies are read back through the leaderboard's own gate, those of tasks with their
    weights as fp16, so that what is scored is what would be submitted.

    Args:
        folder: The run's folder.
        plan: How much to run.

    Returns:
        What `evaluation.json` says.

    Raises:
        OffDynError: The folder holds no complete run, or one of its ONNX files breaks a rule.
    """
    from offdyn_envs.progress import progress

    facts = read_run(folder)
    _need_complete(folder, facts)
    problem, own = problem_of(facts), plan.own_critics and has_critics(folder)
    cells, about = _cells(problem, own), _about(folder, facts, plan, own)
    earlier = _read_json(folder / "evaluation.json")
    if isinstance(problem, NamedTask) and _says(earlier, about, cells, plan):
        return earlier
    runner = _Runner(folder, facts, plan)
    # All episodes run side by side and most end together, so that time goes with control steps, not with episodes.
    steps = runner.longest_episode() if cells else 1
    with progress(f"evaluate {facts['task']} {run_label(facts)}", steps, quiet=plan.quiet, at_most=True) as advance:
        if cells:
            clean, *found = runner.grid(cells, _counted(advance, len(runner.seeds), plan, len(cells)))
        else:
            clean, found = runner.clean(), []
            advance(1)
    perturbed: list[dict[str, Any]] = [
        {"family": cell.family, "level": cell.level, "episodes": plan.cell_episodes, "returns": runner.by_seed(returns)}
        for cell, returns in zip(cells, found, strict=True)
    ]
    result = {**about, "clean": runner.by_seed(clean), "perturbed": perturbed}
    if "pair" in facts:
        result["env"] = facts["pair"]["env"]
    write_json(folder / "evaluation.json", result)
    return result


def _need_complete(folder: Path, facts: dict[str, Any]) -> None:
    if facts["status"] == "diverged":
        seeds = ", ".join(facts.get("stopped", {}))
        raise OffDynError(f"run '{folder}' diverged in seed {seeds}: a table of the others would flatter the agent")
    if facts["status"] != "complete":
        raise OffDynError(f"run '{folder}' is not complete; finish it with: {finishing_command(folder, facts)}")


def _cells(problem: Problem, own: bool) -> Sequence[Any]:
    """Return the cells of the robustness grid, of the attack with own critics too if wanted; own data have none."""
    from offdyn_envs.benchmark.scoring.cells import evaluation_cells
    from offdyn_envs.benchmark.scoring.critics import find_critic
    from offdyn_envs.tasks import get_task

    if not isinstance(problem, NamedTask):
        return ()
    task = get_task(problem.name)
    return evaluation_cells(task, critic=find_critic(task.name) is not None, own=own)


def _about(folder: Path, facts: dict[str, Any], plan: EvaluationPlan, own: bool) -> dict[str, Any]:
    """Return what an evaluation is of: the rules, the run and its ONNX files."""
    from offdyn_envs.benchmark.scoring import protocol

    about = {"protocol": protocol.PROTOCOL, "task": facts["task"], "agent": facts["agent"], "episodes": plan.episodes}
    about["policy_sha256"] = _hashes(folder, facts, "policy.onnx")
    return about | ({"critic_sha256": _hashes(folder, facts, "critic.onnx")} if own else {})


def _hashes(folder: Path, facts: dict[str, Any], name: str) -> dict[str, str]:
    """Return the SHA-256 of each sound seed's file; of one that is missing, which is told when it is read, nothing."""
    from offdyn_envs.datasets.store.folders import file_digest

    files = {str(seed): folder / "seeds" / str(seed) / name for seed in sound_seeds(facts)}
    return {seed: file_digest(path) for seed, path in files.items() if path.is_file()}


def _says(found: dict[str, Any], about: dict[str, Any], cells: Sequence[Any], plan: EvaluationPlan) -> bool:
    """Say whether an evaluation.json is of this and has all these cells."""
    if any(found.get(key) != value for key, value in about.items()):
        return False
    had = {(cell["family"], cell["level"], cell["episodes"]) for cell in found["perturbed"]}
    return had >= {(cell.family, cell.level, plan.cell_episodes) for cell in cells}


def _counted(advance: Callable[..., None], members: int, plan: EvaluationPlan, cells: int) -> Callable[[int], None]:
    """Return what counts a control step of all episodes, and says how many of them have ended."""
    total, over = members * (plan.episodes + plan.cell_episodes * cells), 0

    def stepped(ended: int) -> None:
        nonlocal over
        over += ended
        advance(1, episodes=f"{over:,}/{total:,}")

    return stepped


def clean_returns(folder: Path, plan: EvaluationPlan) -> dict[str, list[float]]:
    """Return the clean returns of every exported policy of a run that has ended; those of diverged seeds are missing.

    They are kept in the run's folder as `clean.json`, and taken from there or from its `evaluation.json` where these
    have as many episodes.

    Args:
        folder: The run's folder.
        plan: How many clean episodes; the rest is not asked.

    Raises:
        OffDynError: The folder holds no run that has ended, or one of its ONNX files breaks a rule.
    """
    from offdyn_envs.benchmark.scoring import protocol

    facts = read_run(folder)
    if facts["status"] not in ENDED:
        raise OffDynError(f"run '{folder}' has not ended")
    wanted = {"protocol": protocol.PROTOCOL, "task": facts["task"], "episodes": plan.episodes}
    for name in ("clean.json", "evaluation.json"):
        found = _read_json(folder / name)
        if all(found.get(key) == value for key, value in wanted.items()):
            return found["clean"]
    runner = _Runner(folder, facts, plan)
    clean = runner.by_seed(runner.clean()) if runner.seeds else {}
    write_json(folder / "clean.json", {**wanted, "agent": facts["agent"], "clean": clean})
    return clean


def _read_json(path: Path) -> dict[str, Any]:
    """Return what a file of results says; nothing where it is missing or damaged, and is made anew."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def has_critics(folder: Path) -> bool:
    """Say whether every run has a critic of its own to attack with."""
    return all((folder / "seeds" / str(seed) / "critic.onnx").exists() for seed in read_run(folder)["seeds"])


class _Runner:
    """The policies of one run, and the environment that scores them."""

    def __init__(self, folder: Path, facts: dict[str, Any], plan: EvaluationPlan) -> None:
        from offdyn_envs.benchmark.gate.onnx_policy import load_critic, load_policy

        self.plan, self.problem = plan, problem_of(facts)
        self.seeds = sound_seeds(facts)
        sizes = self.problem.sizes
        widths: Any = {"observation_dim": sizes[0], "action_dim": sizes[1]}
        homes = [folder / "seeds" / str(seed) for seed in self.seeds]
        named = isinstance(self.problem, NamedTask)
        self.policies = [load_policy(_stored(home / "policy.onnx", named), **widths) for home in homes]
        own = plan.own_critics and has_critics(folder)
        self.critics = [load_critic(_stored(home / "critic.onnx", named), **widths) for home in homes] if own else []

    def longest_episode(self) -> int:
        """Return the control steps after which every episode has ended."""
        from offdyn_envs.robots import get_robot
        from offdyn_envs.tasks import get_task

        return get_robot(get_task(self.problem.name).robot).max_episode_steps

    def clean(self) -> Floats:
        """Return the returns [R, episodes] in the scoring environment."""
        from offdyn_envs.benchmark.scoring.protocol import EVALUATION_SEED

        members, threads = len(self.seeds), self.plan.threads
        return self.problem.score(self._act, members, self.plan.episodes, EVALUATION_SEED, threads)

    def grid(self, cells: Sequence[Any], stepped: Callable[[int], None]) -> list[Floats]:
        """Return the returns [R, episodes] in the scoring environment, then those in each cell, as one batch."""
        from offdyn_envs.benchmark.gate.onnx_policy import load_critic
        from offdyn_envs.benchmark.scoring.critics import find_critic
        from offdyn_envs.benchmark.scoring.grid import Ask, Judges, grid_returns
        from offdyn_envs.benchmark.scoring.protocol import EVALUATION_SEED
        from offdyn_envs.benchmark.scoring.rollouts import target_sigma
        from offdyn_envs.robots import get_robot
        from offdyn_envs.tasks import get_dynamics, get_task

        assert isinstance(self.problem, NamedTask)
        task = get_task(self.problem.name)
        found = find_critic(task.name)
        sigma = found.sigma if found else target_sigma(task).tolist() if self.critics else None
        judges = Judges(sigma, load_critic(found.path) if found else None, self.critics)
        asked = [Ask(None, self.plan.episodes, EVALUATION_SEED)]
        asked += [Ask(cell, self.plan.cell_episodes, EVALUATION_SEED) for cell in cells]
        standing = get_dynamics(task.robot, task.scoring)
        return grid_returns(self.policies, get_robot(task.robot), standing, asked, judges, self.plan.threads, stepped)

    def by_seed(self, returns: Floats) -> dict[str, list[float]]:
        """Return a row of returns per seed, as JSON has it.

        Raises:
            OffDynError: An episode failed: the policy gave an action that is not finite.
        """
        failed = [seed for seed, row in zip(self.seeds, returns, strict=True) if not np.isfinite(row).all()]
        if failed:
            raise OffDynError(f"seed {failed[0]} of this run gave an action that is not finite; nothing was written")
        return {str(seed): [float(value) for value in row] for seed, row in zip(self.seeds, returns, strict=True)}

    def _act(self, observations: Floats) -> NDArray[np.float32]:
        return np.stack([policy(rows) for policy, rows in zip(self.policies, observations, strict=True)])


def _stored(path: Path, named: bool) -> bytes:
    """Return an ONNX file as the leaderboard stores it; one of own data as it is."""
    from offdyn_envs.benchmark.gate.gate import inspect_model, read_model
    from offdyn_envs.benchmark.gate.half import halved

    data = read_model(path)
    if not named:
        return data
    inspect_model(data, "critic" if path.stem == "critic" else "policy", label=f"'{path}'")
    return halved(data)


def summarise(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the table of an evaluation.

    Args:
        result: Contents of an evaluation.json.

    Returns:
        One row for the clean environment and one per cell: mean return, and where reference returns exist the
        normalised score, its t interval over seeds and the share kept of the clean score.
    """
    from offdyn_envs.benchmark.scoring.cells import cell_name

    normalise = None if "env" in result else normaliser(result["task"])
    clean = _means(result["clean"])
    rows = [{"condition": "clean", **_scored(clean, normalise), "kept": "-"}]
    for cell in result["perturbed"]:
        means = _means(cell["returns"])
        row = {"condition": cell_name(cell["family"], cell["level"]), **_scored(means, normalise)}
        rows.append(row | {"kept": _kept(means, clean, normalise)})
    return rows


def left_out(result: dict[str, Any]) -> list[str]:
    """Return a line for each part of the robustness grid that an evaluation lacks, and why; own data have no grid."""
    from offdyn_envs.benchmark.scoring import protocol

    attacked = any(cell["family"] == protocol.MIN_Q for cell in result["perturbed"])
    if "env" in result or attacked:
        return []
    return [f"the suite has no reference critic of {result['task']}: no min-Q attack"]


def _means(by_seed: dict[str, list[float]]) -> Floats:
    return np.array([np.mean(values) for values in by_seed.values()])


def _scored(means: Floats, normalise: Callable[[Floats], Floats] | None) -> dict[str, Any]:
    from offdyn_envs.benchmark.scoring.statistics import t_interval

    row: dict[str, Any] = {"return": round(float(means.mean()), 1), "score": "-", "95% interval": "-"}
    if normalise is None:
        return row
    scores = normalise(means)
    row["score"] = round(float(scores.mean()), 1)
    if len(scores) > 1 and np.isfinite(scores).all():
        interval = t_interval(scores)
        row["95% interval"] = f"[{interval.low:.1f}, {interval.high:.1f}]"
    return row


def _kept(means: Floats, clean: Floats, normalise: Callable[[Floats], Floats] | None) -> str:
    from offdyn_envs.benchmark.scoring.scores import degradation, kept_words

    if normalise is None:
        return "-"
    return kept_words(degradation([float(normalise(means).mean())], [float(normalise(clean).mean())]))


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Read a run's evaluation.json.

    Raises:
        OffDynError: The run has not been evaluated.
    """
    path = folder / "evaluation.json"
    if not path.is_file():
        raise OffDynError(f"run '{folder}' is not evaluated; use: offdyn evaluate {folder}")
    return json.loads(path.read_text(encoding="utf-8"))
