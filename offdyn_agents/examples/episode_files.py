"""Episodes of own data in the formats that `offdyn data import` and `offdyn train --source` read.

An episode of T steps is a mapping of arrays: "observations" [T + 1, |S|]; "actions" [T, |A|], in their own units;
"rewards", "terminations" and "truncations" [T].
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from offdyn_envs.datasets.own.functions import needed

__all__ = ["transitions", "write"]


def transitions(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return all steps of all episodes, one after the other."""
    states = [part["observations"] for part in episodes]
    arrays = {key: np.concatenate([part[key] for part in episodes]) for key in episodes[0] if key != "observations"}
    following = np.concatenate([some[1:] for some in states])
    return {"observations": np.concatenate([some[:-1] for some in states]), **arrays, "next_observations": following}


def write(episodes: list[dict[str, Any]], path: Path) -> None:
    """Write episodes as the file that the suffix says, without one as a LeRobot folder."""
    arrays = transitions(episodes)
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".csv":
        names = [f"{key}_{i}" if a.ndim > 1 else key for key, a in arrays.items() for i in range(a[0].size)]
        with path.open("w", newline="") as file:
            # Nine digits say which float32 it is.
            rows = ([f"{x:.9g}" for x in np.hstack(row)] for row in zip(*arrays.values(), strict=True))
            csv.writer(file).writerows([names, *rows])
    elif path.suffix == ".parquet":
        write_table(path, arrays)
    else:
        write_lerobot(path, episodes)


def write_table(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays as columns of parquet."""
    pa, pq = needed("pyarrow"), needed("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({key: pa.array(list(array)) for key, array in arrays.items()}), path)


def write_lerobot(path: Path, episodes: list[dict[str, Any]]) -> None:
    """Write a folder of frames; the last frame of an episode holds only the observation that it ended in."""
    padded = [
        {key: np.append(a, a[-1:], axis=0) for key, a in part.items() if key != "observations"} for part in episodes
    ]
    frames = {key: np.concatenate([part[key] for part in padded]) for key in padded[0]}
    lengths = [len(part["observations"]) for part in episodes]
    table = {"observation.state": np.concatenate([part["observations"] for part in episodes])}
    table |= {"action": frames["actions"], "next.reward": frames["rewards"], "next.truncated": frames["truncations"]}
    table |= {"next.done": frames["terminations"] | frames["truncations"]}
    table |= {"episode_index": np.repeat(np.arange(len(lengths)), lengths)}
    table |= {"frame_index": np.concatenate([np.arange(length) for length in lengths])}
    write_table(path / "data" / "chunk-000" / "file-000.parquet", table)
    features = {key: {"dtype": str(a.dtype), "shape": a.shape[1:] or (1,), "names": None} for key, a in table.items()}
    (path / "meta").mkdir(exist_ok=True)
    info = {"codebase_version": "v3.0", "fps": 20, "total_frames": sum(lengths), "features": features}
    (path / "meta" / "info.json").write_text(json.dumps(info))
