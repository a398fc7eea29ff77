"""The pages that people read: their blocks, sentences and links."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ELSEWHERE = {
    "docs/deploy.md": "tests/agents/test_contract.py",
    "docs/identify.md": "tests/datasets/test_identify.py",
    "docs/own-robot.md": "tests/test_own_robot_page.py",
    "docs/shifts.md": "tests/envs/test_shifts_page.py",
    "docs/write-an-agent.md": "tests/outside/test_write_an_agent.py",
}
"""Pages whose blocks another file of tests runs."""
OUTSIDE = (
    *("CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md"),
    *("leaderboard/README.md", "datasets/README.md", "demo/README.md"),
)
"""Files outside docs/ that are pages of the site too."""
NOT_RUN = re.compile(r"<!-- not run: (.{10,}) -->")
FENCE = re.compile(r"^(?:(<!--(?:(?!-->).)*-->)\n)?```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXECUTED = ("", "python", "yaml")
"""Languages of blocks that do something; blocks without one are commands, where a line begins with one."""
COMMAND = re.compile(r"^(offdyn|python|make|pip|git|tensorboard) ", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text, and the comment right above it."""

    language: str
    text: str
    comment: str

    @property
    def does_something(self) -> bool:
        return self.language in ("python", "yaml") or (self.language == "" and bool(COMMAND.search(self.text)))

    @property
    def why_not(self) -> str:
        found = NOT_RUN.match(self.comment)
        return found[1] if found else ""


def pages() -> list[str]:
    """Return README.md and every page of docs/ that people wrote, by their paths."""
    generated = ("_build", "api")
    found = [path for path in sorted(DOCS.rglob("*.md")) if not set(generated) & set(path.parts)]
    return ["README.md", *(path.relative_to(ROOT).as_posix() for path in found)]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    return [Block(language.strip(), inside, comment) for comment, language, inside in FENCE.findall(text)]


def commands(text: str) -> list[list[str]]:
    """Return the words of all commands in a page's blocks."""
    return [
        shlex.split(line, comments=True)
        for block in blocks(text)
        for line in block.text.replace("\\\n", " ").splitlines()
        if block.language == "" and COMMAND.match(line)
    ]


def sentences(text: str) -> list[str]:
    """Return the sentences of a page: paragraphs, items of lists and cells of tables, without code and addresses."""
    prose = re.sub(
        r"<!--.*?-->|\$\$.*?\$\$",
        "",
        FENCE.sub("", re.sub(r"^ {4,}.*$", "", text, flags=re.MULTILINE)),
        flags=re.DOTALL,
    )
    prose = re.sub(r"!?\[((?:[^]\[]|\[[^]]*\])*)\]\([^)]*\)", r"\1", prose)
    pieces = re.split(r"\n\s*\n|\n(?=\s*(?:[-*:|#]|\d+\.) )|\|", prose)
    joined = [" ".join(piece.split()) for piece in pieces]
    return [one for piece in joined for one in re.split(r"(?<=[.!?])\**\s+(?=\S)", piece) if re.search(r"\w", one)]
