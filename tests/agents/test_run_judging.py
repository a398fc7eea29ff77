"""What `offdyn train` says of learned dynamics: what `offdyn diagnose judge` says, once; nothing else is changed."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from offdyn_agents.algorithms.registry import AGENTS, agent_class, make_agent
from offdyn_agents.engine.stage_cache import Fitted
from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.judging import judge as judging
from offdyn_agents.judging import models as judged_models
from offdyn_agents.judging import reward as judging_reward
from offdyn_agents.judging import stages as run_judging
from offdyn_agents.judging.exams import HOLDOUT, SOURCE
from offdyn_agents.judging.models import Terms
from offdyn_agents.judging.report import judge_task, reward_table, table
from offdyn_agents.judging.stages import NAME, REWARD_NAME, RunJudge, learned_model
from offdyn_agents.models.dual.settings import DualDynamicsSettings
from offdyn_agents.models.dual.training import DualLearner
from offdyn_agents.models.dynamics_reward.discriminator import DynamicsReward
from offdyn_agents.models.ensemble.rollouts import Proposer
from offdyn_agents.models.ensemble.training import EnsembleLearner
from offdyn_agents.runs import problems, runs
from offdyn_agents.runs.plans import Plan
from offdyn_agents.runs.runs import train_tasks
from offdyn_envs.errors import OffDynError
from tests.agents import stand_ins, synthetic
from tests.agents.test_judging import TASK, datasets  # noqa: F401 - a fixture

HARDWARE = Hardware("cpu", "fp32", 1, compiled=False)
ENSEMBLE = {"members": "3", "width": "16", "epochs": "2"}
REWARD = {"guess_updates": "20", "updates": "60", "width": "16", "discriminator_width": "16", "batch_size": "32"}
SCORER = {"starts": "40", "updates": "5", "width": "8"}
DUAL = {"members": "2", "elites": "2", "width": "16", "updates": "3"}


def dotted(prefix, values):
    return {f"{prefix}.{key}": value for key, value in values.items()}


SMALL = {"width": "16", "batch_size": "32", "starts": "40", "horizon": "2", "refill_every": "6", "elites": "2"}
OVERRIDES = {
    "mopo": SMALL | dotted("dynamics", ENSEMBLE),
    "mobile": SMALL | {"samples": "2"} | dotted("dynamics", ENSEMBLE),
    "morec": {
        **SMALL,
        **dotted("dynamics", ENSEMBLE),
        **dotted("dynamics_reward", REWARD),
        **dotted("scorer", SCORER),
        "discriminators": "2",
    },
    "droco": {"width": "16", "batch_size": "32"} | dotted("dynamics", ENSEMBLE),
    "mobody": {"width": "16", "batch_size": "32", "source_starts": "40", "target_starts": "20", "dara.updates": "5"}
    | dotted("dynamics", DUAL),
}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr("offdyn_envs.datasets.task.available", stand_ins.available)


@pytest.fixture
def task(datasets, monkeypatch):  # noqa: F811
    """The small datasets in the place of the task's own."""
    env = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr("offdyn_envs.load_task", lambda name: (env, *datasets))
    monkeypatch.setattr("offdyn_envs.datasets.load_dataset", lambda name: datasets[1])
    monkeypatch.setattr(problems, "target_returns", stand_ins.target_returns)
    # What 20,000 rows of a source of 5,000 are.
    monkeypatch.setattr(judging.Terms.__init__, "__defaults__", (300, 0, "episodes"))
    return datasets


def plan(agent, out, judge=None, seeds=(0, 1), **more):
    overrides = OVERRIDES.get(agent, {"width": "16"}) | more
    return Plan(agent, TASK, seeds, overrides, Budget(12, 12, 6), HARDWARE, out, quiet=True, judge=judge)


def trained(*args, **named):
    asked = plan(*args, **named)
    (outcome,) = train_tasks([asked])
    facts = json.loads((asked.folder / "run.json").read_text())
    assert outcome.facts == facts
    return facts.get("stages", {}).get("judged"), asked.folder


