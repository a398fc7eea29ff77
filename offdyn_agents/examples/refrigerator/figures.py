"""The two figures of the refrigerator experiment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from offdyn_envs.benchmark.scoring.statistics import t_interval
from offdyn_envs.figures import new_figure, save_figure
from offdyn_envs.refrigerator import step_temperature

if TYPE_CHECKING:
    from offdyn_agents.examples.refrigerator.study import Study

__all__ = ["draw_errors", "draw_map", "reward_map"]

TEMPERATURES = (-5.0, -2.0, 5.0, 10.0)
"""Temperatures before the step of the map; data hold those from about -2.5 to 10."""
POWERS = 5.0
WAYS = {"plain": "C1", "filtered": "C0", "mean": "0.6"}


def draw_errors(study: Study, path: Path) -> None:
    """Draw the mean error of every step of a rollout, one panel for every controller, with 95% intervals over seeds.

    Args:
        study: What was measured.
        path: The PNG file.

    Raises:
        OffDynError: matplotlib is not installed.
    """
    controllers = sorted({p for p, _ in study.errors})
    figure, axes = _figure(3.0 * len(controllers), 3.2, len(controllers))
    for axis, p in zip(axes, controllers, strict=True):
        for how, colour in WAYS.items():
            values = study.errors[p, how]
            steps = np.arange(1, values.shape[1] + 1)
            axis.plot(steps, values.mean(axis=0), color=colour, label=how)
            if len(values) > 1:
                bounds = np.array([t_interval(column)[1:] for column in values.T])
                axis.fill_between(steps, *bounds.T, color=colour, alpha=0.2, linewidth=0)
        axis.set(title=f"p = {p:g}{' (data)' if p == 0.2 else ''}", xlabel="step", ylim=(0.0, None))
    axes[0].set_ylabel("|model - truth|, degrees")
    axes[0].legend()
    save_figure(figure, path)


def reward_map(study: Study, temperature: float, size: int = 120) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return powers [M], next temperatures [N] and r_D [N, M] at one temperature, the door closed.

    Args:
        study: What was measured; its first seed is asked.
        temperature: Before the step.
        size: M and N.
    """
    powers = np.linspace(0.0, POWERS, size)
    true = step_temperature(temperature, powers, 0)
    following = np.linspace(true.min() - 1.5, true.max() + 1.5, size)
    grid = torch.from_numpy(np.stack(np.meshgrid(powers, following), axis=-1).astype(np.float32))
    states = torch.full((size, size, 1), temperature)
    actions = torch.stack([grid[..., 0], torch.zeros(size, size)], dim=-1)
    return powers, following, study.first.reward(states, actions, grid[..., 1:]).numpy()


def draw_map(study: Study, path: Path) -> None:
    """Draw r_D over power and next temperature, with the true next state and the data; arguments as `draw_errors`."""
    figure, axes = _figure(3.4 * len(TEMPERATURES), 3.6, len(TEMPERATURES))
    state, power, door, following = (study.data[:, i].numpy() for i in range(4))
    image = None
    for axis, temperature in zip(axes, TEMPERATURES, strict=True):
        powers, nexts, scores = reward_map(study, temperature)
        image = axis.pcolormesh(powers, nexts, scores, vmin=0.313, vmax=1.313, shading="auto", rasterized=True)
        axis.contour(powers, nexts, scores, levels=[0.6], colors="white", linewidths=0.8)
        axis.plot(powers, step_temperature(temperature, powers, 0), "r--", linewidth=1.2, label="true next state")
        near = (np.abs(state - temperature) < 0.3) & (door == 0)
        axis.plot(power[near][:300], following[near][:300], "w.", markersize=2, label="data")
        axis.set(title=f"T = {temperature:g}", xlabel="cooling power", ylim=(nexts[0], nexts[-1]))
    axes[0].set_ylabel("next temperature")
    axes[0].legend(loc="lower left", fontsize=8, facecolor="0.4", labelcolor="white")
    figure.colorbar(image, ax=list(axes), label="r_D (white line: 0.6)")
    save_figure(figure, path)


def _figure(width: float, height: float, columns: int) -> tuple[Any, Any]:
    figure = new_figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)
