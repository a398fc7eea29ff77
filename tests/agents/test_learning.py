"""Every agent learns what its losses are for, and no longer learns it once a term of them is taken out.

A lesson is a small world in which some terms decide what is learned, and an error that the agent as it is keeps below a
bar. Every crippled variant of the agent misses the same bar: were its term missing from the agent itself, the lesson
would fail. A term is taken out by a setting, by a method in the place of another, by a patched function, or by leaving
a network as it was at first: the parts of a loss have no parameters in common, so that a network which never moves is
one whose part of the loss is not there. (SAC's temperature, which only the entropy shows, is in test_model_based.py.)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from offdyn_agents.algorithms.registry import AGENTS, agent_class
from offdyn_agents.algorithms.rowwise.agent import RowwiseIQL
from offdyn_agents.engine.networks import mlp, policy, twin
from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.settings import build
from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.models import classifiers
from offdyn_agents.models.dual import losses as mobody_losses
from offdyn_agents.models.dual.model import encode
from offdyn_agents.models.dual.settings import DualDynamicsSettings
from offdyn_agents.models.dual.training import DualLearner
from offdyn_agents.models.dynamics_reward import training as reward_training
from offdyn_agents.runs.runs import train_population
from offdyn_envs.errors import OffDynError
from tests.agents import lessons
from tests.agents.synthetic import A, S
from tests.agents.test_dynamics_reward_training import LEARNING


@dataclass(frozen=True)
class Patch:
    """A function of a module in the place of another while an agent is trained."""

    module: Any
    name: str
    function: Callable[..., Any]


Without = Mapping[str, Any] | type | Patch
"""Other settings, methods before the agent's own, or a patch."""


@dataclass(frozen=True)
class Lesson:
    """Something to be learned.

    Attributes:
        agent: Who learns it.
        data: Source and target rows.
        error: What of it has not been learned, of a trained module; about 0 if all has, and about 1 if nothing has.
        bar: What the agent stays below.
        settings: The agent's.
        without: What misses the bar, by what it lacks.
        updates: Length of the training.
    """

    agent: str
    data: Callable[[], tuple[Any, Any]]
    error: Callable[[Any], float]
    bar: float
    settings: Mapping[str, Any]
    without: Mapping[str, Without]
    updates: int = 300


def still(network):
    """Leave a network as it was at first."""

    class Still:
        @property
        def rates(self):
            return {**super().rates, network: 0.0}

    return Still


def acted(module, observations):
    return module.act(torch.from_numpy(observations).float()[None])[0].numpy()


def wrongness(module, marked=False):
    """Squared distance from the right actions, in units of their own size: 1 for doing nothing, 4 for the opposites."""
    observations = lessons.contexts(400, np.random.default_rng(9))
    if marked:
        observations[:, 4] = np.random.default_rng(8).choice([-1.0, 1.0], 400)
    right = lessons.right(observations)
    return float(np.square(acted(module, observations) - right).mean() / np.square(right).mean())


def marked_wrongness(module):
    """The same, in states with either mark."""
    return wrongness(module, marked=True)


def forgone(reach):
    """What a policy leaves of the gain at the edge of the data; 3 if it falls off the cliff."""

    def error(module):
        observations = np.random.default_rng(9).standard_normal((400, S))
        return float(1.0 - lessons.gain(observations, acted(module, observations), **reach).mean())

    return error


def misvalued(module):
    """Squared error of the values of first states, in units of their variance."""
    rng = np.random.default_rng(9)
    observations, sign = lessons.contexts(800, rng), rng.choice([-1.0, 1.0], 800)
    observations[:, 4] = rng.integers(0, 2, 800)
    actions = sign[:, None] * lessons.right(observations)
    truth = np.where(observations[:, 4] > 0, -sign, np.where(sign > 0, 2.0, -2.0 * 0.9))
    inputs = [torch.from_numpy(part).float()[None] for part in (observations, actions)]
    values = twin(module.population.params["critic"], *inputs).amin(-2)[0].numpy()
    return float(np.square(values - truth).mean() / truth.var())


def inclination(number, towards):
    """How far the mean of an action's number is from where it belongs: 0 there, 1 at the other end."""

    def error(module):
        actions = acted(module, np.random.default_rng(9).uniform(-1.0, 1.0, (400, S)))
        return float((1.0 - towards * actions[:, number].mean()) / 2.0)

    return error


