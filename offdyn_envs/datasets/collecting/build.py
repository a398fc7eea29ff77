"""Building a dataset from its behaviour policies: collect, describe, write; and the table of what a quality needs."""

from __future__ import annotations

import importlib.metadata
import math
import shutil
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from offdyn_envs.atomic import check_room
from offdyn_envs.batching.threads import usable_threads
from offdyn_envs.datasets.collecting.collect import Behaviour, PolicyBehaviour, RandomBehaviour, collect, concatenate
from offdyn_envs.datasets.collecting.journal import Journal, begin
from offdyn_envs.datasets.collecting.scripted import ScriptedBehaviour
from offdyn_envs.datasets.store.card import LICENCE, platform_facts, statistics, versions
from offdyn_envs.datasets.store.folders import data_root, find, read_metadata, save
from offdyn_envs.datasets.store.spec import FORMAT, Arrays, schema, validate
from offdyn_envs.datasets.store.staging import kept, locked
from offdyn_envs.errors import OffDynError, spelled, unknown
from offdyn_envs.models import compile_model, model_hash
from offdyn_envs.policies import BehaviourPolicy, read_card
from offdyn_envs.progress import progress
from offdyn_envs.robots import HANDS, WALKERS, get_robot
from offdyn_envs.robots.registry import Policy, scripted_policies
from offdyn_envs.shipped import REPLAY, shipped_root
from offdyn_envs.tasks import SEVERE_SLUGS, DatasetId, env_id, get_dynamics, get_task, list_env_ids, list_tasks
from offdyn_envs.version import __version__

__all__ = ["Built", "build", "hint", "ingredients", "missing_behaviour", "offered", "resolve"]

REFERENCE_ENV_REQUIREMENTS = "mujoco>=3.3,<4"

RESUMABLE = 200_000
"""Rows from which a killed build goes on where it was; smaller ones take seconds and begin again."""

# Quality -> behaviours that collect equal shares of the rows, in this order; None acts uniformly at random.
_SHARES: dict[str, tuple[str | None, ...]] = {
    "random": (None,),
    "medium": ("medium",),
    "medium-expert": ("medium", "expert"),
    "expert": ("expert",),
    "medium-replay": REPLAY,
}


@dataclass(frozen=True)
class Built:
    """What a build did.

    Attributes:
        id: The dataset.
        path: Its folder.
        built: False where it was there already.
        seconds: Wall-clock time.
        sha256: Of the arrays.
        rows: N.
    """

    id: DatasetId
    path: Path
    built: bool
    seconds: float
    sha256: str
    rows: int


@dataclass(frozen=True)
class _Ingredient:
    """One behaviour, the rows it collects, and what the card says of it."""

    behaviour: Behaviour
    rows: int
    facts: dict[str, Any]


def resolve(names: Iterable[str]) -> list[DatasetId]:
    """Turn names of tasks and ids of datasets into datasets, each once, in order.

    Args:
        names: For instance "hopper-gravity-0.5-medium" (its source and its target) or an id.

    Returns:
        The datasets.

    Raises:
        OffDynError: Neither a task nor a dataset; the message names the nearest.
    """
    found: dict[DatasetId, None] = {}
    for name in names:
        if "/" in name and spelled(name, list_env_ids()) is None:
            found[DatasetId.parse(name)] = None
            continue
        try:
            task = get_task(name)
        except OffDynError:
            raise unknown("task or dataset", name, [item.name for item in list_tasks()], "offdyn tasks") from None
        found[task.source] = found[task.target] = None
    return list(found)


def ingredients(dataset: DatasetId, behaviours: Path | None = None) -> list[_Ingredient]:
    """Return the behaviours of a dataset with their shares of its rows.

    Args:
        dataset: What is to be built.
        behaviours: Folder of the policies; by default the shipped ones.

    Returns:
        Its ingredients; their rows differ by one at most.

    Raises:
        OffDynError: A policy is not there.
    """
    shares = _SHARES[dataset.quality]
    rows, left = divmod(dataset.row_count, len(shares))
    return [_ingredient(dataset, name, rows + (i < left), behaviours) for i, name in enumerate(shares)]


def missing_behaviour(dataset: DatasetId) -> Path | None:
    """Return the first shipped policy that a dataset's collection lacks; None where it can be built."""
    scripted = scripted_policies(dataset.robot)
    paths = [_policy_path(dataset, name, None) for name in _SHARES[dataset.quality] if name and name not in scripted]
    return next((path for path in paths if not path.is_file()), None)


def _policy_path(dataset: DatasetId, name: str, behaviours: Path | None) -> Path:
    return (behaviours or shipped_root() / "behaviours") / dataset.robot / dataset.dynamics / f"{name}.safetensors"


