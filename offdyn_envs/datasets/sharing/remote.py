"""Datasets from a Minari remote.

Minari's storage classes do the transfer. `minari.download_dataset` is not used: it writes under the final name, checks
nothing, takes the local root from an environment variable of the whole process, and looks for the namespaces of an
explicit remote in the default one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from offdyn_envs.datasets.store.folders import HDF5_NAME
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import DatasetId

__all__ = ["REMOTE_SCHEMES", "MinariSource"]

REMOTE_SCHEMES = ("hf", "gcp")
"""Kinds of remotes that Minari knows."""


class MinariSource:
    """A Minari remote that holds what `offdyn data publish` writes, without the manifest.

    The card in metadata.json vouches for the HDF5 file; metadata.json itself is checked only against the manifest of
    this release, where that has the dataset.

    Attributes:
        name: For instance "hf://organisation".
    """

    def __init__(self, remote: str) -> None:
        scheme, _, owner = remote.partition("://")
        owner = owner.rstrip("/")
        if scheme not in REMOTE_SCHEMES or not owner or "/" in owner:
            raise OffDynError(
                f"Minari remote '{remote[:200]}' has no owner; expected {' or '.join(REMOTE_SCHEMES)}://name"
            )
        self.name = f"{scheme}://{owner}"

    def fetch(self, dataset: DatasetId, folder: Path, quiet: bool) -> None:
        """Fetch the files with Minari; what has arrived whole is kept where the remote's own client can tell.

        Args:
            dataset: Which one.
            folder: Where to.
            quiet: Has no effect on Minari's clients.

        Raises:
            OffDynError: The remote's client is not installed, the dataset is not there, or the transfer failed.
        """
        del quiet
        arrived, data = folder / "remote", folder / "data"
        arrived.mkdir(exist_ok=True)
        try:
            self._storage().download_dataset(str(dataset), arrived)
        except OffDynError:
            raise
        except Exception as error:  # Each client raises its own.
            raise OffDynError(f"{self.name}/{dataset}: {type(error).__name__}: {error}") from None
        found = arrived / str(dataset) / "data"
        if not (found / HDF5_NAME).is_file() or not (found / "metadata.json").is_file():
            shutil.rmtree(folder)
            raise OffDynError(f"{self.name} has no dataset '{dataset}'; expected metadata.json and {HDF5_NAME}")
        shutil.rmtree(data, ignore_errors=True)
        found.rename(data)

    def _storage(self) -> Any:
        try:
            from minari.storage.remotes import get_cloud_storage

            return get_cloud_storage(remote_path=self.name)
        except ImportError as error:
            raise OffDynError(f"{self.name}: {error}") from None
