"""From the name of a task to its environment, its source and its target."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, overload

import gymnasium

from offdyn_envs.datasets.importing.pairs import AnyDataset, load_pair
from offdyn_envs.datasets.loading import load_dataset
from offdyn_envs.datasets.sharing.sources import configured_url
from offdyn_envs.datasets.store.folders import available
from offdyn_envs.datasets.store.imported import is_imported
from offdyn_envs.datasets.store.spec import Dataset
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import DatasetId, env_id, get_task

__all__ = ["load_task", "require_available"]


@overload
def load_task(name: str) -> tuple[gymnasium.Env[Any, Any], Dataset, Dataset]: ...
@overload
def load_task(
    name: None = None, *, source: str | DatasetId, target: str | DatasetId
) -> tuple[gymnasium.Env[Any, Any], AnyDataset, AnyDataset]: ...
def load_task(
    name: str | None = None, *, source: str | DatasetId | None = None, target: str | DatasetId | None = None
) -> tuple[gymnasium.Env[Any, Any], AnyDataset, AnyDataset]:
    """Load a task: the environment that scores it, the plentiful source and the scarce target.

    Args:
        name: A task, for instance "hopper-gravity-0.5-medium". Leave it out to pair two datasets yourself:
        source: Id of the source dataset, also of an imported one ("imported/NAME").
        target: Id of the target dataset, likewise; the policy is scored in its dynamics.

    Returns:
        (env, source, target).

    Raises:
        OffDynError: Unknown names; both or neither way of naming; two robots; a dataset that is not here and not
            downloaded (the message names the command that builds it).
    """
    if (name is None) == (source is None and target is None) or (source is None) != (target is None):
        raise OffDynError("load_task takes the name of a task, or source= and target= together")
    if source is not None and target is not None and any(is_imported(str(item)) for item in (source, target)):
        return load_pair(source, target)
    if name is not None:
        task = get_task(name)
        ids, environment, builds = (task.source, task.target), task.env_id, name
    else:
        ids = tuple(DatasetId.parse(item) if isinstance(item, str) else item for item in (source, target) if item)
        if ids[0].robot != ids[1].robot:
            raise OffDynError(f"source is a {ids[0].robot} and target a {ids[1].robot}; expected one robot")
        environment, builds = env_id(get_robot(ids[1].robot), ids[1].dynamics), f"{ids[0]} {ids[1]}"
    require_available(ids, builds)
    return gymnasium.make(environment), load_dataset(ids[0]), load_dataset(ids[1])


def require_available(ids: Iterable[DatasetId], builds: str = "") -> None:
    """See to it that datasets are on this machine, or may be downloaded.

    Args:
        ids: The datasets.
        builds: What `offdyn data build` takes to build them; the missing ones by default.

    Raises:
        OffDynError: Some are not, and there is no server to fetch them from; it names them and the command.
    """
    missing = [str(item) for item in ids if not available(item)]
    if missing and configured_url() is None:
        raise OffDynError(
            f"not on this machine: {', '.join(missing)}; build with: offdyn data build {builds or ' '.join(missing)}"
        )
