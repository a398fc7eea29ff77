"""The arguments of `offdyn render`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from offdyn_envs.errors import OffDynError
from offdyn_envs.version import how_to_install

__all__ = ["EXAMPLES", "render"]

EXAMPLES = (
    "offdyn render Hopper-gravity-0.5",
    "offdyn render walker2d-gravity-5.0-medium --out walker.png --replay",
)


def render(
    name: Annotated[
        str | None, typer.Argument(help="An environment id, a short name such as Hopper-gravity-0.5, or a task.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file: .png (a strip of frames), .gif or .mp4; NAME.gif by default.")
    ] = None,
    shift: Annotated[list[str] | None, typer.Option(help="Another shift of the target, as JSON; repeatable.")] = None,
    view: Annotated[
        Literal["episode", "pose", "ranges"],
        typer.Option(help="An episode, the robot at rest, or the ranges of changed joints."),
    ] = "episode",
    steps: Annotated[int | None, typer.Option(help="Maximum number of control steps; two seconds by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the initial state and of random actions.")] = 0,
    policy: Annotated[
        str | None,
        typer.Option(
            help="medium, expert, random, or a .safetensors or .onnx file; the shipped medium policy by default, "
            "where there is one."
        ),
    ] = None,
    replay: Annotated[bool, typer.Option("--replay", help="Replay the source's actions on the target.")] = False,
    width: Annotated[int, typer.Option(help="Size of one panel, in pixels.")] = 240,
    height: Annotated[int, typer.Option(help="Size of one panel, in pixels.")] = 240,
    fps: Annotated[int, typer.Option(help="Maximum frames per second of an animation.")] = 25,
    gallery: Annotated[Path | None, typer.Option(help="Draw the whole gallery into this folder instead.")] = None,
) -> None:
    """Draw source and target side by side, as PNG, GIF or MP4."""
    from offdyn_envs.rendering.render import Request
    from offdyn_envs.rendering.render import render as draw

    if (name is None) == (gallery is None):
        raise OffDynError("offdyn render: give either NAME or --gallery FOLDER")
    if name is None:
        _draw_gallery(gallery)
        return
    request = Request(name, out, tuple(shift or ()), steps, seed, policy, replay, view, width, height, fps)
    path, words = draw(request)
    typer.echo(f"{path}: {words}")


def _draw_gallery(folder: Path | None) -> None:
    from importlib.util import find_spec

    from offdyn_envs.rendering.gl import load_mujoco

    load_mujoco()
    from offdyn_envs.rendering.gallery import write_gallery

    assert folder is not None
    hands = find_spec("gymnasium_robotics") is not None
    size = write_gallery(folder, hands, typer.echo)
    without = "" if hands else f" (without Adroit: {how_to_install('adroit')})"
    typer.echo(f"{folder}: {size:,} bytes of pictures{without}")
