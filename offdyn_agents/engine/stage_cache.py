"""Results of stages before the policy, cached by content: the same data and settings find them again.

A stage's key is the SHA-256 of its name and version, its settings, the rows it learns from and its seed. `cached` finds
or computes what is costly; a training that has not ended has a copy beside the results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from offdyn_agents.engine.settings import to_json
from offdyn_envs.atomic import write_bytes
from offdyn_envs.errors import OffDynError

__all__ = ["Fitted", "Keep", "Tensors", "Unfinished", "cached", "in_precision", "stage_key"]

IRRELEVANT = ("memory_gb",)
"""Settings that do not change a result."""
WHY = "failed"
"""Under what name a failed result's file says why."""

T = TypeVar("T")
Tensors = Mapping[str, Tensor]


class Fitted(list[T]):
    """A stage's results in the order of the seeds.

    Args:
        results: One for each seed; what has failed is there as it ended, of the shapes of a result.
        failed: Why results must not be used, by place.
    """

    def __init__(self, results: Iterable[T], failed: Mapping[int, str]) -> None:
        super().__init__(results)
        self.failed = dict(failed)

    def sound(self) -> Fitted[T]:
        """Return itself if all of it may be used.

        Raises:
            OffDynError: A training failed.
        """
        for why in self.failed.values():
            raise OffDynError(f"{why}; other settings are needed")
        return self


class Unfinished:
    """The copy of a training that has not ended, in a file beside the results.

    Args:
        cache: Folder of results, None to keep no copy.
        key: Key of the result to come.
    """

    def __init__(self, cache: Path | None, key: str) -> None:
        self._path = None if cache is None else cache / f"{key}.partial"

    def read(self) -> Tensors | None:
        """Return the tensors that were written last, by name; None where there are none."""
        return _load(self._path)

    def write(self, tensors: Tensors) -> None:
        """Replace the copy."""
        _save(self._path, {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})

    def remove(self) -> None:
        """Remove the copy, once the training has ended."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class Keep:
    """A stage's results in the cache: finds them, takes new ones, and gives trainings the place of their copies.

    What failed is kept apart, with its reason: the same training would fail again.

    Args:
        cache: Folder of results, None to keep none.
        keys: Key of each seed's result.

    Attributes:
        found: The results that are there, by seed.
        reasons: Why some of them must not be used, by seed.
    """

    def __init__(self, cache: Path | None, keys: Mapping[int, str]) -> None:
        self._cache, self._keys = cache, keys
        self.found: dict[int, Tensors] = {}
        self.reasons: dict[int, str] = {}
        for seed, key in keys.items():
            sound, broken = _load(_result(cache, key)), _load_failed(_failure(cache, key))
            if sound is not None:
                self.found[seed] = sound
            elif broken is not None:
                self.found[seed], self.reasons[seed] = broken

    def __call__(self, seed: int, tensors: Tensors, failed: str = "") -> None:
        """Take the result of a seed, from any thread.

        Args:
            seed: The seed.
            tensors: The result, by name.
            failed: Why it must not be used; "" where all is well.
        """
        # As a file gives them back: other strides would round products otherwise.
        self.found[seed] = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        path = (_failure if failed else _result)(self._cache, self._keys[seed])
        _save(path, self.found[seed], {WHY: failed} if failed else None)
        if failed:
            self.reasons[seed] = failed

    def copy(self, seed: int) -> Unfinished:
        """Return the place for the copy of a seed's training."""
        return Unfinished(self._cache, self._keys[seed])


def stage_key(name: str, settings: Any, rows: Tensor | Sequence[Tensor], seed: int, version: int) -> str:
    """Return the key of a stage's result: 64 hexadecimal digits.

    Args:
        name: Name of the stage.
        settings: Its settings, a dataclass.
        rows: The tensors it learns from.
        seed: Its seed.
        version: Raised when the same settings and rows would give another result.
    """
    kept = {key: value for key, value in to_json(settings).items() if key not in IRRELEVANT}
    digest = hashlib.sha256(json.dumps([name, version, kept, seed], sort_keys=True).encode())
    for tensor in [rows] if isinstance(rows, Tensor) else rows:
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()


def in_precision(name: str, precision: str) -> str:
    """Return what a stage is called whose products are of some precision: rounded ones give another result."""
    return f"{name} bf16" if precision == "bf16" else name


def cached(
    name: str,
    settings: Any,
    rows: Tensor | Sequence[Tensor],
    seeds: Sequence[int],
    cache: Path | None,
    compute: Callable[[list[int], Keep], None],
    version: int = 1,
    title: str = "",
) -> Fitted[Tensors]:
    """Find a stage's results, and compute those that are missing.

    Args:
        name: Name of the stage.
        settings: Its settings, a dataclass.
        rows: The tensors it learns from.
        seeds: One result for each; no seed twice.
        cache: Folder of results, None to keep none.
        compute: Is given the seeds that are missing and calls `keep(seed, tensors by name)` for each, from any thread,
            with a reason where they must not be used.
        version: Raised when the same settings and rows would give another result.
        title: What messages call the stage, where that is not its name.

    Returns:
        The results in the order of the seeds, contiguous and on the CPU.
    """
    # Without a folder there is nothing to find, and hashing a million rows takes a while.
    keys = {seed: stage_key(name, settings, rows, seed, version) if cache is not None else "" for seed in seeds}
    keep = Keep(cache, keys)
    missing = [seed for seed in seeds if seed not in keep.found]
    if missing:
        compute(missing, keep)
    failed = {
        place: f"{title or name}: {keep.reasons[seed]}" for place, seed in enumerate(seeds) if seed in keep.reasons
    }
    return Fitted([keep.found[seed] for seed in seeds], failed)


def _result(cache: Path | None, key: str) -> Path | None:
    """Return the file of a sound result."""
    return None if cache is None else cache / f"{key}.safetensors"


def _failure(cache: Path | None, key: str) -> Path | None:
    """Return the file of a result that must not be used."""
    return None if cache is None else cache / f"{key}.failed"


def _load_failed(path: Path | None) -> tuple[Tensors, str] | None:
    """Return a result that must not be used, and why."""
    if path is None or not path.exists():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            why = (file.metadata() or {}).get(WHY, "")
            return {name: file.get_tensor(name) for name in file.keys()}, why
    except SafetensorError:
        return None


def _load(path: Path | None) -> Tensors | None:
    if path is None or not path.exists():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError:
        # It is only a cache: what is damaged is computed again.
        return None


def _save(path: Path | None, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    if path is None:
        return
    from safetensors.torch import save

    write_bytes(path, save(dict(tensors), metadata))
