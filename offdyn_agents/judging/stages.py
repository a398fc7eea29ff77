"""What `offdyn train` says of the dynamics that a run's stages learned: their true errors, before the first update.

Figures go into run.json under `stages.judged`, pictures beside it. They are those of `offdyn diagnose judge --holdout
fresh` with as many elites as the agent has, from the same functions: the models of the stages are found in the cache of
stages, and those to compare with are trained into it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offdyn_agents.models.dual.settings import DualDynamicsSettings
from offdyn_agents.models.ensemble.settings import DynamicsSettings, EnsembleSettings
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_agents.engine.agent import Agent
    from offdyn_agents.engine.resources import Hardware
    from offdyn_agents.engine.training.supplies import TaskRuns
    from offdyn_agents.judging.models import JudgeSettings

__all__ = ["NAME", "REWARD_NAME", "RunJudge", "judge_settings", "judge_stages", "judged", "learned_model"]

NAME, REWARD_NAME = "judged.png", "reward.png"
DUAL = {"dual": "mobody", "single": "single", "plain": "plain"}
"""MOBODY's dynamics by their structure."""
COMPARED, GAUSSIAN = ("single", "alone"), ("merged", "target")
"""What stands beside a run's own model where that is asked for: models of merged and of target rows, of the same kind
and with the same settings. To compare both kinds there is `offdyn diagnose judge`."""


def learned_model(agent: Agent) -> str:
    """Return which of `offdyn_agents.judging.judge.MODELS` an agent's stages train; "" for agents without a model.

    DROCO's ensemble is one of target rows, whatever else the agent learns from, unless its ball is of dual dynamics.
    """
    dynamics = _used(agent)
    if isinstance(dynamics, DualDynamicsSettings):
        return "alone" if dynamics.data == "target" else DUAL[dynamics.structure]
    if isinstance(dynamics, DynamicsSettings):
        return "target"
    return str(agent.settings.data) if isinstance(dynamics, EnsembleSettings) else ""


def _used(agent: Agent) -> Any:
    """Return the settings of the dynamics that an agent uses: DROCO has those of two kinds; None where it has none."""
    settings = agent.settings
    return settings.dual if getattr(settings, "ensemble", "") == "dual" else getattr(settings, "dynamics", None)


def judge_settings(agent: Agent) -> JudgeSettings:
    """Return settings with which the agent's own models are found in the cache, and others are trained like them."""
    from offdyn_agents.judging.models import OF_REWARD, JudgeSettings

    own, dynamics = agent.settings, _used(agent)
    reward = {name: getattr(own, name) for name in OF_REWARD} if hasattr(own, "dynamics_reward") else {}
    if isinstance(dynamics, DualDynamicsSettings):
        # DROCO has no elites: it asks all members.
        asked = {"members": "all", "elites": dynamics.members} if dynamics is not own.dynamics else {}
        return JudgeSettings(dynamics=dynamics, **asked, **reward)
    return JudgeSettings(ensemble=dynamics, elites=getattr(own, "elites", dynamics.members), **reward)


