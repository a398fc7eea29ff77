"""The refrigerator of MOREC: is a learned model better where a dynamics reward filters what it proposes?

Model and reward learn from one controller's data (p = .2). Other controllers lead to temperatures and powers that the
data do not hold; since the true transition is known, so is the error of a rollout there. The model draws ten candidates
at every step; the plain rollout takes one at random, the filtered one that with the highest reward. Door and power are
both the model's input: the door's course is given, as the refrigerator's documentation says.

    python -m offdyn_agents.examples.refrigerator --out runs/refrigerator
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offdyn_agents.engine.rows import Layout
from offdyn_agents.models.dynamics_reward.discriminator import DynamicsReward
from offdyn_agents.models.dynamics_reward.filtering import softmax_choice
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings
from offdyn_agents.models.ensemble.model import Ensemble
from offdyn_agents.models.ensemble.rollouts import Proposer
from offdyn_agents.models.ensemble.settings import PUBLISHED, EnsembleSettings
from offdyn_envs.benchmark.scoring.statistics import t_interval
from offdyn_envs.refrigerator import RefrigeratorData, ThermostatPolicy, collect, step_temperature

__all__ = [
    "BEHAVIOUR",
    "HOW",
    "TESTS",
    "Experiment",
    "Learned",
    "Study",
    "learn",
    "rollout_error",
    "study",
    "true_course",
]

Array = NDArray[np.floating[Any]]
BEHAVIOUR = 0.2
TESTS = (0.05, 0.1, 0.5, 1.0, 1.5)
"""Gains of the controllers that the data do not come from."""
HOW = ("mean", "plain", "filtered")
"""What a rollout goes on with: the mean of the elites, any of their candidates, or the one with the highest reward."""
LAYOUT = Layout(1, 2)
ELITES, DRAWS = 5, 2


@dataclass(frozen=True)
class Experiment:
    """Sizes of the experiment.

    Attributes:
        seeds: Of data, model and reward.
        episodes: Episodes of data.
        steps: Steps of each.
        starts: Rollouts of each controller.
        horizon: Steps of a rollout.
        dynamics: How the model is trained.
        reward: How the reward is trained.
        last: How many of the reward's discriminators, the newest, judge; 0 for all that were kept.
        temperature: kappa of the choice among candidates; 0 takes the one with the highest reward.
        cache: Folder of results that are found again; None keeps none.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    episodes: int = 3
    steps: int = 2000
    starts: int = 100
    horizon: int = 100
    dynamics: EnsembleSettings = field(default_factory=lambda: EnsembleSettings(epochs=40, width=100, **PUBLISHED))
    reward: DynamicsRewardSettings = field(
        default_factory=lambda: DynamicsRewardSettings(
            inputs="pairs",
            eigenvalue_floor=1e-4,
            input_noise=0.3,
            guess_updates=3000,
            guesses=1,
            updates=3000,
            snapshots=5,
            discriminator_width=128,
            iterations=400,
            width=64,
            batch_size=256,
            judges=5,
        )
    )
    last: int = 0
    temperature: float = 0.0
    cache: Path | None = None


@dataclass(frozen=True)
class Learned:
    """What one seed learned.

    Attributes:
        ensemble: The model.
        reward: The dynamics reward.
        share: Share of held-out real transitions whose reward reaches .6; the method wants 95%.
        temperature: As in `Experiment`.
    """

    ensemble: Ensemble
    reward: DynamicsReward
    share: float | None = None
    temperature: float = 0.0


def packed(data: RefrigeratorData) -> Tensor:
    """Return the data as packed rows: the state is the measured temperature, the action power and door."""
    parts = [data.observations[:, :1], data.actions, data.observations[:, 1:], data.next_observations[:, :1]]
    rest = [data.rewards[:, None], np.ones_like(data.actions)]
    return torch.from_numpy(np.concatenate([*parts, *rest], axis=1, dtype=np.float32))


