"""The suite's critic of each task: what the ranked min-Q attack judges actions by, the same for every entry.

`critics/` holds one small ONNX file a task and `critics.json`, which says how each was trained, its SHA-256 and the
unit of the attack. `offdyn dev behaviour critics` makes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offdyn_envs.errors import OffDynError

__all__ = ["CRITICS", "INDEX", "Critic", "find_critic", "read_index"]

CRITICS = Path(__file__).with_name("critics")
"""Where they lie."""
INDEX = "critics.json"


@dataclass(frozen=True)
class Critic:
    """The reference critic of a task.

    Attributes:
        path: Its ONNX file, (`observation`, `action`) -> `q`.
        sha256: Hex digest of that file.
        sigma: Standard deviations of the target dataset's observations, the unit of the attack, [|S|].
    """

    path: Path
    sha256: str
    sigma: tuple[float, ...]


def read_index(root: Path | None = None) -> dict[str, Any]:
    """Return what `critics.json` says of each task; nothing where there is none yet.

    Args:
        root: Folder of the critics; the package's own by default.

    Raises:
        OffDynError: The file is damaged.
    """
    path = (root or CRITICS) / INDEX
    try:
        critics: Any = json.loads(path.read_text(encoding="utf-8"))["critics"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise OffDynError(f"reference critics '{path}' cannot be read: {error}") from None
    return critics


def find_critic(task: str, root: Path | None = None) -> Critic | None:
    """Return the reference critic of a task, None where the suite has none.

    Args:
        task: Name of the task.
        root: Folder of the critics; the package's own by default.

    Raises:
        OffDynError: The index or the file is damaged, or the file is another one than the index names.
    """
    told: Mapping[str, Any] | None = read_index(root).get(task)
    if told is None:
        return None
    path = (root or CRITICS) / str(told.get("file"))
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        sigma = tuple(float(value) for value in told["sigma"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise OffDynError(f"reference critic of '{task}' cannot be read: {error}") from None
    if found != told.get("sha256"):
        raise OffDynError(f"reference critic '{path}' is not the one that {INDEX} names")
    return Critic(path, found, sigma)