class Uncloned:
    """TD3-BC without its cloning term, which is subtracted again."""

    def loss(self, params, batch):
        loss, metrics = super().loss(params, batch)
        if batch.phase == "both":
            away = policy(params["actor"], batch.observations) - batch.actions
            loss = loss - away.square().mean((-2, -1))
        return loss, metrics


class NoSourceRows:
    """DROCO whose critics learn from target rows only."""

    def critic_loss(self, params, errors, batch):
        ours, theirs = errors[..., : batch.source_rows], errors[..., batch.source_rows :]
        return super().critic_loss(params, torch.cat([0.0 * ours, theirs], -1), batch)


class NoTargetRows:
    """DROCO whose critics learn from source rows only."""

    def critic_loss(self, params, errors, batch):
        ours, theirs = errors[..., : batch.source_rows], errors[..., batch.source_rows :]
        return super().critic_loss(params, torch.cat([ours, 0.0 * theirs], -1), batch)


class NoModels:
    """DROCO whose ensemble has learned nothing: every member says that nothing changes."""

    def stages(self, context):
        results = super().stages(context)
        states, *_ = context.layout.split(context.source)
        return replace(results, predicted=[states[:, None].expand_as(p).contiguous() for p in results.predicted])


def one_classifier(name):
    """DARA's loss without the cross-entropy of the other classifier."""
    real = classifiers.classifier_loss

    def loss(params, inputs, *more):
        still = [tensor.detach() for tensor in params[{"sas": "sa", "sa": "sas"}[name]]]
        return real({**params, {"sas": "sa", "sa": "sas"}[name]: still}, inputs, *more)

    return Patch(classifiers, "classifier_loss", loss)


def one_sided(real_too):
    """The discriminator's loss without what real rows, or what generated ones add to its cross-entropy."""
    whole = reward_training.discriminator_loss

    def loss(params, real, generated, entropy):
        logits = mlp(params, generated if real_too else real).squeeze(-1)
        surplus = functional.softplus(logits if real_too else -logits).sum(-1)
        return whole(params, real, generated, entropy) - surplus / (real.shape[-2] + generated.shape[-2])

    return Patch(reward_training, "discriminator_loss", loss)


FORKED = {"expectile": 0.9, "discount": 0.9, "polyak": 0.05}
FORKS = {
    "V": still("value"),
    "the expectile": {"expectile": 0.5},
    "Q": still("critic"),
    "the actor's loss": still("actor"),
    "advantages": {"temperature": 0.0},
}
ENSEMBLE = {"dynamics.width": 32, "dynamics.batch_size": 64, "dynamics.learning_rate": 5e-3}
ROLLOUTS = {
    "starts": 200,
    "refill_every": 100,
    "refills_kept": 2,
    "polyak": 0.05,
    "actor_rate": 3e-3,
    "alpha_rate": 3e-2,
}
DUAL = {"form": "paper", "members": 2, "elites": 2, "width": 32, "latent": 8, "batch_size": 64, "learning_rate": 5e-3}
MOBODY = {
    **{f"dynamics.{name}": value for name, value in DUAL.items()},
    "dynamics.epochs": 2,
    "dynamics.loss_weights": "code",
    "dara.updates": 5,
    "dara.width": 32,
    "dara.learning_rate": 3e-3,
    "discount": 0.0,
    "source_starts": 200,
    "target_starts": 200,
    "capacity": 1000,
    "refill_every": 150,
    "fake_ratio": 0.1,
}
IMITATION = MOBODY | {"q_scale": 0.0}
REACH = {"wide": 0.45, "narrow": 0.15}
REWARD = LEARNING | {"iterations": 20, "pretraining": 100}
STORMY = ROLLOUTS | ENSEMBLE | {"data": "target", "horizon": 1, "discount": 0.5}
STORMY |= {"dynamics.epochs": 30, "dynamics.patience": 30}
MIRAGES = ROLLOUTS | ENSEMBLE | {"horizon": 2, "discount": 0.8, "dynamics.epochs": 15, "discriminators": 10}
MIRAGES |= {f"dynamics_reward.{name}": value for name, value in REWARD.items()}
SCORER = {"starts": 2000, "width": 64, "updates": 400, "batch_size": 256, "learning_rate": 3e-3}
MIRAGES |= {f"scorer.{name}": value for name, value in SCORER.items()}
OFF = {"filtered": False, "threshold": 0.0, "dynamics_reward.iterations": 2, "dynamics_reward.pretraining": 10}
PENALTIES = {
    "mopo": {"penalty": 3.0},
    "mobile": {"beta": 4.0, "samples": 2, "elites": 3},
    "micro": {"beta": 4.0, "samples": 2, "elites": 3},
}


