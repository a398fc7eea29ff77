"""The JAX peers of the training benchmark, written from the formulas and not from our losses.

One jitted function does a number of updates in a `lax.scan`, vmapped over the seeds; the state is donated, and rows lie
on the device. One gradient is taken of all parts of a loss; Adam and the averaged copies are plain `jax.numpy`.
Row numbers and noise come from outside, drawn as for a population, so that all ways see the same rows.
"""

# JAX is installed beside, if at all.
# pyright: reportMissingImports=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from training_peers import Work

__all__ = ["JaxPeer"]

Net = list[Any]
Nets = dict[str, Net]
stop = lax.stop_gradient


def dense(dot: Any, net: Net, x: Any) -> Any:
    for layer in range(0, len(net), 2):
        x = dot(x, net[layer]) + net[layer + 1]
        if layer < len(net) - 2:
            x = jnp.maximum(x, 0.0)
    return x


def exact(x: Any, w: Any) -> Any:
    return jnp.dot(x, w)


def rounded(x: Any, w: Any) -> Any:
    return jnp.dot(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


class Losses:
    """The losses of one run, by agent; every method takes networks, averaged copies and a batch."""

    def __init__(self, work: Work, precision: str) -> None:
        self.hp: Any = work.agent.settings
        self.n = work.agent.rows().source
        self.fake = work.agent.rows().fake
        self.net = partial(dense, exact if precision == "fp32" else rounded)

    def q(self, critic: Net, s: Any, a: Any) -> Any:
        return jax.vmap(self.net, (0, None))(critic, jnp.concatenate([s, a], -1))[..., 0]

    def v(self, value: Net, s: Any) -> Any:
        return self.net(value, s)[..., 0]

    def pi(self, actor: Net, s: Any) -> Any:
        return jnp.tanh(self.net(actor, s))

    def iql(self, nets: Nets, slow: Nets, batch: dict[str, Any], *, robust: bool = False) -> Any:
        hp, s, a = self.hp, batch["s"], batch["a"]
        v_next = stop(self.v(nets["value"], batch["s2"]))
        if robust:
            worst = stop(self.v(nets["value"], batch["predicted"])).min(-1)
            v_next = v_next.at[: self.n].add(-hp.beta * (v_next[: self.n] - worst))
        y = batch["r"] + hp.discount * batch["m"] * v_next
        gain = self.q(slow["critic"], s, a).min(0) - self.v(nets["value"], s)
        value = jnp.mean(jnp.where(gain > 0, hp.expectile, 1 - hp.expectile) * gain**2)
        e = y - self.q(nets["critic"], s, a)
        critic = jnp.mean(e**2, -1).sum()
        if robust:
            near, far = jnp.abs(e[:, : self.n]), e[:, self.n :]
            bent = jnp.where(near <= hp.delta, 0.5 * near**2, hp.delta * (near - 0.5 * hp.delta))
            critic = jnp.sum(bent.mean(-1) + 0.5 * (far**2).mean(-1))
        weight = jnp.minimum(jnp.exp(hp.temperature * stop(gain)), hp.weight_clip)
        return value + critic + jnp.mean(weight[:, None] * (self.pi(nets["actor"], s) - a) ** 2)

    def droco(self, nets: Nets, slow: Nets, batch: dict[str, Any]) -> Any:
        return self.iql(nets, slow, batch, robust=True)

    def td3_bc(self, nets: Nets, slow: Nets, batch: dict[str, Any], *, delayed: bool) -> Any:
        hp, s, a = self.hp, batch["s"], batch["a"]
        noise = jnp.clip(hp.target_noise * batch["noise"], -hp.target_noise_clip, hp.target_noise_clip)
        following = jnp.clip(self.pi(slow["actor"], batch["s2"]) + noise, -1, 1)
        y = batch["r"] + hp.discount * batch["m"] * self.q(slow["critic"], batch["s2"], following).min(0)
        loss = jnp.mean((stop(y) - self.q(nets["critic"], s, a)) ** 2, -1).sum()
        if delayed:
            return loss
        chosen = self.pi(nets["actor"], s)
        judge = [stop(w[0]) for w in nets["critic"]]
        q = self.net(judge, jnp.concatenate([s, chosen], -1))[..., 0]
        return loss + jnp.mean((chosen - a) ** 2) - hp.alpha / stop(jnp.abs(q).mean()) * q.mean()

    def mobody(self, nets: Nets, slow: Nets, batch: dict[str, Any]) -> Any:
        hp, s, a, s2 = self.hp, batch["s"], batch["a"], batch["s2"]
        y = batch["r"] + hp.discount * batch["m"] * self.q(slow["critic"], s2, self.pi(nets["actor"], s2)).min(0)
        loss = jnp.mean((stop(y) - self.q(nets["critic"], s, a)) ** 2, -1).sum()
        chosen = self.pi(nets["actor"], s)
        q = self.q([stop(w) for w in nets["critic"]], s, chosen).min(0)
        known = len(s) - self.fake
        stored = stop(q[:known])
        weight = jnp.minimum(jnp.exp(stored / jnp.abs(stored).mean()), hp.weight_clip)
        cloning = jnp.mean(weight[:, None] * (chosen[:known] - a[:known]) ** 2)
        return loss + hp.bc * cloning - hp.q_scale / stop(jnp.abs(q).mean()) * q.mean()


class JaxPeer:
    """R seeds of one agent as a jitted, scanned and vmapped loop.

    Args:
        work: The agent and its rows.
        precision: "fp32", or "bf16" for products of rounded operands.
    """

    def __init__(self, work: Work, precision: str = "fp32") -> None:
        self.work, agent = work, work.agent
        self.losses, self.phases = Losses(work, precision), agent.phases
        start = work.population()
        nets = {name: [jnp.asarray(t.numpy()) for t in tensors] for name, tensors in start.params.items()}
        slow = {name: [jnp.array(t.numpy()) for t in tensors] for name, tensors in start.targets.items()}
        zeros = jax.tree.map(jnp.zeros_like, nets)
        counts = {name: jnp.zeros(work.runs) for name in nets}
        self.carry: Any = {"nets": nets, "slow": slow, "m": zeros, "v": jax.tree.map(jnp.zeros_like, nets)}
        self.carry |= {"t": counts, "done": jnp.zeros(work.runs)}
        supply = work.supply
        rewards = [one.rewards for one in supply.columns or () if one.rewards is not None]
        own = {"predicted": supply.predicted, "rewards": rewards}
        self.own = {name: jnp.stack([jnp.asarray(t.numpy()) for t in tables]) for name, tables in own.items() if tables}
        if supply.buffers:
            rows = [buffer.rows(_range(buffer.fill)) for buffer in supply.buffers]
            self.own["fake"] = jnp.stack([jnp.asarray(r.numpy()) for r in rows])
        self.table = jnp.asarray(supply.table.numpy())
        self.sampler = work.sampler()
        self.call = jax.jit(jax.vmap(self._run, (0, None, 0, 0, 0)), donate_argnums=0)

    def _run(self, carry: Any, table: Any, own: Any, numbers: Any, noise: Any) -> Any:
        """Do updates [U, ...] of one run."""
        size = len(self.phases)
        folded = jax.tree.map(lambda x: x.reshape(len(x) // size, size, *x.shape[1:]), (numbers, noise))

        def body(carry: Any, drawn: Any) -> tuple[Any, None]:
            for place, phase in enumerate(self.phases):
                which, more = jax.tree.map(lambda x, i=place: x[i], drawn)
                carry = self._update(carry, self._batch(table, own, which, more), phase)
            return carry, None

        return lax.scan(body, carry, folded)[0]

    def _batch(self, table: Any, own: Any, numbers: Any, noise: Any) -> dict[str, Any]:
        counts, agent = self.work.agent.rows(), self.work.agent
        known, n = counts.source + counts.target, counts.source
        rows = table[numbers[:known]]
        if "rewards" in own:
            rows = rows.at[:n, -2].add(own["rewards"][numbers[:n]])
        if "fake" in own:
            rows = jnp.concatenate([rows, own["fake"][numbers[known:] - len(table)]])
        s, a = agent.observation_dim, agent.action_dim
        cuts = np.cumsum([s, a, s, 1])
        parts = dict(zip(("s", "a", "s2", "r", "m"), jnp.split(rows, cuts, -1), strict=True))
        batch = parts | {"r": parts["r"][:, 0], "m": parts["m"][:, 0], "noise": noise}
        return batch | ({"predicted": own["predicted"][numbers[:n]]} if "predicted" in own else {})

    def _loss(self, phase: str) -> Callable[..., Any]:
        found = getattr(self.losses, self.work.agent.name.replace("-", "_"))
        return partial(found, delayed=phase == "critic") if phase else found

    def _update(self, carry: Any, batch: dict[str, Any], phase: str) -> Any:
        agent, hp = self.work.agent, self.work.agent.settings
        gradients = jax.grad(self._loss(phase))(carry["nets"], carry["slow"], batch)
        found = {key: dict(value) if isinstance(value, dict) else value for key, value in carry.items()}
        for name in agent.networks():
            if phase == "critic" and name == "actor":
                continue
            rate = hp.learning_rate
            if phase == "" and name == "actor" and "value" in carry["nets"]:
                rate = rate * 0.5 * (1 + jnp.cos(jnp.pi * carry["done"] / self.work.total))
            t = found["t"][name] = carry["t"][name] + 1
            step = partial(_adam, rate, t)
            parts = (carry["nets"][name], gradients[name], carry["m"][name], carry["v"][name])
            moved = [step(*tensors) for tensors in zip(*parts, strict=True)]
            found["nets"][name], found["m"][name], found["v"][name] = (list(x) for x in zip(*moved, strict=True))
        if phase != "critic":
            for name, nets in carry["slow"].items():
                pairs = zip(nets, found["nets"][name], strict=True)
                found["slow"][name] = [old + hp.polyak * (new - old) for old, new in pairs]
        found["done"] = carry["done"] + 1
        return found

    def turn(self, updates: int) -> int:
        """Do a number of updates of all seeds and return how many seed-updates that was."""
        numbers = jnp.asarray(self.sampler.draw(updates).numpy().astype(np.int32))
        drawn = [self.sampler.noise(run, updates) for run in range(self.work.runs)]
        noise = np.stack([np.zeros((updates, 0, 0), np.float32) if d is None else d.numpy() for d in drawn])
        self.carry = self.call(self.carry, self.table, self.own, numbers, jnp.asarray(noise))
        jax.block_until_ready(self.carry)
        return updates * self.work.runs

    def state(self) -> dict[str, list[Any]]:
        """Return networks and averaged copies as NumPy arrays, laid out as a population's."""
        slow = {f"{name}_target": nets for name, nets in self.carry["slow"].items()}
        return {name: [np.asarray(x) for x in nets] for name, nets in (self.carry["nets"] | slow).items()}


def _adam(rate: Any, t: Any, w: Any, g: Any, m: Any, v: Any) -> tuple[Any, Any, Any]:
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    return w - rate * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8), m, v


def _range(count: int) -> Any:
    import torch

    return torch.arange(count)
