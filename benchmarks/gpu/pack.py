"""Packs what a table needs of trained runs into a few small files: policies as float16, run.json, metrics.csv.

    python benchmarks/gpu/pack.py runs OUT          # at most 8 files OUT/runs-N.tar.gz of at most 16 MiB
    tar -xzf OUT/runs-1.tar.gz                      # and they are runs again, for `offdyn evaluate`

Runs that have ended go first in the order of their names; what finds no room is named, and the status is 3. Critics,
weights and checkpoints are left out.
"""

from __future__ import annotations

import argparse
import gzip
import io
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from offdyn_agents.runs.plans import ENDED, read_run
from offdyn_envs.atomic import write_bytes
from offdyn_envs.benchmark.gate.half import halved

FILES, BYTES = 8, 16 * 2**20
KEPT = ("run.json", "metrics.csv")


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes of what is kept of a run."""
    for name in KEPT:
        if (folder / name).is_file():
            yield name, (folder / name).read_bytes()
    for policy in sorted(folder.glob("seeds/*/policy.onnx")):
        yield str(policy.relative_to(folder)), halved(policy.read_bytes())


def ended(root: Path) -> list[Path]:
    """Return the folders of runs that have ended."""
    return [path.parent for path in sorted(root.rglob("run.json")) if read_run(path.parent)["status"] in ENDED]


def archive(root: Path, folders: Sequence[Path]) -> bytes:
    """Return a compressed archive of runs, whose folders lie in it as below `root`; equal runs give equal bytes."""
    told = io.BytesIO()
    # Without the time of day, which gzip would write down.
    with (
        gzip.GzipFile(fileobj=told, mode="wb", mtime=0) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w") as packed,
    ):
        for folder in folders:
            for name, data in contents(folder):
                member = tarfile.TarInfo(str(root.name / folder.relative_to(root) / name))
                member.size = len(data)
                packed.addfile(member, io.BytesIO(data))
    return told.getvalue()


def shared_out(sizes: Sequence[int], files: int = FILES, size: int = BYTES) -> list[list[int]]:
    """Return which of several things go together into the first file that has room; some may go into none."""
    found: list[list[int]] = []
    for number, needs in enumerate(sizes):
        room = (one for one in found if sum(sizes[other] for other in one) + needs <= size)
        chosen = next(room, None)
        if chosen is not None:
            chosen.append(number)
        elif needs <= size and len(found) < files:
            found.append([number])
    return found


def main() -> int:
    """Pack runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    root = chosen.runs.absolute()
    folders = ended(root)
    # Packed together they take no more than each alone.
    shares = shared_out([len(archive(root, [folder])) for folder in folders])
    chosen.out.mkdir(parents=True, exist_ok=True)
    total = 0
    for number, share in enumerate(shares, 1):
        data = archive(root, [folders[index] for index in share])
        write_bytes(chosen.out / f"runs-{number}.tar.gz", data)
        total += len(data)
    packed = {index for share in shares for index in share}
    left = [folder for index, folder in enumerate(folders) if index not in packed]
    print(f"{chosen.out}: {len(packed)} runs in {len(shares)} files, {total:,} bytes")
    for folder in left:
        print(f"no room for {folder}", file=sys.stderr)
    return 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())