def both(world, source=2000, target=500, **named):
    """The same world as source and as target."""
    return lambda: (world(source, 0, **named), world(target, 1, **named))


def domains(world, source=2000, target=500, **named):
    """A world in which the domains differ."""
    return lambda: (world(source, 0, "source", **named), world(target, 1, "target", **named))


def storm(agent, penalty, **more):
    """Rollouts' penalties: what earns more is less certain. MOREC's are those of MOPO and MOBILE; slow tests."""
    without: dict[str, Without] = {"the penalty": dict.fromkeys([next(iter(penalty))], 0.0)}
    if not more:
        without["critics"] = still("critic")
    settings = STORMY | penalty | more
    return Lesson(agent, both(lessons.storms, 10, 1000), inclination(0, -1.0), 0.3, settings, without)


def mirage(agent, penalty):
    """Filter and early stop, of which each has a world of its own."""
    free = MIRAGES | penalty
    terms = {"real rows' term": one_sided(False), "generated rows' term": one_sided(True)}
    chosen = Lesson(
        agent,
        domains(lessons.mirages, 1200, 400, lure=0.0),
        inclination(0, 1.0),
        0.1,
        free | {"threshold": 0.0},
        {"the filter": {"filtered": False}, **(terms if agent == "morec" else {})},
    )
    stopped = Lesson(
        agent,
        domains(lessons.mirages, 1200, 600),
        inclination(1, -1.0),
        0.4,
        # Trained for long, or one of its candidates may be real after all, and choosing it does what stopping does.
        free | {"dynamics.epochs": 80, "dynamics.patience": 80},
        {"the early stop": {"threshold": 0.0}},
    )
    return {f"{agent}: which candidates are real": chosen, f"{agent}: where none is real": stopped}


