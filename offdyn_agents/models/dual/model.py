"""MOBODY's dynamics (arXiv 2506.08460): two domains share states and transitions, not actions.

A state encoder phi_E and a transition phi_T, which is the decoder too, are shared; each domain has its own action
encoder psi: s' = phi_T(z + psi(z, a)) with z = phi_E(s). Plentiful source rows train the shared parts and scarce target
rows only a small encoder. Networks use Swish; members are stacked along a leading axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from offdyn_agents.engine.networks import Network, Params, mlp
from offdyn_agents.models.dual.settings import DualDynamicsSettings

__all__ = ["DOMAINS", "DualDynamics", "Prediction", "dual_networks", "encode", "predicted", "reward"]

DOMAINS = ("source", "target")
CHUNK = 512
"""Rows that are predicted at once: few enough for their activations to stay in a core's cache."""

Nets = Mapping[str, Params]


def dual_networks(settings: DualDynamicsSettings, observation_dim: int, action_dim: int) -> dict[str, Network]:
    """Return the networks by name.

    Args:
        settings: Structure and widths.
        observation_dim: |S|.
        action_dim: |A|.

    Returns:
        "encoder" |S| -> mean and log-variance, "transition" latent -> |S|, "reward" 2|S| + |A| -> 1, and the action
        encoders latent + |A| -> latent: "source" and "target", or "action" for both. Without latent states "plain"
        |S| + |A| -> |S| and "reward".
    """
    s, a, width, latent, members = observation_dim, action_dim, settings.width, settings.latent, settings.members
    reward_head = Network((2 * s + a, width, width, 1), members)
    if settings.structure == "plain":
        return {"plain": Network((s + a, width, width, s), members), "reward": reward_head}
    action = Network((latent + a, settings.action_width, latent), members)
    return {
        "encoder": Network((s, width, width, 2 * latent), members),
        **({"action": action} if settings.structure == "single" else dict.fromkeys(DOMAINS, action)),
        "transition": Network((latent, width, width, s), members),
        "reward": reward_head,
    }


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
    name = "action" if "action" in nets else domain
    return latent + swish(nets[name], torch.cat([latent, actions], dim=-1))


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
        uncertainty: u, the largest distance of a member's mean from the mean of all, [N].
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
        errors: Each member's mean squared error of held-out target next states, in the units below, [members].
        center: What the networks take for a state of zeros, [|S|]; zeros unless states were standardised.
        scale: What they take for a step of one, [|S|]; ones unless states were standardised.
        failed: Why they must not be used, "" where their training went well.
    """

    nets: dict[str, Params]
    elites: Tensor
    errors: Tensor
    center: Tensor
    scale: Tensor
    failed: str = ""

    def means(self, observations: Tensor, actions: Tensor, domain: str = "target") -> Tensor:
        """Return the members' mean next states [members, N, |S|] of observations [N, |S|] and actions [N, |A|]."""
        with torch.no_grad():
            return self._raw(predicted(self.nets, self._seen(observations), actions[None], domain))

    def rewards(self, observations: Tensor, actions: Tensor, following: Tensor) -> Tensor:
        """Return the members' rewards [members, N] of s [N, |S|], a [N, |A|] and s' [N, |S|]."""
        with torch.no_grad():
            return reward(self.nets, self._seen(observations), actions[None], self._seen(following))

    def _seen(self, states: Tensor) -> Tensor:
        """Return states [N, |S|] as the networks take them, [1, N, |S|]."""
        return ((states - self.center) / self.scale)[None]

    def _raw(self, states: Tensor) -> Tensor:
        return states * self.scale + self.center

    def reconstruct(self, observations: Tensor) -> Tensor:
        """Return phi_T(phi_E(s)) [members, N, |S|] of observations [N, |S|]: the prediction with psi = 0.

        It recovers s where the cycle loss has been trained.
        """
        with torch.no_grad():
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
            uncertainty: "paper" measures u over all dimensions, "code" leaves the last one out, as the public code.
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
        seen = means[..., :-1] if uncertainty == "code" else means
        distance = torch.linalg.vector_norm(seen - seen.mean(0), dim=-1)
        return Prediction(following, rewards, distance.amax(0))

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, for a safetensors file."""
        named = {f"net.{name}.{i}": tensor for name, params in self.nets.items() for i, tensor in enumerate(params)}
        rest = {"elites": self.elites, "errors": self.errors, "center": self.center, "scale": self.scale}
        return rest | named

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
        return DualDynamics(nets, found["elites"], found["errors"], found["center"], found["scale"])
