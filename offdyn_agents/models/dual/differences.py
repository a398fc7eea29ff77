"""The losses of MOBODY's dynamics in the difference form: pure functions of the networks and a batch of the domains.

With y = (s' - s) / D and y_d(s, a) = phi_T(z + psi_d(z, a)) - phi_T(z), z = phi_E(s), the loss of each member is

    MSE(y, y_src) + anchor MSE(y, y_trg) on source rows + MSE(y, y_trg) on target rows,

and the rewards' errors at true next states. The anchor shows source outcomes to the target's action encoder too: where
target rows say nothing, the source is believed. Errors count in units of the mean squared change in their own domain,
of which D^2 is the mean, and of the rewards' variance there. A dimension in which the target moves less than the source
counts in the source's units: its few rows would outweigh all the rest. Members are kept and ranked by held-out target
rows in the target's own units. Switches add what the paper has beside L_dyn: z drawn from its distribution, L_rep, and
the divergence of L_cycle, whose reconstruction holds here by construction. Every term is a mean over rows, for each
member [K]; members share no parameters, so their losses are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from offdyn_agents.models.dual.losses import Rows, divergence, mse
from offdyn_agents.models.dual.model import Nets, changed, encode, moved, reward, swish
from offdyn_agents.models.dual.settings import DualDynamicsSettings

__all__ = ["LossUnits", "anchored", "difference_loss", "difference_terms"]

Parts = Mapping[str, Rows]
"""A batch of each domain; `Rows.following` is (s' - s) / D, and observations are standardised."""


class LossUnits(NamedTuple):
    """What depends on the data in the loss.

    Attributes:
        ratio: D in units of the standardised states, [|S|].
        weights: What the squared error of each dimension of y, and last of the reward, counts on rows of each domain,
            [domains, |S| + 1].
    """

    ratio: Tensor
    weights: Tensor


def anchored(settings: DualDynamicsSettings, domain: str) -> bool:
    """Whether rows of a domain are shown to the other domain's action encoder."""
    return domain == "source" and settings.structure == "dual" and settings.anchor > 0.0


def difference_loss(nets: Nets, parts: Parts, settings: DualDynamicsSettings, units: LossUnits) -> Tensor:
    """Return the weighted terms added, over domains and members too: a scalar; see `difference_terms`."""
    weights = {
        "dynamics": 1.0,
        "anchor": settings.anchor,
        "representation": settings.representation,
        "divergence": settings.divergence,
        "reward": 1.0,
    }
    found = difference_terms(nets, parts, settings, units)
    return torch.stack([weights[name.partition(" ")[0]] * term.sum() for name, term in found.items()]).sum()


def difference_terms(nets: Nets, parts: Parts, settings: DualDynamicsSettings, units: LossUnits) -> dict[str, Tensor]:
    """Return the terms of each member [K] as "name domain", without those of weight 0.

    Args:
        nets: Networks with a leading axis of members.
        parts: The batch.
        settings: The switches.
        units: What errors count.
    """
    if settings.structure == "plain":
        found = {
            f"dynamics {domain}": _counted(changed(nets, rows.observations, rows.actions, domain), rows, weights)
            for (domain, rows), weights in zip(parts.items(), units.weights, strict=True)
        }
    else:
        found = _latent_terms(nets, parts, settings, units)
    states, actions, changes, rewards = (
        torch.cat([rows[place] for rows in parts.values()], dim=1) for place in range(4)
    )
    errors = (reward(nets, states, actions, changes) - rewards).square()
    split = errors.split([rows.rewards.shape[1] for rows in parts.values()], dim=1)
    return found | {
        f"reward {domain}": weights[-1] * own.mean(-1)
        for domain, own, weights in zip(parts, split, units.weights, strict=True)
    }


def _counted(answer: Tensor, rows: Rows, weights: Tensor) -> Tensor:
    """Return mean squared errors [K] of y [K, B, |S|]."""
    return (weights[:-1] * (answer - rows.following).square()).mean((-2, -1))


def _latent_terms(nets: Nets, parts: Parts, settings: DualDynamicsSettings, units: LossUnits) -> dict[str, Tensor]:
    latents, found = _latent_states(nets, parts, settings, units)
    answers: dict[str, Tensor] = {}
    for domain, rows in parts.items():
        z = latents[domain]
        answers[f"dynamics {domain}"] = after = moved(nets, z, rows.actions, domain)
        if anchored(settings, domain):
            answers[f"anchor {domain}"] = moved(nets, z, rows.actions, "target")
        if settings.representation:
            found[f"representation {domain}"] = mse(after, latents[f"{domain} next"].detach())
    # One product for all that is decoded: where steps begin, then where they end.
    starts = [latents[domain] for domain in parts]
    decoded = torch.cat([*starts, *answers.values()], dim=1)
    states = swish(nets["transition"], decoded).split([part.shape[1] for part in (*starts, *answers.values())], dim=1)
    here, weights = dict(zip(parts, states, strict=False)), dict(zip(parts, units.weights, strict=True))
    for name, there in zip(answers, states[len(starts) :], strict=True):
        domain = name.partition(" ")[2]
        found[name] = _counted(there - here[domain], parts[domain], weights[domain])
    return found


def _latent_states(
    nets: Nets, parts: Parts, settings: DualDynamicsSettings, units: LossUnits
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return z [K, B, latent] of s by domain, of s' as "domain next" where it is needed, and divergences of s."""
    seen = {domain: rows.observations for domain, rows in parts.items()}
    noises = {domain: rows.latent_noise[0] for domain, rows in parts.items()} if settings.latent_noise else {}
    if settings.representation:
        seen |= {f"{domain} next": rows.observations + rows.following * units.ratio for domain, rows in parts.items()}
        if settings.latent_noise:
            noises |= {f"{domain} next": rows.latent_noise[1] for domain, rows in parts.items()}
    means, log_variances = encode(nets, torch.cat(list(seen.values()), dim=1))
    sizes = [states.shape[1] for states in seen.values()]
    latents, terms = dict[str, Tensor](), dict[str, Tensor]()
    for name, z, spread in zip(seen, means.split(sizes, dim=1), log_variances.split(sizes, dim=1), strict=True):
        latents[name] = z + torch.exp(0.5 * spread) * noises[name] if noises else z
        if settings.divergence and name in parts:
            terms[f"divergence {name}"] = divergence(z, spread, settings.kl)
    return latents, terms