def weights(folder):
    return {path.parent.name: load_file(path) for path in sorted(folder.glob("seeds/*/weights.safetensors"))}


def test_which_agents_learn_a_model():
    found = {name: learned_model(make_agent(name, "hopper", 11, 3, {})) for name in AGENTS}
    with_dynamics = {name for name in AGENTS if hasattr(agent_class(name).settings_class(), "dynamics")}
    assert {name for name in found if found[name]} == with_dynamics
    learned = {"mobody": "mobody", "droco": "target", "mopo": "merged", "morec": "merged"}
    assert {name: found[name] for name in learned} == learned
    assert learned_model(make_agent("mopo", "hopper", 11, 3, {"data": "source"})) == "source"
    dual = {"ensemble": "dual"}
    assert learned_model(make_agent("droco", "hopper", 11, 3, dual)) == "mobody"
    assert learned_model(make_agent("droco", "hopper", 11, 3, dual | {"dual.structure": "single"})) == "single"
    assert learned_model(make_agent("droco", "hopper", 11, 3, dual | {"dual.data": "target"})) == "alone"


@pytest.mark.parametrize(
    ("settings", "models"),
    [
        ({}, ("mobody", "single", "alone")),
        ({"dynamics.structure": "single"}, ("single", "alone")),
        ({"dynamics.structure": "plain"}, ("plain", "single", "alone")),
        ({"dynamics.data": "target"}, ("alone", "single")),
    ],
)
def test_ablated_dynamics_go_by_their_own_name(settings, models, tmp_path):
    agent = make_agent("mobody", "hopper", 11, 3, settings)
    assert learned_model(agent) == models[0]
    assert RunJudge(agent, HARDWARE, tmp_path, compare=True).models == models
    assert RunJudge(agent, HARDWARE, tmp_path).models == models[:1]


@pytest.mark.parametrize("data", ["both", "target"])
@pytest.mark.parametrize("structure", ["dual", "single", "plain"])
def test_models_are_what_their_names_say_whatever_the_run_is(structure, data, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        judged_models, "fit_dynamics", lambda chosen, context: seen.update(found=chosen) or Fitted([], {})
    )
    settings = judged_models.JudgeSettings(dynamics=DualDynamicsSettings(structure=structure, data=data))
    names = {"mobody": "dual", "single": "single", "plain": "plain"}
    for name, form in names.items():
        judged_models.fit_models(settings, None, name)
        assert (seen["found"].structure, seen["found"].data) == (form, "both")
    judged_models.fit_models(settings, None, "alone")
    assert seen["found"].data == "target"


@pytest.mark.parametrize(("agent", "examined"), [("droco", 4), ("mopo", 2)])
def test_members_are_examined_that_the_agent_uses(agent, examined, task, tmp_path, monkeypatch):
    real, seen = judging.examine, []

    def examine(model, exam):
        seen.append(len(model(exam.observations[:2], exam.actions[:2])[0]))
        return real(model, exam)

    monkeypatch.setattr(judging, "examine", examine)
    overrides = {"dynamics.members": "4"} | ({"elites": "2"} if agent == "mopo" else {})
    trained(agent, tmp_path / "run", **overrides)
    assert set(seen) == {examined}


def test_a_ball_of_dual_dynamics_is_what_is_judged(task, tmp_path, monkeypatch):
    """The run's own models, found in the cache, all members of them; not an ensemble that the run never uses."""
    real, fits, seen, fitted = judging.examine, DualLearner.fit, [], []
    monkeypatch.setattr(
        judging,
        "examine",
        lambda model, e: seen.append(len(model(e.observations[:2], e.actions[:2])[0])) or real(model, e),
    )
    monkeypatch.setattr(DualLearner, "fit", lambda self, *a, **k: fitted.append(1) or fits(self, *a, **k))
    monkeypatch.setattr(EnsembleLearner, "fit", lambda *a, **k: pytest.fail("an ensemble was trained"))
    small = {"width": "16", "batch_size": "32", "ensemble": "dual"} | dotted("dual", DUAL | {"members": "3"})
    monkeypatch.setitem(OVERRIDES, "droco", small)
    found, _ = trained("droco", tmp_path / "run", seeds=(0,))
    assert (found["learned"], list(found["errors"]), set(seen), len(fitted)) == ("mobody", ["mobody"], {3}, 1)


