"""MOBODY's dynamics (arXiv 2506.08460): two domains share states and transitions, not actions.

A state encoder phi_E and a transition phi_T, which is the decoder too, are shared; each domain has its own action
encoder psi. Plentiful source rows train the shared parts and scarce target rows only a small encoder. With
z = phi_E(s) the paper has s' = phi_T(z + psi(z, a)); here, in the difference form,

    s' = s + D (phi_T(z + psi(z, a)) - phi_T(z)),

D the root mean squared change of each dimension. So psi = 0 is "no change" exactly, which the paper asks of a loss
(L_cycle), and every dimension counts in units of its own change: a decoder that has to reconstruct positions of which
the loss sees little is far from their changes of a thousandth. Networks use Swish; members are stacked along a leading
axis. The target's encoder is the source's and a correction, psi_trg = psi_src + c: the same functions as with one of
its own, but what the domains share is learned once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from offdyn_agents.engine.networks import Network, Params, mlp
from offdyn_agents.engine.rows import Layout
from offdyn_agents.models.dual.settings import DualDynamicsSettings

__all__ = ["DOMAINS", "DualDynamics", "Prediction", "changed", "dual_networks", "encode", "predicted", "reward"]

DOMAINS = ("source", "target")
CHUNK = 512
CHUNK_ON_GPU = 16_384
"""Rows that are predicted at once: few enough for their activations to stay in a core's cache, enough to fill a GPU."""
DIFFERENCES = "differences"
"""Under what name a file says whether networks predict changes."""

Nets = Mapping[str, Params]


def dual_networks(settings: DualDynamicsSettings, observation_dim: int, action_dim: int) -> dict[str, Network]:
    """Return the networks by name.

    Args:
        settings: Structure and widths.
        observation_dim: |S|.
        action_dim: |A|.

    Returns:
        "encoder" |S| -> mean and log-variance, "transition" latent -> |S|, "reward" 2|S| + |A| -> 1, and the action
        encoders latent + |A| -> latent: "source" and "target", "source" and "correction", which added up are the
        target's, or "action" for both. Without latent states "plain"
        |S| + |A| -> |S| and "reward".
    """
    s, a, width, latent, members = observation_dim, action_dim, settings.width, settings.latent, settings.members
    reward_head = Network((2 * s + a, width, width, 1), members)
    if settings.structure == "plain":
        return {"plain": Network((s + a, width, width, s), members), "reward": reward_head}
    action = Network((latent + a, settings.action_width, latent), members)
    return {
        "encoder": Network((s, width, width, 2 * latent), members),
        **dict.fromkeys(encoders(settings), action),
        "transition": Network((latent, width, width, s), members),
        "reward": reward_head,
    }


def encoders(settings: DualDynamicsSettings, domains: Sequence[str] = DOMAINS) -> list[str]:
    """Return the action encoders that rows of some domains ask, by name."""
    if settings.structure == "single":
        return ["action"]
    if settings.target_encoder == "own":
        return list(domains)
    return ["source", "correction"] if "target" in domains else ["source"]


def swish(params: Params, inputs: Tensor) -> Tensor:
    """Evaluate a network with Swish: [K or 1, B, in] -> [K, B, out]."""
    return mlp(params, inputs, functional.silu)


