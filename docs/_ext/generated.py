"""What pages take from the code when the site is built: settings, commands, and links to files that are no pages.

A page says where, with a block of one line, which anyone who reads the file itself sees as it is:

    ```{settings} dara         the settings of an agent, from the registry
    ```{results} dara          scores of an agent, from docs/results and the leaderboard's entries
    ```{scores} first          scores of every agent's run of that variant, by task, from docs/results
    ```{commands}              every command with its arguments, from the application
    ```{page} CHANGELOG.md     a file of the repository that is a page of the site too
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from plain_docstrings import plain as escaped

PACKAGES = ("offdyn", "offdyn_envs", "offdyn_agents")
DOCS = Path(__file__).parents[1]
BLOCK = re.compile(r"^```\{(settings|results|scores|commands|page)\} ?(.*)\n```$", re.MULTILINE)
PATTERN = re.compile(r"^([\w/-]+\*)\n", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[((?:[^]\[]|\[[^]]*\])*)\]\((\.\.?/[^)#\s]*|[^)#\s:]+/?)(#[^)]*)?\)")
IMAGE = re.compile(r"(!\[[^]]*\])\(([^)#:\s]+)\)")
PAGES = {
    "CONTRIBUTING.md": "contribute/index.md",
    "CHANGELOG.md": "contribute/changes.md",
    "CODE_OF_CONDUCT.md": "contribute/conduct.md",
    "leaderboard/README.md": "leaderboard.md",
    "datasets/README.md": "reference/datasets.md",
    "benchmarks/COSTS.md": "costs.md",
    "demo/README.md": "start/demo.md",
}
"""Files outside `docs/` that a page of the site includes, and that page."""


def settings(agent: str) -> str:
    """Return the table of an agent's settings with the values of its preset."""
    from offdyn_agents.runs.settings_page import setting_rows

    rows = setting_rows(agent)
    return table(rows, ("setting", "value", "allowed", "meaning"), code=("setting", "value"))


def results(agent: str) -> str:
    """Return the table of an agent's published runs, or that there are none."""
    from offdyn_agents.runs.evaluation import summarise

    found = [*_runs(agent), *_entries(agent)]
    rows = [
        {"run": name, "task": one["task"], "score": f"{row['score']} {row['95% interval']}"}
        for name, one in found
        for row in summarise(one)[:1]
    ]
    if not rows:
        return f"No run of `{agent}` is published yet."
    about = "Normalised scores of the final policies, with 95% intervals over seeds."
    return f"{about}\n\n{table(rows, ('task', 'run', 'score'), code=('task', 'run'))}"


def scores(variant: str) -> str:
    """Return the table of all agents' runs of a variant, a column a task, or that there are none."""
    from offdyn_agents.algorithms.registry import AGENTS, agent_class
    from offdyn_agents.runs.evaluation import summarise

    rows: list[dict[str, Any]] = []
    for kind in map(agent_class, AGENTS):
        found = [summarise(one)[0] | one for name, one in _runs(kind.name) if name == f"{kind.name}@{variant}"]
        said = kind.reading or ("diagnosis" if kind.diagnosis else "")
        cells = {one["task"]: f"{one['score']} {one['95% interval']}" for one in found}
        rows += [{"agent": f"`{kind.name}`" + (f" ({said})" if said else ""), **cells}] if found else []
    if not rows:
        return f"No run `@{variant}` is published yet."
    tasks = sorted({task for row in rows for task in row} - {"agent"})
    whole = [{task: "-" for task in tasks} | row for row in rows]
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in DOCS.glob(f"results/*/*@{variant}/run.json")]
    updates = " or ".join(f"{count:,}" for count in sorted({run["updates"] for run in runs}))
    about = f"Normalised scores of the final policies after {updates} updates, with 95% intervals over seeds."
    return f"{about}\n\n{table(whole, ('agent', *tasks))}"