def _ingredient(dataset: DatasetId, name: str | None, rows: int, behaviours: Path | None) -> _Ingredient:
    if name is None:
        return _Ingredient(RandomBehaviour(), rows, {"name": "random", "rows": rows, "sampling": "uniform in [-1, 1]"})
    path = _policy_path(dataset, name, behaviours)
    if not path.is_file():
        scripted = scripted_policies(dataset.robot).get(name)
        if scripted is not None:
            return _scripted(dataset.robot, name, scripted, rows)
        raise OffDynError(f"dataset '{dataset}': its behaviour policy is missing; expected {path}; {hint(dataset)}")
    policy, card, robot = BehaviourPolicy.load(path), read_card(path), get_robot(dataset.robot)
    if (policy.observation_dim, policy.action_dim) != (robot.observation_dim, robot.action_dim):
        raise OffDynError(
            f"{path}: policy maps {policy.observation_dim} to {policy.action_dim} numbers; "
            f"expected {robot.observation_dim} to {robot.action_dim} for {robot.name}"
        )
    facts = {
        "name": name,
        "rows": rows,
        "sampling": policy.distribution,
        "policy": f"behaviours/{dataset.robot}/{dataset.dynamics}/{path.name}",
        "policy_sha256": card["policy_sha256"],
        "returns": card.get("returns", {}).get("sampled"),
    }
    return _Ingredient(PolicyBehaviour(policy), rows, facts)


def offered(dataset: DatasetId) -> bool:
    """Say whether behaviours of a dataset's quality can be had: no other dynamics than the sources' have a replay."""
    source = dataset.robot in WALKERS and dataset.dynamics in ("nominal", *SEVERE_SLUGS)
    return source or dataset.quality != "medium-replay"


def hint(dataset: DatasetId) -> str:
    """Return how the behaviour policies that a dataset's collection lacks are had, or that they do not exist."""
    if not offered(dataset):
        whose = "nominal and severe dynamics, the sources" if dataset.robot in WALKERS else "the four walkers alone"
        return f"medium-replay exists for {whose}"
    if dataset.robot in HANDS:
        return f"learn it with: offdyn dev behaviour teach {dataset.robot} --dynamics {dataset.dynamics} --teacher FILE"
    if dataset.robot not in WALKERS:
        return "or give a scripted one: register_robot(..., behaviours={...})"
    return f"train it with: offdyn dev behaviour train --robot {dataset.robot} --dynamics {dataset.dynamics}"


def _scripted(robot: str, name: str, policy: Policy, rows: int) -> _Ingredient:
    behaviour = ScriptedBehaviour(robot, name, policy)
    said = f"{getattr(policy, '__module__', '')}:{getattr(policy, '__qualname__', type(policy).__qualname__)}"
    facts = {"name": name, "rows": rows, "sampling": "scripted", "policy": said, "policy_sha256": behaviour.sha256}
    return _Ingredient(behaviour, rows, facts)


def build(
    dataset: DatasetId,
    *,
    seed: int = 0,
    num_threads: int | None = None,
    root: Path | None = None,
    behaviours: Path | None = None,
    force: bool = False,
    ship: bool = False,
    quiet: bool = False,
) -> Built:
    """Build a dataset, unless it is there; a large one that was interrupted goes on where it was.

    Args:
        dataset: What to build.
        seed: Same seed, same arrays: on the same MuJoCo version and processor family to the last bit.
        num_threads: Threads of the simulation; by default all usable cores. The arrays do not depend on it.
        root: Where to put it; by default the local root.
        behaviours: Folder of the policies; by default the shipped ones.
        force: Replace a dataset that is there.
        ship: Compress, and write no flat arrays.
        quiet: No progress bars.

    Returns:
        Where it is and what was done.

    Raises:
        OffDynError: Not available, a policy is missing, another process builds it, there is no room for it, or what is
            there is damaged or was made with another seed or policy (nothing is overwritten without `force`).
    """
    if seed < 0:
        raise OffDynError(f"seed must be at least 0, got {seed}")
    begun, place = time.perf_counter(), root or data_root()
    there = _already(dataset, seed, place, behaviours, force)
    if there is not None:
        return there
    parts = ingredients(dataset, behaviours)
    if not ship:  # How far deflating helps is not known before.
        check_room(place / str(dataset), _least_size(dataset))
    with locked(place, dataset):
        there = _already(dataset, seed, place, behaviours, force)
        if there is not None:  # Another process finished it between the look above and the lock.
            return there
        with _journals(dataset, parts, seed, place) as journals:
            arrays = _collect(dataset, parts, seed, num_threads or usable_threads(), quiet, journals)
            metadata = _metadata(dataset, arrays, parts, seed)
            path = save(arrays, metadata, place, compress=ship, flat=not ship, quiet=quiet)
    card = metadata["offdyn"]
    return Built(dataset, path, True, time.perf_counter() - begun, card["sha256"], card["rows"])


def _least_size(dataset: DatasetId) -> int:
    """Return the bytes that all arrays take, in the HDF5 file, which has every observation once, and flat."""
    shapes = schema(get_robot(dataset.robot), dataset.row_count, 1)
    sizes = {key: dtype.itemsize * math.prod(shape) for key, (dtype, shape) in shapes.items()}
    return 2 * sum(sizes.values()) - sizes["next_observations"]


