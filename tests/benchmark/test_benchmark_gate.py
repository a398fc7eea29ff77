from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import benchmark_models as models
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from offdyn_envs.benchmark.gate import gate, half, onnx_policy
from offdyn_envs.errors import OffDynError


def identity(**options: Any) -> Any:
    return models.chain([helper.make_node("Identity", ["observation"], ["action"])], **options)


def one(operator: str, **attributes: Any) -> Any:
    return models.chain([helper.make_node(operator, ["observation"], ["action"], **attributes)])


def with_if() -> Any:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["observation"], ["y"])], "b", [], [models.value("y", 1, 3)]
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["c"], ["action"], then_branch=branch, else_branch=branch),
    ]
    return models.chain(nodes)


def with_hidden_graph() -> Any:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["observation"], ["y"])], "b", [], [models.value("y", 1, 3)]
    )
    return one("Identity", hidden=branch)


def with_loop() -> Any:
    body = helper.make_graph([], "b", [], [])
    return models.chain([helper.make_node("Loop", ["", "", "observation"], ["action"], body=body)])


def with_function() -> Any:
    function = helper.make_function(
        "", "Relu", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], [helper.make_opsetid("", 17)]
    )
    return identity(functions=[function])


def with_custom_domain() -> Any:
    node = helper.make_node("Relu", ["observation"], ["action"], domain="com.microsoft")
    return models.chain([node], extra_domains=("com.microsoft",))


def with_undeclared_domain() -> Any:
    return models.chain([helper.make_node("Relu", ["observation"], ["action"], domain="com.evil")])


def with_sparse() -> Any:
    result = identity()
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    result.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [9]))
    return result


def with_short_raw_data() -> Any:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 3], raw_data=b"\0" * 8)
    return models.chain([helper.make_node("MatMul", ["observation", "w"], ["action"])], [tensor])


def with_huge_tensor() -> Any:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 20])
    return models.chain([helper.make_node("MatMul", ["observation", "w"], ["action"])], [tensor])


def with_external_constant() -> Any:
    tensor = onnx.TensorProto(data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor),
        helper.make_node("Add", ["observation", "c"], ["action"]),
    ]
    return models.chain(nodes)


def with_extra_input() -> Any:
    result = identity()
    result.graph.input.append(models.value("hint", "batch", 3))
    return result


def with_extra_output() -> Any:
    result = identity()
    result.graph.output.append(models.value("observation", "batch", 3))
    return result


def with_fixed_batch() -> Any:
    return models.model(
        [helper.make_node("Identity", ["observation"], ["action"])],
        [models.value("observation", 1, 3)],
        [models.value("action", 1, 3)],
    )


def with_double_input() -> Any:
    result = identity()
    result.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return result


def with_many_nodes() -> Any:
    names = ["observation", *(f"x{i}" for i in range(gate.MAX_NODES)), "action"]
    return models.chain([helper.make_node("Identity", [a], [b]) for a, b in itertools.pairwise(names)])


def with_string_tensor() -> Any:
    result = identity()
    result.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [1], [b"x"]))
    return result


def with_training_info() -> Any:
    result = identity()
    result.training_info.add()
    return result


def with_dangling_name() -> Any:
    return models.chain([helper.make_node("Add", ["observation", "nowhere"], ["action"])])


def batch_norm(outputs: list[str] | None = None, *, opset: int = 17, **attributes: Any) -> Any:
    names = ["observation", "scale", "bias", "mean", "var"]
    values = (np.linspace(0.5, 1.5, 3), np.linspace(-1, 1, 3), np.linspace(0, 2, 3), np.linspace(0.5, 4, 3))
    node = helper.make_node("BatchNormalization", names, outputs or ["action"], **attributes)
    initializers = [models.weights(name, value) for name, value in zip(names[1:], values, strict=True)]
    return models.chain([node], initializers, opset=opset)


