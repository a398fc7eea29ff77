"""The state of a run in one file, replaced as a whole, and the policies it passed through."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from offdyn_envs.atomic import write_bytes


def _to_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, dict):
        return {key: _to_tensors(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_tensors(item) for item in value]
    return value


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; a kill at any moment leaves the old one or the new one.

    Args:
        path: the file.
        state: nested dicts and lists of tensors, arrays and plain types. Arrays come back as tensors.
    """
    content = io.BytesIO()
    torch.save(_to_tensors(state), content)
    write_bytes(path, content.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Args:
        path: the file.

    Returns:
        The state; nothing in the file is executed.
    """
    return torch.load(path, weights_only=True)


def as_array(value: Any) -> NDArray[Any]:
    """A copy of an array that may have become a tensor in a checkpoint.

    Args:
        value: array, tensor or list.

    Returns:
        The array.
    """
    return np.array(value.numpy() if isinstance(value, torch.Tensor) else value)


def save_arrays(path: Path, arrays: dict[str, NDArray[np.float64]]) -> None:
    """Write named arrays; a kill at any moment leaves the old file or the new one.

    Args:
        path: the file, ending in .npz.
        arrays: the arrays.
    """
    content = io.BytesIO()
    np.savez(content, **arrays)  # pyright: ignore[reportArgumentType]
    write_bytes(path, content.getbuffer())


def load_arrays(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read named arrays.

    Args:
        path: the file.

    Returns:
        The arrays.
    """
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
