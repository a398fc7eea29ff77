"""Gravity and friction: shifts whose one parameter is a factor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from offdyn_envs.errors import OffDynError
from offdyn_envs.shifts.base import SCALES, BaseShift, Product, number
from offdyn_envs.shifts.registry import register_shift

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = ["Friction", "Gravity"]


@dataclass(frozen=True)
class _Scaled(BaseShift):
    """A shift whose one parameter is a factor.

    Attributes:
        scale: The factor, 1e-6 to 1e6; 1 is nominal.
    """

    scale: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", number(f"{self.kind} shift: scale", self.scale, *SCALES))

    def products(self, robot: Robot | None) -> Iterator[Product]:
        """Yield the factor: all shifts of a kind multiply."""
        yield Product(f"{self.kind} shifts: the product of all scales", self.scale, *SCALES)


@register_shift
@dataclass(frozen=True)
class Gravity(_Scaled):
    """Multiply gravity by `scale`; published presets 0.1, 0.5, 2.0 and 5.0.

    Attributes:
        scale: Factor on the model's gravity vector, 1e-6 to 1e6; 1 is nominal.

    Examples:
        >>> import offdyn
        >>> env = offdyn.make("OffDyn/Hopper-v0", shifts=offdyn.Gravity(0.5))
        >>> env.unwrapped.model.opt.gravity[2].item()
        -4.905
    """

    kind: ClassVar[str] = "gravity"

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Scale `option.gravity`.

        Args:
            spec: The model to edit.
            robot: Its robot, for the message.
            profile: Unused: the published models agree with this edit.

        Raises:
            OffDynError: The model has no gravity.
        """
        if not spec.option.gravity.any():
            raise OffDynError(f"gravity shift: {robot.title} has no gravity, which no scale changes")
        spec.option.gravity = spec.option.gravity * self.scale

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        return f"gravity multiplied by {self.scale:g}"


@register_shift
@dataclass(frozen=True)
class Friction(_Scaled):
    """Multiply the friction of every geom, floor included, by `scale`; published presets 0.1, 0.5, 2.0 and 5.0.

    MuJoCo takes the larger friction of two touching geoms. The published Hopper models leave the floor at 1.0, so
    their x0.1 and x0.5 are one and the same task; here the effective friction is base * scale on every robot, and
    `profile="odrl"` brings the published variant back.

    Attributes:
        scale: Factor on sliding, torsional and rolling friction, 1e-6 to 1e6; 1 is nominal.

    Examples:
        >>> import offdyn
        >>> env = offdyn.make("OffDyn/Hopper-v0", shifts=offdyn.Friction(0.5))
        >>> env.unwrapped.model.geom("floor").friction[0].item()
        0.5
    """

    kind: ClassVar[str] = "friction"

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Scale the friction of the geoms.

        Args:
            spec: The model to edit.
            robot: Its robot.
            profile: "odrl" leaves Hopper's floor as it is.
        """
        for geom in spec.geoms:
            if profile == "odrl" and robot.name == "hopper" and geom.name == "floor":
                continue
            geom.friction = geom.friction * self.scale

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        return f"friction of every geom, floor included, multiplied by {self.scale:g}"