FORBIDDEN = {
    "batch statistics": (lambda: batch_norm(["action", "m", "v"], training_mode=1), "in training mode"),
    "hidden batch statistics": (lambda: batch_norm(training_mode=1), "in training mode"),
    "old batch statistics": (lambda: batch_norm(["action", "m", "v", "a", "b"], opset=9), "in training mode"),
    "If": (with_if, "uses operator 'If'"),
    "Loop": (with_loop, "uses operator 'Loop'"),
    "hidden graph": (with_hidden_graph, "attribute of type GRAPH"),
    "Scan": (lambda: one("Scan"), "uses operator 'Scan'"),
    "RandomNormal": (lambda: one("RandomNormalLike"), "uses operator 'RandomNormalLike'"),
    "RandomUniform": (lambda: one("RandomUniformLike"), "uses operator 'RandomUniformLike'"),
    "Multinomial": (lambda: one("Multinomial"), "uses operator 'Multinomial'"),
    "Dropout": (lambda: one("Dropout"), "uses operator 'Dropout'"),
    "Bernoulli": (lambda: one("Bernoulli"), "uses operator 'Bernoulli'"),
    "Sequence": (lambda: one("SequenceConstruct"), "uses operator 'SequenceConstruct'"),
    "function": (with_function, "defines function 'Relu'"),
    "custom domain": (with_custom_domain, "operator domain 'com.microsoft'"),
    "undeclared domain": (with_undeclared_domain, "domain 'com.evil'"),
    "two domains": (lambda: identity(extra_domains=("ai.onnx.ml",)), "operator domain 'ai.onnx.ml'"),
    "old opset": (lambda: identity(opset=1), "uses opset"),
    "sparse weights": (with_sparse, "sparse or quantised"),
    "short data": (with_short_raw_data, "with 8 bytes of FLOAT data"),
    "huge tensor": (with_huge_tensor, "elements"),
    "external constant": (with_external_constant, "external data"),
    "extra input": (with_extra_input, "takes inputs 'observation, hint'"),
    "extra output": (with_extra_output, "gives outputs"),
    "fixed batch": (with_fixed_batch, "dynamic batch"),
    "double input": (with_double_input, "no float32 tensor"),
    "many nodes": (with_many_nodes, "nodes"),
    "string tensor": (with_string_tensor, "type STRING"),
    "training info": (with_training_info, "training information"),
    "dangling name": (with_dangling_name, "ONNX checker"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_each_forbidden_feature_is_refused_by_its_own_rule(name: str) -> None:
    build, message = FORBIDDEN[name]
    with pytest.raises(OffDynError, match=message) as caught:
        gate.inspect_model(build().SerializeToString(), "policy", label="policy")
    assert "\n" not in str(caught.value)


def test_external_data_is_refused_before_anything_reads_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(np.eye(3, dtype=np.float32).tobytes())
    with pytest.raises(OffDynError, match="external data"):
        onnx_policy.load_policy(models.external_data(str(secret)))


@pytest.mark.parametrize("data", [b"", b"not a protobuf", b"\xff" * 100, b"\x00"])
def test_what_is_no_onnx_file_is_refused(data: bytes) -> None:
    with pytest.raises(OffDynError):
        gate.inspect_model(data, "policy")


def test_size_cap_links_and_missing_files(tmp_path: Path) -> None:
    large, link = tmp_path / "large.onnx", tmp_path / "link.onnx"
    with large.open("wb") as stream:
        stream.truncate(gate.MAX_BYTES + 1)
    (tmp_path / "p.onnx").write_bytes(models.policy(3, 3))
    link.symlink_to(tmp_path / "p.onnx")
    with pytest.raises(OffDynError, match="bytes; 1 to"):
        gate.read_model(large)
    with pytest.raises(OffDynError, match="no regular file"):
        gate.read_model(link)
    with pytest.raises(OffDynError, match="cannot be read"):
        gate.read_model(tmp_path / "none.onnx")


def test_names_from_a_file_reach_the_message_without_control_characters() -> None:
    with pytest.raises(OffDynError) as caught:
        gate.inspect_model(one("\x1b[31mRed\n").SerializeToString(), "policy")
    assert "\x1b" not in str(caught.value)


def test_signature_and_widths() -> None:
    data = models.policy(11, 3, hidden=16)
    signature = gate.inspect_model(data, "policy", observation_dim=11, action_dim=3)
    assert (signature.observation_dim, signature.action_dim) == (11, 3)
    assert signature.parameters == 11 * 16 + 16 + 16 * 3 + 3
    with pytest.raises(OffDynError, match="'observation' of width 11; this task's is 17"):
        gate.inspect_model(data, "policy", observation_dim=17)
    with pytest.raises(OffDynError, match="'action' of width 3; this task's is 6"):
        gate.inspect_model(data, "policy", action_dim=6)
    assert gate.inspect_model(models.critic(11, 3), "critic").kind == "critic"
    with pytest.raises(OffDynError, match="a critic takes exactly"):
        gate.inspect_model(data, "critic")


def with_weights(change: Any) -> bytes:
    """A policy whose first matrix and its transposition flag are changed."""
    model = onnx.load_from_string(models.policy(4, 2))
    first = model.graph.initializer[0]
    first.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(first).copy()), first.name))
    model.graph.node[0].attribute.append(helper.make_attribute("transB", int(first.dims[1] == 4)))
    return model.SerializeToString()


