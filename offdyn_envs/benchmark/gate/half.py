"""Weights at half the bytes: float32 weights become float16 inside the graph, which casts them back before use.

What is stored is what is scored: evaluations and verdicts both run the file that an entry holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["halved"]

SMALL = 16
"""Tensors of fewer elements stay as they are: their cast would cost more bytes than it saves."""
_LARGEST = float(np.finfo(np.float16).max)


def halved(data: bytes) -> bytes:
    """Return an ONNX file with its large float32 weights as float16; the same bytes for the same file.

    Weights that float16 cannot hold stay as they are, and so does a file that is halved already.

    Args:
        data: A file that has passed the gate.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model: Any = onnx.load_from_string(data)
    graph = model.graph
    casts: list[Any] = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        weights = numpy_helper.to_array(tensor)
        if weights.size < SMALL or not (np.abs(weights) <= _LARGEST).all():
            continue
        name, stored = tensor.name, f"{tensor.name}.half"
        tensor.CopyFrom(numpy_helper.from_array(weights.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    return model.SerializeToString(deterministic=True)
