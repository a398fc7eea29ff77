"""Where episodes end, of any data: learned from its terminations, given as a function, a robot's own, or never.

A learned model is rolled out without a simulator that could say when the robot has fallen. A small classifier on s'
says it, trained on as many states that end an episode as on others; whole episodes are held out to judge it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from offdyn_agents.engine.data import stream
from offdyn_agents.engine.networks import Network, Params, mlp
from offdyn_agents.engine.products import threads_inside
from offdyn_agents.engine.rows import last_rows
from offdyn_agents.engine.settings import setting
from offdyn_agents.engine.stage_cache import Keep, Tensors, cached
from offdyn_agents.engine.termination import Termination, never, tells_its_end, termination
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.robots import ROBOTS, get_robot

__all__ = ["WORDS", "Choice", "LearnedTermination", "TerminationSettings", "fit_termination", "resolve"]

WORDS = ("learned", "never")
"""What may be said instead of a robot's name."""
Choice = str | Callable[[Any], Any] | None
"""A robot's name, one of `WORDS`, a function of observations, or None for what suits the data."""

VERSION = 1
"""Raised when the same settings would give another classifier."""
NAME = "termination"
CHUNK = 65_536
CHECK_EVERY = 100
"""Updates between two looks at the held-out rows."""
CALM = 30.0
"""How many standard deviations from the mean an input counts at most."""


@dataclass(frozen=True)
class TerminationSettings:
    """How the classifier is trained.

    Attributes:
        width: Width of the two hidden layers.
        updates: Most updates.
        patience: Updates without a better loss on held-out rows after which training ends.
        batch_size: States of a batch, half of them such as end an episode.
        learning_rate: Adam's step size.
        held_share: Share of the episodes that is held out.
        others: Most states that end no episode to learn from; states that do are all kept.
    """

    width: int = setting(128, low=1)
    updates: int = setting(6000, low=1)
    patience: int = setting(2000, low=1)
    batch_size: int = setting(512, low=2)
    learning_rate: float = setting(1e-3, low=0.0, open_low=True)
    held_share: float = setting(0.2, low=0.0, high=0.9, open_low=True)
    others: int = setting(200_000, low=10)


