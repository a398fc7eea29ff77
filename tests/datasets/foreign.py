"""Small files in other people's layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from offdyn_envs.datasets.store.spec import Arrays, Dataset
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import DatasetId

LENGTHS = (7, 1, 12, 5)
FALLS = (True, False, True, False)


def make_arrays(
    name: str, lengths: tuple[int, ...] = LENGTHS, falls: tuple[bool, ...] = FALLS, seed: int = 0
) -> Arrays:
    """Return random states of a robot with the observations that they show; it lies on the ground after a fall only.

    HalfCheetah never falls.
    """
    robot, rng = get_robot(name), np.random.default_rng(seed)
    rows, states = sum(lengths), sum(lengths) + len(lengths)
    qpos, qvel = rng.normal(size=(states, robot.nq)), rng.normal(size=(states, robot.nv))
    before = np.arange(rows) + np.repeat(np.arange(len(lengths)), lengths)
    last = np.zeros(rows, dtype=bool)
    last[np.cumsum(lengths) - 1] = True
    fell = last & np.repeat(falls, lengths) & (robot.z_range is not None)
    if robot.z_range is not None:
        qpos[:, robot.height_index : robot.height_index + 2] = rng.uniform((0.85, -0.1), (0.95, 0.1), (states, 2))
        qpos[before[fell] + 1, robot.height_index] = 0.1
    shown = robot.observe(qpos, qvel).astype(np.float32)
    return Arrays(
        observations=shown[before],
        actions=rng.uniform(-1, 1, size=(rows, robot.action_dim)).astype(np.float32),
        next_observations=shown[before + 1],
        rewards=rng.normal(size=rows).astype(np.float32),
        terminations=fell,
        truncations=last & ~fell,
        qpos=qpos,
        qvel=qvel,
        lengths=np.array(lengths, dtype=np.int64),
        seeds=np.arange(len(lengths), dtype=np.int64),
    )


def make_dataset(name: str, arrays: Arrays | None = None, dynamics: str = "gravity-0.5") -> Dataset:
    """Return arrays as one of the project's own datasets, in memory."""
    card = {"robot": name, "dynamics": dynamics}
    return Dataset(
        DatasetId(name, dynamics, "medium", "5k"), {"offdyn": card}, arrays or make_arrays(name), Path("nowhere")
    )


def d4rl_keys(arrays: Arrays, *, following: bool = True, states: bool = True) -> dict[str, np.ndarray]:
    keys = {
        "observations": arrays.observations,
        "actions": arrays.actions,
        "rewards": arrays.rewards,
        "terminals": arrays.terminations,
        "timeouts": arrays.truncations,
    }
    if following:
        keys["next_observations"] = arrays.next_observations
    if states:
        keys |= {"infos/qpos": arrays.qpos[arrays.state_rows], "infos/qvel": arrays.qvel[arrays.state_rows]}
    return keys


def odrl_keys(arrays: Arrays) -> dict[str, np.ndarray]:
    return {
        "observations": arrays.observations,
        "actions": arrays.actions,
        "next_observations": arrays.next_observations,
        "rewards": arrays.rewards[:, None],
        "terminals": arrays.terminations.astype(np.float64)[:, None],
        "metadata/algorithm": np.bytes_(b"SAC"),
    }


def minari_keys(arrays: Arrays, *, states: bool = False) -> dict[str, np.ndarray]:
    """Return the arrays of every episode, in the types that Minari's own sets have."""
    keys: dict[str, np.ndarray] = {}
    for episode, (start, length) in enumerate(zip(arrays.starts, arrays.lengths, strict=True)):
        rows, group = slice(start, start + length), f"episode_{episode}"
        shown = np.concatenate((arrays.observations[rows], arrays.next_observations[start + length - 1 :][:1]))
        keys[f"{group}/observations"] = shown.astype(np.float64)
        keys[f"{group}/actions"] = arrays.actions[rows]
        keys[f"{group}/rewards"] = arrays.rewards[rows].astype(np.float64)
        keys[f"{group}/terminations"] = arrays.terminations[rows]
        keys[f"{group}/truncations"] = arrays.truncations[rows]
        keys[f"{group}/infos/x_velocity"] = np.zeros(length + 1)
        if states:
            part = slice(start + episode, start + episode + length + 1)
            keys |= {f"{group}/infos/qpos": arrays.qpos[part], f"{group}/infos/qvel": arrays.qvel[part]}
    return keys


def write(path: Path, keys: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in keys.items():
            file[key] = value
    return path


def write_minari(folder: Path, keys: dict[str, Any], env: str | None = "Hopper-v5", **kwargs: Any) -> Path:
    """Write a Minari dataset's folder."""
    write(folder / "data" / "main_data.hdf5", keys)
    metadata: dict[str, Any] = {"dataset_id": "mujoco/hopper/medium-v0", "data_format": "hdf5"}
    if env is not None:
        metadata["env_spec"] = json.dumps({"id": env, "kwargs": kwargs})
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    return folder
