"""The refrigerator experiment, at a size at which nothing is learned but everything is done."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offdyn_agents.examples.refrigerator import study as refrigerator
from offdyn_agents.examples.refrigerator.__main__ import main
from offdyn_agents.examples.refrigerator.figures import reward_map
from offdyn_agents.examples.refrigerator.study import (
    BEHAVIOUR,
    HOW,
    TESTS,
    Experiment,
    Learned,
    rollout_error,
    true_course,
)
from offdyn_agents.models.ensemble.model import Ensemble
from offdyn_envs import cli
from offdyn_envs.refrigerator import Refrigerator, ThermostatPolicy, collect, step_temperature

TINY = Experiment(seeds=(0, 1), episodes=1, steps=150, starts=20, horizon=30)


def test_packed_rows():
    data = collect(BEHAVIOUR, 1, 0, 100)
    s, a, following, rewards, continues = refrigerator.LAYOUT.split(refrigerator.packed(data))
    np.testing.assert_array_equal(s[:, 0], data.observations[:, 0])
    np.testing.assert_array_equal(a, np.stack([data.actions[:, 0], data.observations[:, 1]], axis=1))
    np.testing.assert_array_equal(following[:, 0], data.next_observations[:, 0])
    np.testing.assert_array_equal(rewards, data.rewards)
    assert bool((continues == 1).all())
    assert refrigerator.settle(torch.tensor([[2.5, 0.6], [0.1, 0.4]])).tolist() == [[2.5, 1.0], [pytest.approx(0.1), 0]]


def test_the_true_course_is_the_simulators():
    """The environment reads its temperature with an error; a controller that reads none is followed step by step."""
    course, p = refrigerator.draw_course(TINY, 0), 1.0
    found = true_course(course, p)
    assert found.shape == (20, 30)
    assert set(np.unique(course.doors)) <= {0.0, 1.0}
    env = Refrigerator()
    for row in range(3):
        temperature = course.temperatures[row]
        for t in range(30):
            env.reset(seed=0)
            env.set_state(temperature, 5 if course.doors[row, t] else -50)
            env.step(ThermostatPolicy(p).act(np.array([temperature, 0.0])))
            temperature = env.state[0]
            assert found[row, t] == pytest.approx(temperature, abs=1e-5)


class Exact(Ensemble):
    """Members that know the truth; all but the third draw with a large error."""

    def __init__(self, spread=3.0):
        super().__init__([torch.zeros(5, 1)], torch.zeros(3), torch.ones(3), torch.arange(5))
        self.spread = torch.full((5, 1, 2), spread)
        self.spread[2] = 1e-4

    def predict(self, observations, actions):
        following = step_temperature(observations[:, 0], actions[:, 0], actions[:, 1] > 0.5)
        states = torch.from_numpy(following).float()[None, :, None].expand(5, -1, -1)
        return states[..., 0], states, self.spread.square().expand(-1, len(observations), -1)


class Knowing:
    """A reward that knows the truth."""

    def __call__(self, observations, actions, following):
        true = step_temperature(observations[..., 0], actions[..., 0], actions[..., 1] > 0.5)
        return -(following[..., 0] - torch.from_numpy(true).float()).abs()


@pytest.mark.parametrize("p", TESTS)
def test_errors_of_a_model_that_knows(p):
    course, learned = refrigerator.draw_course(TINY, 0), Learned(Exact(), Knowing())
    errors = {how: np.abs(rollout_error(learned, course, p, how)) for how in HOW}
    assert errors["mean"].max() < 1e-3
    assert errors["filtered"].max() < 0.02
    assert errors["plain"].mean() > 0.5
    again = rollout_error(learned, course, p, "plain")
    np.testing.assert_array_equal(np.abs(again), errors["plain"])
    # A choice that hardly looks at the reward is the plain one.
    warm = Learned(Exact(), Knowing(), temperature=1e6)
    assert np.abs(rollout_error(warm, course, p, "filtered")).mean() > 0.5


def test_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(refrigerator, "Experiment", lambda: TINY)
    sizes = ["iterations=6", "pretraining=10", "width=8", "rollouts=4", "horizon=5", "batch_size=32", "judges=2"]
    words = [word for size in sizes for word in ("--set", size)]
    command = ["--out", str(tmp_path), "--seeds", "2", "--epochs", "1", *words]
    main(command)
    assert (tmp_path / "errors.png").read_bytes()[:4] == (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"
    table = (tmp_path / "errors.txt").read_text()
    assert table in capsys.readouterr().out
    *lines, shares = table.splitlines()
    assert [line.split()[0] for line in lines] == ["p", "0.2", "0.05", "0.1", "0.5", "1.0", "1.5"]
    assert "nan" not in table
    # Found again.
    main([*command, "--json"])
    assert (tmp_path / "errors.txt").read_text() == table
    record = json.loads(capsys.readouterr().out)
    assert list(record["errors"]) == ["0.2", "0.05", "0.1", "0.5", "1", "1.5"]
    assert f"{np.mean(record['errors']['0.1']['filtered']):.3f} +- " in lines[3]
    signed, sizes = (np.array(record[key]["0.05"]["plain"]) for key in ("signed_errors", "errors"))
    assert (np.abs(signed) <= sizes).all()
    # With the newest discriminator alone, which needs no training anew, the model's own rollouts are the same.
    main([*command, "--last", "1", "--json"])
    one = json.loads(capsys.readouterr().out)
    assert one["errors"]["0.1"]["plain"] == record["errors"]["0.1"]["plain"]
    assert one["errors"]["0.1"]["filtered"] != record["errors"]["0.1"]["filtered"]
    passing = ", ".join(f"{share:.1%}" for share in record["real_transitions_that_pass"])
    assert shares == f"held-out real transitions with r_D >= .6, seed by seed: {passing}"
    assert len(record["real_transitions_that_pass"]) == 2


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("seeds", "0", 1),
        ("seeds", "-1", 1),
        ("episodes", "0", 1),
        ("epochs", "0", 1),
        ("last", "-1", 0),
        ("temperature", "nan", 0),
    ],
)
def test_sizes_that_mean_nothing_are_refused_in_one_line(name, value, least, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["examples", "refrigerator", "--out", str(tmp_path / "out"), f"--{name}", value])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.endswith(f"--{name} is {value}; a number of at least {least} is allowed\n")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_map_is_of_the_transitions_it_names():
    study = SimpleNamespace(first=SimpleNamespace(reward=Knowing()))
    powers, following, scores = reward_map(study, 5.0, 200)
    best = following[scores.argmax(0)]
    np.testing.assert_allclose(best, step_temperature(5.0, powers, 0), atol=following[1] - following[0])
