"""Seed-updates per second of the policy stage: a population against other ways to do the same updates.

    python benchmarks/training.py                                  # four agents, 5 seeds, all cores
    python benchmarks/training.py --agents iql --ways population plain --json

On random rows of a robot's dimensions, in turns of a few seconds and several rounds, so that a machine that is busy for
a while is busy for all of them; a ratio is the median over rounds of the ratio in a round. Beside wall-clock every turn
counts the processor time of its threads: what others run on the machine hardly touches seed-updates per core-second
(in which a thread that waits for another costs nothing, to the advantage of ways that do not keep all cores busy).


- population, population-bf16, and population-tf32 on a GPU: R seeds as one population, as `offdyn train` runs them;
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

from offdyn_agents.algorithms.registry import make_agent
from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.execution import Executor, exact_fast_products
from offdyn_agents.engine.training.callbacks import Checkpoints, LossLines
from offdyn_agents.engine.training.module import Budget, Hardware, Part, PopulationModule, fit
from offdyn_envs.batching.threads import usable_threads
from offdyn_envs.robots import get_robot

TURN = 100
"""Updates between two looks at the clock."""
WAYS = ("population", "population-tf32", "population-bf16", "single", "plain", "jax", "jax-bf16")
RATIOS = {
    "population / plain": ("population", "plain"),
    "population-tf32 / plain": ("population-tf32", "plain"),
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


def population(work: Work, hardware: Hardware, runs: int = 0, updates: int = TURN) -> Turn:
    """Return a function that does a turn of updates of a population and returns how many seed-updates that was."""
    executor, sampler = executor_of(work, hardware, runs)

    def turn() -> int:
        with exact_fast_products(*products(work.agent)), hardware.rounding():
            executor.run(sampler.draw(updates, work.supply.table.device))
        return updates * (runs or work.runs)

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
    found = {name: why for name in names if why and name.startswith("jax")}
    return found | {name: "for GPUs" for name in names if name.endswith("tf32") and device == "cpu"}


def speeds(turn: Turn, seconds: float) -> tuple[float, float]:
    """Seed-updates per second of wall-clock, and per second of processor time."""
    done, begun, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds:
        done += turn()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return done / (time.perf_counter() - begun), done / (time.process_time() - used)


def rounds_of(ways: dict[str, Turn], rounds: int, seconds: float) -> dict[str, Any]:
    """Time every way in turns."""
    both = [{name: speeds(turn, seconds) for name, turn in ways.items()} for _ in range(rounds)]
    found: dict[str, Any] = {}
    for place, unit in enumerate(("second", "core_second")):
        table = [{name: pair[place] for name, pair in row.items()} for row in both]
        found[f"seed_updates_per_{unit}"] = {name: statistics.median(row[name] for row in table) for name in ways}
        found[f"ratios_per_{unit}"] = {
            title: statistics.median(row[ours] / row[theirs] for row in table)
            for title, (ours, theirs) in RATIOS.items()
            if ours in ways and theirs in ways
        }
        found[f"rounds_per_{unit}"] = table
    return found


CLOCKS = (time.perf_counter, time.process_time)
"""Wall-clock and processor time."""
Times = tuple[float, ...]


def now() -> Times:
    return tuple(clock() for clock in CLOCKS)


def since(begun: Times) -> Times:
    return tuple(after - before for after, before in zip(now(), begun, strict=True))


class InTurn(Callback):
    """After every chunk that Lightning has done, the bare executor does one of the same size.

    Attributes:
        whole: Seconds of wall-clock and of processor time of each chunk in Lightning, all of it.
        inside: Of these, what was spent in the drawing of rows and in the executor.
        bare: The same of each chunk of the bare executor, drawing included.
    """

    def __init__(self, executor: Executor, sampler: Any) -> None:
        self.executor, self.sampler = executor, sampler
        self.whole: list[Times] = []
        self.inside: list[Times] = []
        self.bare: list[Times] = []
        self._spent: list[Times] = []
        self._begun: Times = ()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            pl_module.sampler.draw = self._timed(pl_module.sampler.draw)
            pl_module.executor.run = self._timed(pl_module.executor.run)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # The first chunk compiles.
        if self._begun:
            self.whole.append(since(self._begun))
            self.inside.append(tuple(map(sum, zip(*self._spent, strict=True))))
            begun = now()
            self.executor.run(self.sampler.draw(int(batch)))
            self.bare.append(since(begun))
        self._spent, self._begun = [], now()

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            begun = now()
            try:
                return function(*arguments)
            finally:
                self._spent.append(since(begun))

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
    found: dict[str, Any] = {"chunk": chunk, "chunk_seconds": statistics.median(wall for wall, _ in clock.whole)}
    for title, others in (("against_bare", clock.bare), ("outside_executor", clock.inside)):
        for place, unit in enumerate(("", "_core")):
            pairs = zip(clock.whole, others, strict=True)
            found[title + unit] = statistics.median(a[place] / b[place] for a, b in pairs) - 1.0
    chunks_done = {"whole": clock.whole, "inside": clock.inside, "bare": clock.bare}
    return found | {"checkpoint": written / budget.checkpoint_seconds} | chunks_done


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
        every = [row[name] for row in result["rounds_per_second"]]
        spread = f"(rounds {min(every):.0f} to {max(every):.0f})"
        core = result["seed_updates_per_core_second"][name]
        print(f"  {name:<18} {value:8.0f} seed-updates/s {spread:<24} {core:8.0f} per core-second")
    for name, why in result["skipped"].items():
        print(f"  {name:<18} left out: {why}")
    for name, value in result["ratios_per_second"].items():
        print(f"  {name:<28} {value:5.2f} ({result['ratios_per_core_second'][name]:.2f} per core-second)")
    if "lightning" in result:
        found = result["lightning"]
        print(
            f"  Lightning, chunks of {found['chunk']} updates ({found['chunk_seconds']:.2f} s): "
            f"{found['against_bare']:+.1%} wall-clock and {found['against_bare_core']:+.1%} processor time against the "
            f"bare executor in turn; {found['outside_executor']:.2%} more time than the executor inside it, "
            f"checkpoints {found['checkpoint']:.2%} on top"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--robot", default="hopper")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", default=[w for w in WAYS if w != "single"], choices=WAYS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=usable_threads())
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
