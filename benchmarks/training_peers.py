"""What the training benchmark updates, and the plain peers: eager single-run PyTorch, as public single files write it.

A plain peer has modules, one `torch.optim.Adam`, one loss and one `backward` for each, and a loop over averaged copies.
Its batches come from the same rows as a population's, by the same indexing. As in public code, the backward pass of an
actor's loss also fills the critics' gradients, which their own step then clears.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from offdyn_agents.algorithms.iql import IQL
from offdyn_agents.algorithms.returns import FACTS
from offdyn_agents.algorithms.td3_bc import TD3BC
from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.buffers import RolloutBuffer
from offdyn_agents.engine.data import Sampler, Supply
from offdyn_agents.engine.execution import threads_inside
from offdyn_agents.engine.networks import Params
from offdyn_agents.engine.rollouts import ModelBased
from offdyn_agents.engine.rows import Batch, Layout, RowColumns
from offdyn_agents.engine.update import Population, initial_population

__all__ = ["PEERS", "Plain", "Work"]

SOURCE, TARGET, FAKE, TOTAL = 100_000, 5_000, 100_000, 1_000_000
"""Rows of each kind, and updates of the training from which a slice is timed."""


@dataclass(frozen=True)
class Work:
    """An agent and rows of the right shape; what is in them does not matter to the clock.

    Attributes:
        agent: The agent.
        runs: Number of seeds, R.
        supply: The rows, and what goes with them.
        source: Number of source rows, which come first.
        total: Updates over which annealed rates fall.
    """

    agent: Agent
    runs: int
    supply: Supply
    source: int
    total: int = TOTAL

    @staticmethod
    def layout(agent: Agent) -> Layout:
        """Return how an agent's rows are packed."""
        return Layout(agent.observation_dim, agent.action_dim)

    @staticmethod
    def random(agent: Agent, runs: int, folder: Path, device: str = "cpu", rows: Sequence[int] = ()) -> Work:
        """Return work on random rows.

        Args:
            agent: The agent.
            runs: R.
            folder: For the files of model rollouts.
            device: Where the rows are wanted.
            rows: Source rows, target rows and rows of model rollouts, if not the usual numbers.
        """
        source, target, fake = rows or (SOURCE, TARGET, FAKE)
        layout = Work.layout(agent)
        generator = torch.Generator().manual_seed(0)

        def packed(count: int) -> Tensor:
            table = torch.randn(count, layout.width, generator=generator)
            # Actions within their bounds, few ends of episodes.
            s, a, following, rewards, _ = layout.split(table)
            return layout.join(s, torch.tanh(a), following, rewards, torch.rand(count, generator=generator) < 0.01)

        supply = Supply(packed(source + target).to(device), layout)
        if agent.name == "droco":
            shape = (source, agent.settings.dynamics.members, agent.observation_dim)
            supply.predicted = [torch.randn(shape, generator=generator).to(device) for _ in range(runs)]
        if agent.name == "mobody":
            relabelled = [0.1 * torch.randn(source, generator=generator).to(device) for _ in range(runs)]
            supply.columns = [RowColumns(rewards=one) for one in relabelled]
        if isinstance(agent, ModelBased):
            paths = [folder / f"{agent.name}-{run}.f32" for run in range(runs)]
            supply.buffers = [RolloutBuffer(path, fake, layout.width, device) for path in paths]
            for buffer in supply.buffers:
                buffer.add(packed(fake))
        return Work(agent, runs, supply, source)

    def sampler(self, runs: int = 0) -> Sampler:
        """Return a fresh sampler of all runs, or of the first few."""
        runs, rows = runs or self.runs, len(self.supply.table)
        parts = [(0, self.source)] * runs, [(self.source, rows - self.source)] * runs
        found = Sampler(range(runs), *parts, self.agent.rows(), rows, self.agent.noise_width)
        for run, buffer in enumerate((self.supply.buffers or [])[:runs]):
            found.filled(run, buffer.fill)
        return found

    def population(self, runs: int = 0) -> Population:
        """Return the state of all runs, or of the first few, before the first update."""
        frozen = {}
        # What their stages find in rewards, which costs the same whatever it says.
        if isinstance(self.agent, IQL | TD3BC):
            everything = torch.full((runs or self.runs,), math.inf)
            frozen = {FACTS: [torch.ones_like(everything), -everything, everything]}
        if self.agent.name == "mobile":
            frozen = {"elites": self.elites(runs or self.runs)}
        first = initial_population(self.agent, range(runs or self.runs), frozen)
        return first.map(lambda _, tensor: tensor.to(self.supply.table.device))

    def elites(self, runs: int) -> Params:
        """Return members of an ensemble that has learned nothing, as MOBILE's loss reads them."""
        from offdyn_agents.models.ensemble.model import ensemble_network, initial_ensemble

        agent, settings = self.agent, self.agent.settings
        network = ensemble_network(settings.dynamics, agent.observation_dim, agent.action_dim)
        members = initial_ensemble(settings.dynamics, network, torch.Generator().manual_seed(0))
        inputs = agent.observation_dim + agent.action_dim
        kept = [t.expand(settings.dynamics.members, *t.shape[1:])[: settings.elites] for t in members]
        return [t.expand(runs, *t.shape).clone() for t in (torch.zeros(inputs), torch.ones(inputs), *kept)]


