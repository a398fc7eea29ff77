"""Makes text from strangers fit for one line of a terminal."""

__all__ = ["printable"]


def printable(text: object, limit: int | None = None) -> str:
    """Returns a value as text that no terminal obeys: control and direction characters become question marks.

    Args:
        text: The value.
        limit: Characters to keep; all when None.
    """
    return "".join(character if character.isprintable() else "?" for character in str(text)[:limit])
