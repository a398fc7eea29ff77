"""The learners of a behaviour's runs, made by its recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offdyn_agents.behaviour.programme import Behaviour
from offdyn_agents.behaviour.recipes import SEED, HeadStart, WarmStart, recipe_of
from offdyn_envs.errors import OffDynError
from offdyn_envs.policies import BehaviourPolicy, read_card
from offdyn_envs.robots import as_walker, get_robot
from offdyn_envs.shipped import behaviour_path

if TYPE_CHECKING:
    from offdyn_agents.behaviour.ppo import PpoLearner
    from offdyn_agents.behaviour.training import Learner

# Horizons of observations, then of values, that a run needs before it can go on from a policy alone.
ADOPTION = 12
ADOPTION_OF_A_LESSON = 4


def make_learner(behaviour: Behaviour, directory: Path) -> Learner:
    """The learner of the behaviour's first run at its start.

    Args:
        behaviour: the behaviour.
        directory: existing folder of the run.

    Returns:
        The learner.
    """
    recipe = behaviour.recipe
    if recipe.algorithm == "ppo":
        from offdyn_agents.behaviour.ppo import PpoLearner, PpoSettings

        settings = PpoSettings(steps=recipe.budget, discount=recipe.discount)
        return PpoLearner(behaviour.robot, behaviour.dynamics, SEED, settings)
    from offdyn_agents.behaviour.sac import SacLearner, SacSettings

    settings = SacSettings(updates=recipe.budget, discount=recipe.discount)
    if as_walker(
        get_robot(behaviour.robot), "training a behaviour"
    ).z_range:  # Robots that fall learn more steadily with half the step sizes.
        settings = replace(settings, critic_rate=5e-4, actor_rate=3e-4, temperature_rate=3e-4)
    return SacLearner(behaviour.robot, behaviour.dynamics, SEED, directory, settings)


def take_head_start(learner: Learner, start: HeadStart, origin: Learner) -> None:
    """Let a run begin where another one has ended.

    Args:
        learner: the run's fresh learner; its algorithm must be ppo.
        start: how.
        origin: the other run's learner at its end.

    Raises:
        OffDynError: another algorithm.
    """
    from offdyn_agents.behaviour.ppo import PpoLearner

    if not isinstance(learner, PpoLearner):
        raise OffDynError(f"a head start is made for ppo, not {learner.algorithm}")
    learner.take_over(origin.state(), least_std=start.least_std)


def make_warm_learner(behaviour: Behaviour, warm: WarmStart) -> Learner:
    """The learner of the behaviour's second run, with networks of its own still.

    Args:
        behaviour: the behaviour; its algorithm must be ppo.
        warm: what to change.

    Returns:
        The learner.

    Raises:
        OffDynError: another algorithm.
    """
    from offdyn_agents.behaviour.ppo import PpoLearner, PpoSettings

    if behaviour.recipe.algorithm != "ppo":
        raise OffDynError(f"{behaviour}: a warm start is made for ppo, not {behaviour.recipe.algorithm}")
    settings = PpoSettings(steps=warm.units, discount=warm.discount)
    return PpoLearner(behaviour.robot, behaviour.dynamics, warm.seed, settings)


def take_warm_start(learner: Learner, behaviour: Behaviour, warm: WarmStart, first: Learner) -> None:
    """Let a second run begin with what is learned already.

    Args:
        learner: the second run's fresh learner.
        behaviour: the behaviour.
        warm: where it begins.
        first: the first run's learner where the second takes over.

    Raises:
        OffDynError: a policy of another kind of network.
    """
    from offdyn_agents.behaviour.ppo import PpoLearner

    assert isinstance(learner, PpoLearner), learner.algorithm
    if warm.expert_of is None:
        learner.take_over(first.state())
    else:
        path = behaviour_path(behaviour.robot, warm.expert_of, "expert")
        learner.adopt(BehaviourPolicy.load(path), ADOPTION)


def make_lesson(robot: str, teacher: Path) -> tuple[Learner, dict[str, Any]]:
    """The learner that imitates a teacher on the nominal robot, and what cards say of it.

    Args:
        robot: robot name.
        teacher: the teacher's file.

    Returns:
        The learner at its start, and plain types.

    Raises:
        OffDynError: the teacher cannot be read.
    """
    from offdyn_agents.behaviour.imitation import ImitationLearner, ImitationSettings
    from offdyn_agents.behaviour.teacher import Teacher

    master = Teacher(teacher, get_robot(robot))
    learner = ImitationLearner(
        robot, "nominal", SEED, master, ImitationSettings(steps=recipe_of(robot, "nominal").lesson)
    )
    return learner, {"teacher_sha256": master.sha256, "steps": learner.total}


def make_tuned_learner(behaviour: Behaviour) -> PpoLearner:
    """The learner that goes on from a lesson, with networks of its own still.

    Args:
        behaviour: the behaviour.

    Returns:
        The learner.
    """
    from offdyn_agents.behaviour.ppo import PpoLearner, PpoSettings

    recipe = behaviour.recipe
    settings = PpoSettings(horizon=200, steps=recipe.budget, discount=recipe.discount)
    return PpoLearner(behaviour.robot, behaviour.dynamics, SEED, settings)


def require_expert(behaviour: Behaviour, warm: WarmStart) -> None:
    """See to it that the expert is there as which a second run begins.

    Args:
        behaviour: the behaviour.
        warm: where its second run begins.

    Raises:
        OffDynError: it is missing; the message names the command that trains it.
    """
    if warm.expert_of and not behaviour_path(behaviour.robot, warm.expert_of, "expert").exists():
        raise OffDynError(
            f"{behaviour} goes on as the expert of {warm.expert_of}, which is missing; train it with: "
            f"offdyn dev behaviour train --robot {behaviour.robot} --dynamics {warm.expert_of}"
        )


def told_of(warm: WarmStart, robot: str, first: Learner) -> dict[str, Any]:
    """What an expert's card says of the warm start of its run.

    Args:
        warm: the warm start.
        robot: robot name.
        first: the first run's learner where the second takes over.

    Returns:
        Plain types.
    """
    if warm.expert_of is None:
        return {"from_seed": first.seed, "after_steps": first.steps}
    card = read_card(behaviour_path(robot, warm.expert_of, "expert"))
    return {"expert_of": warm.expert_of, "policy_sha256": card["policy_sha256"]}