def network(inputs: int, width: int, outputs: int) -> nn.Sequential:
    hidden = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)]
    return nn.Sequential(*hidden)


class Critics(nn.Module):
    """Twin critics."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.first, self.second = network(inputs, width, 1), network(inputs, width, 1)

    def forward(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        pairs = torch.cat([states, actions], dim=1)
        return self.first(pairs)[:, 0], self.second(pairs)[:, 0]


class Actor(nn.Module):
    """A deterministic tanh policy."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.net = network(inputs, width, outputs)

    def forward(self, states: Tensor) -> Tensor:
        return torch.tanh(self.net(states))


class Plain:
    """One agent as one would write it for one run.

    Args:
        work: The agent and its rows; the first of its runs is the one.
        threads: Threads inside an operation.
    """

    averaged = ("critic",)

    def __init__(self, work: Work, threads: int) -> None:
        self.work, self.threads = work, threads
        agent = self.agent = work.agent
        self.settings: Any = agent.settings
        self.modules = {name: module.to(work.supply.table.device) for name, module in self.build().items()}
        start = work.population(1)
        for name, module in self.modules.items():
            _copy(module, start.params[name], into_module=True)
        self.targets = {n: copy.deepcopy(self.modules[n]).requires_grad_(False) for n in self.averaged}
        rate = self.settings.learning_rate
        self.optimizers = {n: torch.optim.Adam(m.parameters(), lr=rate) for n, m in self.modules.items()}
        self.schedules = [
            torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizers[n], work.total) for n in agent.annealed
        ]
        self.sampler = work.sampler(1)
        self.done = 0

    def build(self) -> dict[str, nn.Module]:
        """Return the networks by name."""
        s, a, width = self.agent.observation_dim, self.agent.action_dim, self.settings.width
        return {"critic": Critics(s + a, width), "actor": Actor(s, width, a)}

    def update(self, batch: Batch) -> None:
        """Do one update."""
        raise NotImplementedError

    def step(self, name: str, loss: Tensor) -> None:
        """Follow one loss's gradient."""
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[name].step()

    def average(self) -> None:
        """Move the averaged copies."""
        with torch.no_grad():
            for name, module in self.targets.items():
                for average, parameter in zip(module.parameters(), self.modules[name].parameters(), strict=True):
                    average.lerp_(parameter, self.settings.polyak)

    def turn(self, updates: int) -> int:
        """Do a number of updates and return it."""
        agent, supply = self.agent, self.work.supply
        counts, phases = agent.rows(), agent.phases
        numbers = self.sampler.draw(updates).to(supply.table.device)
        with threads_inside(self.threads):
            for i in range(updates):
                rows, predicted = supply.batches(range(1), numbers[:, i : i + 1], counts)
                noise = self.sampler.noise(0, 1)
                parts = [None if p is None else p[0].to(rows.device) for p in (predicted, noise)]
                predicted_rows = None if parts[0] is None else parts[0][0]
                phase = phases[self.done % len(phases)]
                self.update(supply.layout.batch(rows[0, 0], predicted_rows, counts, parts[1], phase))
                for schedule in self.schedules:
                    schedule.step()
                self.done += 1
        return updates

    def state(self) -> dict[str, Params]:
        """Return networks and averaged copies, laid out as those of a population of one."""
        shapes = self.work.population(1)
        found = {name: [torch.empty_like(t) for t in shapes.params[name]] for name in self.modules}
        found |= {f"{name}_target": [torch.empty_like(t) for t in shapes.params[name]] for name in self.targets}
        for name, module in (*self.modules.items(), *((f"{n}_target", m) for n, m in self.targets.items())):
            _copy(module, found[name], into_module=False)
        return found


def _copy(module: nn.Module, params: Params, *, into_module: bool) -> None:
    """Copy a population's first run into a module, or back."""
    with torch.no_grad():
        for place, stored in _pairs(module, params):
            if into_module:
                place.copy_(stored)
            else:
                stored.copy_(place)


def _pairs(module: nn.Module, params: Params) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the parameters of a module beside the views of `params` that belong to them."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    depth = len(params) // 2
    for index, layer in enumerate(layers):
        which, place = divmod(index, depth)
        weight, bias = params[2 * place][0], params[2 * place + 1][0]
        if len(layers) > depth:
            weight, bias = weight[which], bias[which]
        yield layer.weight, weight.mT
        yield layer.bias, bias[0]


