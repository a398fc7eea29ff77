"""Where episodes end, of any data: a classifier that finds the robots' own limits, functions, names."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.registry import agent_class
from offdyn_agents.engine.settings import build
from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.engine.training.supplies import TaskRuns, make_supply
from offdyn_agents.models import termination as module
from offdyn_agents.models.termination import TerminationSettings, fit_termination, resolve
from offdyn_envs import load_dataset
from offdyn_envs.datasets.own.arrays import from_arrays
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from tests.agents.synthetic import A, S, dataset

SHORT = TerminationSettings(updates=600)


def walks(episodes=150, seed=0, limit=1.0, size=3, steps=40):
    """Random walks that end where their first coordinate leaves (-limit, limit), or after some steps."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(episodes):
        state = 0.1 * rng.standard_normal(size)
        for step in range(steps):
            following = state + 0.2 * rng.standard_normal(size)
            ended = abs(following[0]) >= limit
            rows.append((state, following, ended, step == steps - 1 and not ended))
            state = following
            if ended:
                break
    before, after, ends, cut = (np.array(column) for column in zip(*rows, strict=True))
    return {
        "observations": before,
        "next_observations": after,
        "actions": np.zeros((len(ends), 1)),
        "rewards": np.zeros(len(ends)),
        "terminations": ends,
        "truncations": cut,
    }


def as_object(arrays, **changes):
    return SimpleNamespace(**{**arrays, **changes})


@pytest.fixture(scope="module")
def learned():
    return fit_termination([as_object(walks()), as_object(walks(10, seed=1))], settings=SHORT)


def test_limit_of_a_walk_is_found(learned):
    unseen = walks(200, seed=9)
    states = torch.from_numpy(unseen["next_observations"])
    said = learned(states)
    assert said.dtype == torch.bool
    ends = torch.from_numpy(unseen["terminations"])
    assert float(said[ends].double().mean()) > 0.95
    assert float((~said[~ends]).double().mean()) > 0.95
    assert torch.equal(learned(states.reshape(1, -1, 3))[0], said)
    assert learned(states[0]).shape == ()
    assert learned(torch.full((2, 3), torch.nan)).tolist() == [True, True]


def test_report_counts_held_out_episodes(learned):
    report, held = learned.report, learned.report["held_out"]
    parts = [walks(), walks(10, seed=1)]
    assert report["rows"] == sum(len(part["rewards"]) for part in parts)
    falls = sum(int(part["terminations"].sum()) for part in parts)
    assert report["terminations"] == pytest.approx(falls / report["rows"])
    assert report["learned_from"]["terminations"] + held["terminations"] == falls
    assert held["terminations"] == round(0.2 * falls)
    assert held["balanced_accuracy"] == pytest.approx(1 - (held["misses"] + held["false_alarms"]) / 2)
    right = (1 - held["misses"]) * held["terminations"] + (1 - held["false_alarms"]) * (
        held["rows"] - held["terminations"]
    )
    assert held["accuracy"] == pytest.approx(right / held["rows"])


def test_whole_episodes_are_held_out():
    arrays = walks()
    for part in (arrays, {**arrays, "truncations": None}):
        rows = module._rows([as_object(part)], 0.2, seed=0)
        last = arrays["terminations"] | arrays["truncations"]
        episode = np.cumsum(last) - last
        held = rows.held.numpy()
        assert all(len(set(held[episode == number])) == 1 for number in range(episode[-1] + 1))


@pytest.mark.parametrize("robot", ["hopper", "walker2d"])
def test_agrees_with_robots_on_their_own_data(robot):
    data = load_dataset(f"offdyn/{robot}/gravity-0p5/medium-5k-v0")
    found = fit_termination([data])
    assert found.report["held_out"]["balanced_accuracy"] > 0.97
    exact = get_robot(robot).terminated_from_observation(data.next_observations)
    said = found(torch.from_numpy(data.next_observations)).numpy()
    assert said[exact].all()
    assert said[~exact].mean() < 0.03


def test_same_seed_gives_same_classifier_and_cache_finds_it(tmp_path, monkeypatch, learned):
    parts = [as_object(walks()), as_object(walks(10, seed=1))]
    again = fit_termination(parts, cache=tmp_path, settings=SHORT)
    for name, tensor in learned.tensors().items():
        assert torch.equal(again.tensors()[name], tensor)
    monkeypatch.setattr(module, "_train", None)
    found = fit_termination(parts, cache=tmp_path, settings=SHORT)
    assert found.report == learned.report
    assert torch.equal(found.params[0], learned.params[0])
    with pytest.raises(TypeError):
        fit_termination(parts, cache=tmp_path, seed=1, settings=SHORT)


