"""Run the refrigerator experiment: `python -m offdyn_agents.examples.refrigerator --help`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from offdyn_agents.engine.settings import build, parse_overrides, to_json
from offdyn_agents.examples.refrigerator.figures import draw_errors, draw_map
from offdyn_agents.examples.refrigerator.study import Experiment, study
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings
from offdyn_envs.atomic import write_text
from offdyn_envs.errors import OffDynError

__all__ = ["main"]

LEAST = {"seeds": 1, "episodes": 1, "epochs": 1, "last": 0, "temperature": 0}
"""The smallest numbers that mean anything."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment and write its table and two figures."""
    parser = argparse.ArgumentParser(
        "offdyn examples refrigerator", description="Plain and filtered rollouts of a learned refrigerator."
    )
    parser.add_argument("--out", type=Path, default=Path("runs/refrigerator"), help="folder of table and figures")
    plain = Experiment()
    parser.add_argument("--seeds", type=int, default=len(plain.seeds))
    parser.add_argument("--episodes", type=int, default=plain.episodes, help="episodes of data")
    parser.add_argument("--epochs", type=int, default=plain.dynamics.epochs, help="epochs of the model's training")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the reward")
    parser.add_argument("--last", type=int, default=0, help="judge with this many of the newest discriminators; 0: all")
    parser.add_argument("--temperature", type=float, default=0.0, help="of the choice among candidates; 0: the best")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = parser.parse_args(arguments)
    reward = build(DynamicsRewardSettings, to_json(plain.reward), parse_overrides(asked.set))
    for name, least in LEAST.items():
        if not getattr(asked, name) >= least:
            raise OffDynError(f"--{name} is {getattr(asked, name)}; a number of at least {least} is allowed")
    dynamics = replace(plain.dynamics, epochs=asked.epochs)
    chosen = {"last": asked.last, "temperature": asked.temperature, "dynamics": dynamics, "reward": reward}
    sizes = replace(plain, seeds=tuple(range(asked.seeds)), episodes=asked.episodes, **chosen)
    done = study(replace(sizes, cache=asked.out / ".stages"), quiet=False)
    lines = done.table()
    if asked.json:
        print(json.dumps(done.record(), indent=2))
    else:
        print("mean error of 100-step rollouts, degrees; +- is the 95% interval over seeds", *lines, sep="\n")
    write_text(asked.out / "errors.txt", "\n".join(lines) + "\n")
    draw_errors(done, asked.out / "errors.png")
    draw_map(done, asked.out / "map.png")


if __name__ == "__main__":
    import sys

    from offdyn_envs.cli import main as command

    command(["examples", "refrigerator", *sys.argv[1:]])
