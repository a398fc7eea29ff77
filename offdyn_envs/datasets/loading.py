"""Loading a dataset by its id: from this machine, or from a server where one is configured."""

from __future__ import annotations

import os
from pathlib import Path

from offdyn_envs.datasets.sharing.sources import configured_url
from offdyn_envs.datasets.store.folders import data_root, find, read_dataset
from offdyn_envs.datasets.store.spec import Dataset
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import DatasetId

__all__ = ["load_dataset"]


def load_dataset(dataset: str | DatasetId, *, root: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a dataset: from the local root, else from what is shipped, else from `$OFFDYN_DATA_URL` where that is set.

    A dataset of the local root is memory-mapped from its flat cache (rebuilt when the dataset changed); a shipped one
    is read into memory and its checksums are tested. A downloaded one stays in the local root.

    Args:
        dataset: For instance "offdyn/hopper/gravity-0p5/medium-5k-v0".
        root: Local root; by default `data_root()`.

    Returns:
        The dataset.

    Raises:
        OffDynError: Unknown id; neither here nor downloaded (the message names the command that builds it); or
            damaged (the file and the key).

    Examples:
        >>> import offdyn
        >>> data = offdyn.load_dataset("offdyn/hopper/gravity-0p5/medium-5k-v0")
        >>> data.observations.shape, data.actions.shape
        ((5000, 11), (5000, 3))
    """
    wanted = DatasetId.parse(dataset) if isinstance(dataset, str) else dataset
    place = data_root() if root is None else Path(root)
    folder = find(wanted, place) or _download(wanted, place)
    return read_dataset(folder, wanted, cache=folder.is_relative_to(place))


def _download(dataset: DatasetId, root: Path) -> Path:
    """Download a dataset where an address is configured."""
    from offdyn_envs.datasets.sharing.download import download

    if configured_url() is None:
        raise OffDynError(f"dataset '{dataset}' is not on this machine; build it with: offdyn data build {dataset}")
    try:
        return download(dataset, root=root).path
    except OffDynError as error:
        raise OffDynError(f"{error}; build it instead with: offdyn data build {dataset}") from None
