"""A small pair of a robot that the suite does not know, written in every format that own data come in."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

LENGTHS = (5, 1, 8, 3)
OBSERVED, MOVED, LOW, HIGH = 7, 2, -2.0, 3.0
STATES = [f"joint_{letter}" for letter in "abcdefg"]
BOUNDS = {"action_low": LOW, "action_high": HIGH}
OPTIONS = ["--action-low", str(LOW), "--action-high", str(HIGH)]


def make_frames(seed: int = 0) -> list[Arrays]:
    """Return episodes of one more observation than steps; the second ends for good, the others are cut."""
    rng = np.random.default_rng(seed)
    return [
        {
            "observations": rng.normal(size=(steps + 1, OBSERVED)).astype(np.float32),
            "actions": rng.uniform(LOW, HIGH, (steps, MOVED)).astype(np.float32),
            "rewards": rng.normal(size=steps).astype(np.float32),
            "terminations": np.arange(steps) == (steps - 1 if number == 1 else -1),
            "truncations": np.arange(steps) == (steps - 1 if number != 1 else -1),
        }
        for number, steps in enumerate(LENGTHS)
    ]


def transitions(frames: list[Arrays]) -> Arrays:
    """Return all steps of all episodes, with explicit next observations."""
    joined = {key: np.concatenate([item[key] for item in frames]) for key in frames[0] if key != "observations"}
    before = np.concatenate([item["observations"][:-1] for item in frames])
    after = np.concatenate([item["observations"][1:] for item in frames])
    return {"observations": before, "next_observations": after} | joined


def logged(frames: list[Arrays]) -> Arrays:
    """Return what a logger keeps: every step, the number of its episode and "done"; no next observations."""
    steps = transitions(frames)
    return {
        "observations": steps["observations"],
        "actions": steps["actions"],
        "rewards": steps["rewards"],
        "done": steps["terminations"] | steps["truncations"],
        "episode_index": np.repeat(np.arange(len(frames)), LENGTHS),
    }


def columns(arrays: Arrays) -> Arrays:
    """Return one column per number: key_0, key_1, ..."""
    found: Arrays = {}
    for key, array in arrays.items():
        found |= {key: array} if array.ndim == 1 else {f"{key}_{i}": array[:, i] for i in range(array.shape[1])}
    return found


def write_npz(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    return path


def write_csv(path: Path, arrays: Arrays) -> Path:
    names = columns(arrays)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        # Nine digits say which float32 it is.
        writer.writerows([f"{x:.9g}" if x.dtype.kind == "f" else x for x in row] for row in zip(*names.values()))  # noqa: B905
    return path


def arrow(array: NDArray[Any], fixed: bool = False) -> Any:
    if array.ndim == 1:
        return pa.array(array)
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    if fixed:
        return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
    return pa.ListArray.from_arrays(np.arange(0, array.size + 1, array.shape[1], dtype=np.int32), flat)


def write_parquet(path: Path, arrays: Mapping[str, Any]) -> Path:
    pq.write_table(pa.table({key: arrow(value) for key, value in arrays.items()}), path)
    return path


def write_lerobot(folder: Path, episodes: list[Arrays], flags: tuple[str, ...] = ("next.done",)) -> Path:
    """Write episodes of frames as LeRobot v3 does: two data files, tasks and episodes beside meta/info.json."""
    names = {"observation.state": STATES, "action": {"motors": ["shoulder", "wrist"]}}
    vectors = {key: {"dtype": "float32", "shape": [len(episodes[0][key][0])], "names": names[key]} for key in names}
    kinds = {"next.reward": "float32", **dict.fromkeys(flags, "bool"), "timestamp": "float32"}
    kinds |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
    scalars = {key: {"dtype": kind, "shape": [1], "names": None} for key, kind in kinds.items()}
    lengths = [len(episode["action"]) for episode in episodes]
    info = {
        "codebase_version": "v3.0",
        "robot_type": "arm",
        "total_episodes": len(episodes),
        "total_frames": sum(lengths),
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 500,
        "fps": 20,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": {**vectors, **scalars},
    }
    for place in ("meta/episodes/chunk-000", "data/chunk-000"):
        (folder / place).mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info, indent=4))
    pq.write_table(pa.table({"task_index": [0], "task": ["reach"]}), folder / "meta" / "tasks.parquet")
    facts = {"episode_index": np.arange(len(episodes)), "length": np.array(lengths)}
    write_parquet(folder / "meta/episodes/chunk-000/file-000.parquet", facts)
    begins = np.concatenate(([0], np.cumsum(lengths)))
    half = len(episodes) // 2
    for file, part in enumerate((range(half), range(half, len(episodes)))):
        table: dict[str, Any] = {}
        for key in episodes[0]:
            table[key] = arrow(np.concatenate([episodes[number][key] for number in part]), fixed=True)
        frames = np.concatenate([np.arange(lengths[number]) for number in part])
        table["timestamp"] = (frames / 20).astype(np.float32)
        table["frame_index"] = frames
        table["episode_index"] = np.repeat(part, [lengths[number] for number in part])
        table["index"] = np.concatenate([begins[number] + np.arange(lengths[number]) for number in part])
        table["task_index"] = np.zeros(len(frames), dtype=np.int64)
        pq.write_table(pa.table(table), folder / f"data/chunk-000/file-{file:03d}.parquet")
    return folder


def padded(frames: list[Arrays]) -> list[Arrays]:
    """Return LeRobot's frames: the last one of an episode holds only the observation that it ended in."""

    def again(array: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate((array, array[-1:]))

    return [
        {
            "observation.state": item["observations"],
            "action": again(item["actions"]),
            "next.reward": again(item["rewards"]),
            "next.done": again(item["terminations"] | item["truncations"]),
            "next.truncated": again(item["truncations"]),
        }
        for item in frames
    ]


def recorded(frames: list[Arrays]) -> list[Arrays]:
    """Return LeRobot's frames as a recorder keeps them: one for every step, none for what the last one led to."""
    return [
        {
            "observation.state": item["observations"][:-1],
            "action": item["actions"],
            "next.reward": item["rewards"],
            "next.done": item["terminations"] | item["truncations"],
        }
        for item in frames
    ]


def write_minari(folder: Path, frames: list[Arrays]) -> Path:
    """Write episodes in Minari's layout."""
    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for number, item in enumerate(frames):
            for key, array in item.items():
                file.create_dataset(f"episode_{number}/{key}", data=array)
    space = {"type": "Box", "dtype": "float32", "shape": [MOVED], "low": [LOW] * MOVED, "high": [HIGH] * MOVED}
    (folder / "data" / "metadata.json").write_text(
        json.dumps({"data_format": "hdf5", "action_space": json.dumps(space)})
    )
    return folder


def write_hdf5(path: Path, arrays: Arrays) -> Path:
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array)
    return path
