"""Settings of MOBODY's dynamics, apart from the networks so that the agent names them without importing the learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from offdyn_agents.engine.settings import Belongs, setting
from offdyn_envs.errors import OffDynError

__all__ = ["BY_FORM", "DualDynamicsSettings"]

BY_FORM: dict[str, dict[str, str | int]] = {
    "difference": {
        "target_encoder": "correction",
        "schedule": "interleaved",
        "decay": "cosine",
        "latent": 32,
        "action_width": 128,
    },
    "paper": {"target_encoder": "own", "schedule": "blocks", "decay": "none", "latent": 16, "action_width": 32},
}
"""What settings are that are left to the form: `form=paper` alone is what was published."""

_DIFFERENCE, _PAPER = {"form": ("difference",)}, {"form": ("paper",)}
_INTERLEAVED, _BLOCKS = {"schedule": ("interleaved",)}, {"schedule": ("blocks",)}


@dataclass(frozen=True)
class DualDynamicsSettings:
    """How the dynamics of two domains are learned together.

    Of the reward's error at predicted next states only the paper's formula is kept: its noise needs the spread of all
    members at the same rows, so that there one member's resample of the rows serves all; at true next states each has
    its own.

    Attributes:
        form: "difference": s' = s + D (phi_T(z + psi(z, a)) - phi_T(z)) with D the root mean squared change of each
            dimension; errors, and what is held out and kept by them, are in units of D. "paper": phi_T predicts s'
            itself, held-out errors are raw. See `models.dual.model`.
        structure: "dual" has an action encoder for each domain (the method), "single" one for both (ablation), "plain"
            no latent states at all: one network f(s, a) for both domains, as in MOPO (ablation).
        data: "both" domains, or the "target" rows alone (to compare with).
        target_encoder: Dual structure: "own", psi_trg is a network of its own; "correction", psi_trg = psi_src + c
            with c such a network, so that what the domains share is learned once. "form": the latter in the difference
            form, the former in the paper's.
        anchor: Difference form: weight of the source's outcomes under the target's action encoder. Where target rows
            say nothing the source is believed.
        latent_noise: Difference form: draw z in training. The paper's form always does.
        representation: Difference form: weight of L_rep.
        divergence: Difference form: weight of KL(N(mu, sigma) || N(0, 1)), the part of L_cycle that is left there.
        schedule: "interleaved": every step is on source and target rows. "blocks": passes over the source, then over
            the target. "form": the former in the difference form, the latter in the paper's.
        decay: Of the learning rate over the whole training: "cosine" to 0, or "none". "form": likewise.
        updates: Interleaved steps.
        source_batch: Source rows of an interleaved step of one member.
        target_batch: Target rows of the same; all rows where there are none of the source.
        loss_weights: Paper's form: "paper" or "code", the weights of the public code; see `models.dual.losses.weights`.
        kl: The divergence over latent dimensions: "mean", as every other term of the loss and as the public
            code has it, or "sum". The paper does not say which. Summed it counts `latent` times as much, and with the
            paper's weights nothing is learned where states are of the order of 1 (figures in presets/mobody.yaml).
        representation_loss: Paper's form: train L_rep and L_cycle. The first year of the public code never did.
        cycle_loss: Paper's form: train L_cycle. In the difference form psi = 0 is "no change" as it stands.
        lambda_rep: Paper's form: weight of L_rep + L_cycle.
        standardise: Paper's form: learn states in units of their mean and standard deviation over the rows of both
            domains, so that no dimension outweighs the others. Neither the public code (which has it, switched off) nor
            the paper does. The difference form always standardises what its networks see, and both domains count alike.
        members: Size of the ensemble.
        elites: How many of them, the best on held-out target rows, make rollouts.
        latent: Length of a latent state; 0: 32 in the difference form, 16 in the paper's.
        width: Width of hidden layers.
        action_width: Width of the action encoders' hidden layer; 0: 128 in the difference form, 32 in the paper's.
        batch_size: Rows of one batch of one member (blocks).
        learning_rate: Adam's step size.
        target_passes: Passes over the target rows after each pass over the source rows (blocks).
        source_share: Share of the source rows that an epoch visits; below 1 epochs are shorter and target rows are
            visited relatively more often (blocks).
        epochs: Most epochs (blocks).
        patience: Epochs without an improvement of any member after which training ends (blocks).
        improvement: Relative fall of a member's error on held-out target rows that counts as an improvement.
    """

    form: str = setting("difference", choices=("difference", "paper"))
    structure: str = setting("dual", choices=("dual", "single", "plain"))
    data: str = setting("both", choices=("both", "target"))
    anchor: float = setting(0.05, low=0.0)
    latent_noise: bool = setting(False)
    representation: float = setting(0.0, low=0.0)
    divergence: float = setting(0.0, low=0.0)
    target_encoder: str = setting("form", choices=("form", "own", "correction"))
    schedule: str = setting("form", choices=("form", "interleaved", "blocks"))
    decay: str = setting("form", choices=("form", "cosine", "none"))
    updates: int = setting(16_000, low=1)
    source_batch: int = setting(128, low=1)
    target_batch: int = setting(64, low=1)
    loss_weights: str = setting("paper", choices=("paper", "code"))
    kl: str = setting("mean", choices=("mean", "sum"))
    representation_loss: bool = setting(True)
    cycle_loss: bool = setting(True)
    lambda_rep: float = setting(1.0, low=0.0)
    standardise: bool = setting(False)
    members: int = setting(7, low=2)
    elites: int = setting(5, low=1)
    latent: int = setting(0, low=0)
    width: int = setting(256, low=1)
    action_width: int = setting(0, low=0)
    batch_size: int = setting(256, low=1)
    learning_rate: float = setting(1e-3, low=0.0, open_low=True)
    target_passes: int = setting(3, low=1)
    source_share: float = setting(1.0, low=0.0, high=1.0, open_low=True)
    epochs: int = setting(1000, low=1)
    patience: int = setting(5, low=1)
    improvement: float = setting(0.01, low=0.0, high=1.0)
    BELONGS: ClassVar[Belongs] = {
        **{name: _DIFFERENCE for name in ("latent_noise", "representation", "divergence")},
        "anchor": _DIFFERENCE | {"structure": ("dual",), "data": ("both",)},
        "target_encoder": {"structure": ("dual",)},
        **{name: _PAPER for name in ("loss_weights", "representation_loss", "cycle_loss", "lambda_rep", "standardise")},
        **{name: _INTERLEAVED for name in ("updates", "source_batch", "target_batch")},
        **{name: _BLOCKS for name in ("batch_size", "target_passes", "source_share", "epochs", "patience")},
    }

    def __post_init__(self) -> None:
        """Put the form's own values where it is left to the form."""
        for name, value in BY_FORM[self.form].items():
            if getattr(self, name) in ("form", 0):
                object.__setattr__(self, name, value)

    def check_elites(self) -> None:
        """Refuse more elites than there are members, for those that ask elites.

        Raises:
            OffDynError: There are more.
        """
        if self.elites > self.members:
            raise OffDynError(
                f"setting dynamics.elites is {self.elites}; at most dynamics.members, {self.members}, is allowed"
            )

    @property
    def interleaved(self) -> bool:
        """Whether every step is on rows of all domains."""
        return self.schedule == "interleaved"

    @property
    def differences(self) -> bool:
        """Whether networks predict changes."""
        return self.form == "difference"
