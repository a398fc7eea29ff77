"""Policies and critics as ONNX graphs, made from their parameters without tracing; weights as safetensors.

Where the actions of the data have units of their own, the scaling is part of the graphs, and `contract.json` beside
them says what their inputs and outputs are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_agents.engine.networks import Params
from offdyn_agents.engine.provenance import package_versions
from offdyn_envs.atomic import write_bytes, write_json
from offdyn_envs.datasets.own.contract import Contract
from offdyn_envs.errors import OffDynError

__all__ = [
    "CONTRACT",
    "CONTRACT_SCHEMA",
    "Bounds",
    "bounds_of",
    "critic_model",
    "export_run",
    "policy_model",
    "write_contract",
]

OPSET, IR_VERSION = 17, 8
"""Old enough for every onnxruntime since 2022."""

CONTRACT, CONTRACT_FORMAT = "contract.json", 1
CONTRACT_SCHEMA = Path(__file__).with_name("contract.schema.json")

Arrays = list[NDArray[np.float32]]
Bounds = tuple[Sequence[float], Sequence[float]]
"""Smallest and largest value of each action in its own unit, [|A|] each; -1 and 1 to a policy's network."""


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


def bounds_of(contract: Contract | None) -> Bounds | None:
    """Return the bounds of actions that have units of their own; None where they lie in [-1, 1] anyway."""
    return (contract.action_low, contract.action_high) if contract is not None and contract.scaled else None


def _halves(bounds: Bounds, action_dim: int) -> tuple[list[Any], Arrays]:
    """Return the initialisers "middle" and "half" of the scaling of actions, and low and high, float32 [|A|] each.

    Raises:
        OffDynError: There are not as many bounds as actions.
    """
    from onnx import numpy_helper

    low, high = (np.asarray(bound, dtype=np.float64) for bound in bounds)
    if low.shape != (action_dim,) or high.shape != (action_dim,):
        raise OffDynError(f"bounds of {low.size} and {high.size} actions; {action_dim} of each are needed")
    named = {"middle": (low + high) / 2.0, "half": (high - low) / 2.0}
    made = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in named.items()]
    return made, [low.astype(np.float32), high.astype(np.float32)]


def policy_model(actor: Params, bounds: Bounds | None = None) -> bytes:
    """Return the ONNX file of one run's policy: observation [batch, |S|] -> action [batch, |A|].

    Args:
        actor: [W0, b0, ...] without leading axes; ReLU between layers, tanh at the end.
        bounds: Actions are given in their own units, inside these; None: in (-1, 1).

    Raises:
        OffDynError: There are not as many bounds as actions.
    """
    from onnx import TensorProto, helper, numpy_helper

    arrays = _arrays(actor)
    action_dim = arrays[-1].shape[-1]
    nodes, initialisers, last = _layers(arrays, "actor", "observation")
    if bounds is None:
        nodes.append(helper.make_node("Tanh", [last], ["action"]))
    else:
        halves, limits = _halves(bounds, action_dim)
        initialisers += halves
        initialisers += [
            numpy_helper.from_array(limit, name) for name, limit in zip(("low", "high"), limits, strict=True)
        ]
        # Rounding may lead beyond a bound by its last bit, which a machine may refuse.
        steps = (("Tanh", [last]), ("Mul", ["half"]), ("Add", ["middle"]), ("Max", ["low"]), ("Min", ["high"]))
        value = ""
        for operator, inputs in steps:
            result = "action" if operator == "Min" else f"actor.{operator.lower()}"
            nodes.append(helper.make_node(operator, [*([value] if value else []), *inputs], [result]))
            value = result
    output = helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", action_dim])
    return _model(nodes, initialisers, {"observation": arrays[0].shape[0]}, output)


