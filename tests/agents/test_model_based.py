"""MOPO and MOBILE as a whole: what they draw and roll out, published constants, exact resume, and that they learn."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.mobile import MOBILE
from offdyn_agents.algorithms.model_based import ModelBasedSAC
from offdyn_agents.algorithms.mopo import MOPO
from offdyn_agents.algorithms.registry import AGENTS, agent_class, make_agent
from offdyn_agents.engine.rollouts import RunView
from offdyn_agents.engine.rows import Layout, RowCounts, pack
from offdyn_agents.engine.settings import build
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.engine.termination import never
from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.models.ensemble import settings as ensembles
from offdyn_agents.models.ensemble.model import gaussians
from offdyn_agents.models.ensemble.training import EnsembleLearner
from offdyn_agents.presets import tuning
from offdyn_agents.runs.runs import train_population
from offdyn_envs.errors import OffDynError
from tests.agents.synthetic import A, S, dataset, make
from tests.agents.test_model_rollouts import constant_ensemble, random_ensemble

SOURCE, TARGET = dataset(300, 0), dataset(100, 1)
SMALL = {
    "starts": 40,
    "horizon": 2,
    "refill_every": 20,
    "refills_kept": 2,
    "dynamics__width": 8,
    "dynamics__epochs": 2,
    "dynamics__batch_size": 64,
}


def small(name, **overrides):
    more = {"samples": 2} if name == "mobile" else {}
    return make(name, **(SMALL | more | overrides))


@pytest.mark.parametrize(
    ("data", "ratio", "rows"),
    [
        ("merged", 0.05, (6, 6, 244)),
        ("target", 0.05, (0, 12, 244)),
        ("source", 0.5, (128, 0, 128)),
        ("oracle", 0.5, (0, 128, 128)),
        ("merged", 0.0, (1, 1, 254)),
    ],
)
def test_rows(data, ratio, rows):
    agent = make("mopo", data=data, real_ratio=ratio, batch_size=256)
    assert agent.rows() == RowCounts(*rows)


PUBLISHED = [
    ("mopo", "halfcheetah", "medium", {"horizon": 5, "penalty": 0.5}),
    ("mopo", "hopper", "medium", {"horizon": 5, "penalty": 5.0}),
    ("mopo", "walker2d", "medium", {"horizon": 5, "penalty": 0.5}),
    ("mopo", "halfcheetah", "medium-replay", {"horizon": 5, "penalty": 0.5}),
    ("mopo", "hopper", "medium-replay", {"horizon": 5, "penalty": 2.5}),
    ("mopo", "walker2d", "medium-replay", {"horizon": 1, "penalty": 2.5}),
    ("mopo", "halfcheetah", "medium-expert", {"horizon": 5, "penalty": 2.5}),
    ("mopo", "hopper", "medium-expert", {"horizon": 5, "penalty": 5.0}),
    ("mopo", "walker2d", "medium-expert", {"horizon": 1, "penalty": 2.5}),
    ("mobile", "halfcheetah", "medium", {"horizon": 5, "beta": 0.5, "auto_alpha": True}),
    ("mobile", "hopper", "medium", {"horizon": 5, "beta": 1.5, "auto_alpha": False, "alpha": 0.2}),
    ("mobile", "walker2d", "medium", {"horizon": 5, "beta": 0.5}),
    ("mobile", "halfcheetah", "medium-replay", {"horizon": 5, "beta": 0.1}),
    ("mobile", "hopper", "medium-replay", {"horizon": 5, "beta": 0.1, "auto_alpha": False, "alpha": 0.2}),
    ("mobile", "walker2d", "medium-replay", {"horizon": 1, "beta": 0.5}),
    ("mobile", "halfcheetah", "medium-expert", {"horizon": 5, "beta": 1.0, "real_ratio": 0.5}),
    ("mobile", "hopper", "medium-expert", {"horizon": 5, "beta": 1.5, "auto_alpha": True, "real_ratio": 0.05}),
    ("mobile", "walker2d", "medium-expert", {"horizon": 1, "beta": 1.5}),
]


@pytest.mark.parametrize(("name", "robot", "quality", "expected"), PUBLISHED)
def test_published_constants_of_a_task(name, robot, quality, expected):
    settings = make_agent(name, robot, 11, 3, {}, quality).settings
    assert {key: getattr(settings, key) for key in expected} == expected


@pytest.mark.parametrize("name", ["mopo", "mobile"])
def test_published_constants(name):
    settings = make_agent(name, "ant", 27, 8, {}, "random").settings
    assert (settings.learning_rate, settings.actor_rate, settings.alpha_rate) == (3e-4, 1e-4, 1e-4)
    assert (settings.discount, settings.polyak, settings.batch_size, settings.real_ratio) == (0.99, 0.005, 256, 0.05)
    assert (settings.starts, settings.refill_every, settings.refills_kept, settings.elites) == (50_000, 1000, 5, 5)
    for form, rate in (("suite", 3e-3), ("paper", 1e-3)):
        dynamics = make_agent(name, "ant", 27, 8, {"form": form}, "random").settings.dynamics
        assert (dynamics.members, dynamics.width, dynamics.learning_rate, dynamics.batch_size) == (7, 200, rate, 256)
        assert (dynamics.patience, dynamics.improvement, dynamics.holdout) == (5, 0.01, 0.2)
    assert make_agent(name, "ant", 27, 8, {}).capacity == 1_250_000
    assert tuning(agent_class(name))["tuning_evaluations"] >= 6


MODEL_BASED = [name for name in AGENTS if issubclass(agent_class(name), ModelBasedSAC)]


@pytest.mark.parametrize("name", MODEL_BASED)
def test_published_ensembles_are_trained_in_raw_units_until_none_improves(name):
    """Ours take at most a third of ten passes over a million source and 5,000 target rows."""
    own, published = (make_agent(name, "ant", 27, 8, {"form": form}).settings.dynamics for form in ("suite", "paper"))
    assert {key: getattr(published, key) for key in ensembles.PUBLISHED} == ensembles.PUBLISHED
    assert (published.epochs, published.early_stopping, published.annealed) == (1000, True, False)
    assert (own.outputs, own.annealed, own.target_share) == ("changes", True, 0.2)
    assert own.steps(1_005_000) * 3 <= replace(own, updates=0, epochs=10).steps(1_005_000)


def test_mobile_reads_its_elites_in_raw_units():
    """The loss knows no units: the last layer has them."""
    agent, rows = small("mobile"), torch.cat([pack(data, "d") for data in (SOURCE, TARGET)])
    context = StageContext(Layout(S, A), rows[:300], rows[300:], (0,), 1, compiled=False)
    found = agent.stages(context)
    elites = found.results[0].elites(agent.settings.elites)
    mean, std, *members = (tensors[0] for tensors in found.frozen["elites"])
    assert elites.scale is not None
    s, a, *_ = context.layout.split(rows[:20])
    for ours, theirs in zip(gaussians(members, mean, std, s, a), elites.predict(s, a), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODEL_BASED)
def test_more_elites_than_members_are_refused_before_any_training(name):
    with pytest.raises(OffDynError, match=r"setting elites is 5; at most dynamics\.members, 3, is allowed"):
        make(name, dynamics__members=3)


def view(agent, ensemble, source=SOURCE, target=TARGET, terminated=never, **params):
    actor = [torch.zeros(shape) for shape in agent.networks()["actor"].shapes()]
    packed = [pack(d, "d") if d else torch.empty(0, 2 * S + A + 2) for d in (source, target)]
    return RunView(0, 0, {"actor": actor, **params}, ensemble, *packed, Layout(S, A), terminated)


def test_rollouts_start_half_in_each_dataset():
    agent = make("mopo", starts=101)
    found = agent.starts(view(agent, None), torch.Generator().manual_seed(0))
    assert found.shape == (101, S)
    source, target = (set(map(tuple, data.observations.tolist())) for data in (SOURCE, TARGET))
    assert all(tuple(row) in source for row in found[:50].tolist())
    assert all(tuple(row) in target for row in found[50:].tolist())
    alone = agent.starts(view(agent, None, source=None), torch.Generator().manual_seed(0))
    assert alone.shape == (101, S)
    assert all(tuple(row) in target for row in alone.tolist())


@pytest.mark.parametrize("name", ["mopo", "mobile"])
def test_a_refill_is_its_rollouts(name):
    """Only MOPO takes the uncertainty off the reward; actions are drawn from the policy."""
    ensemble = random_ensemble()
    kind = {"mopo": {"penalty": 2.0}, "mobile": {}}[name]
    agent, free = small(name, starts=300, horizon=1, **kind), small("mopo", starts=300, horizon=1, penalty=0.0)
    run = view(agent, ensemble)
    rows = agent.refill(run, torch.Generator().manual_seed(3))
    plain = free.refill(view(free, ensemble), torch.Generator().manual_seed(3))
    s, a, _, rewards, continues = run.layout.split(rows)
    columns = [i for i in range(rows.shape[1]) if i != run.layout.reward_column]
    assert torch.equal(rows[:, columns], plain[:, columns])
    _, _, variances = ensemble.predict(s, a)
    lower = 2.0 * variances.sum(-1).sqrt().amax(0) if name == "mopo" else 0.0
    torch.testing.assert_close(rewards, plain[:, run.layout.reward_column] - lower)
    # A policy whose mean and log standard deviation are 0: atanh(a) is standard normal.
    assert float(torch.atanh(a).std()) == pytest.approx(1.0, abs=0.1)
    assert bool(continues.all())
    assert run.report == {"reward": pytest.approx(float(rewards.mean())), "ended": 0.0}


def test_a_refill_ends_where_the_robot_falls():
    agent = small("mopo", starts=100, horizon=5, penalty=0.0)
    run = view(agent, constant_ensemble(), terminated=lambda s: s[:, 0] > 4.0)
    rows = agent.refill(run, torch.Generator().manual_seed(0))
    s, _, following, _, continues = run.layout.split(rows)
    assert torch.equal(continues == 0, following[:, 0] > 4.0)
    assert bool((s[100:, 0] <= 4.0).all())
    assert 0.0 < run.report["ended"] < 1.0


def test_the_ensemble_learns_from_all_rows_there_are(tmp_path, monkeypatch):
    seen = []
    real = EnsembleLearner.fit

    def fit(self, rows, seed, *more, **named):
        seen.append((seed, len(rows)))
        return real(self, rows, seed, *more, **named)

    monkeypatch.setattr(EnsembleLearner, "fit", fit)
    for data, rows in (("merged", 400), ("target", 100), ("source", 300)):
        seen.clear()
        agent = small("mobile", data=data)
        hardware, folder = Hardware(compiled=False), tmp_path / data
        module = train_population(agent, (0, 1), SOURCE, TARGET, Budget(41), hardware, folder, quiet=True)
        assert seen == [(0, rows), (1, rows)]
        # Three refills of 40 rollouts of 2 steps, of which two are kept.
        assert [buffer.fill for buffer in module.supply.buffers] == [160, 160]


def steered(rows, seed):
    """Actions move two numbers by half their size; the reward wants the one large and the other small."""
    rng = np.random.default_rng(seed)
    observations = rng.uniform(-1.0, 1.0, (rows, S)).astype(np.float32)
    actions = rng.uniform(-1.0, 1.0, (rows, A)).astype(np.float32)
    following = observations.copy()
    following[:, :A] += 0.5 * actions
    return SimpleNamespace(
        observations=observations,
        actions=actions,
        next_observations=following + 0.01 * rng.standard_normal(following.shape).astype(np.float32),
        rewards=(1.5 + following[:, 0] - following[:, 1]).astype(np.float32),
        terminations=np.zeros(rows, dtype=bool),
    )


def learned(kind, folder, cache, without=""):
    """Train without one part of the loss; return how far the policy goes the right way, at most 1, and its entropy."""

    class Crippled(kind):
        @property
        def rates(self):
            own = {"critic": self.settings.learning_rate, **super().rates}
            # A network that never moves is one whose part of the loss is not there.
            return own | ({without: 0.0} if without else {})

    settings = {"starts": 200, "horizon": 1, "refill_every": 100, "refills_kept": 2, "discount": 0.5, "width": 32}
    settings |= {"batch_size": 64, "learning_rate": 3e-3, "actor_rate": 3e-3, "alpha_rate": 3e-2, "polyak": 0.05}
    settings |= {"dynamics.width": 16, "dynamics.epochs": 30, "dynamics.learning_rate": 1e-2, "data": "target"}
    settings |= {"penalty": 0.1} if kind is MOPO else {"beta": 0.1, "samples": 2, "elites": 3}
    agent = Crippled(build(kind.settings_class, settings), S, A)
    data, hardware = steered(1000, 0), Hardware(compiled=False)
    folder = folder / (without or "whole")
    module = train_population(agent, [0], data, data, Budget(300), hardware, folder, quiet=True, cache=cache)
    actions = module.act(torch.from_numpy(steered(500, 1).observations)[None])[0]
    return float((actions[:, 0] - actions[:, 1]).mean()) / 2.0, module.metrics_of(0)["entropy"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("stages")


@pytest.mark.parametrize("kind", [MOPO, MOBILE])
def test_it_learns_and_no_part_of_its_loss_is_idle(kind, tmp_path, cache):
    right, entropy = learned(kind, tmp_path, cache)
    assert right > 0.8
    for part in ("critic", "actor"):
        assert learned(kind, tmp_path, cache, part)[0] < 0.4, part
    # Without its own loss the temperature stays at 1, and the policy nearly uniform.
    assert learned(kind, tmp_path, cache, "alpha")[1] > entropy + 0.5
