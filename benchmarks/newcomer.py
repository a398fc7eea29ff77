"""A newcomer's walk: what a new user types, right and wrong, and what each command answers on a terminal.

    python -m benchmarks.newcomer --columns 80

Every command runs on a terminal of so many columns, in an empty folder, with an empty data folder. A traceback, a line
beyond the last column of a table, or another exit status than expected is named at the end; the status is then 1.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import struct
import sys
import tempfile
import termios
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["STEPS", "Answer", "Step", "complaints", "walk"]

BC = "train bc Hopper-Gravity-0.5-medium --seeds 2 --updates 40 --eval-every 20"


@dataclass(frozen=True)
class Step:
    """What is typed behind `offdyn`, the status it ends with, and words of its answer."""

    typed: str
    status: int
    words: str


STEPS = (
    Step("", 0, "Train and score"),
    Step("--help", 0, "doctor"),
    Step("-h", 0, "Examples"),
    Step("--version", 0, "offdyn "),
    Step("doctor", 0, "data folder"),
    Step("envs list --robot hopper --shift gravity", 0, "OffDyn/Hopper-gravity-0.5-v0"),
    Step("envs show hopper-gravity-0p5", 0, "gravity"),
    Step("envs show Hoper-gravity-0.5", 2, "did you mean 'Hopper-gravity-0.5'"),
    Step("tasks --robot Hopper --shift gravity", 0, "no replay"),
    Step("tasks --track mobody", 2, "did you mean 'mobody-32'"),
    Step("tasks --shift wind", 2, "unknown shift 'wind'"),
    Step("agents", 0, "droco"),
    Step("train --help", 0, "--updates"),
    Step("trian iql hopper-gravity-0.5-medium", 2, "train"),
    Step("train drocco hopper-gravity-0.5-medium", 2, "did you mean 'droco'"),
    Step("train IQL hopper-gravity-0.5", 2, "hopper-gravity-0.5-medium"),
    Step("train iql hopper-gravity-0.5-medium-replay", 2, "cannot be built"),
    Step("train iql hopper-gravity-0.5-medium", 2, "offdyn data build"),
    Step("train bc hopper-gravity-0.5-medium --device gpu", 2, "cuda"),
    Step("train bc hopper-gravity-0.5-medium --updates many", 2, "no whole number"),
    Step(BC, 0, "next: offdyn evaluate"),
    Step(BC, 0, "already complete"),
    Step("runs", 0, "hopper-gravity-0.5-medium/bc"),
    Step("evaluate runs --episodes 2 --cell-episodes 4", 0, "clean"),
    Step("evaluate no/such/run", 2, "is no run"),
    Step("compare runs/hopper-gravity-0.5-medium/bc", 2, "two runs or more"),
    Step("data list --robot hopper --available", 0, "offdyn/hopper/gravity-0p5/medium-5k-v0"),
    Step("data info Hopper/gravity-0.5/medium-5k", 0, "episodes"),
    Step("data build OffDyn/Hopper-gravity-0.5-v0", 2, "hopper-gravity-0.5-medium"),
    Step("data build offdyn/hopper/nominal/random-500-v0", 0, "500 rows"),
    Step("render hopper-gravity-0.5 --out hopper.png --steps 10", 0, "hopper.png"),
    Step("leaderboard verify no/such/entry", 2, "no/such/entry"),
    Step("diagnose --help", 0, "rollouts"),
    Step("judge hoper", 2, "unknown task 'hoper'"),
)


@dataclass(frozen=True)
class Answer:
    """What a command printed on its terminal, its exit status, and the seconds it took."""

    step: Step
    text: str
    status: int
    seconds: float


def walk(columns: int, folder: Path, steps: tuple[Step, ...] = STEPS) -> list[Answer]:
    """Run all steps in a folder, in their order.

    Args:
        columns: Of the terminal.
        folder: Where the commands run; `data` in it is their data folder.
        steps: What is typed.
    """
    # Imported once, and then forked: a command is what it is, but starts at once.
    from offdyn_envs import cli

    cli.build_app()
    return [_answer(step, columns, folder) for step in steps]


def _answer(step: Step, columns: int, folder: Path) -> Answer:
    begun = time.monotonic()
    child, terminal = pty.fork()
    if child == 0:
        _type(step, folder)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    text = bytearray()
    while part := _read(terminal):
        text += part
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode(errors="replace")).replace("\r\n", "\n")
    return Answer(step, plain, os.waitstatus_to_exitcode(status), time.monotonic() - begun)


def _type(step: Step, folder: Path) -> None:
    """Run the command in a forked process, which ends with it."""
    status = 1
    try:
        # Until the terminal has its size.
        time.sleep(0.05)
        os.environ.pop("COLUMNS", None)
        os.environ.update(OFFDYN_DATA_DIR=str(folder / "data"), TERM="xterm")
        os.chdir(folder)
        # Whoever captures this process's output has put others into their place.
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        from offdyn_envs import cli

        try:
            cli.main(step.typed.split())
        except SystemExit as ended:
            status = int(ended.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # So Linux says that nobody writes any more.
        return b""


def complaints(answer: Answer, columns: int) -> list[str]:
    """Return what is wrong with an answer: a traceback, a status or words that are not expected, a table too wide."""
    step, found = answer.step, []
    if "Traceback" in answer.text:
        found.append("a traceback")
    if answer.status != step.status:
        found.append(f"status {answer.status}, not {step.status}")
    if step.words not in " ".join(answer.text.replace("\n", "").split()) and step.words not in answer.text:
        found.append(f"nothing of '{step.words}'")
    # Messages may be longer: the terminal folds them. Tables and help are not to be folded.
    wide = [line for line in answer.text.splitlines() if len(line) > columns and set(line) & set("│─")]
    if wide:
        found.append(f"a line of {max(map(len, wide))} columns")
    return found


def main() -> None:
    """Walk, and show every answer."""
    parser = argparse.ArgumentParser(description="A newcomer's walk.")
    parser.add_argument("--columns", type=int, default=80)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        answers = walk(asked.columns, Path(folder))
    wrong = 0
    for answer in answers:
        print(f"$ offdyn {answer.step.typed}".rstrip())
        print(answer.text.rstrip())
        print(f"[{answer.seconds:.1f} s, status {answer.status}]\n")
    for answer in answers:
        for line in complaints(answer, asked.columns):
            wrong += 1
            print(f"WRONG: offdyn {answer.step.typed}: {line}")
    print(f"{len(answers)} commands at {asked.columns} columns, {wrong} complaints")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
