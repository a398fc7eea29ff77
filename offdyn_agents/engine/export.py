"""Policies and critics as ONNX graphs, made from their parameters without tracing; weights as safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_agents.engine.networks import Params
from offdyn_envs.atomic import atomic_write

__all__ = ["critic_model", "export_run", "policy_model"]

OPSET, IR_VERSION = 17, 8
"""Old enough for every onnxruntime since 2022."""

Arrays = list[NDArray[np.float32]]


def _arrays(params: Params) -> Arrays:
    return [np.asarray(tensor.detach().cpu().numpy(), dtype=np.float32, order="C") for tensor in params]


def _layers(params: Arrays, name: str, source: str) -> tuple[list[Any], list[Any], str]:
    """Return nodes, initialisers and the output's name of a ReLU network."""
    from onnx import helper, numpy_helper

    nodes: list[Any] = []
    initialisers: list[Any] = []
    for index in range(len(params) // 2):
        weight, bias = f"{name}.{index}.weight", f"{name}.{index}.bias"
        initialisers += [
            numpy_helper.from_array(params[2 * index], weight),
            numpy_helper.from_array(params[2 * index + 1].reshape(-1), bias),
        ]
        product = f"{name}.{index}.product"
        nodes.append(helper.make_node("Gemm", [source, weight, bias], [product]))
        source = product
        if 2 * index + 2 < len(params):
            source = f"{name}.{index}.hidden"
            nodes.append(helper.make_node("Relu", [product], [source]))
    return nodes, initialisers, source


def _model(nodes: Sequence[Any], initialisers: Sequence[Any], inputs: Mapping[str, int], output: Any) -> bytes:
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in inputs.items()]
    graph = helper.make_graph(list(nodes), "offdyn", values, [output], list(initialisers))
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="offdyn")
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def policy_model(actor: Params) -> bytes:
    """Return the ONNX file of one run's policy: observation [batch, |S|] -> action [batch, |A|] in (-1, 1).

    Args:
        actor: [W0, b0, ...] without leading axes; ReLU between layers, tanh at the end.
    """
    from onnx import TensorProto, helper

    arrays = _arrays(actor)
    nodes, initialisers, last = _layers(arrays, "actor", "observation")
    nodes.append(helper.make_node("Tanh", [last], ["action"]))
    output = helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", arrays[-1].shape[-1]])
    return _model(nodes, initialisers, {"observation": arrays[0].shape[0]}, output)


def critic_model(critics: Params, observation_dim: int, action_dim: int) -> bytes:
    """Return the ONNX file of one run's critic: (observation, action) -> q [batch], the smaller of the twins.

    Args:
        critics: [W0, b0, ...] with one leading axis of copies.
        observation_dim: |S|.
        action_dim: |A|.
    """
    from onnx import TensorProto, helper, numpy_helper

    arrays = _arrays(critics)
    nodes: list[Any] = [helper.make_node("Concat", ["observation", "action"], ["pair"], axis=1)]
    initialisers: list[Any] = [numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")]
    values: list[str] = []
    for copy in range(len(arrays[0])):
        more, weights, last = _layers([array[copy] for array in arrays], f"critic.{copy}", "pair")
        nodes, initialisers, values = nodes + more, initialisers + weights, [*values, last]
    nodes.append(helper.make_node("Min", values, ["smaller"]))
    nodes.append(helper.make_node("Squeeze", ["smaller", "axes"], ["q"]))
    output = helper.make_tensor_value_info("q", TensorProto.FLOAT, ["batch"])
    return _model(nodes, initialisers, {"observation": observation_dim, "action": action_dim}, output)


def export_run(params: Mapping[str, Params], folder: Path, observation_dim: int, action_dim: int) -> None:
    """Write `policy.onnx`, `critic.onnx` (where there is a critic) and `weights.safetensors` of one run.

    Args:
        params: The run's networks as `Agent.exported` gives them, without the axis of runs.
        folder: `seeds/<seed>`.
        observation_dim: |S|.
        action_dim: |A|.
    """
    from safetensors.numpy import save

    files = {"policy.onnx": policy_model(params["actor"])}
    if "critic" in params:
        files["critic.onnx"] = critic_model(params["critic"], observation_dim, action_dim)
    named = {f"{name}.{i}": a for name, tensors in params.items() for i, a in enumerate(_arrays(tensors))}
    files["weights.safetensors"] = save(named)
    for name, content in files.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(content)
