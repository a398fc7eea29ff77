"""What a shift did to a robot, in words that are read off its compiled model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco

__all__ = ["mass_in_words", "model_in_words"]

_SIDES = {"b": "back", "f": "front"}
_HAND_PARTS = ("proximal", "middle", "distal")
_SMALL = 0.01


def model_in_words(model: mujoco.MjModel, base: mujoco.MjModel) -> str:
    """Return how a robot differs from the nominal one, for instance "torso width x2, length x1.6".

    Args:
        model: The shifted robot, compiled.
        base: The nominal one, compiled.

    Returns:
        Gravity, friction and the part whose size changed most; "nominal" where none of them differs.
    """
    words = [*_scale("gravity", model.opt.gravity, base.opt.gravity)]
    words += _scale("friction", model.geom_friction, base.geom_friction)
    return ", ".join(words + _sizes(model, base)) or "nominal"


def mass_in_words(model: mujoco.MjModel) -> str:
    """Return the total mass, to three digits."""
    return f"{float(np.sum(model.body_mass)):.3g} kg"


def _scale(name: str, values: NDArray[np.float64], base: NDArray[np.float64]) -> list[str]:
    """Say by how much all values were scaled, if they were."""
    factor = float(values.ravel()[np.argmax(np.abs(base))] / base.ravel()[np.argmax(np.abs(base))])
    return [f"{name} {times(factor)}"] if round(factor, 3) != 1.0 else []


def times(factor: float) -> str:
    """Return a factor as "x0.54"; what is left of a part that all but vanishes is "under x0.01"."""
    return f"x{round(factor, 2):g}" if factor >= _SMALL else f"under x{_SMALL:g}"


def _sizes(model: mujoco.MjModel, base: mujoco.MjModel) -> list[str]:
    """Say which part changed most in size, and how many others did."""
    groups: dict[str, list[str]] = {}
    strength: dict[str, float] = {}
    for geom in range(model.ngeom):
        name = model.geom(geom).name
        # Meshes are drawn only, and are measured again by the compiler.
        if name.startswith("V_") or model.geom_bodyid[geom] == 0:
            continue
        phrase, change = _change(model.geom_size[geom], base.geom_size[geom])
        if change > np.log(1.0 + _SMALL):
            groups.setdefault(phrase, []).append(_part(name))
            strength[phrase] = change
    if not groups:
        return []
    first = max(groups, key=lambda phrase: strength[phrase])
    every = [_part(model.geom(geom).name) for geom in range(model.ngeom)]
    others = sum(map(len, groups.values())) - len(groups[first])
    more = [f"+{others} part{'s' if others > 1 else ''}"] if others else []
    return [f"{_together(groups[first], every)} {first}", *more]


def _change(size: NDArray[np.float64], base: NDArray[np.float64]) -> tuple[str, float]:
    """Return a change of a capsule's radius and half-length in words, and how strong it is."""
    ratios = [float(new / old) for new, old in zip(size[:2], base[:2], strict=True) if old > 0.0]
    change = max((abs(float(np.log(max(ratio, 1e-6)))) for ratio in ratios), default=0.0)
    if len({round(ratio, 2) for ratio in ratios}) == 1:
        return times(ratios[0]), change
    named = zip(("width", "length"), ratios, strict=False)
    return ", ".join(f"{name} {times(ratio)}" for name, ratio in named if round(ratio, 2) != 1.0), change


def _part(name: str) -> str:
    """Return a geom's name as words: "bthigh" is "back thigh", "thigh_left_geom" is "left thigh"."""
    plain = name.removeprefix("C_").removesuffix("_geom")
    if plain.endswith(_HAND_PARTS):
        return f"{plain} finger part"
    if plain.endswith("_left"):
        return f"left {plain.removesuffix('_left')}"
    if plain[:1] in _SIDES and plain[1:] in ("thigh", "shin", "foot"):
        return f"{_SIDES[plain[0]]} {plain[1:]}"
    return plain.replace("_", " ")


def _together(parts: list[str], every: list[str]) -> str:
    """Name parts of one kind together: "both thighs", "4 ankles"."""
    kinds = {" ".join(part.split()[1:]) or part for part in parts}
    if len(parts) == 1 or len(kinds) > 1:
        return parts[0] if len(parts) == 1 else " and ".join(parts[:2])
    (kind,) = kinds
    all_of_them = sum(part.endswith(kind) for part in every) == len(parts)
    number = "both" if all_of_them and len(parts) == 2 else str(len(parts))
    return f"{number} {kind}s"