def with_zero(zero: float) -> bytes:
    def change(weights: Any) -> Any:
        weights[0, :2] = zero, 0.0
        return weights

    return with_weights(change)


def test_a_digest_of_weights_knows_a_policy_in_another_files_clothes() -> None:
    data = models.policy(4, 2)
    transposed = with_weights(lambda weights: np.ascontiguousarray(weights.T))
    same = [data, models.rewritten(data), models.renamed(data), half.halved(data), transposed]
    assert len(set(same)) == 5
    observations = np.random.default_rng(0).standard_normal((8, 4))
    acts = [onnx_policy.load_policy(one)(observations) for one in same]
    for act in acts:
        np.testing.assert_allclose(act, acts[0], atol=5e-3)
    assert {gate.weights_digest(one) for one in same} == {onnx_policy.load_policy(data).weights}
    assert gate.weights_digest(with_zero(0.0)) == gate.weights_digest(with_zero(-0.0))
    others = [models.policy(4, 2, seed=1), models.policy(4, 2, hidden=17), with_zero(0.0), with_zero(1e-3)]
    others += [with_weights(lambda weights: 1e6 * weights), identity().SerializeToString()]
    assert len({gate.weights_digest(one) for one in (data, *others)}) == 7


def test_policy_and_critic_compute_what_their_weights_say() -> None:
    policy = onnx_policy.load_policy(models.constant_policy(4, [0.25, -0.5]))
    np.testing.assert_array_equal(policy(np.ones((3, 4))), np.tile(np.float32([0.25, -0.5]), (3, 1)))
    critic = onnx_policy.load_critic(models.critic(4, 2, seed=5))
    observations, actions = np.random.default_rng(0).normal(size=(2, 6, 4))[0], np.full((6, 2), 0.5)
    weights = np.random.default_rng(5).standard_normal((6, 1))
    expected = (np.concatenate([observations, actions], axis=1) @ weights)[:, 0]
    np.testing.assert_allclose(critic(observations, actions), expected, rtol=1e-5, atol=1e-5)
    assert critic(observations, actions).shape == (6,)


def test_wrong_batch_shapes_are_refused() -> None:
    policy = onnx_policy.load_policy(models.policy(4, 2))
    with pytest.raises(OffDynError, match="allowed"):
        policy(np.zeros(4))
    with pytest.raises(OffDynError, match="allowed"):
        policy(np.zeros((2, 5)))


def test_non_finite_outputs_on_extreme_inputs_are_refused() -> None:
    exponential = models.chain([helper.make_node("Exp", ["observation"], ["action"])])
    with pytest.raises(OffDynError, match="non-finite"):
        onnx_policy.load_policy(exponential.SerializeToString())
    root = models.chain([helper.make_node("Sqrt", ["observation"], ["action"])])
    with pytest.raises(OffDynError, match="non-finite"):
        onnx_policy.load_policy(root.SerializeToString())