def _already(dataset: DatasetId, seed: int, root: Path, behaviours: Path | None, force: bool) -> Built | None:
    """Return the dataset that is there and is the one wanted."""
    folder = None if force else find(dataset, root)
    if folder is None:
        return None
    card = read_metadata(folder, dataset)["offdyn"]
    wanted = [part.facts.get("policy_sha256") for part in ingredients(dataset, behaviours)]
    found = [facts.get("policy_sha256") for facts in card["behaviour"]]
    if card["seed"] != seed or found != wanted:
        if not folder.is_relative_to(root):  # A shipped one: the local root is free, and comes first from then on.
            return None
        what = f"seed {card['seed']}, not {seed}" if card["seed"] != seed else "another behaviour policy"
        raise OffDynError(f"{folder}: this dataset was built with {what}; --force replaces it")
    return Built(dataset, folder, False, 0.0, card["sha256"], card["rows"])


@contextmanager
def _journals(
    dataset: DatasetId, parts: list[_Ingredient], seed: int, root: Path
) -> Generator[list[Journal | None], None, None]:
    """Yield a journal for each behaviour of a large dataset; they go when the dataset is there."""
    if dataset.row_count < RESUMABLE:
        yield [None] * len(parts)
        return
    model = compile_model(get_robot(dataset.robot), get_dynamics(dataset.robot, dataset.dynamics))
    recipe = {
        "id": str(dataset),
        "format": FORMAT,
        "seed": seed,
        "behaviour": [part.facts for part in parts],
        "model_sha256": model_hash(model),
        "versions": versions(),
        "platform": platform_facts(),
    }
    with kept(root, f"{dataset}.build") as folder:
        begin(folder, recipe)
        yield [Journal(folder, number) for number in range(len(parts))]
        shutil.rmtree(folder, ignore_errors=True)


def _collect(
    dataset: DatasetId,
    parts: list[_Ingredient],
    seed: int,
    num_threads: int,
    quiet: bool,
    journals: list[Journal | None],
) -> Arrays:
    with progress(f"collect {dataset}", dataset.row_count, quiet=quiet) as advance:
        arrays = concatenate(
            [
                collect(
                    dataset.robot,
                    dataset.dynamics,
                    part.behaviour,
                    part.rows,
                    seed=seed,
                    part=number,
                    num_threads=num_threads,
                    advance=advance,
                    journal=journal,
                )
                for number, (part, journal) in enumerate(zip(parts, journals, strict=True))
            ]
        )
    validate(arrays, get_robot(dataset.robot), f"collected {dataset}")
    return arrays


def _metadata(dataset: DatasetId, arrays: Arrays, parts: list[_Ingredient], seed: int) -> dict[str, Any]:
    """Return metadata.json: Minari's keys, and our card under "offdyn"; `save` adds the checksums."""
    from minari.serialization import serialize_space

    robot, installed = get_robot(dataset.robot), versions()
    spec = gymnasium.spec(env_id(robot, dataset.dynamics)).to_json()
    boxes = {
        "observation_space": gymnasium.spaces.Box(-np.inf, np.inf, (robot.observation_dim,), np.float32),
        "action_space": gymnasium.spaces.Box(-1.0, 1.0, (robot.action_dim,), np.float32),
    }
    shifts = get_dynamics(dataset.robot, dataset.dynamics)
    return {
        "dataset_id": str(dataset),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "minari_version": importlib.metadata.version("minari"),
        "total_steps": len(arrays.rewards),
        "total_episodes": len(arrays.lengths),
        "env_spec": spec,
        "eval_env_spec": spec,
        **{key: serialize_space(box) for key, box in boxes.items()},
        **_reference_scores(dataset),
        "algorithm_name": " + ".join(part.facts["name"] for part in parts),
        "author": ["The offdyn maintainers"],
        "description": f"{robot.title}, dynamics {dataset.dynamics}, behaviour {dataset.quality}. Licence: {LICENCE}.",
        "requirements": [f"offdyn>={__version__}", REFERENCE_ENV_REQUIREMENTS],
        "offdyn": {
            "format": FORMAT,
            "id": str(dataset),
            "robot": dataset.robot,
            "dynamics": dataset.dynamics,
            "quality": dataset.quality,
            "shifts": [shift.to_json() for shift in shifts],
            "profile": "default",
            "model_sha256": model_hash(compile_model(robot, shifts)),
            "behaviour": [part.facts for part in parts],
            "seed": seed,
            "licence": LICENCE,
            "versions": installed,
            "platform": platform_facts(),
            "rebuild": f"offdyn data build {dataset} --seed {seed} --force",
            **statistics(arrays, robot.max_episode_steps),
        },
    }


def _reference_scores(dataset: DatasetId) -> dict[str, float]:
    """Return what Minari normalises returns with, the mean returns of chance and expert; nothing without an expert."""
    from offdyn_envs.benchmark.scoring.scores import get_reference, has_expert, load_references

    if not has_expert(load_references()["returns"], dataset.robot, dataset.dynamics):
        return {}
    reference = get_reference(dataset.robot, dataset.dynamics)
    return {"ref_min_score": reference.random, "ref_max_score": reference.expert}