def settle(actions: Tensor) -> Tensor:
    """Make a drawn door, the last number of an action, open (1) or closed (0)."""
    return torch.cat([actions[..., :1], (actions[..., 1:] > 0.5).float()], dim=-1)


def learn(experiment: Experiment, seed: int) -> Learned:
    """Train model and reward on the behaviour's data of a seed."""
    from offdyn_agents.models.dynamics_reward.conditions import THRESHOLD
    from offdyn_agents.models.dynamics_reward.stage import fit_dynamics_reward, real_share
    from offdyn_agents.models.ensemble.stages import fit_ensembles

    rows = packed(collect(BEHAVIOUR, experiment.episodes, seed, experiment.steps))
    cache = experiment.cache
    (ensemble,) = fit_ensembles(experiment.dynamics, LAYOUT, rows, [seed], cache, compiled=False).sound()
    found = fit_dynamics_reward(experiment.reward, LAYOUT, rows, cache, settle=settle, seed=seed, compiled=False)
    if experiment.last:
        found = found.where(torch.arange(len(found))[-experiment.last :])
    reward = found.usable(experiment.reward, prefix="")
    return Learned(ensemble, reward, real_share(reward, LAYOUT, rows, THRESHOLD, seed), experiment.temperature)


@dataclass(frozen=True)
class Course:
    """Where rollouts start and what is given: N of them, T steps.

    Attributes:
        temperatures: True temperatures at the start, [N].
        doors: Whether the door is open, [N, T].
    """

    temperatures: Array
    doors: Array


def draw_course(experiment: Experiment, seed: int) -> Course:
    """Draw starts from fresh episodes of the behaviour, and the door's course after them."""
    # Seeds of the data count up from 0; these are apart from them.
    data = collect(BEHAVIOUR, experiment.episodes, seed + 10_000, experiment.steps)
    steps = np.arange(experiment.steps - experiment.horizon)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(experiment.episodes, size=experiment.starts) * experiment.steps
    chosen += rng.choice(steps, experiment.starts)
    doors = data.observations[chosen[:, None] + np.arange(experiment.horizon), 1].astype(np.float64)
    return Course(data.temperatures[chosen], doors)


def true_course(course: Course, p: float) -> Array:
    """Return the true temperatures [N, T] under a controller that reads them without error."""
    policy, temperature = ThermostatPolicy(p), course.temperatures
    found: list[Array] = []
    for door in course.doors.T:
        power = policy.act(np.stack([temperature, door], axis=-1))[:, 0]
        temperature = step_temperature(temperature, power, door)
        found.append(temperature)
    return np.stack(found, axis=1)


def rollout_error(learned: Learned, course: Course, p: float, how: str, seed: int = 0) -> Array:
    """Return temperature of a rollout - true temperature, [N, T].

    Args:
        learned: Model and reward.
        course: Where to start, and the door.
        p: Gain of the controller.
        how: One of `HOW`.
        seed: Of the candidates, the same for every way to choose among them.
    """
    generator, chooser = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    propose = Proposer(learned.ensemble, ELITES, DRAWS)
    policy = ThermostatPolicy(p)
    state = torch.from_numpy(course.temperatures.astype(np.float32))[:, None]
    found: list[Array] = []
    for door in torch.from_numpy(course.doors.astype(np.float32)).T:
        power = torch.from_numpy(policy.act(torch.stack([state[:, 0], door], dim=-1).numpy()))
        actions = torch.cat([power, door[:, None]], dim=-1)
        with torch.no_grad():
            state = _next(learned, propose, state, actions, how, (generator, chooser))
        found.append(state[:, 0].double().numpy())
    return np.stack(found, axis=1) - true_course(course, p)


