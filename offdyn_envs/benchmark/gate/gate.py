"""The gate: which ONNX files the benchmark is willing to run.

A submitted policy is data from a stranger. The gate accepts a small, flat, deterministic graph of default-domain
operators from one list, with its weights inside the file and fixed names and shapes, and refuses everything else with
one line. It reads the protobuf only; no inference session exists before it has passed. What a flat graph can still do
(ask for a terabyte, compute for a year) is the business of the sandbox.
"""

import hashlib
import math
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from offdyn_envs.benchmark.gate.printable import printable
from offdyn_envs.errors import OffDynError

__all__ = ["OPERATORS", "ModelKind", "Signature", "inspect_model", "read_model", "weights_digest"]

ModelKind = Literal["policy", "critic"]

MAX_BYTES = 16 * 2**20
MAX_NODES = 2_000
MAX_ELEMENTS = MAX_BYTES // 4
MAX_RANK = 8
OPSETS = range(9, 24)
DEFAULT_DOMAINS = ("", "ai.onnx")
OPERATORS = frozenset(
    """
    Gemm MatMul Add Sub Mul Div Neg Abs Relu LeakyRelu Elu Gelu Tanh Sigmoid Softplus Softmax Erf Exp Log Sqrt Pow Min
    Max Clip LayerNormalization Concat Slice Split Gather Reshape Transpose Squeeze Unsqueeze Flatten Identity Constant
    Cast Shape Expand Where Greater Less Equal ReduceMean ReduceSum ReduceMax ReduceL2 BatchNormalization Reciprocal Sin
    Cos Sign Selu Celu PRelu HardSigmoid HardSwish Round ArgMax Mod
    """.split()
)
ATTRIBUTE_TYPES = ("FLOAT", "INT", "STRING", "TENSOR", "FLOATS", "INTS", "STRINGS")
TENSOR_TYPES = {"FLOAT": 4, "FLOAT16": 2, "DOUBLE": 8, "INT32": 4, "INT64": 8, "BOOL": 1}
"""Element types a file may hold, with their bytes per element."""

_NAMES: dict[ModelKind, tuple[tuple[str, ...], str]] = {
    "policy": (("observation",), "action"),
    "critic": (("observation", "action"), "q"),
}


@dataclass(frozen=True)
class Signature:
    """What the gate learned about an accepted file.

    Attributes:
        kind: `policy` or `critic`.
        observation_dim: Width of the input `observation`.
        action_dim: Width of the output `action`, or of the critic's input.
        parameters: Number of floating-point weights in the file.
        sha256: Hex digest of the bytes that were inspected.
    """

    kind: ModelKind
    observation_dim: int
    action_dim: int
    parameters: int
    sha256: str


