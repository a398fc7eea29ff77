"""The names of the rewards that an Adroit environment takes; `offdyn_envs.robots.hands` computes them."""

from __future__ import annotations

__all__ = ["REWARDS", "SPARSE_FAILURE", "SPARSE_SUCCESS"]

REWARDS = ("dense", "sparse", "stock")
"""Reward of an environment: D4RL's, 10 for success and -0.1 otherwise, or the flipped sign of gymnasium-robotics."""

SPARSE_SUCCESS, SPARSE_FAILURE = 10.0, -0.1
