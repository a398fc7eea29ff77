"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offdyn_envs.errors import OffDynError
from offdyn_envs.interruption import undone

__all__ = ["atomic_write", "refuse_foreign", "write_json"]


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Generator[Path]:
    """Yield a temporary path beside `path` and move it there when the block ends without an error.

    A process killed inside the block leaves a hidden `.name.*.part` file and the old content of `path`.

    Args:
        path: The final file.

    Yields:
        The temporary file, existing and empty; write to it by name.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".{final.name}.{secrets.token_hex(8)}.part"
    with undone(lambda: temporary.unlink(missing_ok=True)):
        temporary.touch(0o600, exist_ok=False)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)


def refuse_foreign(path: str | os.PathLike[str], known: Callable[[bytes], bool], what: str) -> None:
    """Refuse to replace a file that is not of the kind that is to be written.

    Args:
        path: The file; it may be missing, or empty.
        known: Is given the beginning of the file, and says whether it is of that kind.
        what: How messages call the kind.

    Raises:
        OffDynError: It is of another kind.
    """
    try:
        with Path(path).open("rb") as file:
            begins = file.read(4096)
    except FileNotFoundError:
        return
    if begins and not known(begins):
        raise OffDynError(f"{path}: stands there and is not {what}; move it away, or write to another place")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as JSON atomically: sorted keys, two spaces, no NaN, one newline at the end.

    Args:
        path: The final file.
        value: Anything JSON can hold.

    Raises:
        ValueError: A float in `value` is not finite.
    """
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
