"""Settings of the dynamics reward, apart from the networks so that agents name them without importing the learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from offdyn_agents.engine.settings import setting

__all__ = ["DynamicsRewardSettings", "ScorerSettings"]


@dataclass(frozen=True)
class DynamicsRewardSettings:
    """How the dynamics reward is learned. Only the discriminator's form and its ensemble are known from print.

    Attributes:
        opponent: "nce": fakes are drawn around the real next states, a deviation; "ppo": they are rollouts of a
            generator that is trained to maximise the reward, as in the method; or "checkpoints": each discriminator has
            one frozen state of the generator's pre-training to unmask. Settings from `iterations` to `opponent_steps`
            that are not named for "nce" are of the other two, whose inputs are "raw".
        inputs: How "nce" sees (s, a, s' - s): jointly "whitened", with whitened "pairs" (s, a), "standardised", as in
            the presets of HalfCheetah and Ant, or "raw", min-max as in the method.
        eigenvalue_floor: Of whitening: the smallest eigenvalue of correlations that is told from smaller ones.
        input_noise: Standard deviation of noise on the inputs in training.
        spread: The largest factor of a generator's standard deviation; the smallest is 1.
        source_fakes: Share of the fakes that a generator of source rows draws; in a single domain there are none.
        source_spread: The largest factor of its standard deviation.
        guess_updates: Steps of likelihood of each generator.
        guess_rate: Adam's step size in them.
        guesses: Copies of a generator, from step 10 to the last, that share the fakes.
        updates: Steps of the discriminator.
        snapshots: Its snapshots in the ensemble, evenly spaced over the second half of its steps.
        discriminator_width: Width of its hidden layers; the first has half of it.
        changes: How a discriminator sees s' - s: "own", in a min-max normalisation of its own, which is a deviation; or
            "states", the difference of normalised states, as in the method.
        iterations: Rounds of rollouts, discriminator and generator.
        pretraining: Steps of likelihood with which generator and behaviour model begin.
        width: Width of the two hidden layers of generators, value function and behaviour model ("nce" too).
        rollouts: Rollouts of an iteration.
        horizon: Steps of a rollout.
        discriminator_steps: Steps of the discriminator in an iteration.
        discriminator_rate: Its Adam's step size, which "nce" lets fall to a tenth.
        batch_size: Real rows, and generated rows, of one of its steps ("nce" too).
        entropy: Weight of the bonus on the entropy of its verdict ("nce" too).
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

    opponent: str = setting("nce", choices=("nce", "ppo", "checkpoints"))
    inputs: str = setting("whitened", choices=("whitened", "pairs", "standardised", "raw"))
    eigenvalue_floor: float = setting(1e-3, low=0.0, open_low=True)
    input_noise: float = setting(0.1, low=0.0)
    spread: float = setting(20.0, low=1.0)
    source_fakes: float = setting(0.5, low=0.0, high=1.0)
    source_spread: float = setting(3.0, low=1.0)
    guess_updates: int = setting(4000, low=1)
    guess_rate: float = setting(1e-3, low=0.0, open_low=True)
    guesses: int = setting(6, low=1)
    updates: int = setting(4000, low=1)
    snapshots: int = setting(10, low=1)
    discriminator_width: int = setting(256, low=1)
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

    @property
    def lengthened(self) -> str:
        """The setting by which a training is longer: steps of the discriminator of "nce", or iterations."""
        return "updates" if self.opponent == "nce" else "iterations"

    @property
    def length(self) -> int:
        """Its value."""
        return getattr(self, self.lengthened)


@dataclass(frozen=True)
class ScorerSettings:
    """What scores the candidates of rollouts.

    Attributes:
        form: "distilled": one network of each seed that has learned what the discriminators say of candidates of its
            ensemble, which is a deviation; or "exact": the discriminators, as in the method.
        starts: States whose candidates it learns from.
        width: Width of its hidden layers; the first has half of it.
        updates: Its steps.
        batch_size: Candidates of a step.
        learning_rate: Adam's step size, which falls to a tenth.
    """

    form: str = setting("distilled", choices=("distilled", "exact"))
    starts: int = setting(20_000, low=20)
    width: int = setting(128, low=1)
    updates: int = setting(4000, low=1)
    batch_size: int = setting(1024, low=1)
    learning_rate: float = setting(1e-3, low=0.0, open_low=True)