class PlainIQL(Plain):
    """IQL."""

    def build(self) -> dict[str, nn.Module]:
        inputs, width = self.agent.observation_dim, self.settings.width
        return {"value": network(inputs, width, 1), **super().build()}

    def update(self, batch: Batch) -> None:
        settings, critic, value = self.settings, self.modules["critic"], self.modules["value"]
        s, a = batch.observations, batch.actions
        with torch.no_grad():
            best = torch.min(*self.targets["critic"](s, a))
            y = batch.rewards + settings.discount * batch.continues * self.next_values(batch)
        advantage = best - value(s)[:, 0]
        tau = settings.expectile
        self.step("value", (torch.where(advantage > 0, tau, 1 - tau) * advantage**2).mean())
        first, second = critic(s, a)
        self.step("critic", self.critic_loss(first, y) + self.critic_loss(second, y))
        self.average()
        weight = torch.exp(settings.temperature * advantage.detach()).clamp(max=settings.weight_clip)
        self.step("actor", (weight * (self.modules["actor"](s) - a).square().mean(1)).mean())

    def next_values(self, batch: Batch) -> Tensor:
        """Return the values of the next states [B]."""
        return self.modules["value"](batch.next_observations)[:, 0]

    def critic_loss(self, q: Tensor, y: Tensor) -> Tensor:
        """Return the loss of one critic."""
        return functional.mse_loss(q, y)


class PlainDROCO(PlainIQL):
    """DROCO: worst predicted next state on source rows, Huber loss on them."""

    def next_values(self, batch: Batch) -> Tensor:
        assert batch.predicted is not None
        values, n = super().next_values(batch), batch.source_rows
        worst = self.modules["value"](batch.predicted.flatten(0, 1)).view(n, -1).amin(1)
        robust = values[:n] - self.settings.beta * (values[:n] - worst).clamp(min=0)
        return torch.cat([robust, values[n:]])

    def critic_loss(self, q: Tensor, y: Tensor) -> Tensor:
        n = self.agent.rows().source
        robust = functional.huber_loss(q[:n], y[:n], delta=self.settings.delta)
        return robust + 0.5 * functional.mse_loss(q[n:], y[n:])


class PlainTD3BC(Plain):
    """TD3-BC; the actor is judged by the critic before its step, as in the population's update."""

    averaged = ("critic", "actor")

    def update(self, batch: Batch) -> None:
        assert batch.noise is not None
        settings, critic, actor = self.settings, self.modules["critic"], self.modules["actor"]
        s, a, following = batch.observations, batch.actions, batch.next_observations
        with torch.no_grad():
            bound = settings.target_noise_clip
            noise = (batch.noise * settings.target_noise).clamp(-bound, bound)
            actions = (self.targets["actor"](following) + noise).clamp(-1, 1)
            best = torch.min(*self.targets["critic"](following, actions))
            y = batch.rewards + settings.discount * batch.continues * best
        first, second = critic(s, a)
        critic_loss = functional.mse_loss(first, y) + functional.mse_loss(second, y)
        if batch.phase == "both":
            chosen = actor(s)
            assert isinstance(critic, Critics)
            q = critic.first(torch.cat([s, chosen], dim=1))
            weight = settings.alpha / q.abs().mean().detach()
            self.step("actor", functional.mse_loss(chosen, a) - weight * q.mean())
        self.step("critic", critic_loss)
        if batch.phase == "both":
            self.average()


class PlainMOBODY(Plain):
    """MOBODY: target-Q-weighted cloning on rows of the data, a climb of Q on all."""

    def update(self, batch: Batch) -> None:
        settings, critic, actor = self.settings, self.modules["critic"], self.modules["actor"]
        s, a, following = batch.observations, batch.actions, batch.next_observations
        with torch.no_grad():
            best = torch.min(*self.targets["critic"](following, actor(following)))
            y = batch.rewards + settings.discount * batch.continues * best
        first, second = critic(s, a)
        critic_loss = functional.mse_loss(first, y) + functional.mse_loss(second, y)
        chosen = actor(s)
        q = torch.min(*critic(s, chosen))
        scale = settings.q_scale / q.abs().mean().detach()
        n = len(s) - batch.fake_rows
        stored = q[:n].detach()
        weight = (stored / stored.abs().mean()).clamp(max=math.log(settings.weight_clip)).exp()
        imitation = (weight * (chosen[:n] - a[:n]).square().mean(1)).mean()
        self.step("actor", settings.bc * imitation - scale * q.mean())
        self.step("critic", critic_loss)
        self.average()


PEERS: Mapping[str, Callable[[Work, int], Plain]] = {
    "droco": PlainDROCO,
    "iql": PlainIQL,
    "td3-bc": PlainTD3BC,
    "mobody": PlainMOBODY,
}
"""The plain peer of each agent."""


def products(agent: Agent) -> tuple[int, tuple[int, int], int]:
    """Return width, widths of inputs and batch size, as `exact_fast_products` takes them."""
    inputs = (agent.observation_dim, agent.observation_dim + agent.action_dim)
    return agent.settings.width, inputs, agent.settings.batch_size
