"""Robots as values: what every robot says of itself, four walkers, four tasks of a hand, and the registry."""

from offdyn_envs.robots.base import GoalState, Robot, State
from offdyn_envs.robots.goals import GoalPart
from offdyn_envs.robots.hands import HANDS, Hand
from offdyn_envs.robots.measures import Measure
from offdyn_envs.robots.registry import ROBOTS, get_robot, register_robot
from offdyn_envs.robots.walkers import WALKERS, RewardParts, Walker, as_walker

__all__ = [
    "HANDS",
    "ROBOTS",
    "WALKERS",
    "GoalPart",
    "GoalState",
    "Hand",
    "Measure",
    "RewardParts",
    "Robot",
    "State",
    "Walker",
    "as_walker",
    "get_robot",
    "register_robot",
]