def test_a_policy_that_mixes_rows_is_refused() -> None:
    nodes = [
        helper.make_node("ReduceMean", ["observation"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["observation", "mean"], ["centred"]),
        helper.make_node("Tanh", ["centred"], ["action"]),
    ]
    with pytest.raises(OffDynError, match="rows must be independent"):
        onnx_policy.load_policy(models.chain(nodes).SerializeToString())


def test_a_lying_output_shape_is_refused() -> None:
    result = models.model(
        [helper.make_node("Identity", ["observation"], ["action"])],
        [models.value("observation", "batch", 4)],
        [models.value("action", "batch", 2)],
    )
    with pytest.raises(OffDynError):
        onnx_policy.load_policy(result.SerializeToString())


X = np.random.default_rng(0).uniform(-3, 3, (20, 3)).astype(np.float32)
SCALE, ALPHA = 1.0507009873554805, 1.6732632423543772


def after_shift(operator: str) -> Any:
    """The operator on |x| + 1, which is never 0."""
    nodes = [
        helper.make_node("Abs", ["observation"], ["a"]),
        helper.make_node("Add", ["a", "one"], ["b"]),
        helper.make_node(operator, ["b"], ["action"]),
    ]
    return models.chain(nodes, [models.weights("one", 1.0)])


def with_argument(operator: str, value: Any, **attributes: Any) -> Any:
    node = helper.make_node(operator, ["observation", "c"], ["action"], **attributes)
    return models.chain([node], [models.weights("c", value)])


def arg_max() -> Any:
    nodes = [
        helper.make_node("ArgMax", ["observation"], ["i"], axis=1, keepdims=1),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "ones"], ["action"]),
    ]
    return models.chain(nodes, [models.weights("ones", np.ones((1, 3)))])


def norm() -> Any:
    nodes = [
        helper.make_node("ReduceL2", ["observation"], ["n"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["n", "ones"], ["action"]),
    ]
    return models.chain(nodes, [models.weights("ones", np.ones((1, 3)))])


def three_times(column: Any) -> Any:
    return np.tile(np.asarray(column, dtype=np.float64)[:, None], (1, 3))


def normalised(x: Any) -> Any:
    scale, bias, mean, var = (np.linspace(*ends, 3) for ends in ((0.5, 1.5), (-1, 1), (0, 2), (0.5, 4)))
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


OPERATOR_VALUES = {
    "BatchNormalization": (batch_norm(), normalised),
    "BatchNormalization, opset 9": (batch_norm(opset=9), normalised),
    "Reciprocal": (after_shift("Reciprocal"), lambda x: 1 / (np.abs(x) + 1)),
    "ReduceL2": (norm(), lambda x: three_times(np.linalg.norm(x, axis=1))),
    "Sin": (one("Sin"), np.sin),
    "Cos": (one("Cos"), np.cos),
    "Sign": (one("Sign"), np.sign),
    "Selu": (one("Selu"), lambda x: SCALE * np.where(x > 0, x, ALPHA * np.expm1(np.minimum(x, 0)))),
    "Celu": (one("Celu", alpha=2.0), lambda x: np.maximum(x, 0) + np.minimum(0, 2 * np.expm1(x / 2))),
    "PRelu": (with_argument("PRelu", [0.1, 0.2, 0.3]), lambda x: np.where(x > 0, x, x * [0.1, 0.2, 0.3])),
    "HardSigmoid": (one("HardSigmoid", alpha=0.25, beta=0.4), lambda x: np.clip(0.25 * x + 0.4, 0, 1)),
    "HardSwish": (one("HardSwish"), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Round": (one("Round"), np.rint),
    "ArgMax": (arg_max(), lambda x: three_times(np.argmax(x, axis=1))),
    "Mod": (with_argument("Mod", 1.5, fmod=1), lambda x: np.fmod(x, 1.5)),
}


@pytest.mark.parametrize("name", OPERATOR_VALUES)
def test_policies_with_each_operator_pass_and_compute_its_definition(name: str) -> None:
    model, definition = OPERATOR_VALUES[name]
    policy = onnx_policy.load_policy(model.SerializeToString())
    np.testing.assert_allclose(policy(X), definition(X.astype(np.float64)), rtol=1e-5, atol=1e-5)
