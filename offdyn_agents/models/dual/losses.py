"""The losses of MOBODY's dynamics in the paper's form: pure functions of the networks and one batch of one domain.

Every term is a mean over rows, for each member [K]; members share no parameters, so their losses are added.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from offdyn_agents.models.dual.model import Nets, encode, moved, predicted, reward, swish
from offdyn_agents.models.dual.settings import DualDynamicsSettings

__all__ = ["Rows", "Weights", "divergence", "dynamics_loss", "mse", "terms", "weights"]


class Rows(NamedTuple):
    """A batch of one domain, each member's own bootstrap rows, and the noise that training needs.

    Attributes:
        observations: s, [K, B, |S|].
        actions: a, [K, B, |A|].
        following: s', or (s' - s) / D in the difference form, [K, B, |S|].
        rewards: r, [K, B].
        latent_noise: Standard normal, for z of s and of s', [2, K, B, latent]; empty where nothing asks for it.
        noise: Standard normal, for predicted next states, [K, B, |S|]; likewise.
    """

    observations: Tensor
    actions: Tensor
    following: Tensor
    rewards: Tensor
    latent_noise: Tensor
    noise: Tensor


class Weights(NamedTuple):
    """What each term is multiplied with.

    Attributes:
        dynamics: L_dyn, MSE(s', phi_T(z + psi(z, a))).
        representation: L_rep, MSE(z + psi(z, a), stopgrad z_s').
        divergence: KL(N(mu, sigma) || N(0, 1)), a part of L_cycle; over latent dimensions as `dynamics.kl` says.
        reconstruction: MSE(s, phi_T(phi_E(s))), the other part.
        reward: The rewards' errors at true and at predicted next states.
    """

    dynamics: float
    representation: float
    divergence: float
    reconstruction: float
    reward: float


def weights(settings: DualDynamicsSettings, domain: str) -> Weights:
    """Return the weights for a batch of one domain.

    "paper": L_dyn + lambda_rep (L_rep + L_cycle) and rewards with weight 1, in both domains. "code": reconstructions
    (of s and of s') 100 times, divergences (of both) .05 times, L_rep once, these three 5 times that on target rows;
    rewards .01 times on source rows.

    Args:
        settings: The switches.
        domain: "source" or "target".
    """
    code, target = settings.loss_weights == "code", domain == "target"
    rep = settings.lambda_rep * (5.0 if code and target else 1.0)
    if settings.structure == "plain" or not settings.representation_loss:
        rep = 0.0
    cycle = rep if settings.cycle_loss else 0.0
    return Weights(
        1.0,
        rep,
        cycle * (0.05 if code else 1.0),
        cycle * (100.0 if code else 1.0),
        0.01 if code and not target else 1.0,
    )


def dynamics_loss(nets: Nets, rows: Rows, settings: DualDynamicsSettings, domain: str) -> Tensor:
    """Return the weighted terms added, over members too: a scalar."""
    found, factors = terms(nets, rows, settings, domain), weights(settings, domain)._asdict()
    total = sum(factors[name] * term for name, term in found.items())
    assert isinstance(total, Tensor)
    return total.sum()


def terms(nets: Nets, rows: Rows, settings: DualDynamicsSettings, domain: str) -> dict[str, Tensor]:
    """Return the terms of each member [K] by the names of `Weights`, without those of weight 0.

    Args:
        nets: Networks with a leading axis of members.
        rows: The batch.
        settings: The switches.
        domain: "source" or "target".
    """
    if settings.structure == "plain":
        found = {"dynamics": mse(predicted(nets, rows.observations, rows.actions, domain), rows.following)}
    else:
        found = _latent_terms(nets, rows, settings, domain)
    return found | {"reward": _reward_errors(nets, rows, domain)}


def _latent_terms(nets: Nets, rows: Rows, settings: DualDynamicsSettings, domain: str) -> dict[str, Tensor]:
    factors, both = weights(settings, domain), settings.loss_weights == "code"
    mean, log_variance = encode(nets, rows.observations)
    z = mean + torch.exp(0.5 * log_variance) * rows.latent_noise[0]
    after = moved(nets, z, rows.actions, domain)
    decoded, found = [after], dict[str, Tensor]()
    if factors.representation:
        mean_next, log_variance_next = encode(nets, rows.following)
        z_next = mean_next + torch.exp(0.5 * log_variance_next) * rows.latent_noise[1]
        found["representation"] = mse(after, z_next.detach())
        if factors.reconstruction:
            decoded += [z, z_next] if both else [z]
            found["divergence"] = divergence(mean, log_variance, settings.kl)
            if both:
                found["divergence"] = found["divergence"] + divergence(mean_next, log_variance_next, settings.kl)
    # One product for everything that is decoded.
    states = swish(nets["transition"], torch.cat(decoded, dim=-2)).split(rows.actions.shape[-2], dim=-2)
    found["dynamics"] = mse(states[0], rows.following)
    if len(states) > 1:
        originals = (rows.observations, rows.following)
        found["reconstruction"] = sum(
            (mse(state, original) for state, original in zip(states[1:], originals, strict=False)),
            start=torch.zeros_like(found["dynamics"]),
        )
    return found


def _reward_errors(nets: Nets, rows: Rows, domain: str) -> Tensor:
    """Return MSE at the true next states plus MSE at predicted ones with noise, without a gradient into the dynamics.

    The noise needs the spread of all members at the same rows. So in the predicted half the first member's bootstrap
    rows, and their rewards, serve all of them: there reward heads differ by their weights and by the members' noise
    only, not by their rows. Every member's rows seen by all would cost as many predictions again for each of them. (The
    public code takes the spread over the members' different rows, which is that of the data.)
    """
    with torch.no_grad():
        means = predicted(nets, rows.observations[:1], rows.actions[:1], domain).detach()
    fake = means + means.std(0) * rows.noise
    size = rows.actions.shape[-2]

    def joined(own: Tensor, shared: Tensor) -> Tensor:
        return torch.cat([own, shared.expand_as(own)], dim=-2)

    found = reward(
        nets,
        joined(rows.observations, rows.observations[:1]),
        joined(rows.actions, rows.actions[:1]),
        joined(rows.following, fake),
    )
    true, invented = found.split(size, dim=-1)
    return (true - rows.rewards).square().mean(-1) + (invented - rows.rewards[:1]).square().mean(-1)


def mse(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return mean squared errors [K] of [K, B, n]."""
    return (ours - theirs).square().mean((-2, -1))


def divergence(mean: Tensor, log_variance: Tensor, kl: str) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)) of each member: its "sum" over dimensions, or their "mean"."""
    each = 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance)
    return each.sum(-1).mean(-1) if kl == "sum" else each.mean((-2, -1))
