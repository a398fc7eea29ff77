"""Verifying a dataset: checksums, schema, and transitions simulated again from their stored states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.batching.row_models import rows_together
from offdyn_envs.datasets.store.card import same_platform, statistics, versions
from offdyn_envs.datasets.store.folders import HDF5_NAME, file_digest, metadata_digest, read_dataset, read_metadata
from offdyn_envs.datasets.store.manifest import compare, manifest_path, read_manifest
from offdyn_envs.datasets.store.spec import Dataset, array_digests
from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, model_hash
from offdyn_envs.robots import Robot, get_robot
from offdyn_envs.shifts import parse_shifts
from offdyn_envs.shifts.noise import noises_of
from offdyn_envs.shipped import shipped_root
from offdyn_envs.vector import OffDynVectorEnv

__all__ = ["Report", "resimulate", "verify"]

TOLERANCE = 1e-5
"""Largest one-step gap on another MuJoCo version or processor family, absolute and relative."""
CHUNK = 250

Array = NDArray[Any]


@dataclass(frozen=True)
class Report:
    """What verification found; a failed check raises instead.

    Attributes:
        id: The dataset.
        path: Its folder.
        rows: Rows simulated again.
        mode: "exact" or "tolerance".
        largest_gap: Largest difference of a next observation or reward, 0 when exact.
        checks: What was checked, in words.
        manifest: Comparison with the manifest's card.
    """

    id: str
    path: str
    rows: int
    mode: str
    largest_gap: float
    checks: list[str]
    manifest: dict[str, Any]


def verify(folder: Path, *, rows: int = 1000, seed: int = 0, num_threads: int = 1) -> Report:
    """Check a dataset from its files up.

    Args:
        folder: Of the dataset, holding `data/`.
        rows: Random rows to simulate again.
        seed: Chooses the rows.
        num_threads: Threads of the simulation.

    Returns:
        The report.

    Raises:
        OffDynError: The first thing that is wrong: the file, the key and what was expected.
    """
    if rows < 1:
        raise OffDynError(f"rows must be at least 1, got {rows}")
    _check_file(folder)  # Before anything in it is read: damage inside could keep the HDF5 library busy for long.
    dataset = read_dataset(folder)  # From the HDF5 file: schema, values and the checksum of every array.
    checks = ["metadata", f"SHA-256 of {HDF5_NAME}", "schema and values", "SHA-256 of every array"]
    if (folder / "flat").is_dir():
        _check_flat(dataset)
        checks.append("flat cache")
    _check_card(dataset)
    checks.append("returns, lengths and moments of the card")
    _check_metadata(dataset)
    checks.append("SHA-256 of metadata.json")
    if dataset.card["versions"]["mujoco"] == versions()["mujoco"]:
        _check_model(dataset)
        checks.append("compiled model")
    _check_states(dataset)
    checks.append("observations and terminations follow from the stored states, all rows")
    mode, gap = resimulate(dataset, rows=rows, seed=seed, num_threads=num_threads)
    count = min(rows, len(dataset))
    checks.append(f"{count} rows simulated again")
    reference = read_manifest()["datasets"].get(str(dataset.id))
    if reference is not None and reference["sha256"] == dataset.card["sha256"]:
        _check_manifest(dataset, reference)
        checks.append("card of the manifest")
    return Report(str(dataset.id), str(folder), count, mode, gap, checks, compare(dataset.card, reference))


def _check_file(folder: Path) -> None:
    expected = read_metadata(folder)["offdyn"]["files"].get(HDF5_NAME, {}).get("sha256")
    path = folder / "data" / HDF5_NAME
    if not path.is_file():
        raise OffDynError(f"{path}: missing; expected a Minari HDF5 file")
    digest = file_digest(path)
    if digest != expected:
        raise OffDynError(f"{path}: SHA-256 {digest}; expected {expected}")


def _check_flat(dataset: Dataset) -> None:
    cached = read_dataset(dataset.path, dataset.id, cache=True)
    for key, digest in array_digests(cached.arrays).items():
        if digest != dataset.card["arrays"][key]:
            path = dataset.path / "flat" / f"{key}.npy"
            raise OffDynError(
                f"{path}: SHA-256 {digest}; expected {dataset.card['arrays'][key]}; delete the folder flat/"
            )


def _check_card(dataset: Dataset) -> None:
    found = statistics(dataset.arrays, get_robot(dataset.id.robot).max_episode_steps)
    for key, value in found.items():
        if not _close(value, dataset.card.get(key)):
            path = dataset.path / "data" / "metadata.json"
            raise OffDynError(f"{path}: key 'offdyn.{key}' does not describe the arrays; expected {str(value)[:80]}")


def _check_manifest(dataset: Dataset, reference: Mapping[str, Any]) -> None:
    """Check that the manifest says of these arrays what the card says: everything, where it is the very card."""
    card, digest = dataset.card, reference.get("metadata_sha256")
    same_card = dataset.path.is_relative_to(shipped_root()) or card["metadata_sha256"] == digest
    for key in card if same_card else ("robot", "shifts", "seed", "arrays", "rows", "returns", "lengths", "moments"):
        if not _close(card[key], reference.get(key)):
            where = f"{manifest_path()}: key 'datasets.{dataset.id}.{key}'"
            raise OffDynError(f"{where} does not describe the dataset; expected {str(card[key])[:80]}")


def _check_metadata(dataset: Dataset) -> None:
    """Check what only a reader notices: description, versions, how to rebuild, the environment."""
    path, stored = dataset.path / "data" / "metadata.json", dataset.card.get("metadata_sha256")
    digest = metadata_digest(dataset.metadata)
    if digest != stored:
        raise OffDynError(f"{path}: its values have SHA-256 {digest}; expected {stored}, key 'offdyn.metadata_sha256'")


def _close(found: Any, stored: Any) -> bool:
    """Compare two JSON values, floats up to the order of a sum."""
    if isinstance(found, dict):
        return isinstance(stored, dict) and all(_close(value, stored.get(key)) for key, value in found.items())
    if isinstance(found, list):
        return isinstance(stored, list) and len(found) == len(stored) and all(map(_close, found, stored))
    if isinstance(found, float) and isinstance(stored, float | int):
        return bool(np.isclose(found, stored, rtol=1e-6, atol=1e-6))
    return found == stored


def _shifts(dataset: Dataset) -> Any:
    return dataset.card["shifts"] or None


def _is_noisy(dataset: Dataset) -> bool:
    """Say whether the observations hold noise, which no state shows."""
    return bool(noises_of(parse_shifts(_shifts(dataset))))


def _check_model(dataset: Dataset) -> None:
    model = compile_model(get_robot(dataset.id.robot), parse_shifts(_shifts(dataset)), dataset.card["profile"])
    if model_hash(model) != dataset.card["model_sha256"]:
        path = dataset.path / "data" / "metadata.json"
        raise OffDynError(f"{path}: key 'offdyn.model_sha256' is not that of {dataset.card['shifts']} here")


def _check_states(dataset: Dataset) -> None:
    """Check every row's observations and termination against its states."""
    robot, path = get_robot(dataset.id.robot), dataset.path / "data" / HDF5_NAME
    arrays, rows = dataset.arrays, dataset.arrays.state_rows
    states, following = arrays.states(rows), arrays.states(rows + 1)
    before, after = (robot.observe(*state).astype(np.float32) for state in (states, following))
    for key, found in () if _is_noisy(dataset) else (("observations", before), ("next_observations", after)):
        _same(found, getattr(dataset, key), f"{path}: '{key}'", "what the stored states show")
    fallen = robot.terminated(*following)
    # A simulation that blew up keeps its state and terminates without having fallen.
    stuck = (following.qpos == states.qpos).all(axis=1) & (following.qvel == states.qvel).all(axis=1)
    _same(fallen | (stuck & dataset.terminations), dataset.terminations, f"{path}: 'terminations'", "what they show")


