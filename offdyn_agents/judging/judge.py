"""How good learned target dynamics are: their error on target rows nobody saw, and on source state-actions.

MOBODY's dynamics stand beside what it must beat: one model of the merged rows and one of the target rows alone, both
with its own networks and as Gaussian ensembles. For diagnosis, never for training. Models are trained where other
stages are and examined on the CPU: the same models have the same errors whatever trained them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.engine.termination import termination
from offdyn_agents.judging.exams import Exam, Paper, in_changes, references, set_paper
from offdyn_agents.judging.models import USUAL, JudgeSettings, Means, Terms, fit_models
from offdyn_agents.judging.reward import judge_reward
from offdyn_agents.judging.rows import rank_correlation
from offdyn_agents.models.ensemble.model import CHUNK

if TYPE_CHECKING:
    from offdyn_agents.engine.resources import Hardware
    from offdyn_envs.datasets.store.spec import Dataset

__all__ = ["exam_room", "examine", "judge", "judge_datasets", "plain_json", "row_counts"]


def examine(model: Means, exam: Exam) -> dict[str, Any]:
    """Return the errors of a model's mean prediction (over its elites).

    Args:
        model: The model.
        exam: What it is asked.

    Returns:
        "state": squared error of s', each dimension in units of its mean squared change, mean over dimensions (1 is the
        error of predicting no change). "reward": squared error in units of the rewards' variance. "mse": mean squared
        error of s' as it is. "rank": rank correlation over rows between the spread of the members (largest distance
        from their mean) and the error of the mean, 0 where one of both is constant. "dimensions": what "state" is the
        mean of, a list [|S|] with NaN for dimensions that do not move.
    """
    states: list[Tensor] = []
    rewards: list[Tensor] = []
    spread: list[Tensor] = []
    with torch.no_grad():
        for s, a in zip(exam.observations.split(CHUNK), exam.actions.split(CHUNK), strict=True):
            following, reward_means = model(s, a)
            states.append(following.mean(0))
            rewards.append(reward_means.mean(0))
            spread.append(torch.linalg.vector_norm(following - following.mean(0), dim=-1).amax(0))
    error = (torch.cat(states) - exam.following).double()
    variance = exam.rewards.double().var(correction=0).clamp(min=1e-12)
    dimensions, moving = in_changes(error, exam)
    return {
        "state": float(dimensions[moving].mean()),
        "reward": float((torch.cat(rewards) - exam.rewards).double().square().mean() / variance),
        "mse": float(error.square().mean()),
        "rank": rank_correlation(torch.cat(spread).numpy(), error.norm(dim=-1).numpy()) or 0.0,
        "dimensions": dimensions.tolist(),
    }


def judge(
    paper: Paper, settings: JudgeSettings, context: StageContext, names: Sequence[str] = USUAL
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Train the models and examine them.

    Args:
        paper: The exams.
        settings: How the models are trained.
        context: Seeds, cache and hardware; its rows are those of the paper.
        names: Which of `MODELS`.

    Returns:
        For each model and each exam the figures of `examine`, one dict per seed.
    """
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in names:
        models = fit_models(settings, context, name)
        found[name] = {exam: [examine(model, asked) for model in models] for exam, asked in paper.exams.items()}
    return found


def exam_room(
    source: Dataset,
    target: Dataset,
    seeds: Sequence[int],
    terms: Terms,
    hardware: Hardware,
    cache: Path,
    quiet: bool = True,
) -> tuple[Paper, StageContext]:
    """Return the exams of a task's datasets, and where models learn and are found; see `judge_datasets`."""
    paper = set_paper(
        source, target, terms.rows, terms.source_rows, holdout=terms.holdout, threads=hardware.threads, quiet=quiet
    )
    context = StageContext(
        Layout(source.observations.shape[1], source.actions.shape[1]),
        paper.source.to(hardware.device),
        paper.target.to(hardware.device),
        tuple(seeds),
        0,
        cache=cache,
        robot=target.id.robot,
        terminated=termination(target.id.robot),
        threads=hardware.threads,
        compiled=hardware.compiled,
        quiet=quiet,
        precision=hardware.precision,
    )
    return paper, context


def row_counts(paper: Paper) -> dict[str, int]:
    """Return how many rows are learned from and asked about."""
    rows = {"source": len(paper.source), "target": len(paper.target), "invalid": paper.invalid}
    return rows | {exam: len(asked.rewards) for exam, asked in paper.exams.items()}


def judge_datasets(
    source: Dataset,
    target: Dataset,
    settings: JudgeSettings,
    names: Sequence[str],
    seeds: Sequence[int],
    terms: Terms,
    hardware: Hardware,
    cache: Path,
    *,
    reward_on: str = "",
    quiet: bool = True,
) -> dict[str, Any]:
    """Train or find models of the datasets of a task, and judge them.

    Args:
        source: The source dataset, with simulator states.
        target: The target dataset.
        settings: How the models are trained.
        names: Which of `MODELS`.
        seeds: Models of each kind.
        terms: What they are asked.
        hardware: Where they are trained.
        cache: Folder of cached stages.
        reward_on: Which Gaussian ensemble ("merged", "target", "source") proposes the candidates on which MOREC's
            dynamics reward is judged; "" to leave that out.
        quiet: Show no progress.

    Returns:
        Plain JSON, numbers that are not finite as None: "seeds"; "holdout"; "elites" of Gaussian ensembles; "rows"
        learned from and asked about;
        "references" and "errors", see `references` and `judge`; "reward", see `judge_reward`.

    Raises:
        OffDynError: The exams cannot be made (see `set_paper`), or a training failed.
    """
    paper, context = exam_room(source, target, seeds, terms, hardware, cache, quiet)
    record: dict[str, Any] = {
        "seeds": list(seeds),
        "holdout": terms.holdout,
        "elites": settings.elites,
        "rows": row_counts(paper),
        "references": references(paper),
        "errors": judge(paper, settings, context, names),
    }
    if reward_on:
        record["reward"] = judge_reward(paper, settings, context, reward_on)
    return plain_json(record)


def plain_json(value: Any) -> Any:
    """Return JSON with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
