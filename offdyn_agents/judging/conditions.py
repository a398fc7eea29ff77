"""`offdyn diagnose reward`: the conditions of MOREC's dynamics reward on a task or on a dataset, seed by seed.

Of a task, model and reward are those that `offdyn train morec` learns: from merged rows, half of the fakes from the
source. Source rows are asked about too: how many would be refused at once. A dataset is a single domain, without such
fakes. Every seed has a model and a reward of its own. For diagnosis, never for training.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.settings import setting_names, to_json
from offdyn_agents.engine.termination import termination
from offdyn_agents.judging.exams import SOURCE, set_paper
from offdyn_agents.judging.judge import plain_json
from offdyn_agents.judging.models import OF_REWARD, JudgeSettings
from offdyn_agents.judging.reward import judge_reward
from offdyn_agents.models.dynamics_reward.conditions import (
    Asked,
    Conditions,
    Ranking,
    measure_conditions,
    other_policies,
)
from offdyn_agents.models.dynamics_reward.models import split_rows
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings
from offdyn_agents.models.dynamics_reward.stage import fit_dynamics_reward
from offdyn_agents.models.ensemble.stages import fit_ensembles
from offdyn_agents.presets import chosen

if TYPE_CHECKING:
    from offdyn_agents.engine.resources import Hardware

__all__ = ["check", "condition_settings"]

EXAM_ROWS = 1000
"""Source rows that are simulated in the target."""
USED = ("ensemble", "elites", *OF_REWARD)
"""The settings of models that are judged which count here."""


def check(
    name: str,
    overrides: Mapping[str, str],
    seeds: Sequence[int],
    rows: int,
    cache: Path,
    hardware: Hardware,
    *,
    quiet: bool = True,
) -> tuple[dict[str, Any], list[Conditions]]:
    """Learn models and rewards, and measure the conditions.

    Args:
        name: A task, or a dataset with simulator states.
        overrides: Settings by hand; see `condition_settings`.
        seeds: Each has a model and a reward of its own.
        rows: Use only this many rows of the dataset, from its start, or of the task's source, evenly spaced; 0 for all.
        cache: Folder of results.
        hardware: Where.
        quiet: Show no progress.

    Returns:
        A record, plain JSON, and each seed's conditions. In the record what they were made of and with: "task" or
        "dataset", "command", "commit", "precision", "versions", "seeds", "rows", "settings", "wall_clock_s"; and
        "real", "rankings" by policy, "source" (the ranking of its rows, of a task) and "holds", for every seed one.

    Raises:
        OffDynError: No such task, dataset or setting; no simulator states; or a training failed.
    """
    from offdyn_agents.engine.provenance import made_by
    from offdyn_envs.tasks import DatasetId, get_task

    begun = time.monotonic()
    if "/" in name:
        what, name = "dataset", str(DatasetId.parse(name))
        used, counts, found = _of_dataset(name, overrides, seeds, rows, cache, hardware, quiet)
    else:
        what, name = "task", get_task(name).name
        used, counts, found = _of_task(name, overrides, seeds, rows, cache, hardware, quiet)
    words = ["offdyn", "diagnose", "reward", name, "--seeds", str(len(seeds)), "--precision", hardware.precision]
    words += ["--rows", str(rows)] if rows else []
    words += [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
    settings = to_json(used)
    record = {
        what: name,
        **made_by(shlex.join(words), hardware.precision),
        "seeds": list(seeds),
        "rows": counts,
        "settings": {key: settings[key] for key in USED},
        "real": [one.real for one in found],
        "rankings": {policy: [asdict(one.rankings[policy]) for one in found] for policy in found[0].rankings},
        **({"source": [asdict(one.source) for one in found if one.source]} if found[0].source else {}),
        "holds": {condition: [one.holds()[condition] for one in found] for condition in found[0].holds()},
        "wall_clock_s": round(time.monotonic() - begun, 1),
    }
    return plain_json(record), found


def condition_settings(robot: str, quality: str, overrides: Mapping[str, str]) -> JudgeSettings:
    """Return how MOREC's model and reward are trained for a robot.

    Args:
        robot: Its name; "" for one outside the suite.
        quality: Of the data.
        overrides: Settings by hand: those of the reward by their own names, all others as for `offdyn train morec`, for
            instance `form` and `dynamics.epochs`.

    Raises:
        OffDynError: An unknown setting or form, or a value out of range.
    """
    from offdyn_agents.algorithms.registry import agent_class

    short = setting_names(DynamicsRewardSettings)
    named = {f"dynamics_reward.{key}" if key in short else key: value for key, value in overrides.items()}
    own = chosen(agent_class("morec"), robot, quality, named)
    return JudgeSettings(ensemble=own.dynamics, **{name: getattr(own, name) for name in ("elites", *OF_REWARD)})


Measured = tuple[JudgeSettings, dict[str, Any], list[Conditions]]


def _of_task(
    name: str,
    overrides: Mapping[str, str],
    seeds: Sequence[int],
    rows: int,
    cache: Path,
    hardware: Hardware,
    quiet: bool,
) -> Measured:
    from offdyn_agents.engine.stages import StageContext
    from offdyn_envs import load_task
    from offdyn_envs.tasks import get_task

    task = get_task(name)
    settings = condition_settings(task.robot, task.quality, overrides)
    env, source, target = load_task(name)
    env.close()
    paper = set_paper(source, target, EXAM_ROWS, rows, holdout="fresh", threads=hardware.threads, quiet=quiet)
    context = StageContext(
        Layout(source.observations.shape[1], source.actions.shape[1]),
        paper.source.to(hardware.device),
        paper.target.to(hardware.device),
        (),
        0,
        cache=cache,
        robot=task.robot,
        terminated=termination(task.robot),
        threads=hardware.threads,
        compiled=hardware.compiled,
        quiet=quiet,
        precision=hardware.precision,
    )
    found: list[Conditions] = []
    for seed in seeds:
        judged = judge_reward(paper, settings, replace(context, seeds=(seed,)), "merged", seed=seed, prefix="")
        rankings = {policy: Ranking(**ranks[0]) for policy, ranks in judged["rankings"].items()}
        refused = rankings.pop(SOURCE)
        found.append(Conditions(judged["real"], rankings, refused))
    exams = {exam: len(asked.rewards) for exam, asked in paper.exams.items()}
    counts = {"source": len(paper.source), "target": len(paper.target), "invalid": paper.invalid, **exams}
    return settings, counts, found


def _of_dataset(
    name: str,
    overrides: Mapping[str, str],
    seeds: Sequence[int],
    rows: int,
    cache: Path,
    hardware: Hardware,
    quiet: bool,
) -> Measured:
    from offdyn_envs import load_dataset

    dataset = load_dataset(name)
    settings = condition_settings(dataset.id.robot, dataset.id.quality, overrides)
    # No source: none of its fakes.
    reward = replace(settings.dynamics_reward, source_fakes=0.0)
    settings = replace(settings, dynamics_reward=reward)
    packed = pack(dataset, name)[: rows or None]
    layout = Layout(dataset.observations.shape[1], dataset.actions.shape[1])
    # The place of a row goes along through the split.
    numbered = torch.cat([packed, torch.arange(len(packed))[:, None].float()], dim=1)
    ends = termination(dataset.id.robot)
    how: dict[str, Any] = {"threads": hardware.threads, "compiled": hardware.compiled, "quiet": quiet}
    found: list[Conditions] = []
    counts: dict[str, Any] = {}
    for seed in seeds:
        kept, held = split_rows(numbered, seed)
        train, s, a, following, *_ = (kept[:, :-1], *layout.split(held[:, :-1]))
        (ensemble,) = fit_ensembles(
            settings.ensemble, layout, train, [seed], cache, precision=hardware.precision, **how
        ).sound()
        judge = fit_dynamics_reward(reward, layout, packed, cache, terminated=ends, seed=seed, **how)
        usable = judge.thinned(settings.discriminators).usable(reward, prefix="")
        others = other_policies(dataset, held[:, -1].long().tolist(), threads=hardware.threads)
        states, _, nexts, *_ = layout.split(train)
        scale = (nexts - states).std(0).clamp(min=1e-6)
        found.append(measure_conditions(usable, ensemble, Asked(s, a, following), others, scale))
        counts = {"learned from": len(kept), "held out": len(held)}
    return settings, counts, found