def read_model(path: str | Path) -> bytes:
    """Reads an ONNX file of at most 16 MB.

    Args:
        path: A regular file; links are not followed.

    Raises:
        OffDynError: The file is missing, no regular file, empty or too large.
    """
    file = Path(path)
    try:
        status = file.lstat()
    except OSError as error:
        raise OffDynError(f"model '{file}' cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise OffDynError(f"model '{file}' is no regular file (links, folders and devices are refused)")
    if not 0 < status.st_size <= MAX_BYTES:
        raise OffDynError(f"model '{file}' has {status.st_size} bytes; 1 to {MAX_BYTES} are allowed")
    with file.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OffDynError(f"model '{file}' grew past {MAX_BYTES} bytes while it was read")
    return data


def inspect_model(
    data: bytes,
    kind: ModelKind,
    *,
    observation_dim: int | None = None,
    action_dim: int | None = None,
    label: str = "model",
) -> Signature:
    """Passes an ONNX file through the gate.

    Args:
        data: The file's bytes.
        kind: `policy` (`observation` -> `action`) or `critic` (`observation`, `action` -> `q`).
        observation_dim: Required width of `observation`; any when None.
        action_dim: Required width of `action`; any when None.
        label: How error messages call the file.

    Returns:
        The model's signature.

    Raises:
        OffDynError: The first rule that the file breaks.
    """
    import onnx

    if not 0 < len(data) <= MAX_BYTES:
        raise OffDynError(f"{label} has {len(data)} bytes; 1 to {MAX_BYTES} are allowed")
    model: Any = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError lives in a private module that moves between versions
        raise OffDynError(f"{label} is no ONNX file: {_line(error)}") from None
    _check_model(model, label)
    widths = _check_interface(model.graph, kind, label)
    _check_widths(widths, observation_dim, action_dim, label)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # onnx raises its own ValidationError and InferenceError, and RuntimeError below them
        raise OffDynError(f"{label} fails the ONNX checker: {_line(error)}") from None
    parameters = sum(math.prod(tensor.dims) for tensor in _weights(model.graph))
    return Signature(kind, widths["observation"], widths["action"], parameters, hashlib.sha256(data).hexdigest())


def weights_digest(data: bytes) -> str:
    """Tells policies of the same weights, whatever their files look like.

    Producers, names, the order of tensors and nodes, transposed matrices and weights stored as float16 change nothing.

    Args:
        data: A file that has passed the gate and could be loaded.

    Returns:
        Hex digest of all its floating-point weights, rounded to float16 and sorted.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    found = [numpy_helper.to_array(tensor).ravel() for tensor in _weights(onnx.load_from_string(data).graph)]
    with np.errstate(over="ignore"):
        rounded = np.concatenate([np.zeros(0), *found]).astype(np.float16)
    # A sort does not tell the two zeros apart: added to 0 they are one.
    return hashlib.sha256((np.sort(rounded) + np.float16(0.0)).tobytes()).hexdigest()


def _check_model(model: Any, label: str) -> None:
    imports = {entry.domain: entry.version for entry in model.opset_import}
    foreign = sorted(domain for domain in imports if domain not in DEFAULT_DOMAINS)
    if foreign:
        raise OffDynError(f"{label} imports operator domain {_quoted(foreign[0])}; only the default domain is allowed")
    versions = set(imports.values())
    if len(versions) != 1 or not versions <= set(OPSETS):
        raise OffDynError(
            f"{label} uses opset {sorted(versions)}; one opset from {OPSETS[0]} to {OPSETS[-1]} is allowed"
        )
    if len(model.functions):
        raise OffDynError(f"{label} defines function {_quoted(model.functions[0].name)}; functions are not allowed")
    if len(model.training_info):
        raise OffDynError(f"{label} holds training information, which is not allowed")
    graph = model.graph
    if len(graph.sparse_initializer) or len(graph.quantization_annotation):
        raise OffDynError(f"{label} holds sparse or quantised weights; dense weights are allowed")
    if not 0 < len(graph.node) <= MAX_NODES:
        raise OffDynError(f"{label} has {len(graph.node)} nodes; 1 to {MAX_NODES} are allowed")
    for node in graph.node:
        _check_node(node, label)
    for tensor in _all_tensors(graph):
        _check_tensor(tensor, label)


def _check_node(node: Any, label: str) -> None:
    if node.domain not in DEFAULT_DOMAINS:
        raise OffDynError(
            f"{label} uses an operator of domain {_quoted(node.domain)}; only the default domain is allowed"
        )
    if node.op_type not in OPERATORS:
        raise OffDynError(f"{label} uses operator {_quoted(node.op_type)}; allowed: {', '.join(sorted(OPERATORS))}")
    for attribute in node.attribute:
        kind = attribute.AttributeType.Name(attribute.type)
        if kind not in ATTRIBUTE_TYPES or attribute.ref_attr_name:
            raise OffDynError(
                f"{label} gives {node.op_type} an attribute of type {kind}; graphs and references are not allowed"
            )
    # In training a batch normalisation takes the statistics of the batch, and says so by its further outputs.
    training = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
    if node.op_type == "BatchNormalization" and (training or len(node.output) > 1):
        raise OffDynError(f"{label} uses BatchNormalization in training mode; export it in evaluation mode")


def _all_tensors(graph: Any) -> Iterable[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _weights(graph: Any) -> Iterable[Any]:
    return (tensor for tensor in _all_tensors(graph) if _type_name(tensor.data_type) in ("FLOAT", "FLOAT16", "DOUBLE"))


def _check_tensor(tensor: Any, label: str) -> None:
    if tensor.data_location != tensor.DEFAULT or len(tensor.external_data):
        raise OffDynError(f"{label} keeps tensor {_quoted(tensor.name)} in external data, which is not allowed")
    kind = _type_name(tensor.data_type)
    if kind not in TENSOR_TYPES:
        raise OffDynError(f"{label} holds a tensor of type {kind}; allowed: {', '.join(TENSOR_TYPES)}")
    if len(tensor.dims) > MAX_RANK or any(size < 0 for size in tensor.dims):
        raise OffDynError(
            f"{label} holds a tensor of shape {list(tensor.dims)[: MAX_RANK + 1]}; at most {MAX_RANK}, none negative"
        )
    elements = math.prod(tensor.dims)
    if elements > MAX_ELEMENTS:
        raise OffDynError(f"{label} holds a tensor of {elements} elements; at most {MAX_ELEMENTS} are allowed")
    if tensor.HasField("raw_data") and len(tensor.raw_data) != elements * TENSOR_TYPES[kind]:
        raise OffDynError(
            f"{label} holds a tensor of shape {list(tensor.dims)} with {len(tensor.raw_data)} bytes of {kind} data"
        )


def _check_interface(graph: Any, kind: ModelKind, label: str) -> dict[str, int]:
    inputs, output = _NAMES[kind]
    weights = {tensor.name for tensor in graph.initializer}
    given = tuple(value.name for value in graph.input if value.name not in weights)
    if weights & {*inputs, output} or sorted(given) != sorted(inputs):
        raise OffDynError(
            f"{label} takes inputs {_quoted(', '.join(given))}; a {kind} takes exactly '{', '.join(inputs)}'"
        )
    made = tuple(value.name for value in graph.output)
    if made != (output,):
        raise OffDynError(f"{label} gives outputs {_quoted(', '.join(made))}; a {kind} gives exactly '{output}'")
    values = {value.name: value for value in (*graph.input, *graph.output)}
    widths = {name: _width(values[name], label) for name in {*inputs, output} - {"q"}}
    if kind == "critic" and len(_shape(values["q"], label)) != 1:
        raise OffDynError(f"{label} gives 'q' of rank {len(_shape(values['q'], label))}; the shape [batch] is allowed")
    return widths


def _shape(value: Any, label: str) -> list[Any]:
    tensor = value.type.tensor_type
    if (
        value.type.WhichOneof("value") != "tensor_type"
        or _type_name(tensor.elem_type) != "FLOAT"
        or not tensor.HasField("shape")
    ):
        raise OffDynError(f"{label} declares {_quoted(value.name)} as no float32 tensor with a shape")
    return list(tensor.shape.dim)


def _width(value: Any, label: str) -> int:
    dims = _shape(value, label)
    if len(dims) != 2 or dims[0].WhichOneof("value") == "dim_value" or not 0 < dims[1].dim_value <= 4096:
        raise OffDynError(
            f"{label} declares {_quoted(value.name)} with shape {_print_shape(dims)}; [dynamic batch, width] is allowed"
        )
    return int(dims[1].dim_value)


def _check_widths(widths: dict[str, int], observation_dim: int | None, action_dim: int | None, label: str) -> None:
    for name, wanted in (("observation", observation_dim), ("action", action_dim)):
        if wanted is not None and widths[name] != wanted:
            raise OffDynError(f"{label} has '{name}' of width {widths[name]}; this task's is {wanted}")


def _print_shape(dims: list[Any]) -> str:
    return (
        "["
        + ", ".join(str(dim.dim_value) if dim.WhichOneof("value") == "dim_value" else "dynamic" for dim in dims)
        + "]"
    )


def _type_name(number: int) -> str:
    import onnx

    try:
        return str(onnx.TensorProto.DataType.Name(number))
    except ValueError:
        return f"number {number}"


def _quoted(text: str, limit: int = 60) -> str:
    """Quotes a name from the file: cut, and without anything that a terminal would obey."""
    return f"'{printable(text, limit)}{'...' if len(text) > limit else ''}'"


def _line(error: Exception) -> str:
    first = str(error).strip().splitlines()
    return _quoted(first[0] if first else type(error).__name__, 200)[1:-1]
