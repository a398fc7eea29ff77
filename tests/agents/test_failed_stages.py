"""A stage that diverges stops its own runs before their first update; the others go on. It is not tried again."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.engine.training.populations import train_population, train_runs
from offdyn_agents.engine.training.supplies import TaskRuns
from offdyn_agents.models.dual.training import DualLearner
from offdyn_agents.models.dynamics_reward import stage as reward_stage
from offdyn_agents.models.dynamics_reward.contrast import NoiseContrast
from offdyn_agents.models.ensemble.training import EnsembleLearner
from offdyn_agents.models.short_training import Learner
from offdyn_envs.errors import OffDynError
from tests.agents.synthetic import dataset, tiny

SOURCE, TARGET = dataset(240, 0), dataset(120, 1)
BUDGET, HARDWARE = Budget(4, 4, 2), Hardware(compiled=False)


def train(name, folder, seeds=(0, 1, 2), cache=None, **more):
    agent = tiny(name, **more)
    return train_population(agent, seeds, SOURCE, TARGET, BUDGET, HARDWARE, folder, quiet=True, cache=cache)


def weights(folder, seed):
    return load_file(folder / "seeds" / str(seed) / "weights.safetensors")


def exported(folder):
    return sorted(path.name for path in folder.glob("seeds/*"))


@pytest.mark.parametrize(
    ("name", "rate", "what"),
    [
        ("droco", "dynamics.learning_rate", "dynamics: training made none of 3 members better"),
        ("mopo", "dynamics.learning_rate", "dynamics: training made none of 3 members better"),
        ("mobody", "dynamics.learning_rate", "dynamics: training made none of 3 members better"),
        ("mobody", "dara.learning_rate", "classifiers: a loss or a parameter is not finite"),
        ("morec", "dynamics_reward.discriminator_rate", "none of 3 discriminators rates real transitions above"),
    ],
)
def test_learning_rates_that_are_far_too_large(name, rate, what, tmp_path, capsys, monkeypatch):
    cache = tmp_path / "stages"
    # What classifiers and discriminators say at a million, float32 still holds.
    large = 1e6 if rate == "dynamics.learning_rate" else 1e15
    more = {"dara.updates": 60} if name == "mobody" else {}
    learners = (EnsembleLearner, DualLearner, Learner, NoiseContrast)
    trainings = []
    for learner in learners:
        method = "advance" if learner is NoiseContrast else "fit"
        real = getattr(learner, method)

        def counted(self, *args, real=real, **named):
            trainings.append(type(self))
            return real(self, *args, **named)

        monkeypatch.setattr(learner, method, counted)
    for attempt in range(2):
        if attempt:
            # What failed once is not trained again.
            assert trainings
            trainings.clear()
        with pytest.raises(OffDynError, match=f"seed 0 diverged before update 0: {what}"):
            train(name, tmp_path / "run", (0, 1), cache, **{rate: large}, **more)
        assert exported(tmp_path / "run") == []
    assert trainings == []
    assert "seed 1 diverged before update 0" in capsys.readouterr().err
    others = {"mobody": "encoder" if "dara" in rate else "sas", "morec": "ranking"}
    for path in cache.glob("*.safetensors"):
        # What else comes before the policy was sound.
        assert any(others[name] in key for key in load_file(path)), path
    assert not list(cache.glob("*.partial"))


@pytest.mark.parametrize(
    ("name", "learner"),
    [("droco", EnsembleLearner), ("mobile", EnsembleLearner), ("mobody", DualLearner), ("mobody", Learner)],
)
def test_one_seed_fails_alone(name, learner, tmp_path, monkeypatch):
    real, trained = learner.fit, []

    def fit(self, *args, **named):
        seed = args[1] if learner is EnsembleLearner else args[2]
        trained.append(seed)
        result = real(self, *args, **named)
        return replace(result, failed="it went wrong") if seed == 1 else result

    monkeypatch.setattr(learner, "fit", fit)
    cache = tmp_path / "stages"
    with pytest.raises(OffDynError, match=r"train: seed 1 diverged before update 0: .*: it went wrong; other settings"):
        train(name, tmp_path / "three", cache=cache)
    assert exported(tmp_path / "three") == ["0", "2"]
    content = torch.load(tmp_path / "three/checkpoints/last.ckpt", weights_only=True)
    assert [bool(stopped) for stopped in content["offdyn"]["stopped"]] == [False, True, False]
    assert content["offdyn"]["stopped"][1][0] == 0
    train(name, tmp_path / "two", seeds=(0, 2), cache=cache)
    assert sorted(trained) == [0, 1, 2]
    for seed in (0, 2):
        ours, theirs = weights(tmp_path / "three", seed), weights(tmp_path / "two", seed)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", ["morec", "morec-mobile"])
def test_a_task_without_a_usable_reward_does_not_end_the_others(name, tmp_path, monkeypatch):
    """All seeds of a task share its reward; the other task's runs are as they would be alone."""
    real, calls = reward_stage.fit_dynamics_reward, []

    def fit(*args, **named):
        calls.append(1)
        found = real(*args, **named)
        # The first task's discriminators rate generated transitions as real ones.
        return replace(found, expert=found.learner, learner=found.expert + 1.0) if len(calls) == 1 else found

    monkeypatch.setattr(reward_stage, "fit_dynamics_reward", fit)
    tasks = [
        TaskRuns(dataset(240, 10 * i), dataset(120, 10 * i + 1), (0, 1), tmp_path / str(i), f"task-{i}") for i in (0, 1)
    ]
    module = train_runs(tiny(name), tasks, BUDGET, HARDWARE, [], "two", quiet=True, cache=None)
    assert [bool(stopped) for stopped in module.stopped] == [True, True, False, False]
    assert module.describe_stop(1).startswith("task-0: seed 1 diverged before update 0: none of 3 discriminators rates")
    assert (exported(tmp_path / "0"), exported(tmp_path / "1")) == ([], ["0", "1"])
    alone = [replace(tasks[1], folder=tmp_path / "alone")]
    train_runs(tiny(name), alone, BUDGET, HARDWARE, [], "one", quiet=True, cache=None)
    ours, theirs = weights(tmp_path / "1", 0), weights(tmp_path / "alone", 0)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
