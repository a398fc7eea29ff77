"""Observation attacks at test time: what the policy sees is moved inside a box, the simulator's state is not touched.

The box is eps * sigma around the clean observation, sigma the per-dimension standard deviation of the observations in
the target dataset. Min-Q is the attack of the DROCO paper: the observation under which the policy picks the action
that a critic likes least, judged at the clean observation.
"""

from __future__ import annotations

from offdyn_envs.attacks.base import Attack, Observations
from offdyn_envs.attacks.min_q import (
    MIN_Q_SAMPLES,
    MIN_Q_STARTS,
    MIN_Q_STEPS,
    ORDERS,
    CriticFunction,
    GradientFunction,
    MinQAttack,
    PolicyFunction,
)
from offdyn_envs.attacks.parse import ATTACK_KINDS, make_attack
from offdyn_envs.attacks.uniform import RandomAttack

__all__ = [
    "ATTACK_KINDS",
    "MIN_Q_SAMPLES",
    "MIN_Q_STARTS",
    "MIN_Q_STEPS",
    "ORDERS",
    "Attack",
    "CriticFunction",
    "GradientFunction",
    "MinQAttack",
    "Observations",
    "PolicyFunction",
    "RandomAttack",
    "make_attack",
]