def _same(found: Array, stored: Array, what: str, expected: str) -> None:
    if not np.array_equal(found, stored):
        row = int(np.flatnonzero((found != stored).reshape(len(found), -1).any(axis=1))[0])
        raise OffDynError(f"{what} at row {row} is not {expected}")


def resimulate(dataset: Dataset, *, rows: int = 1000, seed: int = 0, num_threads: int = 1) -> tuple[str, float]:
    """Simulate random rows again from their stored states and actions.

    Args:
        dataset: The dataset.
        rows: How many rows; all of them where the dataset is smaller.
        seed: Chooses the rows.
        num_threads: Threads of the simulation.

    Returns:
        "exact" and 0.0 where next observations and rewards (in stored precision), terminations and next states (in
        float64) are equal to the last bit; else "tolerance" and the largest gap, which is allowed only where the
        dataset comes from another MuJoCo version or processor family.

    Raises:
        OffDynError: A row differs by more than is allowed; the message names it.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(dataset), size=min(rows, len(dataset)), replace=False))
    robot, state_rows = get_robot(dataset.id.robot), dataset.arrays.state_rows[chosen]
    env = OffDynVectorEnv(
        robot,
        min(rows_together(robot, CHUNK), len(chosen)),
        shifts=_shifts(dataset),
        profile=dataset.card["profile"],
        num_threads=num_threads,
        autoreset_mode="disabled",
    )
    gaps: list[Array] = []
    identical = True
    try:
        for begin in range(0, len(chosen), env.num_envs):
            part = slice(begin, begin + env.num_envs)
            gap, same = _step_again(env, robot, dataset, chosen[part], state_rows[part])
            gaps.append(gap)
            identical &= same
    finally:
        env.close()
    return _judge(dataset, chosen, np.concatenate(gaps), identical)


def _step_again(
    env: OffDynVectorEnv, robot: Robot, dataset: Dataset, rows: Array, state_rows: Array
) -> tuple[Array, bool]:
    """Step one batch from stored states; return each row's largest scaled gap and whether all bits agree."""
    padded = np.resize(np.arange(len(rows)), env.num_envs)  # The last batch may be short.
    arrays = dataset.arrays
    queue = arrays.under_way(rows, env.queue.shape[1])[padded]
    qpos, qvel, *goal = arrays.states(state_rows[padded])
    env.set_state(qpos, qvel, queue=queue, goal=goal[0] if goal else None)
    observations, rewards, terminations, _, _ = env.step(np.asarray(arrays.actions[rows][padded]))
    kept = slice(0, len(rows))
    seen = [(observations[kept].astype(np.float32), arrays.next_observations[rows])]
    pairs = [
        *([] if _is_noisy(dataset) else seen),
        (rewards[kept].astype(np.float32)[:, None], arrays.rewards[rows][:, None]),
        (terminations[kept][:, None].astype(np.float32), arrays.terminations[rows][:, None].astype(np.float32)),
        *zip((env.qpos[kept], env.qvel[kept], env.goal[kept]), arrays.states(state_rows + 1), strict=False),
    ]
    same = all(np.array_equal(found, stored) for found, stored in pairs)
    gaps = [
        (np.abs(found.astype(np.float64) - stored) / np.maximum(1.0, np.abs(stored))).max(axis=1)
        for found, stored in pairs
    ]
    return np.max(gaps, axis=0), same


def _judge(dataset: Dataset, rows: Array, gaps: Array, identical: bool) -> tuple[str, float]:
    if identical:
        return "exact", 0.0
    worst = int(gaps.argmax())
    where = f"{dataset.path / 'data' / HDF5_NAME}: row {int(rows[worst])} simulated again differs by {gaps[worst]:.3g}"
    if same_platform(dataset.card):
        raise OffDynError(f"{where}; expected the stored values exactly (same MuJoCo and processor family)")
    if gaps[worst] > TOLERANCE:
        raise OffDynError(f"{where}; expected at most {TOLERANCE:g} on another MuJoCo version or processor family")
    return "tolerance", float(gaps[worst])
