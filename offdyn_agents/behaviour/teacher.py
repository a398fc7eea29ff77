"""A policy of somebody else's that teaches a behaviour: a file of arrays, never shipped."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, beginning
from offdyn_envs.robots import Robot

__all__ = ["Teacher"]

_AROUND = ("in_shift", "in_scale", "out_scale", "out_shift")
_SMALL = 1e-8


class Teacher:
    """A network with two hidden tanh layers between fixed scalings, such as the published policies of the hand.

    Actions are `out_shift + out_scale * network((observation - in_shift) / (in_scale + 1e-8))`, cut to [-1, 1].

    Attributes:
        sha256: Of the file.
    """

    def __init__(self, path: Path, robot: Robot) -> None:
        """Read a teacher.

        Args:
            path: A `.npz` file with `in_shift`, `in_scale` [|S|], `0.weight` to `2.weight` [out, in], their `bias`, and
                `out_scale`, `out_shift` [|A|].
            robot: Whom it teaches.

        Raises:
            OffDynError: No such file, or one of another layout or for another robot.
        """
        try:
            content = path.read_bytes()
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: np.asarray(file[key], dtype=np.float64) for key in file.files}
            around = [arrays[key] for key in _AROUND]
            layers = [(arrays[f"{index}.weight"].T, arrays[f"{index}.bias"]) for index in range(3)]
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise OffDynError(f"{path}: no teacher can be read from it: {beginning(error, 120)}") from None
        sizes = [around[0].shape, around[1].shape, *(array.shape for layer in layers for array in layer)]
        sizes += [around[2].shape, around[3].shape]
        seen, acts = robot.observation_dim, robot.action_dim
        first, second = (len(bias) for _, bias in layers[:2])
        wanted = [(seen,), (seen,), (seen, first), (first,), (first, second), (second,), (second, acts), (acts,)]
        if sizes != [*wanted, (acts,), (acts,)]:
            raise OffDynError(f"{path}: a teacher of {robot.title} maps {seen} to {acts} numbers, this one does not")
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._around, self._layers = around, layers

    def act(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Return what it does, float32 [B, |A|].

        Args:
            observations: [B, |S|].
        """
        shift, scale, out_scale, out_shift = self._around
        values = (observations - shift) / (scale + _SMALL)
        for weights, bias in self._layers[:-1]:
            values = np.tanh(values @ weights + bias)
        weights, bias = self._layers[-1]
        actions = out_shift + out_scale * (values @ weights + bias)
        return np.clip(actions, -1.0, 1.0).astype(np.float32)
