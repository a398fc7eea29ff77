"""What an entry's page gives to copy: the commands that train and check it, and its BibTeX."""

import re
import shlex
from typing import Any

from offdyn_envs.benchmark.entries.renewal import renew_command
from offdyn_envs.benchmark.page.shown import retired
from offdyn_envs.benchmark.scoring import protocol

__all__ = ["bibtex", "training_commands", "verify_command"]

Json = dict[str, Any]
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def training_commands(entry: Json) -> str:
    """Returns the commands that reproduce an entry's training, one a line."""
    lines: list[str] = []
    code = entry["links"].get("code")
    if code:
        checkout = f" && git checkout {entry['commit']}" if entry["commit"] else ""
        lines.append(f"git clone {shlex.quote(code)} code && cd code{checkout}")
    lines += [training["command"] for _, training in sorted(entry["disclosure"].items()) if training["command"]]
    return "\n".join(dict.fromkeys(lines)) or "not given"


def verify_command(entry: Json) -> str:
    """Returns the command that re-runs an entry's policies as its verdict did: same seeds, same episodes.

    An entry of an earlier protocol is not run again as it is: the command scores its policies under today's.
    """
    if retired(entry):
        return renew_command(entry["name"])
    command = f"offdyn leaderboard verify leaderboard/submissions/{entry['name']}"
    verdict = entry.get("verdict", {})
    if verdict.get("episodes", protocol.CLEAN_EPISODES) != protocol.CLEAN_EPISODES:
        command += f" --episodes {verdict['episodes']}"
    return command + (f" --salt {shlex.quote(verdict['salt'])}" if verdict.get("salt") else "")


def bibtex(entry: Json) -> str:
    """Returns the BibTeX of an entry, special characters escaped; its year is the entry's own, or else the re-run's.

    It cites the entry: the address is that of the entry's code, and the method's paper stands in the note.
    """
    date = entry.get("verdict", {}).get("date", "")
    paper = entry["links"].get("paper")
    notes = (
        f"Entry {_latex(entry['name'])}, protocol {entry['protocol']}",
        f"re-run {date}" if date else "",
        f"paper of the method: {_latex(paper)}" if paper else "",
    )
    fields = {
        "title": f"{{{_latex(entry['method'])}}} on the offdyn leaderboard",
        "author": " and ".join(f"{{{_latex(author)}}}" for author in entry["authors"]),
        "year": (entry["date"] or date)[:4],
        "url": entry["links"].get("code", ""),
        "note": ", ".join(filter(None, notes)),
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@misc{{leaderboard-{entry['name']},", *lines, "}"])


def _latex(text: str) -> str:
    return re.sub(r"[\\{}$&#%_~^]", lambda found: _LATEX.get(found[0], f"\\{found[0]}"), text)
