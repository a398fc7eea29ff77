"""Episode returns in any Gymnasium environment: your own, by id, by class, by a function, or as an object."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from offdyn_envs.benchmark.scoring.rollouts import population_returns
from offdyn_envs.datasets.own.functions import load_function
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.robots import Robot

__all__ = ["Place", "find_place", "place_returns"]

Floats = NDArray[np.float64]
Act = Callable[[Floats], NDArray[Any]]
_ENDING = "-v"
PROBE = 20
"""Steps for which a copy has to do what the original does."""
LIMIT = 10_000
"""Steps after which an episode of an environment without a time limit is given up."""


@dataclass(frozen=True, eq=False)
class Place:
    """An environment that scores policies.

    Attributes:
        told: What a run.json says of it: text that `find_place` takes again, or None where it lives in memory only.
        title: What messages call it.
        make: Makes it.
        copies: Whether `make` gives another environment at every call.
        suite: Robot and shifts, where it is one of the suite's and can be run as a batch, with the same returns.
        version: Its whole id, with the version, where it has one.
    """

    told: str | None
    title: str
    make: Callable[[], gymnasium.Env[Any, Any]]
    copies: bool = True
    suite: tuple[Robot, Any] | None = None
    version: str = ""

    def action_bounds(self) -> list[Floats]:
        """Return the bounds of actions, low and high [|A|]; nothing where there are none or they are infinite."""
        _, space = self._spaces()
        if not isinstance(space, gymnasium.spaces.Box) or not np.isfinite([space.low, space.high]).all():
            return []
        return [np.asarray(space.low, dtype=np.float64), np.asarray(space.high, dtype=np.float64)]

    def _spaces(self) -> tuple[Any, Any]:
        env = self.make()
        spaces = env.observation_space, env.action_space
        if self.copies:
            env.close()
        return spaces

    def check(self, observation_dim: int, action_dim: int, low: Floats, high: Floats) -> None:
        """See whether policies of some data fit in.

        Args:
            observation_dim: |S| of the data.
            action_dim: |A| of the data.
            low: Bounds of the data's actions in their own units, [|A|].
            high: Likewise.

        Raises:
            OffDynError: The spaces are not vectors of these sizes, or actions have other bounds.
        """
        seen, done = self._spaces()
        for what, space, size in (("observations", seen, observation_dim), ("actions", done, action_dim)):
            if not isinstance(space, gymnasium.spaces.Box) or space.shape != (size,):
                raise OffDynError(f"environment {self.title}: {what} are {_short(space)}; the data have {size} numbers")
        assert isinstance(done, gymnasium.spaces.Box)
        for mine, theirs in ((low, done.low), (high, done.high)):
            if not np.allclose(mine, theirs, rtol=1e-5) and np.isfinite(theirs).all():
                raise OffDynError(
                    f"environment {self.title}: actions lie in {_bounds(done.low, done.high)}; those of the data in "
                    f"{_bounds(low, high)}"
                )


def _short(space: Any) -> str:
    shape = getattr(space, "shape", None)
    return f"{type(space).__name__}{list(shape)}" if shape else type(space).__name__


def _bounds(low: Any, high: Any) -> str:
    return f"[{np.min(low):g}, {np.max(high):g}]"


def find_place(env: Any) -> Place:
    """Return an environment in the form that scoring takes.

    Args:
        env: A Gymnasium id ("Reacher-v5", or "package:MyEnv-v0", which imports the package first), "module:Class", what
            `Place.told` says, a function without arguments that makes one, or an environment. Copies of the latter are
            run side by side where its spec makes one that behaves alike; else, as where somebody has changed its
            masses by hand, episodes run in itself, one after the other.

    Raises:
        OffDynError: There is no such environment, or it cannot be made; the line says why.
    """
    if isinstance(env, gymnasium.Env):
        return _of_object(env)
    if callable(env):
        maker: Any = env
        return _checked(Place(None, getattr(env, "__name__", "given"), maker))
    text = str(env)
    if text.startswith("{"):
        spec = EnvSpec.from_json(text)
        return _checked(Place(text, f"'{spec.id}'", partial(gymnasium.make, spec)))
    if ":" in text and _ENDING not in text.rpartition(":")[2]:
        return _checked(Place(text, f"'{text}'", load_function(text, "environment")))
    place = _checked(Place(text, f"'{text}'", partial(_by_id, text)))
    # "Pusher" is the newest one today, and may be another one when the run is scored again.
    return place if _ENDING in text else replace(place, told=place.version or text)


def _by_id(text: str) -> gymnasium.Env[Any, Any]:
    try:
        return gymnasium.make(text)
    except gymnasium.error.NameNotFound:
        raise unknown("environment", text, list(gymnasium.registry)) from None


def _of_object(env: gymnasium.Env[Any, Any]) -> Place:
    """Return copies of an environment where they are like it, else itself."""
    title = f"'{env.spec.id}'" if env.spec else type(env).__name__
    alone = Place(None, title, lambda: env, copies=False)
    if env.spec is None or not _alike(env, make := partial(gymnasium.make, env.spec)):
        return _checked(alone)
    try:
        told = env.spec.to_json()
    except (ValueError, TypeError):
        told = None
    plain = json.loads(told) if told else {}
    simple = told is not None and not plain.get("kwargs") and not plain.get("additional_wrappers")
    return Place(env.spec.id if simple else told, title, make, suite=_suite(env))


def _alike(env: gymnasium.Env[Any, Any], make: Callable[[], gymnasium.Env[Any, Any]]) -> bool:
    """Say whether a copy does the same, step by step, from the same seed and under the same actions."""
    try:
        copy = make()
        copy.action_space.seed(0)
        same = _equal(env.reset(seed=0)[0], copy.reset(seed=0)[0])
        for _ in range(PROBE):
            action = copy.action_space.sample()
            mine, other = env.step(action)[:4], copy.step(action)[:4]
            same = same and all(map(_equal, mine, other))
            if not same or mine[2] or mine[3]:
                break
        copy.close()
    except Exception:  # Wrappers of one's own are often none that a spec can make again.
        return False
    return same


def _equal(one: Any, other: Any) -> bool:
    return bool(np.array_equal(np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64), equal_nan=True))


def _checked(place: Place) -> Place:
    """Make the environment and reset it once, to say at once what is wrong with it."""
    try:
        env: Any = place.make()
        if isinstance(env, gymnasium.Env):
            env.reset(seed=0)
    except OffDynError:
        raise
    except Exception as error:  # Whatever an environment's own code raises.
        raise OffDynError(f"environment {place.title} cannot be made: {_why(error)}") from None
    if not isinstance(env, gymnasium.Env):
        raise OffDynError(f"environment {place.title} is a {type(env).__name__}; a gymnasium.Env is allowed")
    if place.copies:
        env.close()
    return replace(place, suite=_suite(env) if place.copies else None, version=env.spec.id if env.spec else "")


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _suite(env: gymnasium.Env[Any, Any]) -> tuple[Robot, Any] | None:
    """Return robot and shifts of one of the suite's environments without attack, schedule or further wrappers."""
    if not (env.spec and str(env.spec.entry_point).startswith("offdyn_envs.environment:")):
        return None
    bare: Any = env.unwrapped
    limited = env.spec.max_episode_steps == bare.robot.max_episode_steps and not env.spec.additional_wrappers
    return (bare.robot, bare.shifts) if bare.is_plain and limited else None


