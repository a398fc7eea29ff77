"""Pictures in PNG files. Matplotlib is an extra, and is imported only where something is drawn."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offdyn_envs.atomic import refuse_foreign, write_bytes
from offdyn_envs.errors import OffDynError
from offdyn_envs.version import how_to_install

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "refuse_other_than_png", "save_figure"]

PNG = b"\x89PNG\r\n"


def new_figure(**options: Any) -> Figure:
    """Return an empty figure that needs no screen.

    Args:
        options: What matplotlib's Figure takes, such as `figsize` in inches.

    Raises:
        OffDynError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise OffDynError(f"drawing needs matplotlib: {how_to_install('plots')}") from None
    return Figure(**options)


def refuse_other_than_png(path: Path) -> None:
    """Refuse to draw over another file than a picture.

    Raises:
        OffDynError: There is one.
    """
    refuse_foreign(path, lambda begins: begins.startswith(PNG), "a PNG file")


def save_figure(figure: Figure, path: Path, metadata: dict[str, str | None] | None = None) -> None:
    """Write a figure, whole or not at all.

    Args:
        figure: From `new_figure`.
        path: The PNG file.
        metadata: Texts in the file; {"Software": None} leaves out matplotlib's version.

    Raises:
        OffDynError: There is another file than a picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    refuse_other_than_png(path)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture, metadata=metadata)
    write_bytes(path, picture.getbuffer())
