"""Reads JSON from strangers: size and depth are capped, NaN, infinity and duplicate keys are refused."""

import json
import math
import re
import stat
from pathlib import Path
from typing import Any

from offdyn_envs.benchmark.gate.printable import printable
from offdyn_envs.errors import OffDynError

__all__ = ["read_json"]

MAX_BYTES = 8 * 2**20
MAX_DEPTH = 16
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def read_json(path: Path, label: str, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """Reads one JSON file.

    Args:
        path: A regular file; links are not followed.
        label: How error messages call it.
        max_bytes: Largest allowed size.
        max_depth: Deepest allowed nesting of arrays and objects.

    Raises:
        OffDynError: The file is missing, a link, too large, too deep, or no strict JSON.
    """
    data = _read(path, label, max_bytes)
    _check_depth(data, label, max_depth)
    try:
        return json.loads(
            data.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded,
            object_pairs_hook=_unique,
        )
    except (ValueError, RecursionError) as error:
        raise OffDynError(f"{label} is no strict JSON: {printable(error, 160)}") from None


def _read(path: Path, label: str, max_bytes: int) -> bytes:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise OffDynError(f"{label} is no regular file")
        if status.st_size > max_bytes:
            raise OffDynError(f"{label} has {status.st_size} bytes; at most {max_bytes} are allowed")
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise OffDynError(f"{label} cannot be read: {error.strerror or error}") from None
    if len(data) > max_bytes:
        raise OffDynError(f"{label} has more than {max_bytes} bytes")
    return data


def _check_depth(data: bytes, label: str, max_depth: int) -> None:
    depth = 0
    for token in _TOKENS.finditer(data):
        first = data[token.start()]
        depth += (first in b"[{") - (first in b"]}")
        if depth > max_depth:
            raise OffDynError(f"{label} nests deeper than {max_depth} levels")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is not finite in double precision")
    return value


def _bounded(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"the integer {text[:20]}... has more than 20 digits")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key '{twice[:60]}' appears twice")
    return result
