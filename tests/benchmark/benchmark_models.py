"""Synthetic ONNX files for the tests: honest policies and each forbidden thing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def value(name: str, *shape: int | str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def model(
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    initializers: list[Any] | None = None,
    *,
    opset: int = OPSET,
    extra_domains: tuple[str, ...] = (),
    functions: list[Any] | None = None,
) -> Any:
    graph = helper.make_graph(nodes, "policy", inputs, outputs, initializers or [])
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in extra_domains)]
    return helper.make_model(graph, opset_imports=imports, functions=functions or [], ir_version=8)


def weights(name: str, array: Any) -> Any:
    return numpy_helper.from_array(np.asarray(array, dtype=np.float32), name)


def policy(observation_dim: int, action_dim: int, *, seed: int = 0, gain: float = 1.0, hidden: int = 16) -> bytes:
    """A tanh MLP with one hidden layer, seeded."""
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Gemm", ["observation", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["m"]),
        helper.make_node("Tanh", ["m"], ["action"]),
    ]
    initializers = [
        weights("w1", gain * rng.standard_normal((observation_dim, hidden)) / np.sqrt(observation_dim)),
        weights("b1", gain * rng.standard_normal(hidden)),
        weights("w2", gain * rng.standard_normal((hidden, action_dim)) / np.sqrt(hidden)),
        weights("b2", gain * rng.standard_normal(action_dim)),
    ]
    inputs, outputs = [value("observation", "batch", observation_dim)], [value("action", "batch", action_dim)]
    return model(nodes, inputs, outputs, initializers).SerializeToString()


def constant_policy(observation_dim: int, action: list[float]) -> bytes:
    """Gives the same action always."""
    nodes = [helper.make_node("Gemm", ["observation", "w", "b"], ["action"])]
    initializers = [weights("w", np.zeros((observation_dim, len(action)))), weights("b", action)]
    inputs, outputs = [value("observation", "batch", observation_dim)], [value("action", "batch", len(action))]
    return model(nodes, inputs, outputs, initializers).SerializeToString()


def critic(observation_dim: int, action_dim: int, *, seed: int = 0) -> bytes:
    """A linear critic."""
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Concat", ["observation", "action"], ["x"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Squeeze", ["y", "axis"], ["q"]),
    ]
    initializers = [
        weights("w", rng.standard_normal((observation_dim + action_dim, 1))),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"),
    ]
    inputs = [value("observation", "batch", observation_dim), value("action", "batch", action_dim)]
    return model(nodes, inputs, [value("q", "batch")], initializers).SerializeToString()


def chain(nodes: list[Any], initializers: list[Any] | None = None, *, width: int = 3, **options: Any) -> Any:
    """A model whose nodes map `observation` [batch, width] to `action` [batch, width]."""
    inputs, outputs = [value("observation", "batch", width)], [value("action", "batch", width)]
    return model(nodes, inputs, outputs, initializers, **options)


def integers(name: str, values: list[int]) -> Any:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def memory_bomb(observation_dim: int, action_dim: int) -> bytes:
    """Passes the gate; asks for 4 TB at the first inference with more than zero rows.

    The size depends on the input, so no constant folding sees it.
    """
    nodes = [
        helper.make_node("Gemm", ["observation", "w", "b"], ["base"]),
        helper.make_node("ReduceMax", ["base"], ["scalar"], keepdims=0),
        helper.make_node("Expand", ["scalar", "shape"], ["huge"]),
        helper.make_node("ReduceMax", ["huge"], ["peak"], keepdims=0),
        helper.make_node("Mul", ["peak", "zero"], ["nothing"]),
        helper.make_node("Add", ["base", "nothing"], ["action"]),
    ]
    initializers = [
        weights("w", np.zeros((observation_dim, action_dim))),
        weights("b", np.zeros(action_dim)),
        weights("zero", 0.0),
        integers("shape", [1_000_000, 1_000_000]),
    ]
    inputs, outputs = [value("observation", "batch", observation_dim)], [value("action", "batch", action_dim)]
    return model(nodes, inputs, outputs, initializers).SerializeToString()


def time_bomb(observation_dim: int, action_dim: int, *, products: int = 1_500, size: int = 4_000) -> bytes:
    """Passes the gate; needs years: a chain of products of large matrices made by Expand."""
    nodes = [
        helper.make_node("Gemm", ["observation", "w", "b"], ["base"]),
        helper.make_node("ReduceMax", ["base"], ["scalar"], keepdims=0),
        helper.make_node("Expand", ["scalar", "shape"], ["x0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"x{i}", f"x{i}"], [f"x{i + 1}"]) for i in range(products)]
    nodes += [
        helper.make_node("ReduceMax", [f"x{products}"], ["peak"], keepdims=0),
        helper.make_node("Mul", ["peak", "zero"], ["nothing"]),
        helper.make_node("Add", ["base", "nothing"], ["action"]),
    ]
    initializers = [
        weights("w", np.zeros((observation_dim, action_dim))),
        weights("b", np.zeros(action_dim)),
        weights("zero", 0.0),
        integers("shape", [size, size]),
    ]
    inputs, outputs = [value("observation", "batch", observation_dim)], [value("action", "batch", action_dim)]
    return model(nodes, inputs, outputs, initializers).SerializeToString()


def rewritten(data: bytes) -> bytes:
    """The same file by another producer."""
    model = onnx.load_from_string(data)
    model.producer_name, model.graph.doc_string = "another", "a policy of my own"
    return model.SerializeToString()


def renamed(data: bytes) -> bytes:
    """The same policy with tensors of other names in another order."""
    model = onnx.load_from_string(data)
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    for node in graph.node:
        node.input[:] = [name if name in fixed else f"my.{name}" for name in node.input]
        node.output[:] = [name if name in fixed else f"my.{name}" for name in node.output]
    tensors = list(graph.initializer)
    for tensor in tensors:
        tensor.name = f"my.{tensor.name}"
    del graph.initializer[:]
    graph.initializer.extend(reversed(tensors))
    return model.SerializeToString()


def external_data(path: str) -> bytes:
    """Keeps its weights in another file."""
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=path)
    return chain([helper.make_node("MatMul", ["observation", "w"], ["action"])], [tensor]).SerializeToString()
