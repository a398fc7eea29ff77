"""Populations spread over a Ray cluster: one remote task for each.

All machines see the run folders under the same path, so that whichever machine takes a population finds its
checkpoints. Where a worker or its machine dies, Ray gives the population to another one, which goes on from there.
Only the `ray` extra brings Ray; it is imported when a cluster is asked for.
"""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from offdyn_agents.runs.track import Ledger, Population, first_line, population_title, tell_not_judged
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_agents.engine.resources import Hardware
    from offdyn_agents.runs.plans import Plan
    from offdyn_agents.runs.track import Arrangement, Trained

__all__ = ["Cluster", "connected", "default_threads", "slots", "train_here"]

RETRIES = 10
"""How often a population is given to another worker after one that died."""
PATIENCE = 120.0
"""Seconds to wait for a lost worker to let go of the run folders: a machine that Ray takes for dead may still train."""
KNOCK_SECONDS = 10.0
SHARED_VARIABLES = ("OMP_WAIT_POLICY", "XDG_CACHE_HOME")

Resources = Sequence[Mapping[str, float]]
"""What each machine offers: "CPU", "GPU"."""


def train_here(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """Train one population in this process, the one that Ray has chosen.

    Its plans are arranged anew: a worker may have died after the checkpoints of some tasks only.

    Returns:
        The run.json of every plan.
    """
    from offdyn_agents.runs.runs import train_tasks

    return [trained.facts for trained in train_tasks(plans, len(plans), wait=PATIENCE)]


class Cluster:
    """A Ray cluster that this process is connected to.

    Args:
        ray: The module, connected.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def hardware(self, device: str, precision: str, threads: int | None) -> Hardware:
        """Return what each population runs on.

        Args:
            device: "auto", "cpu" or "cuda".
            precision: "fp32" or "bf16".
            threads: CPU threads; None for what leaves no machine idle.

        Raises:
            OffDynError: Unknown names, or no machine that has so much.
        """
        from offdyn_agents.engine.resources import Hardware, choose_device

        nodes = self._nodes()
        chosen = choose_device(device, any(node.get("GPU", 0) >= 1 for node in nodes), "any machine of the cluster")
        hardware = Hardware(chosen, precision, threads or default_threads(nodes, chosen == "cuda"))
        if not slots(nodes, hardware.threads, chosen == "cuda"):
            most = max((int(node.get("CPU", 0)) for node in nodes), default=0)
            what = f"{hardware.threads} CPU threads{' and a GPU' if chosen == 'cuda' else ''}"
            raise OffDynError(f"no machine of the cluster has {what}; the largest has {most} CPUs")
        return hardware

    def train(
        self, plans: Sequence[Plan], together: int = 0, report: Callable[[Trained], None] = lambda trained: None
    ) -> list[Trained]:
        """Train several tasks as `train_tasks` does, with as many populations at a time as the cluster has room for.

        A population that fails does not keep the others from their end.

        Args:
            plans: What to train, on the hardware that `hardware` gave.
            together: Most tasks of one population; 0 for what suits the hardware.
            report: Called with every plan's outcome as soon as its population has ended.

        Returns:
            What became of each plan, in their order.

        Raises:
            OffDynError: As `train_tasks`, here or on a worker, or a worker died too often.
        """
        from offdyn_agents.runs.runs import arrange

        room = slots(self._nodes(), plans[0].hardware.threads, plans[0].hardware.device == "cuda")
        found = arrange(plans, together, room)
        self._judge_ended(plans, found)
        ledger = Ledger(plans, found, report, room)
        waiting = {self._send(plans, population): number for number, population in enumerate(found.populations)}
        while waiting:
            (reference, *_), _ = self._ray.wait(list(waiting), num_returns=1)
            number = waiting.pop(reference)
            try:
                facts = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                ledger.failed(number, _plain(error, population_title(plans, found.populations[number])))
            else:
                ledger.ended(number, facts)
        return ledger.outcomes()

    def _judge_ended(self, plans: Sequence[Plan], found: Arrangement) -> None:
        """Let workers judge the models of ended runs as `train_tasks` does, and take their facts."""
        sent = {index: self._send(plans, Population((index,), 0)) for index in found.earlier if plans[index].judge}
        for index, reference in sent.items():
            try:
                (facts,) = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:  # noqa: PERF203 - minutes lie between two
                tell_not_judged(plans[index], error)
            else:
                found.earlier[index].update(facts)

    def _nodes(self) -> Resources:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _send(self, plans: Sequence[Plan], population: Population) -> Any:
        chosen = [_travelling(plans[index]) for index in population.members]
        hardware = chosen[0].hardware
        # A process of its own for each population: its memory and its GPU are free afterwards.
        task = self._ray.remote(max_calls=1)(train_here).options(
            name=population_title(plans, population),
            num_cpus=hardware.threads,
            num_gpus=1 if hardware.device == "cuda" else 0,
            max_retries=RETRIES,
            runtime_env={"env_vars": _variables(os.environ)},
        )
        return task.remote(chosen)


@contextmanager
def connected(address: str, quiet: bool = False) -> Generator[Cluster]:
    """Connect to a Ray cluster for the block; a process that is connected already stays so.

    Args:
        address: "HOST:PORT" of a cluster's head, "auto" for the one that this machine belongs to, or "local" for a new
            one on this machine alone.
        quiet: Show nothing of what workers print.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        OffDynError: There is no such cluster.
    """
    # The cluster's daemons report to nobody; the dashboard needs more than the extra brings.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray: Any = importlib.import_module("ray")
    if ray.is_initialized():
        yield Cluster(ray)
        return
    more = {"include_dashboard": False} if address == "local" else {}
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=not quiet, logging_level="WARNING", **more)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise OffDynError(f"no Ray cluster answers at '{address}': {first_line(error)}") from None
    try:
        yield Cluster(ray)
    finally:
        # The workers' tasks end with the connection, and a local cluster too.
        ray.shutdown()


def _knock(address: str) -> None:
    """Find out at once what Ray would try for minutes: whether anything listens at HOST:PORT."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


def slots(nodes: Resources, threads: int, cuda: bool) -> int:
    """Return how many populations the machines have room for at a time.

    Args:
        nodes: What each machine offers.
        threads: CPU threads of a population.
        cuda: Whether each takes a GPU.
    """
    room = [(node.get("CPU", 0) // threads, node.get("GPU", 0) if cuda else node.get("CPU", 0)) for node in nodes]
    return sum(int(min(pair)) for pair in room)


def default_threads(nodes: Resources, cuda: bool) -> int:
    """Return the CPU threads of a population with which every machine has room for one, or for one on each GPU."""
    if cuda:
        room = [node.get("CPU", 0) // node["GPU"] for node in nodes if node.get("GPU", 0) >= 1]
    else:
        room = [node["CPU"] for node in nodes if node.get("CPU", 0) >= 1]
    return max(1, int(min(room, default=1)))


def _travelling(plan: Plan) -> Plan:
    """Return a plan as another machine can take it: workers have working directories of their own."""
    return replace(plan, out=plan.out.resolve(), pair=plan.pair and plan.pair.portable())


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that decide where data are found and how threads wait."""
    return {
        name: value for name, value in environment.items() if name.startswith("OFFDYN_") or name in SHARED_VARIABLES
    }


def _plain(error: Any, title: str) -> Exception:
    """Return what a worker raised where one line tells it; a fault of ours keeps the worker's traceback."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, OffDynError | ModuleNotFoundError | OSError):
        return cause
    if cause is not None:
        return error
    return OffDynError(f"{title}: {first_line(error)} The same command goes on from the checkpoints.")
