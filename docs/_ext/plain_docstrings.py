"""Docstrings are plain text: bars, stars and underscores mean themselves, and single backticks are code.

They are made into reStructuredText before anything else reads them, so that `|S|` is a size and no substitution.
"""

from __future__ import annotations

import re
import sys
from typing import Any

# Code between backticks is left as it is; outside of it these would be markup.
_CODE = re.compile(r"(``[^`]+``|`[^`]+`)")
_MARKUP = re.compile(r"(?<!\\)([*|]|_(?!\w))")
_ENTRY = re.compile(r"^\s+\*{0,2}\w+( \(.*?\))?: ")


def plain(lines: list[str]) -> list[str]:
    """Return a docstring's lines with everything escaped that reStructuredText would read as markup.

    Args:
        lines: As they stand in the source; examples that start with ``>>>`` stay as they are, up to an empty line.
    """
    kept, example, text = [], False, []
    for line in lines:
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if example:
            text, kept = [], [*kept, *_escaped(text), line]
        else:
            text.append(line)
    return [*kept, *_escaped(text)]


def _escaped(lines: list[str]) -> list[str]:
    """Escape a passage as a whole: code between backticks may go on over the end of a line."""
    parts = _CODE.split("\n".join(lines))
    parts[::2] = [_MARKUP.sub(r"\\\1", part).replace("`", r"\`") for part in parts[::2]]
    return "".join(parts).split("\n") if lines else []


def _process(app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    lines[:] = plain(lines)


def _keep_public(app: Any, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """Document every name of a module's `__all__`, with words of its own or without."""
    module = sys.modules.get(app.env.current_document.autodoc_module or "")
    if what == "module" and name in getattr(module, "__all__", ()):
        return False
    return None


def setup(app: Any) -> dict[str, Any]:
    """Come before Napoleon, which makes markup of sections."""
    app.connect("autodoc-process-docstring", _process, priority=100)
    app.connect("autodoc-skip-member", _keep_public)
    return {"parallel_read_safe": True}
