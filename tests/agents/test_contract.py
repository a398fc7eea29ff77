"""Policies in own units: scaling inside the graphs, a contract beside them, a machine without this suite."""

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from offdyn_agents.engine.export import (
    CONTRACT_SCHEMA,
    bounds_of,
    critic_model,
    export_run,
    policy_model,
    write_contract,
)
from offdyn_agents.engine.networks import member, policy, twin
from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.engine.training.populations import train_runs
from offdyn_agents.engine.training.supplies import TaskRuns
from offdyn_agents.engine.update import initial_population
from offdyn_envs.benchmark.entries.schemas import schema_fault
from offdyn_envs.benchmark.gate.gate import inspect_model
from offdyn_envs.benchmark.gate.onnx_policy import load_critic, load_policy
from offdyn_envs.datasets.own.contract import Contract, plain_contract
from offdyn_envs.errors import OffDynError
from tests.agents.synthetic import A, S, dataset, make

ROOT = Path(__file__).parents[2]
LOW, HIGH = (-2.0, 0.1), (2.0, 0.7)
OWN = Contract(
    observations=("angle", "rate", "x", "y", "force"),
    actions=("torque", "valve"),
    observation_units=("rad", "rad/s", "m", "m", "N"),
    action_units=("N m", ""),
    action_low=LOW,
    action_high=HIGH,
    time_step=0.02,
)
FACTS = {"agent": "iql", "seed": 1, "data_sha256": "0" * 64, "settings_sha256": "f" * 64}


@pytest.fixture
def params():
    population = initial_population(make("iql"), [0, 1])
    return {name: member([3.0 * tensor for tensor in group], 1) for name, group in population.params.items()}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def own_units(actions):
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    return low + (high - low) * (actions + 1.0) / 2.0


def test_policy_answers_in_own_units(params):
    model = load_policy(policy_model(params["actor"], (LOW, HIGH)), observation_dim=S, action_dim=A)
    observations = draw(64, S)
    expected = own_units(policy(params["actor"], observations))
    np.testing.assert_allclose(model(observations), expected, atol=1e-6)
    np.testing.assert_allclose(
        OWN.to_policy(model(observations), "policy"), policy(params["actor"], observations), atol=1e-5
    )


def test_policy_never_leaves_its_bounds(params):
    rng = np.random.default_rng(0)
    for _ in range(20):
        low = rng.normal(scale=100.0, size=A).astype(np.float32)
        high = (low + rng.uniform(0.01, 1000.0, A)).astype(np.float32)
        model = load_policy(policy_model(params["actor"], (low.tolist(), high.tolist())))
        actions = model(1e5 * draw(64, S))
        assert (actions >= low).all()
        assert (actions <= high).all()
        assert np.isclose(actions, low).any()
        assert np.isclose(actions, high).any()


def test_critic_takes_own_units(params):
    model = load_critic(critic_model(params["critic"], S, A, (LOW, HIGH)), observation_dim=S, action_dim=A)
    observations, actions = draw(64, S), torch.tanh(draw(64, A, seed=1))
    np.testing.assert_allclose(
        model(observations, own_units(actions)), twin(params["critic"], observations, actions).amin(0), atol=1e-4
    )


def test_scaling_adds_no_more_than_it_needs(params):
    import onnx

    graph = onnx.load_from_string(policy_model(params["actor"], (LOW, HIGH))).graph
    assert [node.op_type for node in graph.node][-6:] == ["Gemm", "Tanh", "Mul", "Add", "Max", "Min"]
    inspect_model(policy_model(params["actor"], (LOW, HIGH)), "policy")
    inspect_model(critic_model(params["critic"], S, A, (LOW, HIGH)), "critic")


def test_bounds_are_those_of_scaled_contracts():
    assert bounds_of(None) is None
    assert bounds_of(plain_contract(S, A)) is None
    assert bounds_of(OWN) == (LOW, HIGH)


def test_as_many_bounds_as_actions(params):
    with pytest.raises(OffDynError, match="bounds of 1 and 1 actions; 2 of each are needed"):
        policy_model(params["actor"], ([-1.0], [1.0]))
    with pytest.raises(OffDynError, match="bounds of 3 and 3 actions; 2 of each are needed"):
        critic_model(params["critic"], S, A, ([-1.0] * 3, [1.0] * 3))


