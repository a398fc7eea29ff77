"""Settings of MOBODY's dynamics, apart from the networks so that the agent names them without importing the learner."""

from __future__ import annotations

from dataclasses import dataclass

from offdyn_agents.engine.settings import setting

__all__ = ["DualDynamicsSettings"]


@dataclass(frozen=True)
class DualDynamicsSettings:
    """How the dynamics of two domains are learned together.

    Of the reward's error at predicted next states only the paper's formula is kept: its noise needs the spread of all
    members at the same rows, so that there one member's resample of the rows serves all; at true next states each has
    its own.

    Attributes:
        structure: "dual" has an action encoder for each domain (the method), "single" one for both (ablation), "plain"
            no latent states at all: one network f(s, a) for both domains, as in MOPO (ablation).
        data: "both" domains, or the "target" rows alone (to compare with).
        loss_weights: "paper" or "code", the weights of the public code; see `mobody_losses.weights`.
        kl: The divergence of L_cycle over latent dimensions: "mean", as every other term of the loss and as the public
            code has it, or "sum". The paper does not say which. Summed it counts `latent` times as much, and with the
            paper's weights nothing is learned where states are of the order of 1 (figures in presets/mobody.yaml).
        representation_loss: Train L_rep and L_cycle. The first year of the public code never did.
        cycle_loss: Train L_cycle.
        lambda_rep: Weight of L_rep + L_cycle.
        standardise: Learn states in units of their mean and standard deviation over the rows of both domains, so that
            no dimension outweighs the others. Neither the public code (which has it, switched off) nor the paper does.
        members: Size of the ensemble.
        elites: How many of them, the best on held-out target rows, make rollouts.
        latent: Length of a latent state.
        width: Width of hidden layers.
        action_width: Width of the action encoders' hidden layer.
        batch_size: Rows of one batch of one member.
        learning_rate: Adam's step size.
        target_passes: Passes over the target rows after each pass over the source rows.
        source_share: Share of the source rows that an epoch visits; below 1 epochs are shorter and target rows are
            visited relatively more often.
        epochs: Most epochs.
        patience: Epochs without an improvement of any member after which training ends.
        improvement: Relative fall of a member's error on held-out target rows that counts as an improvement.
    """

    structure: str = setting("dual", choices=("dual", "single", "plain"))
    data: str = setting("both", choices=("both", "target"))
    loss_weights: str = setting("paper", choices=("paper", "code"))
    kl: str = setting("mean", choices=("mean", "sum"))
    representation_loss: bool = setting(True)
    cycle_loss: bool = setting(True)
    lambda_rep: float = setting(1.0, low=0.0)
    standardise: bool = setting(False)
    members: int = setting(7, low=2)
    elites: int = setting(5, low=1)
    latent: int = setting(16, low=1)
    width: int = setting(256, low=1)
    action_width: int = setting(32, low=1)
    batch_size: int = setting(256, low=1)
    learning_rate: float = setting(1e-3, low=0.0, open_low=True)
    target_passes: int = setting(3, low=1)
    source_share: float = setting(1.0, low=0.0, high=1.0, open_low=True)
    epochs: int = setting(1000, low=1)
    patience: int = setting(5, low=1)
    improvement: float = setting(0.01, low=0.0, high=1.0)