def place_returns(place: Place, act: Act, members: int, episodes: int, seed: int, threads: int = 1) -> Floats:
    """Run a population of policies for some episodes each; episode e starts from the same seed for every member.

    Args:
        place: The environment.
        act: Maps observations [R, E, |S|] to actions [R, E, |A|] in the environment's own units.
        members: R.
        episodes: E.
        seed: Episode e is seeded with seed + e.
        threads: Simulation threads, of the suite's environments.

    Returns:
        Undiscounted returns [R, E]; NaN marks episodes in which the policy gave a non-finite action.

    Raises:
        OffDynError: The environment fails, or one of no time limit did not end within 10,000 steps.
    """
    if place.suite is not None:
        return population_returns(act, members, *place.suite, episodes, seed, num_threads=threads)
    if not place.copies:
        return _one_by_one(place, act, members, episodes, seed)
    environments = [place.make() for _ in range(members * episodes)]
    try:
        return _Side(place.title, environments, act, (members, episodes)).run(seed)
    finally:
        for env in environments:
            env.close()


def _one_by_one(place: Place, act: Act, members: int, episodes: int, seed: int) -> Floats:
    """Run episode after episode in the one environment that there is."""
    env, totals = place.make(), np.zeros((members, episodes))
    for member in range(members):

        def alone(observations: Floats, member: int = member) -> NDArray[Any]:
            return act(np.repeat(observations, members, axis=0))[member : member + 1]

        for episode in range(episodes):
            totals[member, episode] = _Side(place.title, [env], alone, (1, 1)).run(seed + episode)[0, 0]
    return totals


class _Side:
    """Episodes side by side, each in an environment of its own."""

    def __init__(
        self, title: str, environments: list[gymnasium.Env[Any, Any]], act: Act, shape: tuple[int, int]
    ) -> None:
        self.title, self.environments, self.act, self.shape = title, environments, act, shape

    def run(self, seed: int) -> Floats:
        """Run them all to their ends and return the returns [R, E]."""
        episodes = self.shape[1]
        starts = [self._asked(env.reset, seed=seed + i % episodes)[0] for i, env in enumerate(self.environments)]
        observations = np.array(starts, dtype=np.float64)
        totals, live = np.zeros(len(self.environments)), np.ones(len(self.environments), dtype=bool)
        limits = [env.spec.max_episode_steps or 0 for env in self.environments if env.spec]
        limit = max([LIMIT, *limits])
        for _ in range(limit):
            actions = np.asarray(self.act(observations.reshape(*self.shape, -1)))
            flat = actions.reshape(len(self.environments), -1)
            for i in np.flatnonzero(live):
                self._step(int(i), flat[i], observations, totals, live)
            if not live.any():
                return totals.reshape(self.shape)
        raise OffDynError(
            f"environment {self.title}: an episode has not ended after {limit:,} steps; give it a time limit"
        )

    def _step(self, i: int, action: Any, observations: Floats, totals: Floats, live: NDArray[np.bool_]) -> None:
        if not np.isfinite(action).all():
            totals[i], live[i] = np.nan, False
            return
        env = self.environments[i]
        following, reward, terminated, truncated, _ = self._asked(env.step, action.astype(env.action_space.dtype))
        observations[i] = following
        totals[i] += float(reward)
        live[i] = not (terminated or truncated)

    def _asked(self, method: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Call a method of an environment; what its code raises becomes one line, with the error as its cause."""
        try:
            return method(*given, **named)
        except Exception as error:
            raise OffDynError(
                f"environment {self.title} fails in {method.__name__}: {type(error).__name__}: {_why(error)}"
            ) from error
