"""The picture of the demo's end, docs/pictures/demo.png: its last screen, and the page that it names.

    make demo
    python -m benchmarks.demo_picture

The last target of the demo runs again on a terminal of 100 columns, and a headless Chromium draws what it printed above
the page that it wrote.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from html import escape
from pathlib import Path

__all__ = ["document", "last_screen"]

ROOT = Path(__file__).parents[1]
COLUMNS, WIDTH, PAGE_HEIGHT, LINE = 100, 1200, 750, 19
COLOURS = 48
LARGEST = 150_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def last_screen(columns: int = COLUMNS) -> str:
    """Return what `make demo-page` prints on a terminal, without colours."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ["COLUMNS"] = str(columns)
        os.chdir(ROOT)
        os.execvp("make", ["make", "--no-print-directory", "demo-page"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    text = bytearray()
    try:
        while part := os.read(terminal, 1 << 16):
            text += part
    except OSError:  # So Linux says that nobody writes any more.
        pass
    os.waitpid(child, 0)
    os.close(terminal)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode(errors="replace")).replace("\r\n", "\n")


def document(screen: str, page: Path, lines: int) -> str:
    """Return a page that shows the end of a terminal's text, and below it the beginning of another page."""
    shown = "\n".join(screen.rstrip().splitlines()[-lines:])
    return f"""<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: #fff }}
pre {{ margin: 0; padding: 14px 20px; background: #20242b; color: #e6e6e6; font: 14px/{LINE}px monospace }}
iframe {{ border: 0; width: {WIDTH}px; height: {PAGE_HEIGHT}px }}
</style><pre>{escape(shown)}</pre><iframe src="{page.as_uri()}"></iframe>"""


def draw(screen: str, page: Path, out: Path, lines: int) -> None:
    """Draw the document with Chromium and write it with few colours."""
    from PIL import Image

    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is installed")
    with tempfile.TemporaryDirectory() as folder:
        source, shot = Path(folder) / "demo.html", Path(folder) / "demo.png"
        source.write_text(document(screen, page, lines), encoding="utf-8")
        height = 28 + LINE * min(lines, len(screen.rstrip().splitlines())) + PAGE_HEIGHT
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files"]
        options = [f"--user-data-dir={folder}/profile", f"--window-size={WIDTH},{height}", f"--screenshot={shot}"]
        subprocess.run([browser, *flags, *options, source.as_uri()], check=True, capture_output=True)
        with Image.open(shot) as picture:
            few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
            few.save(out, optimize=True)
    if (size := out.stat().st_size) > LARGEST:
        sys.exit(f"{out}: {size:,} bytes, more than {LARGEST:,}")
    print(f"{out}: {size:,} bytes")


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    board = ROOT / "runs/demo/leaderboard"
    parser.add_argument("--board", type=Path, default=board, help="Where the demo left its page.")
    parser.add_argument("--lines", type=int, default=24, help="Lines of the terminal to show.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/pictures/demo.png")
    options = parser.parse_args()
    screen = last_screen()
    draw(screen, (options.board / "index.html").resolve(), options.out, options.lines)


if __name__ == "__main__":
    main()
