"""Where things live: floors that import only what is below them, no circles, rooms and files of a size to take in."""

import ast
import shutil
import subprocess
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("offdyn_envs", "offdyn_agents", "offdyn")
LONGEST_FILE, FULLEST_ROOM = 450, 20
LARGEST_REPOSITORY = 300_000_000
"""Bytes of a checkout with its history: entries bring policies, and what was committed once stays."""

# From the ground up; a room imports rooms of its own floor and of floors below.
AGENT_FLOORS = (
    ("engine",),
    ("presets",),
    ("models",),
    ("algorithms",),
    ("judging",),
    ("runs",),
    ("ablations", "behaviour", "examples", "testing", "api"),
)
ENV_FLOORS = (
    ("store", "own"),
    ("collecting", "checking", "describing"),
    ("sharing",),
    ("loading",),
    ("importing",),
    ("task",),
    ("gap", "identifying"),
    ("commands",),
)


@cache
def modules() -> dict[str, Path]:
    """Return the files of all modules by their names."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(name: str) -> frozenset[str]:
    """Return the modules that one names in imports, wherever in the file: in functions and under TYPE_CHECKING too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(modules()[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            inner = {f"{node.module}.{item.name}" for item in node.names}
            found |= {item if item in modules() else str(node.module) for item in inner}
    return frozenset(found & set(modules()) - {name})


def room(name: str, package: str) -> str:
    """Return the part of a module's name that follows its package's."""
    return name.removeprefix(f"{package}.").partition(".")[0]


def test_no_circle_of_imports():
    try:
        TopologicalSorter({name: imports(name) for name in modules()}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(("package", "floors"), [("offdyn_agents", AGENT_FLOORS), ("offdyn_envs.datasets", ENV_FLOORS)])
def test_floors_import_only_what_is_below(package, floors):
    height = {name: number for number, floor in enumerate(floors) for name in floor}
    wrong = [
        f"{name} -> {other}"
        for name in modules()
        if room(name, package) in height and name.startswith(f"{package}.")
        for other in imports(name)
        if other.startswith(f"{package}.") and height.get(room(other, package), 99) > height[room(name, package)]
    ]
    assert not wrong


def test_environments_know_no_agents():
    assert not [
        name for name in modules() if name.startswith("offdyn_envs") for other in imports(name) if "agents" in other
    ]


def test_nothing_behind_the_front_door_needs_it():
    door = {name for name in modules() if name.partition(".")[0] == "offdyn"}
    assert door and not [name for name in set(modules()) - door if imports(name) & door]


def test_runs_find_algorithms_through_the_registry():
    named = {
        other
        for name in modules()
        if name.startswith(("offdyn_agents.runs", "offdyn_agents.judging", "offdyn_agents.ablations"))
        for other in imports(name)
        if other.startswith("offdyn_agents.algorithms.")
    }
    assert named <= {"offdyn_agents.algorithms.registry"}


def test_rooms_and_files_can_be_taken_in():
    folders = {path.parent for path in modules().values()}
    crowded = {str(folder): count for folder in folders if (count := len(list(folder.glob("*.py")))) > FULLEST_ROOM}
    long = {name: count for name, path in modules().items() if (count := path.read_text().count("\n")) > LONGEST_FILE}
    assert not crowded
    assert not long


def test_every_room_says_what_lives_there():
    silent = [
        str(path)
        for path in modules().values()
        if path.name == "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def git(*words: str) -> str:
    """Return what git says of this repository; "" where there is no git, or the files come from an archive."""
    if shutil.which("git") is None:
        return ""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout


def test_the_repository_stays_small_with_its_history():
    counted = dict(line.split(": ") for line in git("count-objects", "-v").splitlines())
    if not counted:
        pytest.skip("no git repository")
    tracked = [ROOT / name for name in git("ls-files", "-z").split("\0") if name]
    files = sum(path.lstat().st_size for path in tracked if path.exists())
    assert files > 0
    assert 1024 * (int(counted["size-pack"]) + int(counted["size"])) + files < LARGEST_REPOSITORY