@dataclass(frozen=True, eq=False)
class LearnedTermination:
    """A classifier of states, trained; maps observations [..., |S|] to whether they end an episode, bool [...].

    What is not finite ends an episode.

    Attributes:
        params: The network, inputs standardised.
        mean: Of the inputs, [|S|].
        deviation: Likewise.
        report: What run.json says about it, plain JSON values, see `fit_termination`.
    """

    params: Params
    mean: Tensor
    deviation: Tensor
    report: Mapping[str, Any] = field(default_factory=dict)
    _moved: dict[torch.device, tuple[Params, Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __call__(self, observations: Tensor) -> Tensor:
        """Say which observations end an episode."""
        with torch.no_grad(), torch.autocast(observations.device.type, enabled=False):
            return ~(self.logits(observations.float()) <= 0.0)

    def logits(self, observations: Tensor) -> Tensor:
        """Return the log odds [...] of float32 observations [..., |S|], both kinds being as frequent."""
        device = observations.device
        if device not in self._moved:
            self._moved[device] = ([p.to(device) for p in self.params], self.mean.to(device), self.deviation.to(device))
        params, mean, deviation = self._moved[device]
        inputs = ((observations - mean) / deviation).clamp(-CALM, CALM)
        flat = inputs.reshape(-1, inputs.shape[-1])
        return mlp(params, flat).reshape(observations.shape[:-1])

    def tensors(self) -> dict[str, Tensor]:
        """Return all but the report by name, for a safetensors file."""
        named = {f"net.{i}": tensor for i, tensor in enumerate(self.params)}
        return {**named, "mean": self.mean, "deviation": self.deviation}

    @staticmethod
    def from_tensors(tensors: Tensors, report: Mapping[str, Any]) -> LearnedTermination:
        """Return what `tensors` described.

        Raises:
            KeyError: Something is missing.
        """
        return LearnedTermination(
            [tensors[f"net.{i}"] for i in range(6)], tensors["mean"], tensors["deviation"], report
        )


class _Rows(NamedTuple):
    """States of all data.

    Attributes:
        states: s', float32 [N, |S|].
        ends: Whether an episode ends there, bool [N].
        held: Whether the row's episode is held out, bool [N].
    """

    states: Tensor
    ends: Tensor
    held: Tensor


def fit_termination(
    parts: Sequence[Any],
    *,
    cache: Path | None = None,
    seed: int = 0,
    threads: int = 1,
    quiet: bool = True,
    settings: TerminationSettings | None = None,
) -> LearnedTermination:
    """Learn, or find in the cache, where the episodes of some data end.

    Args:
        parts: Datasets with `next_observations` [N, |S|] and `terminations` [N]; where they have `truncations` and
            `observations`, those say where else an episode ends, and whole episodes are held out.
        cache: Folder of cached stages, None to keep none.
        seed: Decides initial parameters, batches and which episodes are held out.
        threads: CPU threads.
        quiet: Show no progress.
        settings: How the classifier is trained.

    Returns:
        The classifier. Its report says "kind": "learned"; "rows" and the share of "terminations" among them; "learned
        from", rows by kind after most of those that end no episode were left out; and "held out": "rows",
        "terminations", "accuracy", "balanced accuracy" (the mean of the shares of both kinds that are told right),
        "false alarms" and "misses" as shares of their kind; None for a kind of which no row is held out. Where no row
        terminates, none ever does, and "note" says so; likewise where all do.

    Raises:
        OffDynError: The data have no rows or states of several sizes, or the training diverged.
    """
    terms = settings or TerminationSettings()
    rows = _rows(parts, terms.held_share, seed)
    keys = (rows.states, rows.ends, rows.held)

    def compute(missing: list[int], keep: Keep) -> None:
        with threads_inside(threads):
            for number in missing:
                found = _train(rows, terms, number, quiet)
                logits = _in_chunks(found.logits, rows.states[rows.held])
                sound = bool(torch.isfinite(logits).all())
                keep(number, found.tensors(), "" if sound else "a number of it is not finite")

    (tensors,) = cached(NAME, terms, keys, [seed], cache, compute, VERSION).sound()
    found = LearnedTermination.from_tensors(tensors, {})
    return LearnedTermination.from_tensors(tensors, _report(found, rows, terms))


def _rows(parts: Sequence[Any], share: float, seed: int) -> _Rows:
    """Return the states of all data, episodes of both kinds held out in equal shares.

    Raises:
        OffDynError: There are none, or they are of several sizes.
    """
    states = [np.asarray(part.next_observations, dtype=np.float32) for part in parts]
    sizes = {array.shape[1] for array in states}
    if not sum(map(len, states)) or len(sizes) > 1:
        raise OffDynError(
            f"termination: {sum(map(len, states))} rows of sizes {sorted(sizes)}; rows of one size needed"
        )
    ends = np.concatenate([np.asarray(part.terminations, dtype=bool) for part in parts])
    last = np.concatenate([last_rows(part) for part in parts])
    episodes = np.cumsum(last) - last
    rng = np.random.default_rng(stream(seed, "termination episodes"))
    held = np.zeros(int(episodes[-1]) + 1, dtype=bool)
    falls = np.zeros(len(held), dtype=bool)
    falls[episodes[ends]] = True
    for kind in (np.flatnonzero(falls), np.flatnonzero(~falls)):
        # Of a single one nothing can be held out: there is nothing else to learn its kind from.
        count = max(1, round(share * len(kind))) if len(kind) > 1 else 0
        held[rng.permutation(kind)[:count]] = True
    return _Rows(torch.from_numpy(np.concatenate(states)), torch.from_numpy(ends), torch.from_numpy(held[episodes]))


def _kinds(rows: _Rows, settings: TerminationSettings, seed: int, held: bool = False) -> tuple[Tensor, Tensor]:
    """Return the numbers of rows: all that end an episode, and at most so many others; to learn from or held out."""
    ends, others = ((rows.held.eq(held) & kind).nonzero().squeeze(1) for kind in (rows.ends, ~rows.ends))
    # Early stopping looks at them often, and needs no more to compare two moments.
    most = settings.others // 10 if held else settings.others
    if len(others) > most:
        generator = torch.Generator().manual_seed(stream(seed, "termination others", int(held)))
        others = others[torch.randperm(len(others), generator=generator)[:most]]
    return ends, others


def _train(rows: _Rows, settings: TerminationSettings, seed: int, quiet: bool) -> LearnedTermination:
    """Train one classifier; of states of one kind alone it is a constant."""
    ends, others = _kinds(rows, settings, seed)
    some = rows.states[torch.cat([ends, others])].double()
    mean, deviation = some.mean(0).float(), some.std(0, correction=0).clamp(min=1e-6).float()
    network = Network((rows.states.shape[1], settings.width, settings.width, 1))
    params = network.initial(torch.Generator().manual_seed(seed))
    found = LearnedTermination(params, mean, deviation)
    if not len(ends) or not len(others):
        for tensor in params:
            tensor.zero_()
        params[-1].fill_(1.0 if len(ends) else -1.0)
        return found
    _descend(found, rows, (ends, others), settings, seed, quiet)
    return found


def _descend(
    found: LearnedTermination,
    rows: _Rows,
    kinds: tuple[Tensor, Tensor],
    settings: TerminationSettings,
    seed: int,
    quiet: bool,
) -> None:
    """Train a classifier in place, and leave it as it was where the held-out rows liked it best."""
    from offdyn_envs.progress import progress

    for tensor in found.params:
        tensor.requires_grad_(True)
    descent = torch.optim.Adam(found.params, lr=settings.learning_rate)
    generator = torch.Generator().manual_seed(stream(seed, "termination batches"))
    half = settings.batch_size // 2
    labels = torch.cat([torch.ones(half), torch.zeros(half)])
    held = torch.cat(_kinds(rows, settings, seed, held=True))
    states, ends = rows.states[held], rows.ends[held]
    best, since, kept = float("inf"), 0, [tensor.detach().clone() for tensor in found.params]
    with progress(NAME, settings.updates, quiet=quiet, at_most=True) as advance:
        for done in range(1, settings.updates + 1):
            drawn = [kind[torch.randint(len(kind), (half,), generator=generator)] for kind in kinds]
            logits = found.logits(rows.states[torch.cat(drawn)])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
            descent.zero_grad()
            loss.backward()
            descent.step()
            if done % CHECK_EVERY and done != settings.updates:
                continue
            error = _balanced_error(found, states, ends)
            advance(CHECK_EVERY, error=error)
            since += CHECK_EVERY
            if error < best:
                best, since, kept = error, 0, [tensor.detach().clone() for tensor in found.params]
            if since >= settings.patience:
                break
    for tensor, good in zip(found.params, kept, strict=True):
        tensor.requires_grad_(False).copy_(good)


def _balanced_error(found: LearnedTermination, states: Tensor, ends: Tensor) -> float:
    """Return the cross-entropy on rows, both kinds counting alike; a kind of which there is none does not count."""
    logits = _in_chunks(found.logits, states)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, ends.float(), reduction="none")
    means = [losses[kind].double().mean() for kind in (ends, ~ends) if bool(kind.any())]
    return float(torch.stack(means).mean()) if means else 0.0


def _in_chunks(function: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    """Return a function of many states [N, |S|], without gradients."""
    with torch.no_grad():
        return torch.cat([function(some) for some in states.split(CHUNK)])


def _report(found: LearnedTermination, rows: _Rows, settings: TerminationSettings) -> dict[str, Any]:
    """Return what run.json says, see `fit_termination`."""
    ends, others = (int((~rows.held & kind).sum()) for kind in (rows.ends, ~rows.ends))
    report: dict[str, Any] = {
        "kind": "learned",
        "rows": len(rows.ends),
        "terminations": float(rows.ends.double().mean()),
        "learned_from": {"terminations": ends, "others": min(others, settings.others)},
        "held_out": _compared(found, rows.states[rows.held], rows.ends[rows.held]),
    }
    if not rows.ends.any():
        report["note"] = "no row terminates: rollouts never end early"
    elif rows.ends.all():
        report["note"] = "every row terminates: rollouts end after a step"
    return report


def _compared(terminated: Termination, states: Tensor, ends: Tensor) -> dict[str, Any]:
    """Return how a termination compares with what data say of states [N, |S|], bool [N]; see `fit_termination`."""
    if not len(states):
        return {"rows": 0, "terminations": 0}
    wrong = _in_chunks(terminated, states) != ends
    misses, alarms = (float(wrong[kind].double().mean()) if bool(kind.any()) else None for kind in (ends, ~ends))
    return {
        "rows": len(states),
        "terminations": int(ends.sum()),
        "accuracy": 1.0 - float(wrong.double().mean()),
        "balanced_accuracy": None if misses is None or alarms is None else 1.0 - (misses + alarms) / 2.0,
        "false_alarms": alarms,
        "misses": misses,
    }


def resolve(
    choice: Choice,
    source: Any,
    target: Any,
    *,
    cache: Path | None = None,
    seed: int = 0,
    threads: int = 1,
    quiet: bool = True,
) -> tuple[Termination, dict[str, Any]]:
    """Return what ends the episodes of model rollouts.

    Args:
        choice: A robot's name; "learned"; "never"; a function of NumPy or torch observations [..., |S|] that returns
            bool [...] (NumPy is tried first); or None: the robot of the data where both are of this suite and the same
            one's, else "learned" where the data hold terminations, else "never".
        source: Source dataset with `next_observations` and `terminations`; None where there is none.
        target: Target dataset, likewise.
        cache: As in `fit_termination`, and the next three.
        seed: Likewise.
        threads: Likewise.
        quiet: Likewise.

    Returns:
        The termination; and what run.json says, plain JSON values: "kind": "robot", "learned", "never" or "function";
        "terminations", their share of all rows; of a robot or a function its name and "data", how it compares with all
        rows; see `fit_termination` for what is learned.

    Raises:
        OffDynError: An unknown name, a robot of other dimensions, or a function that does not return bool [...].
    """
    parts = [part for part in (source, target) if part is not None]
    if choice is None:
        choice = _suits(parts)
    if choice == "learned":
        found = fit_termination(parts, cache=cache, seed=seed, threads=threads, quiet=quiet)
        return found, dict(found.report)
    states = torch.from_numpy(np.concatenate([np.asarray(part.next_observations, np.float32) for part in parts]))
    ends = torch.from_numpy(np.concatenate([np.asarray(part.terminations, bool) for part in parts]))
    report: dict[str, Any] = {"rows": len(ends), "terminations": float(ends.double().mean())}
    if choice == "never":
        return never, {"kind": "never", **report}
    if isinstance(choice, str):
        kind, name, known = "robot", choice, _of_robot(choice, states.shape[1])
    else:
        kind, name = "function", str(getattr(choice, "__qualname__", type(choice).__qualname__))
        known = _of_function(choice, name, states[:3])
    return known, {"kind": kind, "name": name, **report, "data": _compared(known, states, ends)}


def _suits(parts: Sequence[Any]) -> str:
    """Return the choice that suits the data."""
    robots = {_robot_of(part) for part in parts}
    if len(robots) == 1 and (robot := robots.pop()) is not None:
        return robot
    return "learned" if any(np.asarray(part.terminations).any() for part in parts) else "never"


def _robot_of(part: Any) -> str | None:
    """Return the name of the robot of a dataset of this suite, also of an imported one; None for any other."""
    card = getattr(part, "card", None)
    name = card.get("robot") if isinstance(card, Mapping) else getattr(getattr(part, "id", None), "robot", None)
    return name if name in ROBOTS and tells_its_end(get_robot(str(name))) else None


def _of_robot(name: str, size: int) -> Termination:
    if name not in ROBOTS:
        raise unknown("termination", name, [*WORDS, *ROBOTS])
    if get_robot(name).observation_dim != size:
        raise OffDynError(
            f"termination '{name}' is of {get_robot(name).observation_dim} observations; the data's {size}"
        )
    return termination(name)


def _of_function(function: Callable[[Any], Any], name: str, some: Tensor) -> Termination:
    """Return a user's function as a termination, checked on a few rows [n, |S|] in several shapes.

    NumPy is tried first: many a function of arrays takes tensors too, but only those of a CPU.
    """

    def of_arrays(observations: Tensor) -> Tensor:
        said = np.asarray(function(observations.detach().cpu().numpy()))
        return torch.from_numpy(said).to(observations.device)

    def of_tensors(observations: Tensor) -> Tensor:
        said = function(observations)
        if not isinstance(said, Tensor):
            raise TypeError(f"{type(said).__name__} instead of a tensor")
        return said

    told: list[str] = []
    for termination_of in (of_arrays, of_tensors):
        try:
            objection = _objection(termination_of, (some, some[0], torch.stack([some, some])))
        except Exception as error:
            # A function of tensors fails with arrays, and is asked again.
            told.append(f"fails with {type(error).__name__}: {error}")
            continue
        if not objection:
            return termination_of
        told.insert(0, objection)
    raise OffDynError(f"termination function '{name}' {told[0]}")


def _objection(terminated: Termination, examples: Sequence[Tensor]) -> str:
    """Return what is wrong with the answers of a function for observations [..., |S|]; "" where nothing is."""
    for observations in examples:
        said = terminated(observations)
        wanted = tuple(observations.shape[:-1])
        if tuple(said.shape) != wanted or said.dtype != torch.bool:
            kind = str(said.dtype).removeprefix("torch.")
            return (
                f"returns {kind} {list(said.shape)} for observations {list(observations.shape)}; bool {list(wanted)} "
                "is allowed"
            )
    return ""