LESSONS = {
    "bc: actions of target rows": Lesson(
        "bc",
        lambda: (lessons.verdicts(500, 0), lessons.verdicts(500, 1, good=1.0)),
        marked_wrongness,
        0.25,
        {},
        {"cloning": still("actor"), "the choice of rows": {"data": "source"}},
    ),
    "td3-bc: gain within the data": Lesson(
        "td3-bc",
        both(lessons.slope),
        forgone({}),
        0.5,
        {"alpha": 0.5, "discount": 0.0},
        {"Q": {"alpha": 0.0}, "cloning": Uncloned, "critics": still("critic")},
    ),
    "iql: the better of two futures": Lesson(
        "iql", both(lessons.forks), wrongness, 0.35, FORKED, {**FORKS, "what comes later": {"discount": 0.0}}, 400
    ),
    "droco: the better of two futures": Lesson(
        "droco",
        both(lessons.forks),
        wrongness,
        0.35,
        {**FORKED, "dynamics.epochs": 3, "dynamics.width": 16},
        FORKS,
        400,
    ),
    "droco: what the target makes of source rows": Lesson(
        "droco",
        domains(lessons.lures, 2000, 1000),
        misvalued,
        0.25,
        # Where a lure leads in the target is further away than a root mean squared change: radius 1 ends before.
        ENSEMBLE | {"discount": 0.9, "polyak": 0.05, "delta": 3.0, "radius": 2.0, "dynamics.epochs": 30},
        {
            "the penalty": {"beta": 0.0},
            "the Huber loss": {"delta": "inf"},
            "target rows": NoTargetRows,
            "source rows": NoSourceRows,
            "the ensemble": NoModels,
        },
    ),
    "mobody: gain within the data": Lesson(
        "mobody",
        both(lessons.slope, low=0.4, high=2.0, **REACH),
        forgone(REACH),
        0.6,
        MOBODY | {"q_scale": 1.0, "fake_ratio": 0.25},
        {
            "Q": {"q_scale": 0.0},
            "imitation": {"bc": 0.0},
            "its weights": {"bc_weight": "plain"},
            "critics": still("critic"),
        },
    ),
    "mobody: the better actions, as the public code": Lesson(
        "mobody",
        both(lessons.verdicts),
        marked_wrongness,
        0.4,
        IMITATION | {"bc_weight": "code"},
        {"weights": {"bc_weight": "plain"}, "critics": still("critic")},
    ),
    "mobody: the better actions, by advantages": Lesson(
        "mobody",
        both(lessons.verdicts),
        marked_wrongness,
        0.4,
        IMITATION | {"bc_weight": "awr", "polyak": 0.05},
        {"V": still("value"), "critics": still("critic")},
    ),
    "mobody: what the target never does": Lesson(
        "mobody",
        domains(lessons.impostors),
        marked_wrongness,
        0.5,
        IMITATION | {"bc_weight": "code", "dara.updates": 300, "dara.noise": 0.2, "dara.weight": 1.0, "dara.clip": 3.0},
        {
            "corrections": {"dara.weight": 0.0},
            "the classifier of (s, a)": one_classifier("sas"),
            "the classifier of (s, a, s')": one_classifier("sa"),
        },
    ),
    "mopo: what earns less but is certain": storm("mopo", PENALTIES["mopo"]),
    "mobile: what earns less but is certain": storm("mobile", PENALTIES["mobile"]),
    "micro: what earns less but is certain": storm("micro", PENALTIES["micro"]),
    # Beyond the data critics say more is better still: without their term, or the behaviour's, the actor leaves them.
    "cql: not beyond the data": Lesson(
        "cql",
        both(lessons.slope),
        forgone({}),
        1.2,
        {"discount": 0.0, "weight": 0.3, "networks": "plain", "actor_rate": 3e-3, "alpha_rate": 3e-2},
        {"the conservative term": {"weight": 0.0}, "critics": still("critic")},
        400,
    ),
    "bosa: gain within the data": Lesson(
        "bosa",
        both(lessons.slope),
        forgone({}),
        0.7,
        {
            **{"discount": 0.0, "penalty": 0.0, "regularisation": 0.5, "masked": False},
            **{"behaviour.updates": 1500, "behaviour.width": 64},
        },
        {"the behaviour's density": {"regularisation": 0.0}, "critics": still("critic")},
        400,
    ),
    "morec: what earns less but is certain": storm("morec", PENALTIES["mopo"], **OFF),
    "morec-mobile: what earns less but is certain": storm("morec-mobile", PENALTIES["mobile"], **OFF),
    **mirage("morec", {"penalty": 0.0}),
    **mirage("morec-mobile", {"beta": 0.0, "samples": 2}),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Stages that variants have in common are trained once."""
    return tmp_path_factory.mktemp("stages")


def learned(lesson, folder, cache, without=None, seeds=(0,)):
    """Train an agent, or what is left of it; return its error, infinite where it cannot be trained at all."""
    kind, settings = agent_class(lesson.agent), {"width": 32, "batch_size": 64, "learning_rate": 3e-3}
    settings |= lesson.settings
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(without, Patch):
            patch.setattr(without.module, without.name, without.function)
            cache = None
        elif isinstance(without, type):
            kind = type("Crippled", (without, kind), {})
        elif without:
            settings |= without
        agent, hardware = kind(build(kind.settings_class, settings), S, A), Hardware(compiled=False)
        budget = Budget(lesson.updates)
        try:
            module = train_population(agent, seeds, *lesson.data(), budget, hardware, folder, quiet=True, cache=cache)
        except OffDynError as error:
            # Nothing else counts as not having learned.
            assert "diverged before update" in str(error)
            return np.inf
    return lesson.error(module)


def test_every_agent_has_a_lesson():
    taught = {lesson.agent for lesson in LESSONS.values()}
    # Methods that judge source rows before the policy have theirs on planted rows, in files of their own; others on IQL
    # have files of their own too, and what knows the truth has nothing to learn.
    on_iql = {name: agent_class(name) for name in AGENTS if issubclass(agent_class(name), RowwiseIQL)}
    assert set(AGENTS) - set(on_iql) == taught
    for name in (name for name, kind in on_iql.items() if not kind.diagnosis):
        text = (Path(__file__).parent / f"test_{name}.py").read_text()
        judges = on_iql[name].row_columns is not RowwiseIQL.row_columns
        assert ("good_share(" in text or "good_rows()" in text) == judges, name


INHERITED = ("morec: what earns less but is certain", "morec-mobile: what earns less but is certain")


def marked(name, *more):
    return pytest.param(name, *more, marks=[pytest.mark.slow] if name in INHERITED else [])


@pytest.mark.parametrize("name", [marked(name) for name in LESSONS])
def test_it_is_learned(name, tmp_path, cache):
    assert learned(LESSONS[name], tmp_path, cache) < LESSONS[name].bar


@pytest.mark.parametrize(
    ("name", "lacking"), [marked(name, what) for name in LESSONS for what in LESSONS[name].without]
)
def test_it_is_not_learned_without(name, lacking, tmp_path, cache):
    lesson = LESSONS[name]
    assert learned(lesson, tmp_path, cache, lesson.without[lacking]) > lesson.bar


LAYOUT = Layout(S, A)
ALONE = DUAL | {"loss_weights": "paper", "representation_loss": False, "epochs": 8}
LATENT = DUAL | {"loss_weights": "code", "epochs": 8}
PAPER = DUAL | {"loss_weights": "paper", "epochs": 3}
Term = tuple[str, str]
"""A field of `mobody_losses.Weights` and the domain on whose rows it is gone."""


@once
def dynamics(base, marked, seed, *gone):
    """Train MOBODY's dynamics without some terms of their loss."""
    real = mobody_losses.weights

    def weights(settings, domain):
        # A weight of 0 would switch other terms off too.
        return real(settings, domain)._replace(**{name: 1e-9 for name, where in gone if where == domain})

    source, target = (pack(data, "rows") for data in domains(lessons.mirrors, 1200, 300, marked=marked)())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobody_losses, "weights", weights)
        learner = DualLearner(build(DualDynamicsSettings, dict(base)), LAYOUT, torch.device("cpu"), compiled=False)
        return learner.fit(source, target, seed)


