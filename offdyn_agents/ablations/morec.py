"""The studies of MOREC: what its parts are worth, and why its policies wander after tens of thousands of updates."""

from __future__ import annotations

from offdyn_agents.ablations.study import FULL, Study, Variant, sweep
from offdyn_agents.models.ensemble.settings import PUBLISHED, EnsembleSettings

__all__ = ["MOREC", "MOREC_WANDER"]

_ENSEMBLE = (*PUBLISHED, "epochs")
"""Settings of the ensemble that the published form changes."""
_OWN = {"horizon": "500", "starts": "100", "actor_rate": "3e-4", "alpha_rate": "1e-3"} | {
    f"dynamics.{name}": str(getattr(EnsembleSettings(), name)) for name in _ENSEMBLE
}
"""Of ensemble and rollouts, what the published form changes, as it is here."""
_OLD = {f"dynamics.{name}": str(value) for name, value in {**PUBLISHED, "epochs": 1000}.items()}
_PLAIN = {"filtered": "false", "threshold": "0"}
_RATES = {"actor_rate": "1e-4", "alpha_rate": "1e-4"}
"""Of SAC in MOPO's public kit."""
_ROLLOUTS = {"horizon": "100", "starts": "2000"} | _RATES
"""As published."""


def _inputs(kind: str, noise: str) -> dict[str, str]:
    """Return how discriminators see transitions."""
    return {"dynamics_reward.inputs": kind, "dynamics_reward.input_noise": noise}


MOREC = Study(
    "morec",
    "morec",
    "what the dynamics reward's two uses, its ensemble, threshold and temperature are worth (arXiv 2310.05422)",
    (
        FULL,
        Variant("no-filter", "candidates taken at random; the threshold still ends rollouts", {"filtered": "false"}),
        Variant("no-early-stop", "the threshold ends no rollout", {"threshold": "0"}),
        Variant("neither", "plain rollouts of the same length", _PLAIN),
        Variant("single-discriminator", "the last discriminator alone", {"discriminators": "1"}),
        Variant("published", "ensemble, reward, scores, rollouts and rates as published", {"form": "paper"}),
        Variant(
            "published-reward",
            "fakes are rollouts of a generator that PPO trains, all discriminators judge, by .6; the rest is ours",
            {"form": "paper", **_OWN},
        ),
        Variant("published-ensemble", "raw outputs, early stopping, rows as they come", _OLD),
        Variant("published-rollouts", "2,000 of at most 100 steps, and SAC's public rates", _ROLLOUTS),
        Variant("natural-share", "target rows have their share of all rows", {"dynamics.target_share": "0"}),
        Variant("no-source-fakes", "all fakes are of a target's generator", {"dynamics_reward.source_fakes": "0"}),
        Variant("raw-inputs", "min-max inputs without noise", _inputs("raw", "0")),
        Variant("standardised-inputs", "standardised without noise, as on HalfCheetah", _inputs("standardised", "0")),
        Variant(
            "whitened-inputs",
            "jointly whitened with noise of .1, as on Hopper and Walker2d",
            _inputs("whitened", "0.1"),
        ),
        Variant("whitened-pairs", "whitened (s, a) with noise of .1", _inputs("pairs", "0.1")),
        Variant("no-input-noise", "no noise on the inputs", {"dynamics_reward.input_noise": "0"}),
        Variant("exact-scores", "discriminators judge in rollouts, not a scorer", {"scorer.form": "exact"}),
        *sweep("threshold", "threshold", ("0.4", "0.5", "0.7", "0.8")),
        *sweep("temperature", "temperature", ("0", "0.1", "0.3", "1")),
    ),
)
_MOPO = {"horizon": "5", "starts": "50000"} | _RATES
"""MOPO's public kit: 50,000 rollouts of 5 steps every 1,000 updates, of which five refills are kept. Its SAC has
critics of 3e-4, target entropy -|A| and 5% of real rows."""
MOREC_WANDER = Study(
    "morec-wander",
    "morec",
    "why policies wander late: step sizes, age of the buffer, entropy, horizon; MOPO's public kit is the reference",
    (
        FULL,
        Variant("public", "SAC and rollouts as in MOPO's public kit, filtered", _MOPO),
        Variant("public-plain", "the same without the filter", _MOPO | _PLAIN),
        Variant("short-rollouts", "500 of at most 100 steps: as many rows", {"horizon": "100", "starts": "500"}),
        Variant("public-rates", "actor and temperature at 1e-4", _RATES),
        Variant("slow-critics", "a third of the critics' step size", {"learning_rate": "1e-4"}),
        *sweep("refills_kept", "kept", ("1", "20")),
        *sweep("refill_every", "refill", ("250", "5000")),
        Variant("fixed-entropy", "a temperature of .2, as public MOBILE on Hopper", {"auto_alpha": "false"}),
        Variant("low-entropy", "a temperature of .05", {"auto_alpha": "false", "alpha": "0.05"}),
        Variant("no-entropy-backup", "no entropy in the critics' targets", {"deterministic_backup": "true"}),
        *sweep("horizon", "horizon", ("100", "1000")),
        Variant("real-half", "half of a batch are real rows", {"real_ratio": "0.5"}),
    ),
)
