"""One file over HTTP(S): resumed where it broke off, checked against its size and its SHA-256.

Standard library rather than pooch: pooch checks hashes too, but each of its tries begins at the first byte of a new
temporary file, which it deletes when the connection breaks; it never asks for a range, and it brings `requests` along.
Source sets are hundreds of megabytes: keeping what has arrived is the point here.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from offdyn_envs.datasets.sharing.web import Broken, Unsatisfiable, open_url, read_block
from offdyn_envs.datasets.store.folders import file_digest
from offdyn_envs.errors import OffDynError
from offdyn_envs.progress import progress

__all__ = ["fetch_file", "fetch_text"]

TRIES = 5
"""Tries in a row that bring a file no further, before giving up."""
PAUSE = 0.5
"""Seconds before the second try; twice as long before each later one."""
TEXT_LIMIT = 1 << 26
"""Largest manifest in bytes: what answers may not be our server, and may never end."""

Result = TypeVar("Result")


def fetch_file(url: str, path: Path, size: int, sha256: str, *, name: str, quiet: bool = False) -> None:
    """Download a file, or what is missing of it.

    Args:
        url: Of the file.
        path: Where to put it; what an earlier try left there is continued. It is not whole before this returns, so
            this must not be the final name.
        size: Bytes that it must have.
        sha256: Digest that it must have.
        name: Shown in the progress bar.
        quiet: No progress bar.

    Raises:
        OffDynError: The server does not have it, or `TRIES` tries in a row brought nothing (what arrived is kept); or
            size or digest are wrong (nothing is kept).
    """
    path.touch()
    if _size(path) > size:
        os.truncate(path, 0)
    shown = _size(path)
    with progress(f"download {name}", size, start=shown, quiet=quiet) as advance:

        def show(position: int) -> None:
            nonlocal shown
            advance(position - shown)
            shown = position

        _retry(url, lambda: _continue(url, path, size, show), lambda: _size(path), size)
    found = file_digest(path)
    if found != sha256:
        path.unlink()
        raise OffDynError(f"{url}: SHA-256 {found}; expected {sha256}; what arrived is removed")


def fetch_text(url: str) -> str:
    """Download a small text.

    Args:
        url: Of the text.

    Returns:
        The text.

    Raises:
        OffDynError: Not there, no answer after `TRIES` tries, larger than `TEXT_LIMIT`, or not UTF-8.
    """
    body = _retry(url, lambda: _read_all(url), lambda: 0, 0)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OffDynError(f"{url}: not a text in UTF-8 ({error})") from None


def _retry(url: str, attempt: Callable[[], Result], kept: Callable[[], int], size: int) -> Result:
    """Try until it works, or until `TRIES` tries in a row have brought it less than a hundredth further."""
    furthest, tries = kept(), 0
    while True:
        result = _try(attempt)
        if not isinstance(result, Broken):
            return result
        if kept() > furthest + size // 100:
            furthest, tries = kept(), 0
        tries += 1
        if tries >= TRIES:
            rest = f"; {kept():,} of {size:,} bytes are here, the same command continues" if kept() else ""
            raise OffDynError(f"{url}: {result}; gave up after {tries} tries{rest}")
        time.sleep(PAUSE * 2 ** (tries - 1))


def _try(attempt: Callable[[], Result]) -> Result | Broken:
    try:
        return attempt()
    except Broken as error:
        return error


def _continue(url: str, path: Path, size: int, show: Callable[[int], None]) -> None:
    """Ask for what is missing and append it; where the server sends everything, begin again."""
    have = _size(path)
    if have == size:
        return
    try:
        with open_url(url, have) as response:
            position = _start(url, response, path, have, size)
            show(position)
            os.truncate(path, position)
            with path.open("ab", buffering=0) as file:
                while block := read_block(response):
                    position += len(block)
                    if position > size:
                        raise _wrong_size(url, path, f"more than {size:,}", size)
                    _write(file, block, path)
                    show(position)
    except Unsatisfiable:
        os.truncate(path, 0)
        raise
    if position < size:
        raise Broken(f"the connection closed after {position:,} of {size:,} bytes")


def _write(file: Any, block: bytes, path: Path) -> None:
    """Write all of a block; a full disk is told apart from a broken connection, which is an OSError as well."""
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise OffDynError(f"{path}: {error.strerror}; what arrived is kept, the same command continues") from None


def _start(url: str, response: Any, path: Path, have: int, size: int) -> int:
    """Return the byte at which the answer begins."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise OffDynError(f"{url}: answered with Content-Encoding '{encoding[:40]}'; expected the plain file")
    if response.status != 206:
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) != size:
            raise _wrong_size(url, path, f"{int(length):,}", size)
        return 0
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if found is None or int(found[1]) != have:
        raise Unsatisfiable("answered with another range than the one asked for")
    if found[2] not in ("*", str(size)):
        raise _wrong_size(url, path, f"{int(found[2]):,}", size)
    return have


def _wrong_size(url: str, path: Path, found: str, size: int) -> OffDynError:
    path.unlink()
    return OffDynError(f"{url}: {found} bytes; expected {size:,}; what arrived is removed")


def _read_all(url: str) -> bytes:
    blocks: list[bytes] = []
    with open_url(url) as response:
        total, length = 0, response.headers.get("Content-Length", "")
        while block := read_block(response):
            blocks.append(block)
            total += len(block)
            if total > TEXT_LIMIT:
                raise OffDynError(f"{url}: more than {TEXT_LIMIT:,} bytes; expected a manifest")
    if length.isdigit() and total != int(length):
        raise Broken(f"the connection closed after {total:,} of {int(length):,} bytes")
    return b"".join(blocks)


def _size(path: Path) -> int:
    return path.stat().st_size
