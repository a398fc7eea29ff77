"""Any dataset by any name, and pairs of them: the project's own, imported ones and files."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium

from offdyn_envs.datasets.loading import load_dataset
from offdyn_envs.datasets.own.arrays import OwnData
from offdyn_envs.datasets.own.contract import Contract
from offdyn_envs.datasets.own.reading import read_own
from offdyn_envs.datasets.own.spec import Spec
from offdyn_envs.datasets.store.imported import ImportedDataset, imported_ids, is_imported, load_imported
from offdyn_envs.datasets.store.spec import Dataset
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import DatasetId, env_id, list_tasks

__all__ = ["AnyDataset", "check_pair", "is_own_name", "load_any", "load_named", "load_pair"]

AnyDataset = Dataset | ImportedDataset | OwnData
_OWN_NAMESPACE = "offdyn/"


def load_named(name: str | DatasetId) -> Dataset | ImportedDataset:
    """Load a dataset by id, one of the project's own or an imported one.

    Args:
        name: For instance "offdyn/hopper/gravity-0p5/medium-5k-v0" or "imported/hopper-medium-v2".

    Returns:
        The dataset.

    Raises:
        OffDynError: Unknown, not here, or damaged.
    """
    return load_imported(name) if isinstance(name, str) and is_imported(name) else load_dataset(name)


def is_own_name(name: str | DatasetId | Path) -> bool:
    """Say whether a name is that of an imported dataset or of a file, not of one of the project's datasets."""
    return not isinstance(name, DatasetId) and not str(name).startswith(_OWN_NAMESPACE)


def load_any(name: str | DatasetId | Path, spec: Spec | Mapping[str, Any] | Path | str | None = None) -> AnyDataset:
    """Load a dataset by id or read a file.

    Args:
        name: An id of the project's own or of an imported dataset, or the path of a file that `read_own` reads.
        spec: What the columns of a file are.

    Returns:
        The dataset.

    Raises:
        OffDynError: No dataset and no file of that name (the message names the nearest), a spec for what is no file, or
            data that are damaged.
    """
    if isinstance(name, DatasetId) or not is_own_name(name) or is_imported(str(name)):
        if spec is not None:
            raise OffDynError(f"'{name}' is a dataset of known columns; a spec is allowed for a file")
        return load_named(name if isinstance(name, DatasetId) else str(name))
    if not Path(name).exists():
        raise _neither(str(name))
    return read_own(Path(name), spec)


def _neither(name: str) -> OffDynError:
    """Build the error for a name that leads nowhere."""
    here = Path(name).parent
    files = [str(item) for item in sorted(here.iterdir())] if here.is_dir() else []
    known = [*imported_ids(), *sorted({str(item) for task in list_tasks() for item in (task.source, task.target)})]
    near = difflib.get_close_matches(name, [*known, *files], n=1, cutoff=0.5)
    hint = f"nearest '{near[0]}'" if near else "offdyn data list shows the datasets"
    return OffDynError(f"no dataset and no file of that name: '{name[:120]}'; {hint}")


def load_pair(
    source: str | DatasetId | Path, target: str | DatasetId | Path
) -> tuple[gymnasium.Env[Any, Any] | None, AnyDataset, AnyDataset]:
    """Load two datasets and the environment of the target's dynamics.

    Args:
        source: The plentiful dataset, as `load_any` takes it.
        target: The scarce one.

    Returns:
        (env, source, target); env is None where the target is of no robot of this suite.

    Raises:
        OffDynError: Not here or damaged, two robots, other dimensions or bounds, or a target of a robot of this suite
            that was imported without its dynamics.
    """
    pair = load_any(source), load_any(target)
    check_pair(*pair)
    if isinstance(pair[1], OwnData) or pair[1].card["robot"] is None:
        return None, *pair
    card = pair[1].card
    if card["dynamics"] is None:
        raise OffDynError(
            f"target '{target}' was imported without its dynamics, so no environment can score it; "
            "import it again with --dynamics and --force"
        )
    return gymnasium.make(env_id(get_robot(card["robot"]), card["dynamics"])), *pair


def check_pair(source: AnyDataset, target: AnyDataset) -> None:
    """Refuse datasets that no agent can be trained on together.

    Raises:
        OffDynError: Two robots, other dimensions, or other bounds of actions.
    """
    robots = _robot(source), _robot(target)
    if None not in robots and robots[0] != robots[1]:
        raise OffDynError(f"source is a {robots[0]} and target a {robots[1]}; expected one robot")
    sizes = [(item.observations.shape[1], item.actions.shape[1]) for item in (source, target)]
    if sizes[0] != sizes[1]:
        said = " and target ".join(f"{observed} observations and {moved} actions" for observed, moved in sizes)
        raise OffDynError(f"source has {said}; equal dimensions are wanted")
    contracts = [item.contract for item in (source, target) if not isinstance(item, Dataset)]
    if len(contracts) == 2 and None not in contracts:
        _check_bounds(*(contract for contract in contracts if contract is not None))


def _check_bounds(source: Contract, target: Contract) -> None:
    """The same number must be the same action in both."""
    bounds = [list(zip(item.action_low, item.action_high, strict=True)) for item in (source, target)]
    for name, one, other in zip(source.actions, *bounds, strict=True):
        if one != other:
            raise OffDynError(
                f"action '{name}' has bounds [{one[0]:g}, {one[1]:g}] in source and [{other[0]:g}, {other[1]:g}] in "
                "target; equal bounds are wanted"
            )


def _robot(dataset: AnyDataset) -> str | None:
    return None if isinstance(dataset, OwnData) else dataset.card["robot"]