def critic_model(critics: Params, observation_dim: int, action_dim: int, bounds: Bounds | None = None) -> bytes:
    """Return the ONNX file of one run's critic: (observation, action) -> q [batch], the smaller of the twins.

    Args:
        critics: [W0, b0, ...] with one leading axis of copies.
        observation_dim: |S|.
        action_dim: |A|.
        bounds: Actions are taken in their own units, inside these; None: in [-1, 1].

    Raises:
        OffDynError: There are not as many bounds as actions.
    """
    from onnx import TensorProto, helper, numpy_helper

    arrays = _arrays(critics)
    nodes: list[Any] = []
    initialisers: list[Any] = [numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")]
    action = "action"
    if bounds is not None:
        initialisers += _halves(bounds, action_dim)[0]
        nodes += [
            helper.make_node("Sub", ["action", "middle"], ["centred"]),
            helper.make_node("Div", ["centred", "half"], ["scaled"]),
        ]
        action = "scaled"
    nodes.append(helper.make_node("Concat", ["observation", action], ["pair"], axis=1))
    values: list[str] = []
    for copy in range(len(arrays[0])):
        more, weights, last = _layers([array[copy] for array in arrays], f"critic.{copy}", "pair")
        nodes, initialisers, values = nodes + more, initialisers + weights, [*values, last]
    nodes.append(helper.make_node("Min", values, ["smaller"]))
    nodes.append(helper.make_node("Squeeze", ["smaller", "axes"], ["q"]))
    output = helper.make_tensor_value_info("q", TensorProto.FLOAT, ["batch"])
    return _model(nodes, initialisers, {"observation": observation_dim, "action": action_dim}, output)


def export_run(
    params: Mapping[str, Params], folder: Path, observation_dim: int, action_dim: int, bounds: Bounds | None = None
) -> None:
    """Write `policy.onnx`, `critic.onnx` (where there is a critic) and `weights.safetensors` of one run.

    Args:
        params: The run's networks as `Agent.exported` gives them, without the axis of runs.
        folder: `seeds/<seed>`.
        observation_dim: |S|.
        action_dim: |A|.
        bounds: Of the actions of both ONNX files, in their own units; None: in [-1, 1]. Weights are the networks' own.
    """
    from safetensors.numpy import save

    files = {"policy.onnx": policy_model(params["actor"], bounds)}
    if "critic" in params:
        files["critic.onnx"] = critic_model(params["critic"], observation_dim, action_dim, bounds)
    named = {f"{name}.{i}": a for name, tensors in params.items() for i, a in enumerate(_arrays(tensors))}
    files["weights.safetensors"] = save(named)
    for name, content in files.items():
        write_bytes(folder / name, content)


def write_contract(folder: Path, contract: Contract, facts: Mapping[str, Any]) -> None:
    """Write `contract.json` beside exported files: what a policy is told, what it answers, and where it comes from.

    `contract.schema.json` describes it.

    Args:
        folder: `seeds/<seed>`, with `policy.onnx` and perhaps `critic.onnx`.
        contract: Names, units and bounds.
        facts: "agent", its name; "seed"; "data_sha256" of what it learned from; "settings_sha256".

    Raises:
        OffDynError: The policy is of other dimensions than the contract.
    """
    files = {kind: folder / f"{kind}.onnx" for kind in ("policy", "critic")}
    told = {kind: _file_facts(path) for kind, path in files.items() if path.exists()}
    sizes = [told["policy"][way][0]["shape"][1] for way in ("inputs", "outputs")]
    if sizes != [len(contract.observations), len(contract.actions)]:
        raise OffDynError(
            f"'{files['policy']}' maps {sizes[0]} observations to {sizes[1]} actions; "
            f"{len(contract.observations)} and {len(contract.actions)} were declared"
        )
    observations = zip(contract.observations, contract.observation_units, strict=True)
    actions = zip(contract.actions, contract.action_units, contract.action_low, contract.action_high, strict=True)
    content = {
        "format": CONTRACT_FORMAT,
        **{name: facts[name] for name in ("agent", "seed", "data_sha256", "settings_sha256")},
        "observations": [{"name": name, "unit": unit} for name, unit in observations],
        "actions": [{"name": name, "unit": unit, "low": low, "high": high} for name, unit, low, high in actions],
        "time_step": contract.time_step,
        **told,
        "versions": package_versions("offdyn", "torch", "onnx"),
    }
    write_json(folder / CONTRACT, content)


def _file_facts(path: Path) -> dict[str, Any]:
    """Return name, SHA-256, inputs and outputs of an ONNX file, as it says them itself."""
    import onnx

    content = path.read_bytes()
    graph: Any = onnx.load_from_string(content).graph
    return {
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "inputs": [_value_facts(value) for value in graph.input],
        "outputs": [_value_facts(value) for value in graph.output],
    }


def _value_facts(value: Any) -> dict[str, Any]:
    from onnx import helper

    kind = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
    return {"name": value.name, "shape": shape, "dtype": str(helper.tensor_dtype_to_np_dtype(kind.elem_type))}
