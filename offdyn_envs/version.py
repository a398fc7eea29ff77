"""The version of the distribution, and how its parts are installed."""

__all__ = ["__version__", "how_to_install"]

__version__ = "0.1.0"


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra, for messages.

    As long as the package is on no index, that is a command in the checkout.
    """
    return f"pip install '.[{extra}]' in the checkout"
