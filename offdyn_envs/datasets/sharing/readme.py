"""The page beside the shipped data, written from the manifest and from the behaviour policies' cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from offdyn_envs.atomic import write_text
from offdyn_envs.benchmark.scoring.scores import load_references
from offdyn_envs.datasets.describing.derived import score
from offdyn_envs.datasets.describing.pictures import picture_path
from offdyn_envs.datasets.store.manifest import read_manifest
from offdyn_envs.policies import read_card
from offdyn_envs.robots import HANDS, WALKERS
from offdyn_envs.tasks import DYNAMICS, QUALITIES, DatasetId

__all__ = ["readme", "write_readme"]

TEMPLATE = Path(__file__).with_name("readme_template.md")
_NOTHING = "–"


def readme(root: Path) -> str:
    """Return the text of `README.md`.

    Args:
        root: Folder of the manifest, the behaviour policies and the pictures.

    Returns:
        The fixed text with the tables of target datasets, of sources and of behaviour policies.

    Raises:
        OffDynError: The manifest or a policy's card is damaged.
    """
    cards = sorted(read_manifest(root / "manifest.json")["datasets"].items(), key=lambda item: _place(item[0]))
    shipped = [_target(root, card) for _, card in cards if card["shipped"]]
    built = [_source(root, card) for _, card in cards if not card["shipped"]]
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, content in (
        ("targets", _table(_TARGETS, shipped)),
        ("sources", _table(_SOURCES, built)),
        ("behaviours", _behaviours(root)),
        ("missing", _missing(root)),
        ("published", _published(root)),
    ):
        text = text.replace(f"{{{name}}}", content)
    return text


def write_readme(root: Path) -> Path:
    """Write `README.md` and return its path; see `readme`."""
    path, text = root / "README.md", readme(root)
    write_text(path, text)
    return path


_TARGETS = ("robot", "dynamics", "rows", "episodes", "mean return", "score", "shift size", "behaviour", "SHA-256", "")
_SOURCES = ("dataset", "episodes", "mean return", "score", "SHA-256", "")
_POLICIES = (
    *("robot", "dynamics", "algorithm", "medium", "steps", "expert", "deterministic", "steps"),
    "nominal expert here",
)
_BESIDE = ("robot", "dynamics", "medium", "published medium", "expert", "published expert", "share")

PUBLISHED: Mapping[tuple[str, str], tuple[int, int]] = MappingProxyType(
    {
        ("halfcheetah", "nominal"): (0, 12_135),
        ("hopper", "nominal"): (0, 3_234),
        ("walker2d", "nominal"): (0, 4_592),
        ("ant", "nominal"): (0, 3_880),
        ("halfcheetah", "kinematic-severe"): (2_759, 7_006),
        ("hopper", "kinematic-severe"): (1_872, 2_845),
        ("walker2d", "kinematic-severe"): (2_028, 3_081),
        ("ant", "kinematic-severe"): (3_021, 5_078),
        ("halfcheetah", "morphology-severe"): (4_160, 9_624),
        ("hopper", "morphology-severe"): (1_980, 3_155),
        ("walker2d", "morphology-severe"): (2_014, 4_359),
        ("ant", "morphology-severe"): (2_178, 5_593),
        ("halfcheetah", "gravity-0.5"): (4_300, 0),
        ("hopper", "gravity-0.5"): (2_370, 0),
        ("walker2d", "gravity-0.5"): (2_900, 0),
        ("ant", "gravity-0.5"): (2_317, 0),
    }
)
"""Mean undiscounted returns (medium, expert) of published sets; 0 where there is none."""


def _place(name: str) -> tuple[int, ...]:
    """Return where a dataset stands in the tables: by robot, dynamics, quality and size, in the usual order."""
    dataset = DatasetId.parse(name)
    slugs = list(DYNAMICS[dataset.robot])
    quality = QUALITIES.index(dataset.quality)
    return (list(DYNAMICS).index(dataset.robot), slugs.index(dataset.dynamics), quality, dataset.row_count)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; numbers stand to the right."""
    if not rows:
        return "None yet."
    texts = {"robot", "dynamics", "dataset", "algorithm", "behaviour", "SHA-256", ""}
    rule = ["---" if column in texts else "---:" for column in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows))


def _target(root: Path, card: Mapping[str, Any]) -> list[str]:
    size = card.get("shift_size")
    return [
        card["robot"],
        card["dynamics"],
        f"{card['rows']:,}",
        f"{card['episodes']:,}",
        _mean(card["returns"]),
        _mean(score(card)),
        _NOTHING if size is None else f"{size:.3g}",
        " + ".join(facts["name"] for facts in card["behaviour"]),
        f"`{card['sha256'][:12]}`",
        _picture(root, card),
    ]


