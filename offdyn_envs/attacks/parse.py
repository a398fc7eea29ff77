"""Attacks from plain JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from offdyn_envs.attacks.base import Attack, half_widths
from offdyn_envs.attacks.min_q import ORDERS, MinQAttack
from offdyn_envs.attacks.uniform import RandomAttack
from offdyn_envs.errors import OffDynError, shown, unknown
from offdyn_envs.robots import Robot

__all__ = ["ATTACK_KINDS", "make_attack"]

ATTACK_KINDS = ("random", "min-q")
_BOX = ("scale", "sigma")
_NETWORKS = ("policy", "critic")
_OPTIONAL = {"zeroth": ("order", "samples"), "mixed": ("order", "starts", "steps", "gradient")}


def make_attack(value: Mapping[str, Any] | Attack, robot: Robot) -> Attack:
    """Read an attack given as a value or as a plain JSON object.

    Args:
        value: An attack, or for instance `{"kind": "random", "scale": 0.2, "sigma": [...]}`,
            `{"kind": "min-q", "scale": 0.2, "sigma": [...], "policy": "policy.onnx", "critic": "critic.onnx"}`, or the
            same with `"order": "mixed"`. "samples" (zeroth order), "starts" and "steps" (mixed order) may be given.
        robot: The robot whose observations are attacked.

    Returns:
        The attack as a value.

    Raises:
        OffDynError: An unknown kind or parameter, a missing one, a value out of range, or an ONNX file that is missing,
            not accepted, or made for another robot.
    """
    if isinstance(value, RandomAttack | MinQAttack):
        _check_width(value.sigma, robot)
        return value
    if isinstance(value, Mapping):
        return _from_json(value, robot)
    if callable(getattr(value, "perturb", None)) and not isinstance(value, type):
        return value
    raise OffDynError(f"attack must be an object such as {{'kind': 'random', ...}}, got {shown(value)}")


def _check_width(sigma: Any, robot: Robot) -> None:
    if len(sigma) != robot.observation_dim:
        raise OffDynError(f"attack: sigma has {len(sigma)} entries; {robot.name} has {robot.observation_dim}")


def _from_json(value: Mapping[str, Any], robot: Robot) -> RandomAttack | MinQAttack:
    fields = dict(value)
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in ATTACK_KINDS:
        raise unknown("attack kind", shown(kind), ATTACK_KINDS)
    _check_names(kind, fields)
    half_widths(fields["scale"], fields["sigma"])
    _check_width(fields["sigma"], robot)
    if kind == "random":
        return RandomAttack(**fields)
    from offdyn_envs.benchmark.gate.onnx_policy import load_critic, load_policy

    networks = {"policy": _network(fields, "policy", load_policy, robot)}
    networks["critic"] = _network(fields, "critic", load_critic, robot)
    return MinQAttack(**fields | networks)


def _check_names(kind: str, fields: Mapping[str, Any]) -> None:
    """Check that every parameter is there and none is unknown."""
    required, optional = _BOX, ()
    if kind == "min-q":
        order = fields.get("order", "zeroth")
        if not isinstance(order, str) or order not in ORDERS:
            raise unknown("order of the min-q attack", shown(order), ORDERS)
        required, optional = (*_BOX, *_NETWORKS), _OPTIONAL[order]
        kind = f"{kind} attack of {order} order"
    else:
        kind = f"{kind} attack"
    for name in fields:
        if name not in (*required, *optional):
            raise unknown(f"parameter of the {kind}", shown(name), (*required, *optional))
    for name in required:
        if name not in fields:
            raise OffDynError(f"{kind}: parameter '{name}' is missing; needed: {', '.join(required)}")


def _network(fields: Mapping[str, Any], name: str, load: Callable[..., Any], robot: Robot) -> Any:
    value = fields[name]
    if callable(value):
        return value
    # `isfile` also says no to a name that no file can have.
    if not isinstance(value, str | Path) or not os.path.isfile(value):
        raise OffDynError(f"attack: {name} must be the path of an ONNX file or a function, got {shown(value)}")
    widths = {"observation_dim": robot.observation_dim, "action_dim": robot.action_dim}
    return load(Path(value), **widths, label=f"attack: {name} '{value}'")