@pytest.mark.parametrize(
    ("agent", "models", "prefix"),
    [
        ("mopo", ("merged", "target"), "ensemble"),
        ("mobody", ("mobody", "single", "alone"), "dynamics"),
        ("droco", ("target", "merged"), "ensemble"),
    ],
)
def test_the_figures_are_those_of_the_command(agent, models, prefix, task, tmp_path):
    found, folder = trained(agent, tmp_path / "run", judge=True)
    assert (found["learned"], found["seeds"], found["holdout"]) == (models[0], [0, 1], "fresh")
    assert set(found["errors"]) == set(models)
    assert found["rows"] | {"invalid": 0} == {"source": 5000, "target": 500, "invalid": 0, HOLDOUT: 1000, SOURCE: 300}
    assert (folder / NAME).read_bytes().startswith(b"\x89PNG")
    assert not (folder / REWARD_NAME).exists()
    if agent == "droco":
        # The command has the form of MOPO's ensembles, which hold other rows out.
        return
    overrides = {
        f"{prefix}{key.removeprefix('dynamics')}": v for key, v in OVERRIDES[agent].items() if "dynamics." in key
    }
    overrides |= {key: v for key, v in OVERRIDES[agent].items() if key == "elites"}
    record = judge_task(TASK, models, 2, overrides, Terms(holdout="fresh"), tmp_path / "other", HARDWARE, True)
    for key in ("errors", "references", "rows", "holdout", "seeds"):
        assert found[key] == record[key], key


def test_the_reward_is_judged_as_by_the_command(task, tmp_path):
    found, folder = trained("morec", tmp_path / "run")
    assert (folder / NAME).exists()
    assert (folder / REWARD_NAME).read_bytes().startswith(b"\x89PNG")
    overrides = (
        dotted("ensemble", ENSEMBLE) | dotted("dynamics_reward", REWARD) | {"discriminators": "2", "elites": "2"}
    )
    record = judge_task(TASK, ("morec",), 2, overrides, Terms(holdout="fresh"), tmp_path / "other", HARDWARE, True)
    assert record["errors"] == {}
    assert found["reward"] == record["reward"]
    # Those that filter rollouts, not all that were trained.
    facts = json.loads((folder / "run.json").read_text())
    assert found["reward"]["discriminators"] == facts["stages"]["discriminators"] <= 2
    assert list(found["reward"]["rankings"]) == ["behaviour", "noisy", "random", SOURCE]
    for name, bins in found["reward"]["bins"].items():
        assert bins["r_D"] == sorted(bins["r_D"]), name
        assert all(
            low <= mid <= high for low, mid, high in zip(*(bins[k] for k in ("low", "median", "high")), strict=True)
        )
    rows = reward_table(record)
    assert [row["policy"] for row in rows] == list(record["reward"]["rankings"])
    low, high = sorted(one["correlation"] for one in record["reward"]["rankings"]["behaviour"])
    assert rows[0]["correlation"] == f"{(low + high) / 2:.2f} ({low:.2f} to {high:.2f})"
    assert table({**record, "errors": found["errors"]})[0]["model"] == "merged"


@pytest.mark.parametrize("agent", ["mopo", "morec", "mobody"])
def test_judging_changes_no_weight(agent, task, tmp_path):
    """Random streams, the process's own too, and the number of threads are as they would have been."""

    def left():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), torch.get_num_threads()  # noqa: NPY002

    torch.manual_seed(0)
    found, judged = trained(agent, tmp_path / "judged", judge=True)
    after = left()
    torch.manual_seed(0)
    nothing, plain = trained(agent, tmp_path / "plain", judge=False)
    assert after == left()
    assert found["errors"] and nothing is None
    ours, theirs = weights(judged), weights(plain)
    assert list(ours) == ["0", "1"]
    for seed, tensors in ours.items():
        assert tensors.keys() == theirs[seed].keys()
        assert all(torch.equal(tensor, theirs[seed][key]) for key, tensor in tensors.items())


