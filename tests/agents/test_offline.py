"""Fitted Q evaluation against values that are known, and what a run's folder says after an evaluation offline."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offdyn_agents.engine.export import export_run, write_contract
from offdyn_agents.engine.networks import member, policy
from offdyn_agents.engine.rows import Layout, last_rows, pack
from offdyn_agents.engine.training.module import Hardware
from offdyn_agents.engine.update import initial_population
from offdyn_agents.judging.held_out import held_out_errors
from offdyn_agents.models.fqe import FQESettings, evaluate_policies, held_out, logged_returns
from offdyn_agents.runs.offline import OfflinePlan, _dynamics, _policy, evaluate_offline, load_target, summarise_offline
from offdyn_envs import cli
from offdyn_envs.datasets.own.contract import plain_contract
from offdyn_envs.errors import OffDynError
from tests.agents.synthetic import A, S, dataset, make
from tests.agents.test_commands import TASK, data, train  # noqa: F401

LAYOUT = Layout(2, 1)
QUICK = FQESettings(discount=0.9, updates=800, warm_updates=200, batch_size=128, copies=3)


def chain(episodes=40, steps=25, seed=0, falls=False):
    """A state that every action moves by itself; the reward is what it was, so that values are known.

    s' = (s0 / 2 + a / 2, s1), r = s0: the value of a constant action a is a / (1 - d) + (s0 - a) / (1 - d / 2).
    """
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(episodes):
        state = rng.uniform(-1, 1, 2)
        for step in range(steps):
            action = rng.uniform(-1, 1, 1)
            following = np.array([state[0] / 2 + action[0] / 2, state[1]])
            rows.append((state, action, following, state[0], falls and step == steps - 1, step == steps - 1))
            state = following
    names = ("observations", "actions", "next_observations", "rewards", "terminations", "truncations")
    columns = map(np.array, zip(*rows, strict=True))
    return SimpleNamespace(**dict(zip(names, columns, strict=True)))


def constant(action):
    return lambda observations: np.full((len(observations), 1), action)


def lengths_of(found):
    return np.diff(np.flatnonzero(last_rows(found)), prepend=-1)


def test_values_are_those_of_a_known_chain():
    found = chain()
    lengths = lengths_of(found)
    assert lengths.tolist() == [25] * 40
    # Where they lead lies inside the data, and the last two at its edge, where values are drawn to the middle.
    actions = (-0.4, 0.2, -1.0, 0.9)
    values = evaluate_policies([constant(a) for a in actions], pack(found, "t"), LAYOUT, lengths, QUICK)
    assert values.starts.shape == (4, 3, 40)
    assert values.held.sum() == 8
    first = found.observations[::25, 0]
    true = np.array([action / 0.1 + (first - action) / (1.0 - 0.45) for action in actions])
    np.testing.assert_allclose(values.starts[:2].mean(1), true[:2], atol=0.8)
    np.testing.assert_allclose(values.starts[:2].mean((1, 2)), true[:2].mean(1), atol=0.3)
    np.testing.assert_allclose(values.starts.mean((1, 2)), true.mean(1), rtol=0.4)
    assert (np.argsort(values.starts.mean((1, 2))) == np.argsort(true.mean(1))).all()
    assert (values.error < 0.15).all()


def test_the_same_seed_gives_the_same_values_whoever_else_is_evaluated():
    found = chain(episodes=6)
    few = FQESettings(discount=0.9, updates=20, warm_updates=20, batch_size=16, copies=2)
    rows, lengths = pack(found, "t"), lengths_of(found)
    both = evaluate_policies([constant(0.5), constant(-0.5)], rows, LAYOUT, lengths, few)
    alone = evaluate_policies([constant(-0.5)], rows, LAYOUT, lengths, few)
    np.testing.assert_allclose(both.starts[1:], alone.starts, atol=1e-4)
    assert np.array_equal(both.held, alone.held)
    other = evaluate_policies([constant(-0.5)], rows, LAYOUT, lengths, few, seed=1)
    assert not np.allclose(other.starts, alone.starts)


def test_terminations_end_values_and_cuts_do_not():
    cut, fallen = (chain(falls=falls) for falls in (False, True))
    for found in (cut, fallen):
        found.rewards = np.ones(len(found.rewards))
    going, ended = (
        logged_returns(pack(found, "t"), LAYOUT, lengths_of(found), 0.9)[[0, 24]] for found in (cut, fallen)
    )
    np.testing.assert_allclose(going, [10.0, 10.0], rtol=1e-6)
    np.testing.assert_allclose(ended, [(1 - 0.9**25) / 0.1, 1.0], rtol=1e-6)


def test_whole_episodes_are_held_out():
    assert held_out(40, 0.2, 0).sum() == 8
    assert held_out(2, 0.2, 0).sum() == held_out(2, 0.9, 0).sum() == 1
    with pytest.raises(OffDynError, match="1 target episode; at least 2 are needed"):
        held_out(1, 0.2, 0)


def test_actions_must_be_finite():
    found = chain(episodes=3)
    with pytest.raises(OffDynError, match="a policy's action is not finite"):
        evaluate_policies([constant(np.nan)], pack(found, "t"), LAYOUT, lengths_of(found), QUICK)


@pytest.mark.parametrize("own_units", [False, True])
def test_policies_in_own_units_are_mapped_back(tmp_path, own_units):
    actor = member(initial_population(make("bc"), [0]).params["actor"], 0)
    contract = plain_contract(S, A, (-3.0, 0.0), (5.0, 0.1))
    export_run({"actor": actor}, tmp_path, S, A, (contract.action_low, contract.action_high) if own_units else None)
    if own_units:
        facts = {"agent": "bc", "seed": 0, "data_sha256": "0" * 64, "settings_sha256": "0" * 64}
        write_contract(tmp_path, contract, facts)
    observations = torch.randn(7, S)
    found = _policy(tmp_path, Layout(S, A))(observations.numpy())
    np.testing.assert_allclose(found, policy(actor, observations), atol=1e-5)


def test_dynamics_are_examined_on_rows_that_they_never_saw(tmp_path):
    agent = make("mopo", dynamics__width=16, dynamics__epochs=3, dynamics__members=5)
    source, target = pack(dataset(300, 0), "s"), pack(dataset(200, 1), "t")
    held = torch.arange(200) >= 150
    hardware = Hardware("cpu", "fp32", 1, compiled=False)
    found = held_out_errors(agent, Layout(S, A), source, target, held, [0, 1], hardware, tmp_path)
    assert found["rows"] == 50
    assert len(found["errors"]) == 2
    for each in found["errors"]:
        assert len(each["dimensions"]) == S
        assert each["state"] == pytest.approx(np.mean(each["dimensions"]))
    changed = target.clone()
    changed[held] += 1.0
    again = held_out_errors(agent, Layout(S, A), source, changed, held, [0, 1], hardware, tmp_path)
    # The same models, found in the cache: nothing of the rows held out has been learned.
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert again["errors"] != found["errors"]


def test_a_run_is_evaluated(data, tmp_path, capsys):  # noqa: F811
    assert train(capsys, tmp_path, "--seeds", 2)[0] == 0
    run = tmp_path / TASK / "droco"
    few = FQESettings(updates=10, warm_updates=10, batch_size=16, copies=2)
    result = evaluate_offline(run, OfflinePlan(few, episodes=2, quiet=True))
    assert json.loads((run / "offline.json").read_text()) == result
    assert (result["task"], result["agent"], result["discount"]) == (TASK, "droco", 0.99)
    # Rows of the stand-in do not go on from one another: each is an episode.
    assert result["target"] == {"rows": 200, "episodes": 200, "held_out": 40}
    assert list(result["seeds"]) == ["0", "1"]
    mean = np.mean([told["held_out"] for told in result["seeds"].values()])
    held = result["value"]["held_out"]
    assert held["mean"] == pytest.approx(mean)
    assert held["seeds"][0] <= mean <= held["seeds"][1]
    assert held["bootstrap"][0] <= held["bootstrap"][1]
    assert result["true"]["episodes"] == 2
    assert 0.0 < result["true"]["mean"] < 400.0
    assert (result["dynamics"]["model"], result["dynamics"]["rows"]) == ("target", 40)
    words = " ".join(row["what"] for row in summarise_offline(result))
    assert all(word in words for word in ("held-out", "logged", "true returns", "dynamics"))
    without = evaluate_offline(run, OfflinePlan(few, dynamics=False, quiet=True))
    assert "true" not in without
    assert "dynamics" not in without
    assert without["value"] == result["value"]


def test_command(data, tmp_path, capsys, monkeypatch):  # noqa: F811
    assert train(capsys, tmp_path, "--seeds", 1, agent="bc")[0] == 0
    run = tmp_path / TASK / "bc"
    few = FQESettings(updates=10, warm_updates=10, batch_size=16, copies=2)
    plan = OfflinePlan
    monkeypatch.setattr("offdyn_agents.runs.offline.OfflinePlan", lambda **told: plan(few, **told))
    for words, wanted in (([], "fitted Q evaluation"), (["--json"], '"bootstrap"')):
        with pytest.raises(SystemExit) as ended:
            cli.main(["evaluate", str(run), "--offline", "--quiet", "--threads", "1", *words])
        assert ended.value.code == 0
        assert wanted in capsys.readouterr().out
    assert json.loads((run / "offline.json").read_text())["value"]["held_out"]["seeds"] is None
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"status": "running"}))
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", str(run), "--offline"])
    assert ended.value.code == 2
    assert "is not complete; finish it with" in capsys.readouterr().err


def test_older_runs_of_agents_without_dynamics_have_none(tmp_path):
    rows, held = torch.zeros(3, LAYOUT.width), np.zeros(3, dtype=bool)
    asked = rows, LAYOUT, held, OfflinePlan(quiet=True)
    assert _dynamics(tmp_path, {"agent": "iql", "settings": {}}, *asked) == {}
    told = _dynamics(tmp_path, {"agent": "mopo", "settings": {}}, *asked)["skipped"]
    assert "run.json does not say what" in told and told.endswith("which came later; train it again")


def test_a_run_without_target_data():
    with pytest.raises(OffDynError, match=r"run\.json names no target dataset"):
        load_target({"task": "hopper-gravity-0.5-medium", "data": {}})
