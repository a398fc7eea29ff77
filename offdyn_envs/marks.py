"""Parts of pages that a command writes: what stands between two marks."""

from __future__ import annotations

from offdyn_envs.errors import OffDynError

__all__ = ["between"]


def between(page: str, begin: str, end: str, text: str, where: str = "the page") -> str:
    """Return a page with a text between its two marks, whatever stood there.

    Args:
        page: The page.
        begin: The first mark.
        end: The mark below it.
        text: What stands between them, without the line breaks next to the marks.
        where: What the message calls the page.

    Raises:
        OffDynError: The page lacks a mark.
    """
    before, found, rest = page.partition(begin)
    _, below, after = rest.partition(end)
    if not found or not below:
        raise OffDynError(f"{where} lacks '{begin}' or, below it, '{end}'")
    return f"{before}{begin}\n{text}\n{end}{after}"