def _runs(agent: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and evaluation of an agent's runs in docs/results."""
    for path in sorted(DOCS.glob(f"results/*/{agent}*/evaluation.json")):
        if path.parent.name.partition("@")[0] == agent:
            yield path.parent.name, json.loads(path.read_text(encoding="utf-8"))


def _entries(agent: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and evaluations of the leaderboard's reference entry of an agent."""
    for path in sorted((DOCS.parent / "leaderboard/submissions").glob(f"offdyn-{agent}/entry.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        for task in dict.fromkeys(one["task"] for one in entry["results"]):
            clean = {str(one["seed"]): one["returns"] for one in entry["results"] if one["task"] == task}
            yield f"leaderboard: {path.parent.name}", {"task": task, "clean": clean, "perturbed": []}


def page_text(file: str) -> str:
    """Return the text of a file of the repository; what it links to and shows is looked up from where it lies."""
    folder = posixpath.dirname(file)
    text = (DOCS.parent / file).read_text(encoding="utf-8")
    return IMAGE.sub(lambda found: f"{found[1]}(/{posixpath.relpath(f'{folder}/{found[2]}', 'docs')})", text)


def table(rows: Iterable[dict[str, Any]], columns: tuple[str, ...], code: tuple[str, ...] = ()) -> str:
    """Return rows as a table in Markdown, cells of the columns `code` as code."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        cells = [f"`{row[name]}`" if name in code and row[name] else plain(str(row[name])) for name in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plain(text: str) -> str:
    """Return text for a cell: on one line, in which nothing outside backticks is markup."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.replace("\\[", "[").split()))
    parts[::2] = [re.sub(r"([*_\[\]<$])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts).replace("|", "\\|")


def commands(_: str = "") -> str:
    """Return a section for every command of the application."""
    import typer

    from offdyn_envs.cli import build_app

    return "\n\n".join(_command(typer.main.get_command(build_app()), ("offdyn",)))


def _command(command: Any, names: tuple[str, ...]) -> Iterator[str]:
    """Yield the blocks of a command and of those below it."""
    name, inner = " ".join(names), getattr(command, "commands", {})
    context = command.context_class(command, info_name=name)
    if len(names) > 1:
        yield f"{'#' * min(len(names), 4)} `{name}`"
    for paragraph in re.split(r"\n\s*\n", (command.help or "").replace("\b", "")):
        yield plain(paragraph)
    if not inner:
        yield f"```\n{command.get_usage(context).partition(':')[2].strip()}\n```"
    records = [one.get_help_record(context) for one in command.params if "--help" not in one.opts]
    if len(names) > 1 and any(records):
        rows = [{"argument": record[0].replace("|", " or "), "meaning": record[1]} for record in records if record]
        yield table(rows, ("argument", "meaning"), code=("argument",))
    for word, below in inner.items():
        if not below.hidden:
            yield from _command(below, (*names, word))


@cache
def homes(module: str) -> dict[str, str]:
    """Return where each public name of a module is documented: the module that defines it.

    Args:
        module: Its name; without `__all__` it has no public names.
    """
    names = getattr(import_module(module), "__all__", ())
    imported = _imported(module)
    return {name: _home(module, name, imported) for name in names}


def _home(module: str, name: str, imported: dict[str, str]) -> str:
    origin = imported.get(name, module)
    if origin == module or origin.partition(".")[0] not in PACKAGES or name not in homes(origin):
        return module if origin.partition(".")[0] in PACKAGES else origin
    return homes(origin)[name]


@cache
def _imported(module: str) -> dict[str, str]:
    """Return the modules from which a module has its names."""
    found = find_spec(module)
    tree = ast.parse(Path(found.origin or "").read_text(encoding="utf-8")) if found else ast.parse("")
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {
        item.asname or item.name: str(node.module)
        if find_spec_quietly(f"{node.module}.{item.name}") is None
        else module
        for node in nodes
        for item in node.names
    }


def find_spec_quietly(name: str) -> Any:
    """Return the specification of a module, None where there is none."""
    try:
        return find_spec(name)
    except ModuleNotFoundError:
        return None


def own(module: str) -> list[str]:
    """Return the public names that a module defines itself."""
    return [name for name, home in homes(module).items() if home == module and not _is_module(module, name)]


def taken(module: str) -> list[tuple[str, str, str]]:
    """Return (name, where it is documented, its first sentence) of public names from other modules."""
    found = import_module(module)
    return [
        (name, f"{home}.{name}" if home != module else f"{module}.{name}", _first(getattr(found, name)))
        for name, home in homes(module).items()
        if home != module or _is_module(module, name)
    ]


def _is_module(module: str, name: str) -> bool:
    return find_spec_quietly(f"{module}.{name}") is not None and not callable(getattr(import_module(module), name))


def _first(found: Any) -> str:
    """Return the first sentence of a class or function; a constant has only that of its type."""
    said = found.__doc__ if callable(found) else ""
    words = " ".join((said or "").partition("\n\n")[0].split())
    return " ".join(escaped([words]))


def submodules(module: str) -> list[str]:
    """Return names of the modules right below a package; autosummary by itself knows those in `__all__` alone."""
    return sorted(one.name for one in iter_modules(getattr(import_module(module), "__path__", [])))


def _replaced(app: Any, page: str, source: list[str]) -> None:
    """Put what a page takes from the code into its text."""
    makers = {"settings": settings, "results": results, "scores": scores, "commands": commands, "page": page_text}
    text = BLOCK.sub(lambda found: makers[found[1]](found[2].strip()), source[0])
    # Sphinx warns of a pattern without pages, and nothing silences it: pages of parts that are still to come have one.
    text = PATTERN.sub(lambda found: found[0] if any(DOCS.glob(f"{found[1]}.*")) else "", text)
    if str(app.env.doc2path(page)).endswith(".md"):
        text = LINK.sub(lambda found: _linked(page, found), text)
    source[0] = text


def _linked(page: str, found: re.Match[str]) -> str:
    """Return a link, which in the site leads to a page; in the repository it leads to a file, whatever it is."""
    text, target, anchor = found[1], found[2], found[3] or ""
    base = next((file for file, other in PAGES.items() if other == f"{page}.md"), f"docs/{page}.md")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(base), target))
    if path.startswith("docs/") and (DOCS.parent / path).is_file() and not path.endswith(".py"):
        return f"[{text}](/{path.removeprefix('docs/')}{anchor})"
    if path == "README.md":
        return f"[{text}](/index.md)"
    if path in PAGES:
        return f"[{text}](/{PAGES[path]}{anchor})"
    module = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    if path.endswith(".py") and path.startswith(PACKAGES):
        return f"[{text}](/reference/api/{module}.rst)"
    # A file or folder that the site does not have.
    return text if text.startswith("`") else f"{text} (`{path}`)"


def setup(app: Any) -> dict[str, Any]:
    """Let templates ask where names are documented, and pages take from the code."""
    app.connect("source-read", _replaced)
    app.connect(
        "config-inited",
        lambda _, config: config.autosummary_context.update(own=own, taken=taken, submodules=submodules),
    )
    return {"parallel_read_safe": True}