def _next(
    learned: Learned,
    propose: Proposer,
    states: Tensor,
    actions: Tensor,
    how: str,
    generators: tuple[torch.Generator, torch.Generator],
) -> Tensor:
    if how == "mean":
        return learned.ensemble.predict(states, actions)[1][propose.best].mean(0)
    candidates = propose(states, actions, generators[0]).next_observations
    scores = torch.zeros(candidates.shape[:2])
    if how == "filtered":
        count = len(candidates)
        scores = learned.reward(states.expand(count, -1, -1), actions.expand(count, -1, -1), candidates)
    # Equal scores: any candidate, each as likely as the others.
    chosen = softmax_choice(scores, learned.temperature if how == "filtered" else 1.0, generators[1])
    return candidates[chosen, torch.arange(len(states))]


@dataclass(frozen=True)
class Study:
    """What was measured.

    Attributes:
        errors: Mean absolute error in degrees of every step by controller and way, [seeds, T].
        signed: Mean of the errors with their sign, likewise.
        first: What the first seed learned.
        data: The first seed's packed rows.
        shares: Of each seed, how many held-out real transitions have a reward of at least .6; None: none was held out.
    """

    errors: dict[tuple[float, str], Array]
    signed: dict[tuple[float, str], Array]
    first: Learned
    data: Tensor
    shares: tuple[float | None, ...] = ()

    def means(self, p: float, how: str) -> Array:
        """Return the mean absolute error over the rollouts of one controller in degrees, [seeds]."""
        return self.errors[p, how].mean(axis=1)

    def table(self) -> list[str]:
        """Return lines: mean error of every controller and way, with its 95% interval over seeds."""
        lines = ["    p  " + "".join(f"{how:<20}" for how in (*HOW, "filtered - plain"))]
        for p in (BEHAVIOUR, *TESTS):
            columns = [self.means(p, how) for how in HOW]
            columns.append(self.means(p, "filtered") - self.means(p, "plain"))
            lines.append(f"{p:>5}  " + "".join(f"{_with_interval(column):<20}" for column in columns).rstrip())
        shares = ", ".join("-" if share is None else f"{share:.1%}" for share in self.shares)
        return [*lines, f"held-out real transitions with r_D >= .6, seed by seed: {shares}"]

    def record(self) -> dict[str, Any]:
        """Return the figures as plain JSON: the mean error of every seed by controller and way, and the shares.

        "errors" are sizes; in "signed_errors" what is too cold takes off what is too warm.
        """
        shown = (BEHAVIOUR, *TESTS)
        errors = {f"{p:g}": {how: self.means(p, how).tolist() for how in HOW} for p in shown}
        signed = {f"{p:g}": {how: self.signed[p, how].mean(axis=1).tolist() for how in HOW} for p in shown}
        return {"errors": errors, "signed_errors": signed, "real_transitions_that_pass": list(self.shares)}


def study(experiment: Experiment, quiet: bool = True) -> Study:
    """Learn with every seed and measure the errors of all controllers and ways."""
    from offdyn_envs.progress import progress

    gaps: dict[tuple[float, str], list[Array]] = {(p, how): [] for p in (BEHAVIOUR, *TESTS) for how in HOW}
    learned: list[Learned] = []
    with progress("refrigerator", len(experiment.seeds), quiet=quiet) as advance:
        for seed in experiment.seeds:
            learned.append(learn(experiment, seed))
            course = draw_course(experiment, seed)
            for (p, how), found in gaps.items():
                found.append(rollout_error(learned[-1], course, p, how, seed))
            advance(1)
    data = packed(collect(BEHAVIOUR, experiment.episodes, experiment.seeds[0], experiment.steps))
    shares = tuple(each.share for each in learned)
    errors = {key: np.abs(np.stack(found)).mean(axis=1) for key, found in gaps.items()}
    signed = {key: np.stack(found).mean(axis=1) for key, found in gaps.items()}
    return Study(errors, signed, learned[0], data, shares)


def _with_interval(values: Array) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}"
    found = t_interval(values)
    return f"{found.mean:.3f} +- {found.high - found.mean:.3f}"
