"""Seed-updates per second of the policy stage: a population against other ways to do the same updates.

    python benchmarks/training.py                                  # four agents, 5 seeds, all cores
    python benchmarks/training.py --agents iql --ways population plain --json

On random rows of a robot's dimensions, in turns of a few seconds and several rounds, so that a machine that is busy for
a while is busy for all of them; a ratio is the median over rounds of the ratio in a round:

- population, population-bf16: R seeds as one population, as `offdyn train` runs them;
- single: one seed with the same compiled update and all threads inside it (on demand);
- plain: one seed as public single-file implementations write it (modules, torch.optim.Adam, eager, fp32), at PyTorch's
  own settings: what R such scripts in turn would give;
- jax, jax-bf16: a jitted `lax.scan` over updates, vmapped over the R seeds; left out where JAX is not installed.

`tests/test_benchmarks.py` holds each of them against the population's update. After the rounds the same population goes
through Lightning as `offdyn train` sends it, a chunk in turn with a chunk of the bare executor.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from lightning.pytorch.callbacks import Callback
from training_peers import PEERS, Work, products

from offdyn_agents.agent import Agent
from offdyn_agents.callbacks import Checkpoints, LossLines
from offdyn_agents.execution import Executor, exact_fast_products
from offdyn_agents.runs import cpu_threads, make_agent
from offdyn_agents.training import Budget, Hardware, Part, PopulationModule, fit
from offdyn_envs.robots import get_robot

TURN = 100
"""Updates between two looks at the clock."""
WAYS = ("population", "population-bf16", "single", "plain", "jax", "jax-bf16")
RATIOS = {
    "population / plain": ("population", "plain"),
    "population-bf16 / plain": ("population-bf16", "plain"),
    "population / single": ("population", "single"),
    "population / jax": ("population", "jax"),
    "population-bf16 / jax-bf16": ("population-bf16", "jax-bf16"),
    "jax / plain": ("jax", "plain"),
}

Turn = Callable[[], int]


@dataclass(frozen=True)
class Setting:
    """What is measured, and where."""

    seeds: int
    device: str
    threads: int

    def hardware(self, precision: str) -> Hardware:
        return Hardware(self.device, precision, self.threads)


def executor_of(work: Work, hardware: Hardware, runs: int = 0) -> tuple[Executor, Any]:
    """Return the executor of a fresh population, and its sampler."""
    sampler = work.sampler(runs)
    executor = Executor(
        work.agent,
        work.population(runs),
        work.supply,
        total=work.total,
        noise=sampler.noise,
        context=hardware.products,
        threads=hardware.threads,
        compiled=hardware.compiled,
    )
    return executor, sampler


def population(work: Work, hardware: Hardware, runs: int = 0) -> Turn:
    """Return a function that does a turn of updates of a population and returns how many seed-updates that was."""
    executor, sampler = executor_of(work, hardware, runs)

    def turn() -> int:
        with exact_fast_products(*products(work.agent)):
            executor.run(sampler.draw(TURN))
        return TURN * (runs or work.runs)

    return turn


def way(name: str, work: Work, setting: Setting) -> Turn:
    """Return the turn of one way."""
    kind, _, precision = name.partition("-")
    hardware = setting.hardware(precision or "fp32")
    if kind == "plain":
        plain = PEERS[work.agent.name](work, setting.threads)
        return lambda: plain.turn(TURN)
    if kind == "jax":
        from training_jax import JaxPeer

        peer = JaxPeer(work, precision or "fp32")
        return lambda: peer.turn(TURN)
    return population(work, hardware, 1 if kind == "single" else 0)


def skipped(names: list[str], device: str) -> dict[str, str]:
    """Return which ways cannot be measured here, and why."""
    why = "JAX is not installed" if importlib.util.find_spec("jax") is None else ""
    why = why or ("JAX is compared on the CPU only" if device != "cpu" else "")
    return {name: why for name in names if why and name.startswith("jax")}


def speed(turn: Turn, seconds: float) -> float:
    """Seed-updates per second of wall-clock."""
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        done += turn()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return done / (time.perf_counter() - begun)


def rounds_of(ways: dict[str, Turn], rounds: int, seconds: float) -> dict[str, Any]:
    """Time every way in turns."""
    table = [{name: speed(turn, seconds) for name, turn in ways.items()} for _ in range(rounds)]
    medians = {name: statistics.median(row[name] for row in table) for name in ways}
    ratios = {
        title: statistics.median(row[ours] / row[theirs] for row in table)
        for title, (ours, theirs) in RATIOS.items()
        if ours in ways and theirs in ways
    }
    return {"seed_updates_per_second": medians, "ratios": ratios, "rounds": table}


class InTurn(Callback):
    """After every chunk that Lightning has done, the bare executor does one of the same size.

    Attributes:
        whole: Seconds of each chunk in Lightning, all of it.
        inside: Seconds of these in the drawing of rows and in the executor.
        bare: Seconds of each chunk of the bare executor, drawing included.
    """

    def __init__(self, executor: Executor, sampler: Any) -> None:
        self.executor, self.sampler = executor, sampler
        self.whole: list[float] = []
        self.inside: list[float] = []
        self.bare: list[float] = []
        self._spent, self._begun = 0.0, 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not self._begun and not self._spent:
            pl_module.sampler.draw = self._timed(pl_module.sampler.draw)
            pl_module._executor.run = self._timed(pl_module._executor.run)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = time.perf_counter()
        # The first chunk compiles.
        if self._begun:
            self.whole.append(now - self._begun)
            self.inside.append(self._spent)
            self.executor.run(self.sampler.draw(int(batch)))
            self.bare.append(time.perf_counter() - now)
        self._spent, self._begun = 0.0, time.perf_counter()

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self._spent += time.perf_counter() - begun

        return call


def lightning(work: Work, hardware: Hardware, chunk: int, chunks: int, folder: Path) -> dict[str, Any]:
    """Return how much longer a chunk takes in Lightning, with the callbacks that log losses and write checkpoints."""
    executor, sampler = executor_of(work, hardware)
    with exact_fast_products(*products(work.agent)):
        executor.run(sampler.draw(TURN))
    budget = Budget(chunk * (chunks + 1), evaluate_every=chunk * (chunks + 1), chunk=chunk)
    part = Part(folder / work.agent.name, work.agent.name, tuple(range(work.runs)))
    module = PopulationModule(work.agent, [part], work.supply, work.sampler(), budget, hardware)
    clock = InTurn(executor, sampler)
    # What comes after the clock counts for the next chunk, and the checkpoint of the end for none.
    fit(module, [LossLines(), clock, Checkpoints()])
    begun = time.perf_counter()
    module.write_checkpoint()
    written = time.perf_counter() - begun
    whole, inside, bare = clock.whole, clock.inside, clock.bare
    outside = [(a - b) / b for a, b in zip(whole, inside, strict=True)]
    return {
        "chunk": chunk,
        "chunk_seconds": statistics.median(whole),
        "against_bare": statistics.median(a / b for a, b in zip(whole, bare, strict=True)) - 1.0,
        "outside_executor": statistics.median(outside),
        "checkpoint": written / budget.checkpoint_seconds,
        "whole": whole,
        "inside": inside,
        "bare": bare,
    }


def measure(agent: Agent, setting: Setting, chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure one agent."""
    work = Work.random(agent, setting.seeds, folder, setting.device)
    names = [name for name in WAYS if name in chosen.ways]
    left_out = skipped(names, setting.device)
    say(f"{agent.name}: preparing")
    ways = {name: way(name, work, setting) for name in names if name not in left_out}
    for turn in ways.values():
        turn()
    say(f"{agent.name}: measuring")
    result = rounds_of(ways, chosen.rounds, chosen.seconds) | {"skipped": left_out}
    if chosen.chunks:
        result["lightning"] = lightning(work, setting.hardware("fp32"), chosen.chunk, chosen.chunks, folder)
    return {"agent": agent.name, "load": os.getloadavg()[0]} | result


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show(result: dict[str, Any]) -> None:
    """Print one agent's figures."""
    print(result["agent"])
    for name, value in result["seed_updates_per_second"].items():
        speeds = [row[name] for row in result["rounds"]]
        print(f"  {name:<18} {value:8.0f} seed-updates/s (rounds {min(speeds):.0f} to {max(speeds):.0f})")
    for name, why in result["skipped"].items():
        print(f"  {name:<18} left out: {why}")
    for name, value in result["ratios"].items():
        print(f"  {name:<28} {value:5.2f}")
    if "lightning" in result:
        found = result["lightning"]
        print(
            f"  Lightning, chunks of {found['chunk']} updates ({found['chunk_seconds']:.2f} s): "
            f"{found['against_bare']:+.1%} against the bare executor in turn; "
            f"{found['outside_executor']:.2%} of the executor's time spent outside it, "
            f"checkpoints {found['checkpoint']:.2%} more"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--robot", default="hopper")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", default=[w for w in WAYS if w != "single"], choices=WAYS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=cpu_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--chunk", type=int, default=500, help="updates of a chunk in Lightning")
    parser.add_argument("--chunks", type=int, default=4, help="chunks in Lightning; 0 leaves it out")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    robot = get_robot(chosen.robot)
    setting = Setting(chosen.seeds, chosen.device, chosen.threads)
    results: list[dict[str, Any]] = []
    for name in chosen.agents:
        agent = make_agent(name, chosen.robot, robot.observation_dim, robot.action_dim, {})
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(agent, setting, chosen, Path(folder)))
        if not chosen.json:
            show(results[-1])
    say("done")
    if chosen.json:
        facts = {"robot": chosen.robot, "seeds": chosen.seeds, "threads": chosen.threads, "device": chosen.device}
        print(json.dumps(facts | {"results": results}, indent=2))


if __name__ == "__main__":
    main()
