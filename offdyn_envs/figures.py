"""Pictures in PNG files. Matplotlib is an extra, and is imported only where something is drawn."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offdyn_envs.atomic import write_bytes
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "save_figure"]


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
        raise OffDynError("drawing needs matplotlib; install it with: pip install 'offdyn[plots]'") from None
    return Figure(**options)


def save_figure(figure: Figure, path: Path, metadata: dict[str, str | None] | None = None) -> None:
    """Write a figure, whole or not at all.

    Args:
        figure: From `new_figure`.
        path: The PNG file.
        metadata: Texts in the file; {"Software": None} leaves out matplotlib's version.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture, metadata=metadata)
    write_bytes(path, picture.getbuffer())