def lookup(papers):
    """A model that knows what it is asked."""

    def means(observations, actions):
        known = {
            (*s.tolist(), *a.tolist()): (following, reward)
            for exam in papers[-1].exams.values()
            for s, a, following, reward in zip(*exam, strict=True)
        }
        found = [known[(*s.tolist(), *a.tolist())] for s, a in zip(observations, actions, strict=True)]
        following, rewards = (torch.stack(parts) for parts in zip(*found, strict=True))
        return following[None], rewards[None]

    return means


def test_a_perfect_model_has_no_error(task, tmp_path, monkeypatch):
    real, papers = judging.set_paper, []
    monkeypatch.setattr(judging, "set_paper", lambda *a, **n: papers.append(real(*a, **n)) or papers[-1])
    monkeypatch.setattr(judging, "fit_models", lambda settings, context, name: [lookup(papers) for _ in context.seeds])
    found, _ = trained("mopo", tmp_path)
    for exam in (HOLDOUT, SOURCE):
        assert [(one["state"], one["reward"], one["mse"]) for one in found["errors"]["merged"][exam]] == [(0, 0, 0)] * 2
    # The hold-out is of the target, but not of its dataset.
    seen = {tuple(row) for row in papers[-1].target.tolist()}
    assert not seen & {
        tuple(row) for row in judging.Layout(11, 3).join(*papers[-1].exams[HOLDOUT], torch.zeros(1000).bool()).tolist()
    }


def test_a_reward_that_knows_the_truth_is_fully_correlated(task, tmp_path, monkeypatch):
    real, truth = judging_reward.score_candidates, {}

    class Knowing:
        passing = DynamicsReward.passing

        def __len__(self):
            return 1

        def __call__(self, observations, actions, following):
            true = truth.get("asked", following)
            error = ((following - true) / truth.get("scale", 1.0)).square().mean(-1).sqrt()
            return -error.clamp(min=1e-9).log()

    def scored(reward, propose, asked, scale, seed=0):
        assert isinstance(propose, Proposer)
        truth.update(asked=asked.following, scale=scale)
        return real(reward, propose, asked, scale, seed)

    monkeypatch.setattr(judging_reward, "score_candidates", scored)
    # The stage's own copy is another name for the class.
    known = SimpleNamespace(from_tensors=lambda tensors, device: Knowing())
    monkeypatch.setattr(judging_reward, "DynamicsReward", known)
    found, _ = trained("morec", tmp_path, judge=None, seeds=(0,))
    for ranks in found["reward"]["rankings"].values():
        assert ranks[0]["correlation"] == pytest.approx(-1.0)
        assert ranks[0]["best"] == pytest.approx(ranks[0]["lowest"])
    assert found["reward"]["holds"]["r_D falls with the error"] == [True]


