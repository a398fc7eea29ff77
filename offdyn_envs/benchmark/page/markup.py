"""Builds HTML and SVG so that escaping is the default: whatever is not `Html` already is text."""

import html
import re
from typing import Any

__all__ = ["Html", "element", "join", "link", "number", "text"]

_HTTPS = re.compile(r"https://[A-Za-z0-9.-]+(/[!#-&(-;=?-_a-~]*)?")
_EMPTY = frozenset({"meta", "br", "hr", "input", "img", "line", "path", "rect", "circle"})


class Html(str):
    """Text that is markup already and is not escaped again."""

    __slots__ = ()


def text(value: object) -> Html:
    """Returns a value as markup: `Html` unchanged, None as nothing, anything else escaped."""
    if isinstance(value, Html):
        return value
    return Html("" if value is None else html.escape(str(value), quote=True))


def join(parts: Any, separator: str = "") -> Html:
    """Returns the parts after one another, each escaped unless it is `Html`."""
    return Html(text(separator).join(text(part) for part in parts))


def element(name: str, *children: object, **attributes: object) -> Html:
    """Returns one element.

    Args:
        name: Tag name.
        children: Content; escaped unless `Html`.
        attributes: Attribute values, escaped. A trailing underscore is cut from a name and other underscores become
            dashes; None and False leave the attribute out, True writes it without a value.
    """
    written = "".join(_attribute(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    if name in _EMPTY and not children:
        return Html(f"<{name}{written}/>" if name in ("line", "path", "rect", "circle") else f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def link(label: object, url: str) -> Html:
    """Returns a link when the address is a plain https one, and the label as text otherwise."""
    if not _HTTPS.fullmatch(url):
        return text(label)
    return element("a", label, href=url, rel="noopener noreferrer nofollow")


def number(value: float, digits: int = 1) -> str:
    """Returns a number with a true minus sign, never "-0"."""
    written = f"{value:.{digits}f}"
    if float(written) == 0:
        written = f"{0:.{digits}f}"
    return written.replace("-", "\N{MINUS SIGN}")


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    return f' {name}="{html.escape(str(value), quote=True)}"'
