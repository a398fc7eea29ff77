"""Settings of the dynamics reward, apart from the networks so that agents name them without importing the learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from offdyn_agents.engine.settings import setting

__all__ = ["DynamicsRewardSettings"]


@dataclass(frozen=True)
class DynamicsRewardSettings:
    """How the dynamics reward is learned. Only the discriminator's form and its ensemble are known from print.

    Attributes:
        opponent: "ppo": the generator is trained to maximise the reward, as in the method; or "checkpoints": a cheaper
            deviation, in which each discriminator has one frozen state of the generator's pre-training to unmask.
        changes: How a discriminator sees s' - s: "own", in a min-max normalisation of its own, which is a deviation; or
            "states", the difference of normalised states, as in the method.
        iterations: Rounds of rollouts, discriminator and generator.
        pretraining: Steps of likelihood with which generator and behaviour model begin.
        width: Width of the two hidden layers of generator, value function and behaviour model.
        rollouts: Rollouts of an iteration.
        horizon: Steps of a rollout.
        discriminator_steps: Steps of the discriminator in an iteration.
        discriminator_rate: Its Adam's step size.
        batch_size: Real rows, and generated rows, of one of its steps.
        entropy: Weight of the bonus on the entropy of its verdict.
        judges: Most snapshots whose joint verdict is the generator's reward.
        epochs: Passes of PPO over the rollouts of an iteration.
        minibatch: Rows of one of its steps.
        generator_rate: Adam's step size of generator and value function, and of their pre-training.
        discount: gamma of the generator's returns.
        trace: lambda of the generalised advantage estimate.
        clip: Half-width of the interval in which a ratio of densities may gain.
        likelihood: Weight of the likelihood of real rows that PPO keeps.
        kl: Mean divergence from the old generator at which the passes of an iteration end.
        opponent_steps: With frozen opponents, steps of each discriminator.
    """

    opponent: str = setting("ppo", choices=("ppo", "checkpoints"))
    changes: str = setting("own", choices=("own", "states"))
    iterations: int = setting(1000, low=1)
    pretraining: int = setting(500, low=1)
    width: int = setting(256, low=1)
    rollouts: int = setting(20, low=1)
    horizon: int = setting(100, low=1)
    discriminator_steps: int = setting(5, low=1)
    discriminator_rate: float = setting(1e-3, low=0.0, open_low=True)
    batch_size: int = setting(1024, low=1)
    entropy: float = setting(1e-3, low=0.0)
    judges: int = setting(10, low=1)
    epochs: int = setting(5, low=1)
    minibatch: int = setting(500, low=1)
    generator_rate: float = setting(3e-4, low=0.0, open_low=True)
    discount: float = setting(0.99, low=0.0, high=1.0)
    trace: float = setting(0.95, low=0.0, high=1.0)
    clip: float = setting(0.2, low=0.0, open_low=True)
    likelihood: float = setting(0.1, low=0.0)
    kl: float = setting(0.05, low=0.0, open_low=True, infinite=True)
    opponent_steps: int = setting(300, low=1)
    kept: ClassVar[int] = 40
    """Snapshots in the ensemble: of the last 400 every 10th."""
    spacing: ClassVar[int] = 10
    """Iterations from one of them to the next; fewer where there are not 400 iterations."""

    @property
    def stride(self) -> int:
        """Iterations from one snapshot that is kept to the next."""
        return max(1, min(self.spacing, self.iterations // self.kept))
