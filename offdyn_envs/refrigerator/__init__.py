"""The refrigerator: a one-dimensional task on which a learned model's errors can be seen and plotted.

Source: the synthetic task of MOREC (arXiv 2310.05422). A compressor cools a box that leaks heat and whose door is
opened now and then. Data come from one proportional controller, other controllers lead to temperatures and powers that
the data do not hold, and because the true transition is two straight lines, every error of a model is known exactly.
"""

from __future__ import annotations

from offdyn_envs.refrigerator.collect import RefrigeratorData, ThermostatPolicy, collect
from offdyn_envs.refrigerator.dynamics import (
    EPISODE_STEPS,
    MAX_POWER,
    OPEN_STEPS,
    OUTDOOR_TEMPERATURE,
    SENSOR_NOISE,
    SET_POINT,
    START_TEMPERATURE,
    STEPS_BETWEEN_OPENINGS,
    reward,
    step_temperature,
)
from offdyn_envs.refrigerator.environment import Refrigerator
from offdyn_envs.refrigerator.vector import RefrigeratorVectorEnv

__all__ = [
    "EPISODE_STEPS",
    "MAX_POWER",
    "OPEN_STEPS",
    "OUTDOOR_TEMPERATURE",
    "SENSOR_NOISE",
    "SET_POINT",
    "START_TEMPERATURE",
    "STEPS_BETWEEN_OPENINGS",
    "Refrigerator",
    "RefrigeratorData",
    "RefrigeratorVectorEnv",
    "ThermostatPolicy",
    "collect",
    "reward",
    "step_temperature",
]