@pytest.mark.parametrize(("flag", "words"), [(False, "never end early"), (True, "end after a step")])
def test_one_kind_alone_is_a_constant(flag, words):
    arrays = walks(5)
    arrays["terminations"] = np.full(len(arrays["rewards"]), flag)
    found = fit_termination([as_object(arrays)], settings=SHORT)
    assert found(torch.randn(7, 3)).tolist() == [flag] * 7
    assert words in found.report["note"]
    held = found.report["held_out"]
    assert held["accuracy"] == 1.0
    assert held["balanced_accuracy"] is None


def test_one_terminating_episode_is_learned_from():
    arrays = walks(20)
    first = int(np.flatnonzero(arrays["terminations"])[0])
    arrays["terminations"] = np.arange(len(arrays["rewards"])) == first
    found = fit_termination([as_object(arrays)], settings=SHORT)
    assert found.report["learned_from"]["terminations"] == 1
    assert found.report["held_out"]["misses"] is None


def test_most_rows_that_end_nothing_are_left_out():
    few = TerminationSettings(updates=100, others=200)
    found = fit_termination([as_object(walks())], settings=few)
    assert found.report["learned_from"]["others"] == 200
    assert found.report["rows"] > 2000


def test_what_suits_the_data_is_chosen():
    hopper = load_dataset("offdyn/hopper/gravity-0p5/medium-5k-v0")
    own = from_arrays(walks(), "own")
    calm = from_arrays({**walks(), "terminations": np.zeros(len(own))}, "own")
    kinds = {
        "robot": resolve(None, hopper, hopper),
        "learned": resolve(None, own, calm),
        "never": resolve(None, calm, calm),
    }
    assert {kind: report["kind"] for kind, (_, report) in kinds.items()} == {kind: kind for kind in kinds}
    robot = kinds["robot"][1]
    assert robot["name"] == "hopper"
    assert robot["data"]["accuracy"] == 1.0
    assert not kinds["never"][0](torch.ones(2, 3)).any()
    assert resolve("never", own, None)[1]["terminations"] > 0.0


@pytest.mark.parametrize(
    "function",
    [
        lambda observations: np.abs(np.asarray(observations)[..., 0]) >= 1.0,
        lambda observations: abs(observations[..., 0]) >= 1.0,
        lambda observations: torch.abs(observations[..., 0]) >= 1.0,
    ],
)
def test_functions_of_arrays_and_of_tensors(function):
    found, report = resolve(function, as_object(walks()), None)
    assert report["kind"] == "function"
    assert report["data"]["accuracy"] == 1.0
    states = torch.randn(4, 5, 3)
    assert torch.equal(found(states), states[..., 0].abs() >= 1.0)


def wrong_shape(observations):
    return observations > 1.0


def no_bool(observations):
    return np.zeros(observations.shape[:-1])


def only_tables(observations):
    return np.array([row[0] > 1 for row in observations])


def broken(observations):
    raise KeyError("height")


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("hoper", "unknown termination 'hoper'; did you mean 'hopper'?"),
        ("lerned", "did you mean 'learned'?"),
        ("hopper", "termination 'hopper' is of 11 observations; the data's 3"),
        (wrong_shape, r"'wrong_shape' returns bool \[3, 3\] for observations \[3, 3\]; bool \[3\] is allowed"),
        (no_bool, r"'no_bool' returns float64 \[3\]"),
        (only_tables, "'only_tables' fails with"),
        (broken, "'broken' fails with KeyError: 'height'"),
    ],
)
def test_bad_choices(choice, told):
    with pytest.raises(OffDynError, match=told):
        resolve(choice, as_object(walks(5)), None)


def test_states_of_several_sizes():
    with pytest.raises(OffDynError, match=r"termination: .* rows of sizes \[2, 3\]"):
        fit_termination([as_object(walks(3)), as_object(walks(3, size=2))])


def test_a_task_s_own_termination_reaches_stages_and_rollouts(tmp_path, monkeypatch):
    kind = agent_class("mopo")
    small = {"starts": 50, "dynamics.width": 8, "dynamics.epochs": 1, "dynamics.members": 5}
    agent = kind(build(kind.settings_class, {"width": 16, "batch_size": 32, **small}), S, A)
    real, seen = kind.stages, []

    def stages(self, context):
        seen.append(context.terminated)
        return real(self, context)

    def always(observations):
        return torch.ones(observations.shape[:-1], dtype=torch.bool)

    monkeypatch.setattr(kind, "stages", stages)
    data = (dataset(200, 0), dataset(100, 1))
    hardware = Hardware("cpu", "fp32", 1, compiled=False)
    for told in (always, None):
        task = TaskRuns(*data, (0,), tmp_path / str(told is None), terminated=told)
        provision = make_supply(agent, [task], Budget(10, 10), hardware)
        assert provision.refill is not None
        seen.append(provision.refill.terminations[0])
    assert seen[:2] == [always, always]
    assert not seen[2](torch.ones(2, S)).any()