def _source(root: Path, card: Mapping[str, Any]) -> list[str]:
    episodes, digest = f"{card['episodes']:,}", f"`{card['sha256'][:12]}`"
    return [f"`{card['id']}`", episodes, _mean(card["returns"]), _mean(score(card)), digest, _picture(root, card)]


def _picture(root: Path, card: Mapping[str, Any]) -> str:
    if not card["returns"]:
        return ""  # There is no whole episode to draw.
    return f"[picture]({picture_path(root, card['id']).relative_to(root).as_posix()})"


def _mean(values: Mapping[str, Any] | None) -> str:
    if not values or values.get("mean") is None:
        return _NOTHING
    return f"{values['mean']:,.1f}" + ("" if values.get("se") is None else f" ± {values['se']:.1f}")


def _behaviours(root: Path) -> str:
    """Return the table of behaviour policies, and how many of the dynamics have them."""
    pairs = [(robot, dynamics) for robot in DYNAMICS for dynamics in DYNAMICS[robot]]
    rows = [row for robot, dynamics in pairs if (row := _policies(root, robot, dynamics))]
    return f"{len(rows)} of {len(pairs)} dynamics.\n\n{_table(_POLICIES, rows)}"


def _missing(root: Path) -> str:
    """Return which dynamics have no policies, and how they are had; "" if all have them."""
    status = "`offdyn dev behaviour status` tells how long:"
    heads = {
        f"Still to be trained, with `offdyn dev behaviour train`; {status}": WALKERS,
        "Still to be learned from a teacher, with `offdyn dev behaviour teach ROBOT --teacher FILE`:": HANDS,
    }
    parts: list[str] = []
    for head, robots in heads.items():
        lacking = {robot: [slug for slug in DYNAMICS[robot] if not _policies(root, robot, slug)] for robot in robots}
        lines = [f"- {robot} ({len(slugs)}): {', '.join(slugs)}" for robot, slugs in lacking.items() if slugs]
        parts += ["\n".join([head, "", *lines])] if lines else []
    return "\n\n".join(parts)


def _policies(root: Path, robot: str, dynamics: str) -> list[str]:
    """Return the row of a robot and its dynamics; empty where it has no policy."""
    folder = root / "behaviours" / robot / dynamics
    paths = {name: folder / f"{name}.safetensors" for name in ("medium", "expert")}
    cards = {name: read_card(path) for name, path in paths.items() if path.is_file()}
    if not cards:
        return []
    medium, expert = cards.get("medium"), cards.get("expert")
    return [
        robot,
        dynamics,
        ", ".join(sorted({str(card.get("algorithm", "?")) for card in cards.values()})),
        _returns(medium, "sampled"),
        _steps(medium),
        _returns(expert, "sampled"),
        _returns(expert, "deterministic"),
        _steps(expert),
        _mean(load_references()["returns"].get(robot, {}).get(dynamics, {}).get("transfer")),
    ]


def _published(root: Path) -> str:
    """Return the table of policies beside published data of the same dynamics."""
    rows: list[list[str]] = []
    for (robot, dynamics), (medium, expert) in PUBLISHED.items():
        folder = root / "behaviours" / robot / dynamics
        paths = (folder / "medium.safetensors", folder / "expert.safetensors")
        cards = [read_card(path) if path.is_file() else None for path in paths]
        share = _NOTHING
        if expert and cards[1]:
            share = f"{cards[1]['returns']['sampled']['mean'] / expert:.0%}"
        ours = [_returns(card, "sampled") for card in cards]
        theirs = [f"{value:,}" if value else _NOTHING for value in (medium, expert)]
        rows.append([robot, dynamics, ours[0], theirs[0], ours[1], theirs[1], share])
    return _table(_BESIDE, rows)


def _returns(card: Mapping[str, Any] | None, actions: str) -> str:
    return _mean((card or {}).get("returns", {}).get(actions))


def _steps(card: Mapping[str, Any] | None) -> str:
    """Return the length of training: that of the lesson or run it was continued from, and its own."""
    if card is None:
        return _NOTHING
    own = card.get("training_steps")
    if card.get("stage") == "lesson":
        return f"lesson {own:,}"
    counted = ((card.get("warm_start") or {}).get("after_steps"), own)
    steps = " + ".join([*_begun_as(card), *(f"{n:,}" for n in counted if isinstance(n, int))])
    return f"{steps} updates" if card.get("training_unit") == "critic updates" else steps or _NOTHING


def _begun_as(card: Mapping[str, Any]) -> list[str]:
    """Return what a run began as: a lesson with its steps, a run of other dynamics, an expert; nothing for nothing."""
    lesson, head, warm = (card.get(key) or {} for key in ("lesson", "head_start", "warm_start"))
    begun = [f"lesson {lesson['steps']:,}"] if lesson else []
    begun += [head["dynamics"]] if head else []
    return begun + ([f"expert of {warm['expert_of']}"] if "expert_of" in warm else [])