def test_contract_says_what_the_files_are(params, tmp_path):
    export_run(params, tmp_path, S, A, bounds_of(OWN))
    write_contract(tmp_path, OWN, FACTS)
    told = json.loads((tmp_path / "contract.json").read_text())
    assert schema_fault(told, CONTRACT_SCHEMA) is None
    assert [column["name"] for column in told["observations"]] == list(OWN.observations)
    assert told["actions"][1] == {"name": "valve", "unit": "", "low": 0.1, "high": 0.7}
    assert told["time_step"] == 0.02
    assert {key: told[key] for key in FACTS} == FACTS
    for kind in ("policy", "critic"):
        assert told[kind]["sha256"] == hashlib.sha256((tmp_path / f"{kind}.onnx").read_bytes()).hexdigest()
    assert told["policy"]["inputs"] == [{"name": "observation", "shape": ["batch", S], "dtype": "float32"}]
    assert told["policy"]["outputs"] == [{"name": "action", "shape": ["batch", A], "dtype": "float32"}]
    assert [value["name"] for value in told["critic"]["inputs"]] == ["observation", "action"]
    assert told["critic"]["outputs"] == [{"name": "q", "shape": ["batch"], "dtype": "float32"}]


def test_contract_of_other_dimensions(params, tmp_path):
    export_run(params, tmp_path, S, A)
    with pytest.raises(OffDynError, match="maps 5 observations to 2 actions; 4 and 2 were declared"):
        write_contract(tmp_path, plain_contract(4, 2), FACTS)
    assert not (tmp_path / "contract.json").exists()


@pytest.mark.parametrize("change", [{"format": 2}, {"data_sha256": "?"}, {"actions": []}, {"more": 1}])
def test_schema_refuses(params, tmp_path, change):
    export_run({"actor": params["actor"]}, tmp_path, S, A)
    write_contract(tmp_path, plain_contract(S, A), FACTS)
    told = json.loads((tmp_path / "contract.json").read_text())
    assert "critic" not in told
    assert schema_fault(told, CONTRACT_SCHEMA) is None
    assert schema_fault(told | change, CONTRACT_SCHEMA)


def test_training_exports_with_the_task_s_contract(tmp_path):
    agent = make("td3-bc")
    hardware = Hardware("cpu", "fp32", 1, compiled=False)
    data = (dataset(200, 0), dataset(100, 1))
    tasks = [
        TaskRuns(*data, (0,), tmp_path / "own", contract=OWN),
        TaskRuns(*data, (0,), tmp_path / "plain"),
    ]
    module = train_runs(agent, tasks, Budget(4, 4, 2), hardware, [], "t", quiet=True, cache=None)
    own, plain = (tmp_path / name / "seeds" / "0" for name in ("own", "plain"))
    told = json.loads((own / "contract.json").read_text())
    assert schema_fault(told, CONTRACT_SCHEMA) is None
    identity = module.parts[0].identity
    assert (told["data_sha256"], told["settings_sha256"]) == (identity["data"], identity["settings"])
    assert (told["agent"], told["seed"]) == ("td3-bc", 0)
    assert not (plain / "contract.json").exists()
    observations = draw(9, S)
    scaled, unscaled = (load_policy(home / "policy.onnx")(observations) for home in (own, plain))
    np.testing.assert_allclose(scaled, own_units(torch.from_numpy(unscaled)), atol=1e-6)
    assert (own / "weights.safetensors").read_bytes() == (plain / "weights.safetensors").read_bytes()


def script():
    (found,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/deploy.md").read_text(), re.DOTALL | re.MULTILINE)
    return found


def test_script_of_the_docs_is_short():
    assert len([line for line in script().splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("contract", [OWN, replace(OWN, action_low=(-1.0,) * A, action_high=(1.0,) * A)])
def test_script_of_the_docs_runs_without_this_suite(params, tmp_path, contract):
    export_run(params, tmp_path, S, A, bounds_of(contract))
    write_contract(tmp_path, contract, FACTS)
    blocked = "import sys\nfor name in ('offdyn', 'offdyn_agents', 'offdyn_envs', 'torch', 'onnx'):\n"
    blocked += "    sys.modules[name] = None\n"
    observations = draw(5, S)
    lines = "".join(json.dumps(dict(zip(OWN.observations, row.tolist(), strict=True))) + "\n" for row in observations)
    done = subprocess.run(
        [sys.executable, "-I", "-c", blocked + script(), str(tmp_path)],
        input=lines,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(answer) for answer in answers] == [list(OWN.actions)] * 5
    actions = policy(params["actor"], observations)
    expected = own_units(actions) if contract.scaled else actions
    np.testing.assert_allclose([list(answer.values()) for answer in answers], expected, atol=1e-5)
