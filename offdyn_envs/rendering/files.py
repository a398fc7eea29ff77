"""Writing pictures: PNG, GIF and MP4, whole or not at all."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from offdyn_envs.atomic import atomic_write, refuse_full, write_bytes
from offdyn_envs.errors import OffDynError, unknown

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SUFFIXES", "check_suffix", "write_gif", "write_movie", "write_mp4", "write_png"]

SUFFIXES = (".png", ".gif", ".mp4")
GIF_COLOURS = 128


def check_suffix(path: Path) -> str:
    """Return the suffix of a picture file in lower case.

    Raises:
        OffDynError: Not one of `SUFFIXES`.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise unknown("suffix of the picture file", suffix or path.name, SUFFIXES)
    return suffix


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a still; a picture with a palette keeps it.

    Args:
        path: The file.
        picture: The picture.
    """
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    write_bytes(path, content.getbuffer())


def write_gif(path: Path, frames: Sequence[Image.Image], seconds: float) -> None:
    """Write an animation that repeats for ever.

    Args:
        path: The file.
        frames: Its pictures, all of one size; in a common palette, or in full colour.
        seconds: Between two frames; GIF counts in hundredths, and browsers show nothing below two of them.
    """
    from offdyn_envs.rendering.captions import shared_palette

    first, *others = frames if frames[0].mode == "P" else shared_palette(frames, GIF_COLOURS)
    duration = max(2, round(seconds * 100)) * 10
    content = io.BytesIO()
    first.save(content, format="GIF", save_all=True, append_images=others, duration=duration, loop=0, optimize=True)
    write_bytes(path, content.getbuffer())


def write_mp4(path: Path, frames: Sequence[Image.Image], seconds: float) -> None:
    """Write a film in H.264.

    Args:
        path: The file.
        frames: Its pictures, all of one size, width and height even.
        seconds: Between two frames.

    Raises:
        OffDynError: The encoder is missing or fails.
    """
    from imageio_ffmpeg import get_ffmpeg_exe

    with atomic_write(path) as temporary:
        try:
            failure = _encode(get_ffmpeg_exe(), temporary, frames, seconds)
        except (OSError, RuntimeError) as error:  # RuntimeError: imageio-ffmpeg has found no encoder.
            failure = str(error)
        if failure:
            refuse_full(RuntimeError(failure), path)
            reason = failure.strip().splitlines()[-1][:120]
            raise OffDynError(f"{path}: the video encoder of imageio-ffmpeg failed: {reason}") from None


def _encode(program: str, path: Path, frames: Sequence[Image.Image], seconds: float) -> str:
    """Pipe frames into the encoder; return what it complains about, or nothing."""
    width, height = frames[0].size
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{1.0 / seconds:.6f}", "-i", "-"]
    target = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-f", "mp4", str(path)]
    command = [program, "-y", "-loglevel", "error", *source, *target]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        # An encoder that gives up closes the pipe; why, is in what it prints.
        with contextlib.suppress(BrokenPipeError):
            for frame in frames:
                process.stdin.write(frame.convert("RGB").tobytes())
        _, printed = process.communicate()
    if process.returncode == 0:
        return ""
    reason = signal.strsignal(-process.returncode) if process.returncode < 0 else None
    return printed.decode(errors="replace").strip() or reason or "no reason given"


def write_movie(path: Path, frames: Sequence[Image.Image], seconds: float) -> None:
    """Write frames as GIF or MP4, according to the suffix."""
    if check_suffix(path) == ".mp4":
        write_mp4(path, frames, seconds)
    else:
        write_gif(path, frames, seconds)