def interrupted(monkeypatch, asked):
    """Train up to the first update."""

    def fit(*args, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("offdyn_agents.engine.training.populations.fit", fit)
        with pytest.raises(KeyboardInterrupt):
            train_tasks([asked])
    return json.loads((asked.folder / "run.json").read_text())


def test_a_resumed_run_keeps_its_figures(task, tmp_path, monkeypatch):
    asked, calls, real = plan("mopo", tmp_path), [], judging.judge_datasets
    monkeypatch.setattr(judging, "judge_datasets", lambda *a, **n: calls.append(a[3]) or real(*a, **n))
    first = interrupted(monkeypatch, asked)
    assert first["status"] == "running"
    assert len(calls) == 1
    (asked.folder / NAME).unlink()
    # Killed once more, before its stages are done.
    with monkeypatch.context() as patch:
        patch.setattr("offdyn_agents.engine.training.populations.make_supply", lambda *a, **n: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_tasks([asked])
    found, folder = trained("mopo", tmp_path)
    assert len(calls) == 1
    assert found == first["stages"]["judged"]
    assert (folder / NAME).exists()


def test_what_is_kept_must_be_what_is_wanted(task, tmp_path, monkeypatch):
    asked, calls, real = plan("mopo", tmp_path), [], judging.judge_datasets
    monkeypatch.setattr(judging, "judge_datasets", lambda *a, **n: calls.append(a[3]) or real(*a, **n))
    facts = interrupted(monkeypatch, asked)
    # More models are asked for.
    facts = interrupted(monkeypatch, replace(asked, judge=True))
    assert calls == [("merged",), ("merged", "target")]
    # Figures of other data.
    facts["stages"]["judged"]["data_sha256"] = "0" * 64
    (asked.folder / "run.json").write_text(json.dumps(facts))
    found, _ = trained("mopo", tmp_path)
    assert len(calls) == 3
    assert set(found["errors"]) == {"merged"}


def test_an_ended_run_is_judged_when_that_is_asked_for_later(task, tmp_path, monkeypatch, capsys):
    nothing, folder = trained("mopo", tmp_path, judge=False)
    assert nothing is None
    before = weights(folder)
    fits = EnsembleLearner.fit
    fitted = []
    monkeypatch.setattr(EnsembleLearner, "fit", lambda self, *a, **k: fitted.append(1) or fits(self, *a, **k))
    asked = plan("mopo", tmp_path, judge=True)
    (outcome,) = train_tasks([replace(asked, quiet=False)])
    assert not outcome.fresh
    found = json.loads((folder / "run.json").read_text())["stages"]["judged"]
    assert outcome.facts["stages"]["judged"] == found
    assert set(found["errors"]) == {"merged", "target"}
    # The run's own models are found again; those of target rows alone, one for each seed, are new.
    assert len(fitted) == 2
    err = capsys.readouterr().err
    mean = sum(one["state"] for one in found["errors"]["merged"][HOLDOUT]) / 2
    assert f"{TASK}: Gaussian ensemble, merged rows (MOPO): error of s' in units of its change: {mean:.3g} on" in err
    assert (folder / NAME).exists()
    assert all(torch.equal(before[seed][key], weights(folder)[seed][key]) for seed in before for key in before[seed])
    # Once.
    train_tasks([asked])
    assert len(fitted) == 2
    # Without --judge an ended run is left alone.
    other, _ = trained("mopo", tmp_path / "other", judge=False)
    assert other is None and trained("mopo", tmp_path / "other")[0] is None


def skipped(found):
    assert set(found) == {"skipped"}
    assert "\n" not in found["skipped"]
    return found["skipped"]


def test_data_without_states_are_said_in_a_line(monkeypatch, tmp_path, capsys):
    sets = [synthetic.dataset(rows, seed, observation_dim=11, action_dim=3) for rows, seed in ((300, 0), (120, 1))]
    env = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr("offdyn_envs.load_task", lambda name: (env, *sets))
    monkeypatch.setattr(problems, "target_returns", stand_ins.target_returns)
    found, folder = trained("mopo", tmp_path)
    assert "was not collected in this simulator" in skipped(found)
    assert not (folder / NAME).exists()
    assert capsys.readouterr().err == ""
    train_tasks([replace(plan("droco", tmp_path), quiet=False)])
    assert f"{TASK}: learned dynamics not judged: 'Rows' was not" in capsys.readouterr().err


def test_an_imported_source_and_another_policy_are_said_too(task, datasets, tmp_path, monkeypatch):  # noqa: F811
    source, target = datasets
    stateless = replace(source, arrays=replace(source.arrays, qpos=np.zeros((0, 0))))
    env = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr("offdyn_envs.load_task", lambda name: (env, stateless, target))
    assert "holds no simulator states: 'qpos'" in skipped(trained("mopo", tmp_path / "a")[0])
    card = {**target.card, "behaviour": [{**target.card["behaviour"][0], "policy_sha256": "0" * 64}]}
    other = replace(target, metadata={**target.metadata, "offdyn": card})
    monkeypatch.setattr("offdyn_envs.load_task", lambda name: (env, source, other))
    assert "collected by another 'random' policy" in skipped(trained("mopo", tmp_path / "b")[0])


def test_the_oracle_is_not_judged(task, datasets, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("offdyn_envs.datasets.load_dataset", lambda name: datasets[1])
    assert "data=oracle" in skipped(trained("mopo", tmp_path, data="oracle")[0])


def test_failed_seeds_are_left_out(task, tmp_path, monkeypatch):
    real, fitted = EnsembleLearner.fit, []

    def fit(self, rows, seed, *args, **named):
        fitted.append(seed)
        result = real(self, rows, seed, *args, **named)
        return replace(result, failed="it went wrong") if seed == 1 else result

    monkeypatch.setattr(EnsembleLearner, "fit", fit)
    found, _ = trained("mopo", tmp_path / "one", seeds=(0, 1, 2))
    assert found["seeds"] == [0, 2]
    assert len(found["errors"]["merged"][SOURCE]) == 2
    # What failed is not trained again only to be judged.
    assert fitted == [0, 1, 2]
    assert skipped(trained("mopo", tmp_path / "none", seeds=(1,))[0]) == "the stages of every seed failed"


def test_models_to_compare_with_may_fail(task, tmp_path, monkeypatch):
    real = judged_models.fit_gaussians

    def fit(settings, context, name):
        if name == "target":
            raise OffDynError("training made none of 3 members better")
        return real(settings, context, name)

    monkeypatch.setattr(judged_models, "fit_gaussians", fit)
    found, folder = trained("mopo", tmp_path, judge=True)
    assert set(found["errors"]) == {"merged"}
    assert found["not_compared"] == "training made none of 3 members better"
    assert (folder / NAME).exists()


def test_figures_that_are_not_finite_do_not_end_a_run(task, tmp_path, monkeypatch):
    broken = {"state": float("inf"), "reward": float("nan"), "mse": 1.0, "rank": 0.0}
    monkeypatch.setattr(judging, "examine", lambda model, exam: dict(broken))
    found, folder = trained("mopo", tmp_path)
    assert found["errors"]["merged"][SOURCE] == [{**broken, "state": None, "reward": None}] * 2
    assert (folder / NAME).exists()


def test_without_matplotlib_there_are_figures_and_a_line(task, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    found, folder = trained("mopo", tmp_path / "quiet")
    assert found["errors"]
    assert not (folder / NAME).exists()
    assert capsys.readouterr().err == ""
    train_tasks([replace(plan("mopo", tmp_path / "told"), quiet=False)])
    assert f"{TASK}: no {NAME}: drawing needs matplotlib" in capsys.readouterr().err


def test_agents_without_a_model(task, tmp_path):
    assert trained("bc", tmp_path)[0] is None
    with pytest.raises(OffDynError, match="agent 'iql' learns no model of the target that could be judged"):
        train_tasks([plan("iql", tmp_path, judge=True)])
    assert not (tmp_path / TASK / "iql").exists()


def test_two_tasks_of_a_population_are_judged_each(task, tmp_path):
    other = "hopper-gravity-2.0-random"
    asked = [plan("mopo", tmp_path), replace(plan("mopo", tmp_path), task=other)]
    train_tasks(asked, 2)
    first, second = (json.loads((one.folder / "run.json").read_text()) for one in asked)
    assert first["population"] == {"tasks": 2, "runs": 4}
    assert first["stages"]["judged"]["errors"] == second["stages"]["judged"]["errors"]
    assert run_judging.NAME in {path.name for path in asked[1].folder.iterdir()}


@pytest.mark.gpu
@pytest.mark.parametrize("agent", ["mopo", "morec", "mobody"])
def test_what_a_gpu_trained_is_judged_on_the_cpu(agent, task, tmp_path):
    (outcome,) = train_tasks([replace(plan(agent, tmp_path), hardware=replace(HARDWARE, device="cuda"))])
    found = outcome.facts["stages"]["judged"]
    # The same models, found in the cache by a machine without a GPU.
    again = run_judging.RunJudge(runs.plan_agent(outcome.plan), HARDWARE, tmp_path / ".stages", False, True)
    source, target = task
    runs_of = SimpleNamespace(source=source, target=target, seeds=(0, 1))
    other = again.judge(runs_of, found["data_sha256"], ())
    assert {**found, "wall_clock_s": 0} == {**other, "wall_clock_s": 0}
