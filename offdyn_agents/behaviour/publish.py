"""Train a behaviour, choose its medium and expert, measure them, and write the policy files with their cards."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from offdyn_agents.behaviour.evaluation import MEDIUM_HIGH, MEDIUM_LOW, Evaluation, evaluate, find_expert, find_medium
from offdyn_agents.behaviour.export import policy_from_snapshot
from offdyn_agents.behaviour.learners import (
    ADOPTION_OF_A_LESSON,
    make_learner,
    make_lesson,
    make_tuned_learner,
    make_warm_learner,
    require_expert,
    take_head_start,
    take_warm_start,
    told_of,
)
from offdyn_agents.behaviour.programme import Behaviour
from offdyn_agents.behaviour.recipes import HeadStart
from offdyn_agents.behaviour.references import random_returns
from offdyn_agents.behaviour.training import Learner, Run, learn, repeatable
from offdyn_agents.engine.provenance import git_commit, package_versions
from offdyn_agents.runs.locks import held, holder
from offdyn_envs.benchmark.scoring.protocol import SCORED_GAP
from offdyn_envs.benchmark.scoring.scores import Reference
from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, model_hash
from offdyn_envs.policies import BehaviourPolicy, read_card
from offdyn_envs.robots import get_robot
from offdyn_envs.shipped import REPLAY, behaviour_path
from offdyn_envs.tasks import get_dynamics

EXPERT_EPISODES, MEDIUM_EPISODES = 30, 20
CARD_EPISODES = 100
PATIENCE = 3600.0
"""Seconds to wait for another process that takes the same lesson, which takes minutes."""
_ROUGHLY, _CLOSELY = 40, 8
_SHARED_KEYS = ("format", "robot", "dynamics", "algorithm", "settings", "seed", "training_unit", "model_hash")
# Policies are chosen and reported on different episodes, or the report would be too good.
_SELECTION_SEED, _CARD_SEED = 10_000, 20_000


def train_behaviour(behaviour: Behaviour, root: Path, *, quiet: bool = False) -> dict[str, dict[str, Any]]:
    """Train a behaviour, from nothing or from where it stopped, and write its policies.

    Args:
        behaviour: the behaviour.
        root: folder of all runs.
        quiet: show no progress.

    Returns:
        The cards, by the policies' names.

    Raises:
        OffDynError: nothing is missing; no policy of the run qualifies as medium; a checkpoint belongs to other
            settings; or the expert that the run is to begin as is missing.
    """
    if behaviour.done:
        raise OffDynError(f"{behaviour} has all of its policies")
    if behaviour.measured:  # Only the replay is missing.
        return publish_replay(behaviour, Run(behaviour.directory(root)))
    if warm := behaviour.recipe.warm_start:
        require_expert(behaviour, warm)
    # Networks are made and values learned outside `learn` too, and must not differ there either.
    with repeatable():
        runs = _train(behaviour, root, quiet)
    return publish(behaviour, *runs)


def _train(behaviour: Behaviour, root: Path, quiet: bool) -> list[tuple[Learner, Run]]:
    """The runs of a behaviour, trained to their ends: one, or two with a warm start."""
    (_, units), *second = behaviour.stages(root)
    learner, run = _first_run(behaviour, str(behaviour), root, units, quiet)
    warm = behaviour.recipe.warm_start
    if warm is None:
        return [(learner, run)]
    better = make_warm_learner(behaviour, warm)
    rerun = Run(second[0][0], origin={"warm_start": told_of(warm, behaviour.robot, learner)})
    if not rerun.checkpoint.exists():
        take_warm_start(better, behaviour, warm, learner)
    learn(better, rerun, f"{behaviour} (warm start)", quiet=quiet)
    return [(learner, run), (better, rerun)]


def _first_run(behaviour: Behaviour, name: str, root: Path, limit: int | None, quiet: bool) -> tuple[Learner, Run]:
    directory, start = behaviour.directory(root), behaviour.recipe.head_start
    directory.mkdir(parents=True, exist_ok=True)
    learner = make_learner(behaviour, directory)
    run = Run(directory, origin={"head_start": asdict(start)} if start else {})
    if start and not run.checkpoint.exists():
        take_head_start(learner, start, _ended(behaviour, start, root, quiet))
    learn(learner, run, name, limit=limit, quiet=quiet)
    return learner, run


def _ended(behaviour: Behaviour, start: HeadStart, root: Path, quiet: bool) -> Learner:
    """The first run of the dynamics that a behaviour gets its head start from, trained to its end."""
    origin = Behaviour(behaviour.robot, start.dynamics)
    directory = origin.directory(root)
    directory.mkdir(parents=True, exist_ok=True)
    with held(directory / "lock") as mine:
        if not mine:
            raise OffDynError(f"{behaviour} begins where {origin} ends, which another process is training; try later")
        return _first_run(origin, f"{origin} (head start of {behaviour})", root, None, quiet)[0]


def teach_behaviour(
    behaviour: Behaviour, teacher: Path, root: Path, *, quiet: bool = False
) -> dict[str, dict[str, Any]]:
    """Learn a behaviour from a teacher on the nominal robot, then from rewards on its own, and write its policies.

    Args:
        behaviour: the behaviour.
        teacher: the teacher's file.
        root: folder of all runs; an interrupted run goes on there.
        quiet: show no progress.

    Returns:
        The cards, by quality.

    Raises:
        OffDynError: the teacher cannot be read, another process is at the lesson for over an hour, a checkpoint belongs
            to other settings, the expert is not clearly better than chance, or no policy qualifies as medium.
    """
    # As in `train_behaviour`.
    with repeatable():
        lesson, tuned = _taught(behaviour, teacher, root, quiet)
    return publish_taught(behaviour, lesson, tuned)


def _taught(
    behaviour: Behaviour, teacher: Path, root: Path, quiet: bool
) -> tuple[tuple[Learner, Run], tuple[Learner, Run]]:
    """The lesson and the run that goes on from it, both at their ends."""
    learner, facts = make_lesson(behaviour.robot, teacher)
    lesson = Run(root / behaviour.robot / "lesson", origin={"teacher": facts})
    lesson.directory.mkdir(parents=True, exist_ok=True)
    lock = lesson.directory / "lock"
    with held(lock, wait=PATIENCE) as mine:
        if not mine:
            raise OffDynError(f"{behaviour} begins with a lesson that {holder(lock)} is taking; try later")
        learn(learner, lesson, f"{behaviour.robot} (lesson)", quiet=quiet)
    run = Run(behaviour.directory(root), origin={"lesson": facts})
    tuned = make_tuned_learner(behaviour)
    if not run.checkpoint.exists():
        tuned.adopt(policy_from_snapshot(learner.snapshot()), ADOPTION_OF_A_LESSON)
        run.remember(tuned)
        run.save(tuned)
    learn(tuned, run, str(behaviour), quiet=quiet)
    return (learner, lesson), (tuned, run)


def publish_taught(
    behaviour: Behaviour, lesson: tuple[Learner, Run], tuned: tuple[Learner, Run]
) -> dict[str, dict[str, Any]]:
    """Write `medium` and `expert` of a behaviour that was taught.

    The medium has a third to two thirds of what the expert gains over chance; policies of the lesson may be it.

    Args:
        behaviour: the behaviour.
        lesson: the run of imitation, and its learner.
        tuned: the run that went on from it, and its learner.

    Returns:
        The two cards, by quality.

    Raises:
        OffDynError: the expert is not clearly better than chance, or no policy qualifies as medium.
    """
    run = tuned[1]
    history = [(steps, training) for steps, training, _ in run.history]
    first, measure = history[0][0], partial(_measure, behaviour, run, EXPERT_EPISODES)
    best = max((find_expert(history, measure), (first, measure(first))), key=lambda found: found[1])[0]
    returns = {"expert": _report(behaviour, _policy(run, best))}
    scale = _scale(behaviour, returns["expert"]["sampled"])
    candidates = [(each, steps) for each in (lesson, tuned) for steps, _, _ in each[1].history]
    middle = _find_middle(
        len(candidates),
        scale.span,
        lambda at, episodes: _measure(behaviour, candidates[at][0][1], episodes, candidates[at][1]) - scale.random,
    )
    sources = {"expert": (tuned, best), "medium": candidates[middle]}
    returns["medium"] = _report(behaviour, _policy(sources["medium"][0][1], sources["medium"][1]))
    shares = {quality: (each["sampled"].mean - scale.random) / scale.span for quality, each in returns.items()}
    if not MEDIUM_LOW <= shares["medium"] <= MEDIUM_HIGH:
        share = f"{shares['medium']:.3f}"
        raise OffDynError(f"{behaviour}: the medium's share of the expert's gain is {share} on fresh episodes")
    cards: dict[str, dict[str, Any]] = {}
    for quality, (source, steps) in sources.items():
        cards[quality] = {
            **run.origin,
            **_common_card(behaviour, *source),
            "quality": quality,
            "stage": "lesson" if source is lesson else "tuned",
            "training_steps": steps,
            "returns": {kind: evaluation.summary() for kind, evaluation in returns[quality].items()},
            "random_return": scale.random,
            "share_of_gain": shares[quality],
        }
        policy = _policy(source[1], steps)
        policy.save(behaviour_path(behaviour.robot, behaviour.dynamics, quality), cards[quality])
    return cards


def _scale(behaviour: Behaviour, expert: Evaluation) -> Reference:
    """From chance to the expert, by the rule that tells whether a task is scored.

    Raises:
        OffDynError: the expert gains too little.
    """
    chance = random_returns(behaviour.robot, behaviour.dynamics, CARD_EPISODES)
    scale = Reference(chance["mean"], expert.mean, chance["se"], expert.standard_error)
    if not scale.scored:
        raise OffDynError(
            f"{behaviour}: the expert's return {scale.expert:.1f} (standard error {scale.expert_se:.1f}) is not above "
            f"chance's {scale.random:.1f} ({scale.random_se:.1f}) by {SCORED_GAP:.0f} standard errors of the difference"
        )
    return scale


def _find_middle(count: int, gain: float, measure: Callable[[int, int], float]) -> int:
    """Return the policy nearest to half of a gain: all of a run's are looked at roughly, the best ones closely."""
    rough = {at: measure(at, MEDIUM_EPISODES) for at in range(0, count, max(count // _ROUGHLY, 1))}
    nearest = sorted(rough, key=lambda at: abs(rough[at] - 0.5 * gain))[:_CLOSELY]
    close = {at: measure(at, CARD_EPISODES) for at in nearest}
    return min(close, key=lambda at: abs(close[at] - 0.5 * gain))


def publish(
    behaviour: Behaviour, scratch: tuple[Learner, Run], warm: tuple[Learner, Run] | None = None
) -> dict[str, dict[str, Any]]:
    """Write `medium` and `expert` of finished runs.

    Args:
        behaviour: the behaviour.
        scratch: the from-scratch run, which gives the medium, and its learner.
        warm: the run with a warm start that gives the expert, and its learner; without one the first gives it too.

    Returns:
        The two cards, by quality.

    Raises:
        OffDynError: no policy of the run qualifies as medium.
    """
    last = warm or scratch
    history = [(steps, training) for steps, training, _ in last[1].history]
    expert_steps, _ = find_expert(history, partial(_measure, behaviour, last[1], EXPERT_EPISODES))
    expert_returns = _report(behaviour, _policy(last[1], expert_steps))
    expert = expert_returns["sampled"].mean
    candidates = [steps for steps, _, _ in scratch[1].history]
    medium_steps, _ = find_medium(candidates, expert, partial(_measure, behaviour, scratch[1], MEDIUM_EPISODES))
    medium_returns = _report(behaviour, _policy(scratch[1], medium_steps))
    share = medium_returns["sampled"].mean / expert
    if not MEDIUM_LOW <= share <= MEDIUM_HIGH:
        raise OffDynError(f"{behaviour}: the medium's share of the expert's return is {share:.3f} on fresh episodes")
    cards: dict[str, dict[str, Any]] = {}
    for quality, source, steps, returns in (
        ("expert", last, expert_steps, expert_returns),
        ("medium", scratch, medium_steps, medium_returns),
    ):
        cards[quality] = {
            **scratch[1].origin,
            **source[1].origin,
            **_common_card(behaviour, *source),
            "quality": quality,
            "training_steps": steps,
            "returns": {kind: evaluation.summary() for kind, evaluation in returns.items()},
            "share_of_expert": returns["sampled"].mean / expert,
        }
        policy = _policy(source[1], steps)
        policy.save(behaviour_path(behaviour.robot, behaviour.dynamics, quality), cards[quality])
    if REPLAY[0] in behaviour.names:
        cards |= publish_replay(behaviour, scratch[1])
    return cards


def publish_replay(behaviour: Behaviour, run: Run) -> dict[str, dict[str, Any]]:
    """Write the policies that the learner went through before the medium one, evenly spaced over its steps.

    Args:
        behaviour: the behaviour; its medium is written.
        run: the from-scratch run.

    Returns:
        The cards, by name.

    Raises:
        OffDynError: the run's snapshots are gone.
    """
    medium = read_card(behaviour_path(behaviour.robot, behaviour.dynamics, "medium"))
    end = int(medium["training_steps"])
    if not run.load() or not any(steps <= end for steps, _, _ in run.history):
        raise OffDynError(f"{behaviour}: {run.directory} holds no snapshots before {end}; train the behaviour anew")
    kept = [steps for steps, _, _ in run.history if steps <= end]
    cards: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(REPLAY):
        wanted = end * (number + 0.5) / len(REPLAY)
        steps = min(kept, key=lambda x: abs(x - wanted))
        cards[name] = {
            **{key: medium[key] for key in _SHARED_KEYS},
            "quality": "medium-replay",
            "training_steps": steps,
            "git_commit": git_commit(),
        }
        _policy(run, steps).save(behaviour_path(behaviour.robot, behaviour.dynamics, name), cards[name])
    return cards


def _policy(run: Run, steps: int) -> BehaviourPolicy:
    return policy_from_snapshot(run.snapshot(steps))


def _measure(behaviour: Behaviour, run: Run, episodes: int, steps: int) -> float:
    policy = _policy(run, steps)
    return evaluate(policy, behaviour.robot, behaviour.dynamics, episodes, _SELECTION_SEED).mean


def _report(behaviour: Behaviour, policy: BehaviourPolicy) -> dict[str, Evaluation]:
    return {
        kind: evaluate(
            policy, behaviour.robot, behaviour.dynamics, CARD_EPISODES, _CARD_SEED, sampled=kind == "sampled"
        )
        for kind in ("sampled", "deterministic")
    }


def _common_card(behaviour: Behaviour, learner: Learner, run: Run) -> dict[str, Any]:
    model = compile_model(get_robot(behaviour.robot), get_dynamics(behaviour.robot, behaviour.dynamics))
    return {
        "format": 1,
        "robot": behaviour.robot,
        "dynamics": behaviour.dynamics,
        "algorithm": learner.algorithm,
        "settings": learner.settings.to_json(),
        "seed": learner.seed,
        "training_unit": "environment steps" if learner.unit == "steps" else "critic updates",
        "run_steps": learner.steps,
        "run_seconds": round(run.seconds, 1),
        "model_hash": model_hash(model),
        "versions": package_versions("mujoco", "numpy", "torch"),
        "processor": platform.machine(),
        "git_commit": git_commit(),
    }