def encode(nets: Nets, observations: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance [K, B, latent] of the latent states of observations [K or 1, B, |S|]."""
    mean, log_variance = swish(nets["encoder"], observations).chunk(2, dim=-1)
    return mean, log_variance


def moved(nets: Nets, latent: Tensor, actions: Tensor, domain: str) -> Tensor:
    """Return z + psi(z, a) of one domain: [K, B, latent], [K or 1, B, |A|] -> [K, B, latent]."""
    actions = actions.expand(*latent.shape[:-1], -1)
    inputs = torch.cat([latent, actions], dim=-1)
    if domain == "target" and "correction" in nets:
        return latent + swish(nets["source"], inputs) + swish(nets["correction"], inputs)
    return latent + swish(nets["action" if "action" in nets else domain], inputs)


def predicted(nets: Nets, observations: Tensor, actions: Tensor, domain: str) -> Tensor:
    """Return the members' mean next states of one domain.

    Args:
        nets: The networks.
        observations: [K or 1, B, |S|].
        actions: [K or 1, B, |A|].
        domain: "source" or "target".

    Returns:
        [K, B, |S|].
    """
    if "plain" in nets:
        return swish(nets["plain"], torch.cat([observations, actions], dim=-1))
    latent, _ = encode(nets, observations)
    return swish(nets["transition"], moved(nets, latent, actions, domain))


def changed(nets: Nets, observations: Tensor, actions: Tensor, domain: str) -> Tensor:
    """Return what the members say of (s' - s) / D, in the difference form; see `predicted`."""
    if "plain" in nets:
        return predicted(nets, observations, actions, domain)
    latent, _ = encode(nets, observations)
    after = moved(nets, latent, actions, domain)
    # One product for both ends of the step.
    there, here = swish(nets["transition"], torch.cat([after, latent], dim=-2)).chunk(2, dim=-2)
    return there - here


def reward(nets: Nets, observations: Tensor, actions: Tensor, following: Tensor) -> Tensor:
    """Return the members' rewards [K, B] of (s, a, s'), each [K or 1, B, .]."""
    parts = (observations, actions, following)
    lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    inputs = torch.cat([part.expand(*lead, -1) for part in parts], dim=-1)
    return swish(nets["reward"], inputs).squeeze(-1)


class Prediction(NamedTuple):
    """What the ensemble says about N state-actions.

    Attributes:
        following: Sampled next states, [N, |S|].
        rewards: Mean of the members' rewards there, without penalty, [N].
        uncertainty: u, the largest distance of a member's mean from the mean of all, [N]; its unit as asked for.
    """

    following: Tensor
    rewards: Tensor
    uncertainty: Tensor


@dataclass(frozen=True)
class DualDynamics:
    """Trained dynamics.

    Attributes:
        nets: Parameters by name; leading axis: members.
        elites: Numbers of the best members, int64 [elites].
        errors: Each member's mean squared error of held-out target next states, [members]: in units of a change in the
            difference form, else in the units of the next two.
        center: What the networks take for a state of zeros, [|S|]; zeros unless states were standardised.
        scale: What they take for a step of one, [|S|]; ones unless states were standardised.
        failed: Why they must not be used, "" where their training went well.
        change: D, the root mean squared change of each dimension, [|S|]; None: one.
        differences: Whether networks predict (s' - s) / D and not s'.
    """

    nets: dict[str, Params]
    elites: Tensor
    errors: Tensor
    center: Tensor
    scale: Tensor
    failed: str = ""
    change: Tensor | None = None
    differences: bool = False

    @property
    def changes(self) -> Tensor:
        """D, [|S|]."""
        return torch.ones_like(self.scale) if self.change is None else self.change

    def means(self, observations: Tensor, actions: Tensor, domain: str = "target") -> Tensor:
        """Return the members' mean next states [members, N, |S|] of observations [N, |S|] and actions [N, |A|]."""
        with torch.no_grad():
            if self.differences:
                found = changed(self.nets, self._seen(observations), actions[None], domain)
                return observations + found * self.changes
            return self._raw(predicted(self.nets, self._seen(observations), actions[None], domain))

    def next_states(self, layout: Layout, rows: Tensor, domain: str = "target") -> Tensor:
        """Return the members' mean next states [N, members, |S|] of packed rows [N, W], in chunks."""
        parts = (layout.split(chunk)[:2] for chunk in rows.split(CHUNK if rows.device.type == "cpu" else CHUNK_ON_GPU))
        return torch.cat([self.means(s, a, domain).transpose(0, 1).contiguous() for s, a in parts])

    def rewards(self, observations: Tensor, actions: Tensor, following: Tensor) -> Tensor:
        """Return the members' rewards [members, N] of s [N, |S|], a [N, |A|] and s' [N, |S|]."""
        with torch.no_grad():
            after = ((following - observations) / self.changes)[None] if self.differences else self._seen(following)
            return reward(self.nets, self._seen(observations), actions[None], after)

    def _seen(self, states: Tensor) -> Tensor:
        """Return states [N, |S|] as the networks take them, [1, N, |S|]."""
        return ((states - self.center) / self.scale)[None]

    def _raw(self, states: Tensor) -> Tensor:
        return states * self.scale + self.center

    def reconstruct(self, observations: Tensor) -> Tensor:
        """Return phi_T(phi_E(s)) [members, N, |S|] of observations [N, |S|]: the prediction with psi = 0.

        It recovers s where the cycle loss has been trained, and in the difference form by construction.
        """
        with torch.no_grad():
            if self.differences:
                return observations.expand(len(self.errors), *observations.shape)
            return self._raw(swish(self.nets["transition"], encode(self.nets, self._seen(observations))[0]))

    def predict(
        self, observations: Tensor, actions: Tensor, generator: torch.Generator, uncertainty: str = "paper"
    ) -> Prediction:
        """Sample target transitions: a random elite's mean + sigma * noise.

        sigma is the standard deviation of the members' means per dimension.

        Args:
            observations: [N, |S|], N at least 1.
            actions: [N, |A|].
            generator: Draws elites and noise, on the CPU.
            uncertainty: "paper" measures u as a distance between states, "code" leaves their last dimension out, as
                the public code; "changes": the root mean square over dimensions, each in units of its change D, so that
                the same u is as much on every robot.
        """
        choice = torch.randint(len(self.elites), (len(observations),), generator=generator).to(observations.device)
        noise = torch.randn(observations.shape, generator=generator).to(observations.device)
        done = [
            self._predict(observations[part], actions[part], choice[part], noise[part], uncertainty)
            for part in (slice(start, start + CHUNK) for start in range(0, len(observations), CHUNK))
        ]
        return Prediction(*(torch.cat(column) for column in zip(*done, strict=True)))

    def _predict(
        self, observations: Tensor, actions: Tensor, choice: Tensor, noise: Tensor, uncertainty: str
    ) -> Prediction:
        means = self.means(observations, actions)
        rows = torch.arange(len(observations), device=observations.device)
        following = means[self.elites[choice], rows] + means.std(0) * noise
        rewards = self.rewards(observations, actions, following).mean(0)
        return Prediction(following, rewards, self.uncertainty(means, uncertainty))

    def uncertainty(self, means: Tensor, form: str = "changes") -> Tensor:
        """Return u [N] of members' next states [members, N, |S|]; see `predict`."""
        away = means - means.mean(0)
        if form == "changes":
            return (away / self.changes).square().mean(-1).amax(0).sqrt()
        return torch.linalg.vector_norm(away[..., :-1] if form == "code" else away, dim=-1).amax(0)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, for a safetensors file."""
        named = {f"net.{name}.{i}": tensor for name, params in self.nets.items() for i, tensor in enumerate(params)}
        units = {"center": self.center, "scale": self.scale, "change": self.changes}
        return {
            "elites": self.elites,
            "errors": self.errors,
            **units,
            DIFFERENCES: torch.tensor(self.differences),
        } | named

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], device: torch.device) -> DualDynamics:
        """Return the dynamics that `tensors` described.

        Raises:
            KeyError: Something is missing.
        """
        found = {name: tensor.to(device) for name, tensor in tensors.items()}
        names: Sequence[str] = sorted({name.split(".")[1] for name in found if name.startswith("net.")})
        nets = {
            name: [found[f"net.{name}.{i}"] for i in range(sum(key.startswith(f"net.{name}.") for key in found))]
            for name in names
        }
        if "reward" not in nets:
            raise KeyError("reward")
        elites, errors, center, scale, change = (
            found[name] for name in ("elites", "errors", "center", "scale", "change")
        )
        differences = bool(found[DIFFERENCES].item())
        return DualDynamics(nets, elites, errors, center, scale, change=change, differences=differences)
