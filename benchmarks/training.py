"""Seed-updates per second: a population against its runs one after the other.

    python benchmarks/training.py                    # DROCO, 4 seeds, fp32, all cores
    python benchmarks/training.py --agent iql --json

Three ways to do the same updates on the same data are timed in turns of a few seconds, several rounds, so that a
machine that is busy for a while is busy for all of them:

- population: R seeds as one population, as `offdyn train` runs them;
- single: one seed with the same compiled update and all threads inside it, what R runs in turn would give;
- plain: one seed as public single-file implementations write it (modules, three torch.optim.Adam, eager), at PyTorch's
  own settings, what R such scripts in turn would give.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn
from torch.nn import functional

from offdyn_agents.agent import Agent
from offdyn_agents.data import Layout, Sampler, Supply
from offdyn_agents.execution import Executor, exact_fast_products, threads_inside
from offdyn_agents.runs import cpu_threads, make_agent
from offdyn_agents.training import Hardware
from offdyn_agents.update import initial_population
from offdyn_envs.robots import get_robot

SOURCE, TARGET, TOTAL = 100_000, 5_000, 1_000_000
TURN = 100
"""Updates between two looks at the clock."""


def random_supply(agent: Agent, runs: int, device: str) -> Supply:
    """Rows of the right shape; what is in them does not matter to the clock."""
    layout = Layout(agent.observation_dim, agent.action_dim)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(SOURCE + TARGET, layout.width, generator=generator)
    table[:, -1] = 1.0
    supply = Supply(table.to(device), layout)
    if agent.name == "droco":
        shape = (SOURCE, agent.settings.dynamics.members, agent.observation_dim)
        supply.predicted = [torch.randn(shape, generator=generator).to(device) for _ in range(runs)]
    return supply


def compiled_runs(agent: Agent, runs: int, hardware: Hardware) -> Callable[[], int]:
    """Return a function that does a turn of updates of a population and returns how many seed-updates that was."""
    supply = random_supply(agent, runs, hardware.device)
    sampler = Sampler(range(runs), [(0, SOURCE)] * runs, [(SOURCE, TARGET)] * runs, agent.rows())
    population = initial_population(agent, range(runs)).map(lambda _, tensor: tensor.to(hardware.device))
    executor = Executor(
        agent,
        population,
        supply,
        total=TOTAL,
        noise=sampler.noise,
        context=hardware.products,
        threads=hardware.threads,
        compiled=hardware.compiled,
    )

    def turn() -> int:
        with exact_fast_products(agent.settings.width, input_widths(agent), agent.settings.batch_size):
            executor.run(sampler.draw(TURN))
        return TURN * runs

    return turn


def input_widths(agent: Agent) -> tuple[int, int]:
    return agent.observation_dim, agent.observation_dim + agent.action_dim


class Plain:
    """IQL or DROCO as one would write it for one run."""

    def __init__(self, agent: Agent, hardware: Hardware) -> None:
        self.agent, self.settings, self.hardware = agent, agent.settings, hardware
        s, a, w = agent.observation_dim, agent.action_dim, agent.settings.width

        def network(inputs: int, outputs: int) -> nn.Sequential:
            hidden = [nn.Linear(inputs, w), nn.ReLU(), nn.Linear(w, w), nn.ReLU(), nn.Linear(w, outputs)]
            return nn.Sequential(*hidden).to(hardware.device)

        self.critics = nn.ModuleList([network(s + a, 1), network(s + a, 1)])
        self.averaged = copy.deepcopy(self.critics).requires_grad_(False)
        self.value, self.actor = network(s, 1), network(s, a)
        rate = self.settings.learning_rate
        self.optimizers = [torch.optim.Adam(m.parameters(), lr=rate) for m in (self.value, self.critics, self.actor)]
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizers[2], TOTAL)
        self.supply = random_supply(agent, 1, hardware.device)
        self.sampler = Sampler([0], [(0, SOURCE)], [(SOURCE, TARGET)], agent.rows())

    def targets(self, numbers: Tensor, rewards: Tensor, following: Tensor, continues: Tensor) -> Tensor:
        """Return the critics' regression targets [B]."""
        n = self.agent.rows().source
        v_next = self.value(following)[:, 0]
        if self.agent.name == "droco":
            predicted = self.supply.predicted[0][numbers[:n]]
            penalty = v_next[:n] - self.value(predicted.flatten(0, 1)).view(n, -1).amin(1)
            v_next = torch.cat([v_next[:n] - self.settings.beta * penalty, v_next[n:]])
        return rewards + self.settings.discount * continues * v_next

    def critic_loss(self, q: Tensor, y: Tensor) -> Tensor:
        """Return the loss of one critic."""
        n = self.agent.rows().source
        if self.agent.name == "iql":
            return functional.mse_loss(q, y)
        return functional.huber_loss(q[:n], y[:n], delta=self.settings.delta) + 0.5 * functional.mse_loss(q[n:], y[n:])

    def update(self, numbers: Tensor) -> None:
        """Do one update on the rows of these numbers [B]."""
        rows = self.supply.rows(numbers)
        s, a, following, rewards, continues = self.supply.layout.split(rows)
        pairs = torch.cat([s, a], dim=1)
        with torch.no_grad():
            best = torch.min(self.averaged[0](pairs), self.averaged[1](pairs))[:, 0]
            y = self.targets(numbers, rewards, following, continues)
        advantage = best - self.value(s)[:, 0]
        tau = self.settings.expectile
        self.step(0, (torch.where(advantage > 0, tau, 1 - tau) * advantage**2).mean())
        self.step(1, sum(self.critic_loss(critic(pairs)[:, 0], y) for critic in self.critics))
        with torch.no_grad():
            for average, parameter in zip(self.averaged.parameters(), self.critics.parameters(), strict=True):
                average.lerp_(parameter, self.settings.polyak)
        weight = torch.exp(self.settings.temperature * advantage.detach()).clamp(max=self.settings.weight_clip)
        self.step(2, (weight * (torch.tanh(self.actor(s)) - a).square().mean(1)).mean())
        self.schedule.step()

    def step(self, which: int, loss: Tensor) -> None:
        """Follow one loss's gradient."""
        self.optimizers[which].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[which].step()

    def turn(self) -> int:
        """Do a turn of updates."""
        with threads_inside(self.hardware.threads):
            for numbers in self.sampler.draw(TURN)[0].to(self.hardware.device):
                with self.hardware.products():
                    self.update(numbers)
        return TURN