def unseen(domain, marked):
    return LAYOUT.split(pack(lessons.mirrors(500, 2, domain, marked=marked), "rows"))


def next_states(found, domain, marked):
    """Squared error of next states, in units of the change from s to s'."""
    s, a, following, *_ = unseen(domain, marked)
    return (found.means(s, a, domain).mean(0) - following).square().mean() / (following - s).square().mean()


def rewards(found, domain, marked):
    """Squared error of rewards, in units of their variance."""
    s, a, following, meant, _ = unseen(domain, marked)
    return (found.rewards(s, a, following).mean(0) - meant).square().mean() / meant.var()


def states(found, domain, marked):
    """Squared error of reconstructed states, in units of their variance."""
    s, *_ = unseen(domain, marked)
    return (found.reconstruct(s).mean(0) - s).square().mean() / s.var()


def divergence(found, domain, marked):
    """Mean over latent dimensions of the divergence of latent states from a standard normal distribution."""
    mean, log_variance = encode(found.nets, unseen(domain, marked)[0][None])
    return 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance).mean()


NO_FORWARD = (("dynamics", "source"), ("dynamics", "target"))
DYNAMICS = {
    f"{what} of {domain} rows": (base, marked, off, error, bar, (term, domain))
    for what, base, marked, off, error, bar, term in (
        ("the forward loss", ALONE, True, (), next_states, 2.0, "dynamics"),
        ("the reward's loss", ALONE, True, (), rewards, 1.0, "reward"),
        ("the loss of latent states", LATENT, False, NO_FORWARD, next_states, 0.7, "representation"),
    )
    for domain in ("source", "target")
}
"""MOBODY's dynamics: settings, whether domains are marked, terms that are gone from the start because they teach the
same thing, an error, its bar, and the term that keeps it below."""


@pytest.mark.parametrize("lacking", DYNAMICS)
def test_dynamics_need(lacking):
    base, marked, off, error, bar, term = DYNAMICS[lacking]
    chosen, domain = tuple(base.items()), term[1]
    assert error(dynamics(chosen, marked, 0, *off), domain, marked) < bar
    assert error(dynamics(chosen, marked, 0, *off, term), domain, marked) > bar


def test_dynamics_need_the_cycle_loss():
    for base, marked, off, error, bar, term in (
        (LATENT, False, NO_FORWARD, states, 0.3, "reconstruction"),
        (PAPER, True, (), divergence, 5.0, "divergence"),
    ):
        chosen, gone = tuple(base.items()), ((term, "source"), (term, "target"))
        assert error(dynamics(chosen, marked, 0, *off), "target", marked) < bar
        assert error(dynamics(chosen, marked, 0, *off, *gone), "target", marked) > bar