@dataclass(frozen=True)
class RunJudge:
    """Judges what the stages of runs learned.

    Attributes:
        agent: The agent of the runs.
        hardware: Where models to compare with are trained.
        cache: Folder of cached stages, which holds those of the runs.
        compare: Whether also to train and judge the models of merged and of target rows.
        quiet: Show no progress.
        source: Loads the source rows to ask about, for runs that learn from none; None where there are none.
    """

    agent: Agent
    hardware: Hardware
    cache: Path
    compare: bool = False
    quiet: bool = False
    source: Callable[[], Any] | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are judged, the runs' own first."""
        own = learned_model(self.agent)
        others = COMPARED if isinstance(_used(self.agent), DualDynamicsSettings) else GAUSSIAN
        return tuple(dict.fromkeys([own, *(others if self.compare else ())]))

    def enough(self, found: Mapping[str, Any], data: str) -> bool:
        """Say whether figures of an earlier, interrupted training are all that is wanted.

        Args:
            found: What run.json had under `stages.judged`.
            data: SHA-256 of what the runs learn from.
        """
        # Before it was written down, the best five were asked.
        same = found.get("data_sha256") == data and found.get("elites", 5) == judge_settings(self.agent).elites
        return same and set(self.models) <= set(found.get("errors", ()))

    def judge(self, task: TaskRuns, data: str, failed: Collection[int]) -> dict[str, Any]:
        """Judge what the stages of one task's runs learned.

        Args:
            task: The datasets and seeds.
            data: SHA-256 of what the runs learn from.
            failed: Places of the seeds whose stages failed: nothing is said of them.

        Returns:
            Plain JSON: "skipped", one line, where the true outcomes cannot be had; else "learned", the name of the
            runs' own model, "data_sha256", "wall_clock_s", and what `judge_datasets` says.
        """
        begun = time.monotonic()
        seeds = [seed for place, seed in enumerate(task.seeds) if place not in failed]
        if not seeds:
            return {"skipped": "the stages of every seed failed"}
        if task.target is None or self.agent.settings.data == "oracle":
            return {"skipped": "data=oracle has no source rows, and its target is not scarce"}
        try:
            found = self._judged(self._with_source(task), seeds)
        except OffDynError as error:
            return {"skipped": str(error)}
        seconds = round(time.monotonic() - begun, 1)
        return {"learned": self.models[0], "data_sha256": data, "wall_clock_s": seconds, **found}

    def _with_source(self, task: TaskRuns) -> TaskRuns:
        """Return a task with source rows to ask about, which its runs need not have learned from."""
        if task.source is not None:
            return task
        if self.source is None:
            raise OffDynError("there are no source rows to ask learned models about")
        return replace(task, source=self.source())

    def _judged(self, task: TaskRuns, seeds: Sequence[int]) -> dict[str, Any]:
        """Judge all models, or the runs' own ones alone where others cannot be trained."""
        try:
            return self._figures(task, seeds, self.models)
        except OffDynError as error:
            if len(self.models) == 1:
                raise
            return {**self._figures(task, seeds, self.models[:1]), "not_compared": str(error)}

    def _figures(self, task: TaskRuns, seeds: Sequence[int], models: Sequence[str]) -> dict[str, Any]:
        from offdyn_agents.engine.products import threads_inside
        from offdyn_agents.judging.judge import judge_datasets
        from offdyn_agents.judging.models import Terms

        source: Any = task.source
        target: Any = task.target
        reward_on = models[0] if hasattr(self.agent.settings, "dynamics_reward") else ""
        with threads_inside(self.hardware.threads):
            return judge_datasets(
                source,
                target,
                judge_settings(self.agent),
                models,
                seeds,
                Terms(holdout="fresh"),
                self.hardware,
                self.cache,
                reward_on=reward_on,
                quiet=self.quiet,
            )


def judge_stages(judge: RunJudge, task: TaskRuns, data: str, failed: Collection[int], facts: dict[str, Any]) -> None:
    """Put figures and pictures of what the stages of a run learned into its facts and its folder; once.

    Training never fails for want of them: one line says why there are none.

    Args:
        judge: How.
        task: The run's datasets, seeds and folder.
        data: SHA-256 of what it learns from.
        failed: Places of the seeds whose stages failed.
        facts: What its run.json says; those of an earlier, interrupted training may be there.
    """
    from offdyn_agents.judging.report import pictures

    found = judged(facts)
    if not judge.enough(found, data):
        found = judge.judge(task, data, failed)
        facts["stages"] = {**facts.get("stages", {}), "judged": found}
    drawn = pictures({"task": facts["task"], **found}, task.folder, NAME, REWARD_NAME)
    lines = [*_lines(found), *drawn]
    if not judge.quiet:
        for line in lines:
            print(f"{facts['task']}: {line}", file=sys.stderr, flush=True)


def judged(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures in a run.json, nothing where it has none."""
    stages = facts.get("stages")
    found = stages.get("judged") if isinstance(stages, dict) else None
    return found if isinstance(found, dict) else {}


def _lines(found: Mapping[str, Any]) -> list[str]:
    """Return what was found, and what could not be said, in words."""
    from offdyn_agents.judging.report import summary

    told = {"skipped": "learned dynamics not judged", "not_compared": "no models to compare with"}
    return [*summary(found), *(f"{what}: {found[key]}" for key, what in told.items() if key in found)]