def speed(turn: Callable[[], int], seconds: float) -> float:
    """Seed-updates per second of wall-clock."""
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        done += turn()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return done / (time.perf_counter() - begun)


def measure(agent: Agent, seeds: int, hardware: Hardware, rounds: int, seconds: float) -> dict[str, object]:
    """Time every way in turns; ratios are medians over the rounds."""
    ways = {
        "population": compiled_runs(agent, seeds, hardware),
        "single": compiled_runs(agent, 1, hardware),
        "plain": Plain(agent, hardware).turn,
    }
    for turn in ways.values():
        turn()
    table = [{name: speed(turn, seconds) for name, turn in ways.items()} for _ in range(rounds)]
    medians = {name: statistics.median(row[name] for row in table) for name in ways}
    ratios = {
        f"population/{name}": statistics.median(row["population"] / row[name] for row in table)
        for name in ("single", "plain")
    }
    return {"seed_updates_per_second": medians, "ratios": ratios, "rounds": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="droco", choices=("droco", "iql"))
    parser.add_argument("--robot", default="hopper")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=cpu_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    robot = get_robot(chosen.robot)
    agent = make_agent(chosen.agent, chosen.robot, robot.observation_dim, robot.action_dim, {})
    hardware = Hardware(chosen.device, chosen.precision, chosen.threads)
    result = measure(agent, chosen.seeds, hardware, chosen.rounds, chosen.seconds)
    result |= {"agent": chosen.agent, "robot": chosen.robot, "seeds": chosen.seeds, "threads": chosen.threads}
    result |= {"precision": chosen.precision, "device": chosen.device, "load": os.getloadavg()[0]}
    if chosen.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{chosen.agent} {chosen.robot}, {chosen.precision}, {chosen.device}, {chosen.threads} threads")
    for name, value in result["seed_updates_per_second"].items():
        print(f"  {name:<12} {value:8.0f} seed-updates/s")
    for name, value in result["ratios"].items():
        print(f"  {name:<20} {value:5.2f} times")
    spread = [math.log(row["population"]) for row in result["rounds"]]
    print(f"  spread of the population's rounds: factor {math.exp(max(spread) - min(spread)):.2f}")


if __name__ == "__main__":
    main()
