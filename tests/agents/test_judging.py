"""Judging learned dynamics by exact counterfactuals: the exams, the figures, the command's files."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.settings import build
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.judging import models
from offdyn_agents.judging.exams import Exam, references, set_paper, split_target
from offdyn_agents.judging.judge import examine
from offdyn_agents.judging.models import JudgeSettings, Terms, fit_models
from offdyn_agents.judging.report import draw, judge_task, table
from offdyn_envs.datasets import counterfactual, load_dataset
from offdyn_envs.datasets.collecting.build import build as build_dataset
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import DatasetId

TASK = "hopper-gravity-0.5-random"
SOURCE, TARGET = "offdyn/hopper/nominal/random-5k-v0", "offdyn/hopper/gravity-0p5/random-500-v0"


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFDYN_DATA_DIR", str(root))
        for name in (SOURCE, TARGET):
            build_dataset(DatasetId.parse(name), root=root, num_threads=1, quiet=True)
        yield load_dataset(SOURCE), load_dataset(TARGET)


@pytest.mark.parametrize(
    ("lengths", "expected"), [([10] * 10, 80), ([50, 50], 50), ([90, 5, 5], 90), ([30, 30, 40], 60)]
)
def test_whole_episodes_are_held_out(lengths, expected):
    assert split_target(SimpleNamespace(arrays=SimpleNamespace(lengths=np.array(lengths)), id="x")) == expected


def test_one_episode_cannot_be_split():
    with pytest.raises(OffDynError, match="at least 2"):
        split_target(SimpleNamespace(arrays=SimpleNamespace(lengths=np.array([500])), id="x"))


def test_paper(datasets):
    source, target = datasets
    paper = set_paper(source, target, 300, 1000, threads=1)
    asked, held = paper.exams["source state-actions"], paper.exams["target holdout"]
    rows = np.unique(np.linspace(0, len(source) - 1, 300).astype(int))
    exact = counterfactual(source, "gravity-0.5", rows, quiet=True)
    valid = exact.valid
    assert paper.invalid == int((~valid).sum())
    np.testing.assert_array_equal(asked.following, exact.next_observations[valid])
    np.testing.assert_array_equal(asked.rewards, exact.rewards[valid])
    np.testing.assert_array_equal(asked.observations, source.observations[rows][valid])
    np.testing.assert_array_equal(paper.shifted["source state-actions"], source.next_observations[rows][valid])
    learned = len(paper.target)
    back = counterfactual(target, "nominal", np.arange(learned, len(target)), quiet=True)
    np.testing.assert_array_equal(paper.shifted["target holdout"], back.next_observations)
    whole = pack(target, "target")
    assert len(paper.target) + len(held.rewards) == len(target)
    assert torch.equal(paper.target, whole[: len(paper.target)])
    np.testing.assert_array_equal(held.following, target.next_observations[len(paper.target) :])
    assert len(paper.source) == 1000
    assert len(set_paper(source, target, 10, threads=1).source) == len(source)
    found = references(paper)
    for figures in found.values():
        assert figures["no change"] == pytest.approx(1.0)
        # Half the gravity changes something, but most of a step is the same.
        assert 0.0 < figures["as in the source"] < 1.0
    nowhere = {name: torch.full_like(states, torch.nan) for name, states in paper.shifted.items()}
    assert all(set(figures) == {"no change"} for figures in references(paper._replace(shifted=nowhere)).values())


def test_figures():
    generator = torch.Generator().manual_seed(0)
    s, a = torch.randn(700, 3, generator=generator), torch.randn(700, 2, generator=generator)
    change = torch.randn(700, 3, generator=generator) * torch.tensor([0.01, 1.0, 0.0])
    rewards = torch.randn(700, generator=generator)
    exam = Exam(s, a, s + change, rewards)
    perfect = {tuple(row): i for i, row in enumerate(s.tolist())}

    def model(observations, actions, off=0.0):
        index = torch.tensor([perfect[tuple(row)] for row in observations.tolist()])
        true = exam.following[index]
        away = off * torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
        away = away * torch.arange(len(true))[:, None] / len(true)
        return torch.stack([true + away, true + 3.0 * away]), rewards[index][None] + off

    right = examine(model, exam)
    assert right.pop("dimensions")[:2] == [0.0, 0.0]
    assert right == {"state": 0.0, "reward": 0.0, "mse": 0.0, "rank": 0.0}
    wrong = examine(lambda s, a: model(s, a, 0.1), exam)
    assert wrong["reward"] == pytest.approx(0.01 / float(rewards.var(correction=0)), rel=1e-3)
    # Far from the truth where members are far apart.
    assert wrong["rank"] > 0.99
    still = examine(lambda s, a: (s[None], rewards.mean().expand(1, len(s))), exam)
    # Each dimension that moves counts the same, however little it moves; predicting no change is an error of 1.
    assert still["state"] == pytest.approx(1.0, rel=1e-5)
    assert still["reward"] == pytest.approx(1.0, rel=1e-3)
    assert still["mse"] == pytest.approx(float(change.square().mean()), rel=1e-5)
    assert still["dimensions"] == pytest.approx([1.0, 1.0, np.nan], rel=1e-5, nan_ok=True)
    # Numbers that are none are not left out.
    lost = examine(lambda s, a: (s[None] + torch.tensor([torch.nan, 0.0, 0.0]), rewards.mean().expand(1, len(s))), exam)
    assert np.isnan(lost["state"])
    # One dimension alone is wrong, by twice its own change.
    few = Exam(*(part[:500] for part in exam))
    away = few.following + 2.0 * change[:500] * torch.tensor([1.0, 0.0, 0.0])
    partly = examine(lambda s, a: (away[None], few.rewards[None]), few)
    assert partly["dimensions"] == pytest.approx([4.0, 0.0, np.nan], rel=1e-4, nan_ok=True)
    assert partly["state"] == pytest.approx(2.0, rel=1e-4)


TINY = {
    "dynamics.members": 2,
    "dynamics.elites": 1,
    "dynamics.width": 8,
    "dynamics.updates": 3,
    "elites": 2,
    "ensemble.members": 2,
    "ensemble.width": 8,
    "ensemble.epochs": 1,
}


def test_models_learn_from_what_their_names_say(datasets, monkeypatch):
    source, target = datasets
    paper = set_paper(source, target, 100, 600, threads=1)
    layout = Layout(11, 3)
    settings = build(JudgeSettings, TINY)
    context = StageContext(layout, paper.source, paper.target, (0, 1), 0, compiled=False)
    seen = []
    duals, ensembles = models.fit_dynamics, models.fit_in_context

    def dual(chosen, context):
        seen.append((chosen.structure, chosen.data))
        return duals(chosen, context)

    def gaussian(chosen, rows, context, target=0):
        seen.append(len(rows))
        return ensembles(chosen, rows, context, target)

    monkeypatch.setattr(models, "fit_dynamics", dual)
    monkeypatch.setattr(models, "fit_in_context", gaussian)
    for name in models.MODELS:
        fitted = fit_models(settings, context, name)
        assert len(fitted) == 2
        for exam in paper.exams.values():
            for figures in (examine(model, exam) for model in fitted):
                assert np.isfinite(figures.pop("dimensions")).all()
                assert np.isfinite(list(figures.values())).all()
    both = len(paper.source) + len(paper.target)
    assert seen == [
        ("dual", "both"),
        ("single", "both"),
        ("plain", "both"),
        ("dual", "target"),
        both,
        len(paper.target),
        600,
    ]


@pytest.mark.parametrize(
    ("task", "inputs", "noise"), [("halfcheetah-friction-0.1-medium", "standardised", 0.0), (TASK, "whitened", 0.1)]
)
def test_reward_and_dynamics_are_those_of_the_robots_presets(task, inputs, noise, datasets, tmp_path, monkeypatch):
    monkeypatch.setattr("offdyn_envs.load_task", lambda name: (SimpleNamespace(close=lambda: None), *datasets))
    monkeypatch.setattr("offdyn_agents.judging.judge.judge_datasets", lambda *args, **named: {"errors": {}})
    hardware = SimpleNamespace(precision="fp32")
    record = judge_task(task, ["mobody", "morec"], 1, {"dynamics_reward.spread": "9"}, Terms(), tmp_path, hardware)
    assert record["settings"]["dynamics"]["loss_weights"] == "code"
    reward = record["settings"]["dynamics_reward"]
    assert (reward["inputs"], reward["input_noise"]) == (inputs, noise)
    assert record["settings"]["dynamics_reward"]["spread"] == 9.0


def test_command(datasets, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from offdyn_envs import cli

    source, target = datasets
    env = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr("offdyn_envs.load_task", lambda name: (env, source, target))
    words = ["judge", TASK, "--seeds", "2", "--rows", "50", "--source-rows", "300", "--models", "mobody,target"]
    words += [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    words += ["--out", str(tmp_path), "--threads", "1", "--quiet"]
    monkeypatch.setattr("offdyn_agents.engine.execution.can_compile", lambda _: False)
    monkeypatch.setattr("offdyn_agents.models.dual.training.can_compile", lambda _: False)
    monkeypatch.setattr("offdyn_agents.models.ensemble.training.can_compile", lambda _: False)
    runner = CliRunner()
    found = runner.invoke(cli.build_app(), [*words, "--json"], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    (record,) = json.loads(found.stdout)
    folder = tmp_path / TASK / "judge"
    assert json.loads((folder / "judge.json").read_text()) == record
    assert (folder / "judge.png").read_bytes().startswith(b"\x89PNG")
    assert [len(record["errors"][name]["target holdout"]) for name in ("mobody", "target")] == [2, 2]
    rows = table(record)
    assert [row["model"] for row in rows] == ["mobody", "target", "-", "-"]
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert rows[-1]["target holdout"] == "1"
    errors = copy.deepcopy(record["errors"])
    draw(record, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (folder / "judge.png").read_bytes()
    # Records of before there were errors by dimension have none to draw.
    for exams in record["errors"].values():
        for figures in exams.values():
            for one in figures:
                one.pop("dimensions")
    draw(record, tmp_path / "short.png")
    assert (tmp_path / "short.png").stat().st_size < (folder / "judge.png").stat().st_size

    def none(*args, **named):
        raise OffDynError("matplotlib is not installed")

    # Figures that took hours are there without pictures too.
    monkeypatch.setattr("offdyn_envs.figures.new_figure", none)
    found = runner.invoke(cli.build_app(), [*words, "--json"], catch_exceptions=False)
    assert (found.exit_code, found.stderr) == (0, f"{TASK}: no judge.png: matplotlib is not installed\n")
    assert json.loads(found.stdout)[0]["errors"] == errors
    refused = runner.invoke(cli.build_app(), ["judge", TASK, "--models", "mobdy"])
    assert isinstance(refused.exception, OffDynError)
    assert "mobody" in str(refused.exception)
