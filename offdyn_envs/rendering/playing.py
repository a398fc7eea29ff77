"""Playing the sides of a picture with one policy; nothing is drawn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError
from offdyn_envs.policies import BehaviourPolicy
from offdyn_envs.rendering.names import Side, make_environment
from offdyn_envs.shipped import behaviour_path, shipped_root

if TYPE_CHECKING:
    from offdyn_envs.benchmark.gate.onnx_policy import OnnxPolicy

__all__ = ["Actor", "Recording", "choose_actor", "play"]

NAMED = ("medium", "expert")
Act = Callable[[NDArray[np.float64]], NDArray[Any]]


@dataclass(frozen=True)
class Actor:
    """Who acts.

    Attributes:
        words: For the caption.
        act: From an observation [|S|] to an action [|A|]; None draws uniform random actions.
    """

    words: str
    act: Act | None = None


@dataclass(frozen=True)
class Recording:
    """An episode of one side.

    Attributes:
        model: The environment's model as the reset left it; not shared.
        base: The nominal robot's, for comparison.
        start: The pose around which episodes start, [nq].
        qpos: Poses from the reset on, [T + 1, nq].
        actions: [T, |A|].
        dt: Seconds per step.
        ended: Whether the last step terminated.
    """

    model: Any
    base: Any
    start: NDArray[np.float64]
    qpos: NDArray[np.float64]
    actions: NDArray[np.float32]
    dt: float
    ended: bool

    @property
    def steps(self) -> int:
        """T."""
        return len(self.actions)


def choose_actor(policy: str | None, sides: Sequence[Side]) -> Actor:
    """Find the policy that plays all sides.

    Args:
        policy: "medium" or "expert" (a shipped behaviour policy of the source's dynamics, else of the target's, else of
            the nominal robot), "random", a file (`.safetensors` or `.onnx`), or None: "medium" where there is one, else
            "random".
        sides: The sides, the source first.

    Returns:
        The actor.

    Raises:
        OffDynError: No such policy, or it takes other observations or actions than the robot's.
    """
    if policy == "random":
        return Actor("uniform random actions")
    if policy is None or policy in NAMED:
        found = _shipped(policy or "medium", sides)
        if found is None and policy is None:
            return Actor("uniform random actions")
        if found is None:
            there = ", ".join(_all_shipped(str(policy)))
            raise OffDynError(f"no shipped '{policy}' behaviour policy for {sides[0].title}; there are: {there}")
        return found
    return _from_file(policy, sides[0])


def _shipped(name: str, sides: Sequence[Side]) -> Actor | None:
    for dynamics in dict.fromkeys([*(side.dynamics for side in sides), "nominal"]):
        path = behaviour_path(sides[0].body, dynamics, name)
        if path.exists():
            return Actor(f"{name} policy of {sides[0].body} {dynamics}", _network(BehaviourPolicy.load(path)))
    return None


def _all_shipped(name: str) -> list[str]:
    folder = shipped_root() / "behaviours"
    return sorted(f"{path.parts[-3]} {path.parts[-2]}" for path in folder.glob(f"*/*/{name}.safetensors"))


def _network(policy: BehaviourPolicy) -> Act:
    return lambda observation: policy.act(observation[None])[0]


def _from_file(name: str, side: Side) -> Actor:
    path = Path(name)
    if path.suffix not in (".safetensors", ".onnx"):
        raise OffDynError(
            f"option --policy must be medium, expert, random or a .safetensors or .onnx file, got {name[:80]!r}"
        )
    if path.suffix == ".safetensors":
        policy = BehaviourPolicy.load(path)
        widths, act = (policy.observation_dim, policy.action_dim), _network(policy)
    else:
        from offdyn_envs.benchmark.gate.onnx_policy import load_policy

        network = load_policy(path)
        widths, act = (network.observation_dim, network.action_dim), _onnx(network)
    expected = _widths(side)
    if widths != expected:
        raise OffDynError(
            f"{path}: takes {widths[0]} observations and gives {widths[1]} actions; "
            f"{side.title} has {expected[0]} and {expected[1]}"
        )
    return Actor(f"policy {path.name}", act)


def _onnx(network: OnnxPolicy) -> Act:
    return lambda observation: np.asarray(network(observation[None])[0])


def _widths(side: Side) -> tuple[int, int]:
    return side.robot.observation_dim, side.robot.action_dim


def play(sides: Sequence[Side], actor: Actor, steps: int, seed: int, replay: bool = False) -> list[Recording]:
    """Play an episode of every side from the same seed.

    Random actions are the same on all sides. A policy acts on what it sees on each side, unless `replay`: then the
    actions of the first side are played on the others, and where that side ended early so do they.

    Args:
        sides: The sides.
        actor: Who acts.
        steps: Steps at most; an episode that terminates is shorter.
        seed: Of the reset noise, and of random actions.
        replay: Play the first side's actions on all.

    Returns:
        A recording per side.
    """
    recordings: list[Recording] = []
    for side in sides:
        planned = recordings[0].actions if replay and recordings else None
        if actor.act is None:
            width = _widths(side)[1]
            planned = np.random.default_rng([seed, 2]).uniform(-1.0, 1.0, (steps, width)).astype(np.float32)
        recordings.append(_play_one(side, actor.act, planned, steps, seed))
    return recordings


def _play_one(side: Side, act: Act | None, planned: NDArray[np.float32] | None, steps: int, seed: int) -> Recording:
    from offdyn_envs.models import compile_model

    env = make_environment(side)
    try:
        base = compile_model(side.robot, ())
        observation, _ = env.reset(seed=seed)
        model = copy.copy(env.model)
        qpos, actions, ended = [env.data.qpos.copy()], list[NDArray[Any]](), False
        for step in range(steps if planned is None else len(planned)):
            action = _action(act, planned, step, observation)
            observation, _, ended, _, _ = env.step(action)
            actions.append(action)
            qpos.append(env.data.qpos.copy())
            if ended:
                break
        played = np.array(actions, dtype=np.float32).reshape(len(actions), _widths(side)[1])
        return Recording(model, base, env.init_qpos.copy(), np.array(qpos), played, float(env.dt), bool(ended))
    finally:
        env.close()


def _action(
    act: Act | None, planned: NDArray[np.float32] | None, step: int, observation: NDArray[np.float64]
) -> NDArray[Any]:
    if planned is not None:
        return planned[step]
    assert act is not None
    return act(observation)
