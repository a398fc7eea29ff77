"""From the name of a task to its environment, its source and its target."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium

from offdyn_envs.datasets.importing.pairs import is_own_name, load_pair
from offdyn_envs.datasets.loading import load_dataset
from offdyn_envs.datasets.sharing.sources import configured_url
from offdyn_envs.datasets.store.folders import available
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import DatasetId, env_id, get_task

__all__ = ["Task", "load_task", "require_available"]


class Task(NamedTuple):
    """What an agent is trained on and scored in.

    Attributes:
        env: The environment with the target's dynamics; None for data of no robot of this suite.
        source: The plentiful dataset, a `Dataset`, an `ImportedDataset` or an `OwnData`; by the name of a task always a
            `Dataset`, which no type of a named tuple can say in Python 3.10.
        target: The scarce one, likewise.
    """

    env: Any
    source: Any
    target: Any


def load_task(
    name: str | None = None,
    *,
    source: str | DatasetId | Path | None = None,
    target: str | DatasetId | Path | None = None,
) -> Task:
    """Load a task: the environment that scores it, the plentiful source and the scarce target.

    Args:
        name: A task, for instance "hopper-gravity-0.5-medium". Leave it out to pair two datasets yourself:
        source: Id of the source dataset, also of an imported one ("imported/NAME"), or a file that `read_own` reads.
        target: The target dataset, likewise; the policy is scored in its dynamics.

    Returns:
        (env, source, target) by place and by name; env is None where the target is of no robot of this suite.

    Raises:
        OffDynError: Unknown names; both or neither way of naming; two robots, other dimensions or bounds of actions; a
            dataset that is not here and not downloaded (the message names the command that builds it).

    Examples:
        >>> import offdyn
        >>> env, source, target = offdyn.load_task(
        ...     source="offdyn/hopper/gravity-2p0/medium-5k-v0", target="offdyn/hopper/gravity-0p5/medium-5k-v0"
        ... )
        >>> len(source), len(target), env.spec.id
        (5000, 5000, 'OffDyn/Hopper-gravity-0.5-v0')
    """
    if (name is None) == (source is None and target is None) or (source is None) != (target is None):
        raise OffDynError("load_task takes the name of a task, or source= and target= together")
    if source is not None and target is not None and any(is_own_name(item) for item in (source, target)):
        return Task(*load_pair(source, target))
    if name is not None:
        task = get_task(name)
        ids, environment, builds = (task.source, task.target), task.env_id, name
    else:
        ids = tuple(item if isinstance(item, DatasetId) else DatasetId.parse(str(item)) for item in (source, target))
        if ids[0].robot != ids[1].robot:
            raise OffDynError(f"source is a {ids[0].robot} and target a {ids[1].robot}; expected one robot")
        environment, builds = env_id(get_robot(ids[1].robot), ids[1].dynamics), f"{ids[0]} {ids[1]}"
    require_available(ids, builds)
    return Task(gymnasium.make(environment), load_dataset(ids[0]), load_dataset(ids[1]))


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
