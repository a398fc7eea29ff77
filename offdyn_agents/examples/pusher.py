"""A pair of own data of a robot that the suite does not know: Gymnasium's Pusher, an arm of seven joints.

    python -m offdyn_agents.examples.pusher --out pusher
    offdyn train droco --source pusher/source.npz --target pusher/target.npz --spec pusher/spec.json --env Pusher-v5

The source is plentiful and comes from an arm half as heavy again; the target is scarce and comes from the arm as it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np

from offdyn_agents.examples.episode_files import write

__all__ = ["HeavyPusher", "collect", "main"]

JOINTS = ("shoulder_pan", "shoulder_lift", "upper_arm_roll", "elbow_flex", "forearm_roll", "wrist_flex", "wrist_roll")
SPEC = {"action_low": -2, "action_high": 2, "action_names": JOINTS, "action_units": ["N m"] * 7, "time_step": 0.05}


class HeavyPusher(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The arm, heavier; `--env offdyn_agents.examples.pusher:HeavyPusher` scores policies in it."""

    def __init__(self, mass: float = 1.5) -> None:
        super().__init__(gymnasium.make("Pusher-v5"))
        robot: Any = self.unwrapped
        robot.model.body_mass[:] *= mass
        robot.model.body_inertia[:] *= mass
        mujoco.mj_setConst(robot.model, robot.data)


def reach(env: HeavyPusher, state: Any) -> Any:
    """Return torques [7] that pull the fingertip to the object."""
    robot: Any = env.unwrapped
    jacobian = np.zeros((3, robot.model.nv))
    mujoco.mj_jacBodyCom(robot.model, robot.data, jacobian, None, robot.model.body("tips_arm").id)
    return 5 * jacobian[:, :7].T @ (state[17:20] - state[14:17]) - state[7:14]


def collect(mass: float, episodes: int, seed: int) -> list[dict[str, Any]]:
    """Return episodes of T steps: observations [T + 1, 23], actions [T, 7], rewards, terminations, truncations [T]."""
    env, rng, found = HeavyPusher(mass), np.random.default_rng(seed), list[dict[str, Any]]()
    for episode in range(episodes):
        # From the script to chance: an agent learns what is better only where returns differ.
        noise = max(0.1, episode / max(1, episodes - 1))
        states, steps, done = [env.reset(seed=seed + episode)[0]], list[Any](), False
        while not done:
            wish = (1 - noise) * reach(env, states[-1]) + noise * rng.uniform(-2, 2, 7)
            action = np.clip(wish, -2, 2).astype(np.float32)
            state, reward, terminated, truncated, _ = env.step(action)
            states.append(state)
            steps.append((action, np.float32(reward), terminated, truncated))
            done = terminated or truncated
        keys = ("actions", "rewards", "terminations", "truncations")
        columns = dict(zip(keys, map(np.array, zip(*steps, strict=True)), strict=True))
        found.append({"observations": np.array(states, np.float32), **columns})
    env.close()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Collect and write `source`, `target` and `spec.json`."""
    parser = argparse.ArgumentParser(
        "offdyn examples pusher", description="A source and a target of Gymnasium's Pusher."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the pair")
    parser.add_argument("--format", choices=("npz", "csv", "parquet", "lerobot"), default="npz")
    parser.add_argument("--episodes", type=int, nargs=2, default=(400, 20), help="of source and target, 100 steps each")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    suffix = "" if asked.format == "lerobot" else f".{asked.format}"
    write(collect(1.5, asked.episodes[0], seed=0), asked.out / f"source{suffix}")
    write(collect(1.0, asked.episodes[1], seed=10_000), asked.out / f"target{suffix}")
    (asked.out / "spec.json").write_text(json.dumps(SPEC, indent=2))


if __name__ == "__main__":
    main()
