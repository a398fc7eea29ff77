"""MOREC: what its rollouts keep and refuse, its switches, the tables of the paper, and what its stages learn from."""

from dataclasses import replace

import pytest
import torch

from offdyn_agents.algorithms.model_based import ModelBasedSAC
from offdyn_agents.algorithms.morec import Judged
from offdyn_agents.algorithms.registry import agent_class, make_agent
from offdyn_agents.engine.networks import mlp
from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.engine.training.supplies import TaskRuns, make_supply
from offdyn_agents.engine.update import initial_population
from offdyn_agents.models.dynamics_reward import stage as stage_module
from offdyn_agents.models.dynamics_reward.discriminator import DynamicsReward, Scaling, discriminator_network
from offdyn_agents.models.ensemble.rollouts import roll_out
from offdyn_agents.presets import chosen, preset, tuning
from tests.agents.synthetic import A, S, dataset, make
from tests.agents.test_model_based import view
from tests.agents.test_model_rollouts import random_ensemble

SOURCE, TARGET = dataset(300, 0), dataset(100, 1)
AGENTS = ("morec", "morec-mobile")
TINY = {
    "starts": 60,
    "horizon": 4,
    "elites": 3,
    "dynamics__width": 8,
    "dynamics__epochs": 1,
    "dynamics__members": 3,
    "dynamics_reward__guess_updates": 20,
    "dynamics_reward__updates": 12,
    "dynamics_reward__snapshots": 6,
    "dynamics_reward__width": 8,
    "dynamics_reward__discriminator_width": 16,
    "dynamics_reward__batch_size": 32,
    "scorer__starts": 40,
    "scorer__width": 8,
    "scorer__updates": 5,
}


def small(name, **more):
    return make(name, **(TINY | ({"samples": 2} if name == "morec-mobile" else {}) | more))


def reward():
    """Discriminators with opinions of all kinds on synthetic transitions."""
    generator = torch.Generator().manual_seed(0)
    params = [5.0 * t for t in discriminator_network(S, A, 3).initial(generator)]
    s, a, following, *_ = Layout(S, A).split(pack(TARGET, "t"))
    scaling = Scaling.of(s, a, following)
    logits = mlp(
        params, scaling.inputs(s, a, following + 0.3 * torch.randn(s.shape, generator=generator))[None]
    ).squeeze(-1)
    return DynamicsReward(params, logits.quantile(0.8, dim=1), logits.quantile(0.2, dim=1), scaling)


REWARD = reward()


def refill(agent, seed=0):
    run = view(agent, Judged(random_ensemble(), REWARD))
    return agent.refill(run, torch.Generator().manual_seed(seed)), run


def scores(run, rows):
    s, a, following, *_ = run.layout.split(rows)
    return REWARD(s, a, following)


@pytest.mark.parametrize("name", AGENTS)
def test_a_refused_transition_is_an_end(name):
    free, run = refill(small(name, threshold=0.0, temperature=0.0))
    middle = float(scores(run, free).median())
    rows, run = refill(small(name, threshold=middle, temperature=0.0))
    *_, continues = run.layout.split(rows)
    low = scores(run, rows) < middle
    assert torch.equal(continues == 0, low)
    assert 0 < int(low.sum()) < len(rows)
    # Already at the first step.
    assert bool(low[:60].any())
    assert run.report["length"] == pytest.approx(len(rows) / 60)
    assert run.report["ended"] == pytest.approx(float(low.float().mean()))
    dropped, _ = refill(small(name, threshold=middle, temperature=0.0, drop_refused=True))
    assert torch.equal(dropped, rows[~low])


def test_switches():
    chosen = {
        "argmax": {"temperature": 0.0},
        "softmax": {"temperature": 0.1},
        "warm": {"temperature": 100.0},
        "any": {"filtered": False},
    }
    means = {}
    for name, more in chosen.items():
        rows, run = refill(small("morec", threshold=0.0, horizon=1, starts=2000, **more))
        assert len(rows) == 2000
        means[name] = float(scores(run, rows).mean())
    assert means["argmax"] > means["softmax"] > means["warm"] + 0.02
    assert means["any"] == pytest.approx(means["warm"], abs=0.02)
    # Without early stops every rollout is as long as asked.
    rows, run = refill(small("morec", threshold=0.0))
    assert len(rows) == 240
    assert run.report["ended"] == 0.0
    assert len(refill(small("morec", threshold=1.4))[0]) == 60


def test_bf16_rounds_verdicts_and_nothing_else(tmp_path, monkeypatch):
    seen = []
    real = DynamicsReward.__call__

    def spied(self, *transitions):
        scores = real(self, *transitions)
        with torch.autocast("cpu", enabled=False):
            seen.append((transitions, scores, real(self, *transitions)))
        return scores

    monkeypatch.setattr(DynamicsReward, "__call__", spied)
    # After one step, candidates in units of a change are so far apart that all of them have the lowest reward.
    agent = small("morec", threshold=0.0, temperature=0.0, horizon=1, dynamics__outputs="raw")
    run = view(agent, Judged(random_ensemble(), REWARD))
    exact = agent.refill(run, torch.Generator().manual_seed(0))
    hardware = Hardware(precision="bf16", compiled=False)
    rounded = agent.refill(replace(run, products=hardware.products), torch.Generator().manual_seed(0))
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.float32)
    (theirs, _, _), (ours, scores, truth) = seen
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))
    assert 0.0 < float((scores - truth).abs().max()) < 0.02
    # The trainer passes the precision on.
    seen.clear()
    tasks = [TaskRuns(SOURCE, TARGET, (0,), tmp_path)]
    given = make_supply(agent, tasks, Budget(10, 10, 10), hardware)
    given.refill(initial_population(agent, (0,), given.frozen).readable(), (0,), 0, 1)
    assert any(not torch.equal(scores, truth) for _, scores, truth in seen)


def test_candidates_are_elites_times_draws_and_bounded():
    agent = small("morec", draws=2, candidate_bound=0.25)
    world = agent.world(view(agent, Judged(random_ensemble(), REWARD)))
    found = world.propose(torch.zeros(7, S), torch.zeros(7, A), torch.Generator().manual_seed(0))
    assert found.rewards.shape == (6, 7)
    assert float(found.next_observations.abs().max()) == 0.25
    # All members, not the elites alone, and before any bound, are the uncertainty.
    assert world.propose.ensemble.params[0].shape[0] > 3


def test_the_reward_filters_and_is_never_added():
    """The task's reward is that of the candidate taken, less MOPO's penalty and nothing else."""
    plain, run = refill(small("morec", horizon=1, penalty=0.0, threshold=0.0, temperature=0.0))
    penalised, _ = refill(small("morec", horizon=1, penalty=2.0, threshold=0.0, temperature=0.0))
    ensemble = random_ensemble()
    s, a, following, rewards, _ = run.layout.split(plain)
    uncertainty = ensemble.predict(s, a)[2].sum(-1).sqrt().amax(0)
    torch.testing.assert_close(penalised[:, run.layout.reward_column], rewards - 2.0 * uncertainty)
    agent = small("morec", horizon=1, penalty=0.0, threshold=0.0, temperature=0.0)
    world = agent.world(view(agent, Judged(ensemble, REWARD)))
    drawn = world.propose(s, a, torch.Generator().manual_seed(1))
    rows, _ = world.step(s, a, torch.Generator().manual_seed(1))
    taken = rows[:, run.layout.reward_column]
    best = REWARD(s.expand(6, -1, -1), a.expand(6, -1, -1), drawn.next_observations).argmax(0)
    assert torch.equal(taken, drawn.rewards[best, torch.arange(60)])
    assert torch.isfinite(following).all()


def test_mobile_takes_no_uncertainty_off_the_reward():
    mobile, _ = refill(small("morec-mobile", horizon=1, threshold=0.0))
    mopo, _ = refill(small("morec", horizon=1, threshold=0.0, penalty=0.0))
    assert torch.equal(mobile, mopo)


def context(agent, cache=None, source=SOURCE, target=TARGET, seeds=(0, 1)):
    layout = Layout(S, A)
    tables = [pack(d, "d") if d else torch.empty(0, layout.width) for d in (source, target)]
    return StageContext(layout, *tables, seeds, updates=1, cache=cache, compiled=False)


@pytest.mark.parametrize("name", AGENTS)
def test_one_reward_for_all_seeds_from_target_rows(name, monkeypatch):
    seen = []
    real = stage_module.fit_dynamics_reward

    def fit(settings, layout, rows, *args, **named):
        seen.append(rows)
        return real(settings, layout, rows, *args, **named)

    monkeypatch.setattr(stage_module, "fit_dynamics_reward", fit)
    agent = small(name, scorer__form="exact")
    found = agent.stages(context(agent))
    assert len(seen) == 1
    assert torch.equal(seen[0], pack(TARGET, "t"))
    assert found.results[0].reward is found.results[1].reward
    assert not torch.equal(found.results[0].ensemble.params[0], found.results[1].ensemble.params[0])
    assert found.report["discriminators"] == len(found.results[0].reward) <= 6
    assert ("elites" in found.frozen) == (name == "morec-mobile")
    only = small(name, data="source")
    only.stages(context(only, target=None))
    assert torch.equal(seen[1], pack(SOURCE, "s"))


def test_rollouts_are_filtered_by_a_scorer_of_each_seed(monkeypatch):
    found = small("morec").stages(context(None))
    first, second = (judged.reward for judged in found.results)
    assert len(first) == len(second) == 1
    assert not torch.equal(first.params[0], second.params[0])
    for name in ("correlation", "within", "agreement"):
        assert len(found.report[f"scorer_{name}"]) == 2
    # Another seed that fails changes nothing, and nothing is distilled from its ensemble.
    real = ModelBasedSAC.stages
    monkeypatch.setattr(ModelBasedSAC, "stages", lambda self, c: replace(real(self, c), failed={0: "it diverged"}))
    other = small("morec").stages(context(None))
    assert torch.equal(other.results[1].reward.params[0], second.params[0])
    assert len(other.report["scorer_within"]) == 1


@pytest.mark.parametrize(("data", "wanted"), [("merged", True), ("target", False), ("source", False)])
def test_the_sources_answers_are_fakes_where_there_are_two_domains(data, wanted, monkeypatch):
    seen = []
    real = stage_module.fit_dynamics_reward
    monkeypatch.setattr(
        stage_module,
        "fit_dynamics_reward",
        lambda *x, source, **n: (seen.append(source), real(*x, source=source, **n))[1],
    )
    tables = {"merged": {}, "target": {"source": None}, "source": {"target": None}}[data]
    agent = small("morec", data=data)
    agent.stages(context(agent, seeds=(0,), **tables))
    assert (seen[0] is not None and torch.equal(seen[0], pack(SOURCE, "s"))) == wanted
    assert wanted or seen[0] is None or not len(seen[0])


def test_a_failed_ensemble_does_not_hide_what_the_reward_lets_pass(monkeypatch):
    real = ModelBasedSAC.stages
    monkeypatch.setattr(ModelBasedSAC, "stages", lambda self, c: replace(real(self, c), failed={1: "it diverged"}))
    found = small("morec").stages(context(None))
    assert found.failed == {1: "it diverged"}
    assert 0.0 <= found.report["real_transitions_that_pass"] <= 1.0


def test_a_single_discriminator(tmp_path):
    exact = {"scorer__form": "exact"}
    many = small("morec", **exact).stages(context(None, tmp_path, seeds=(0,))).results[0].reward
    one = small("morec", **exact, discriminators=1).stages(context(None, tmp_path, seeds=(0,))).results[0].reward
    assert len(many) > len(one) == 1
    assert torch.equal(many.params[0][-1:], one.params[0])


PAPER = [
    ("halfcheetah", "random", (0.5, 0.1), {"beta": 0.25}),
    ("halfcheetah", "medium", (0.5, 0.0), {"beta": 0.25}),
    ("halfcheetah", "medium-replay", (0.5, 0.1), {"beta": 0.25}),
    ("halfcheetah", "medium-expert", (0.5, 0.0), {"beta": 1.0, "real_ratio": 0.5}),
    ("hopper", "random", (10.0, 0.0), {"beta": 7.5, "deterministic_backup": True}),
    ("hopper", "medium", (15.0, 0.1), {"beta": 1.5}),
    ("hopper", "medium-replay", (15.0, 0.1), {"beta": 0.5}),
    ("hopper", "medium-expert", (15.0, 0.1), {"beta": 1.5}),
    ("walker2d", "random", (1.0, 0.1), {"beta": 1.0}),
    ("walker2d", "medium", (0.5, 0.1), {"beta": 0.75}),
    ("walker2d", "medium-replay", (0.25, 0.0), {"beta": 0.1}),
    ("walker2d", "medium-expert", (1.0, 0.1), {"beta": 0.25}),
]


@pytest.mark.parametrize(("robot", "quality", "mopo", "mobile"), PAPER)
def test_presets(robot, quality, mopo, mobile):
    settings = make_agent("morec", robot, S, A, {}, quality).settings
    assert (settings.penalty, settings.temperature) == mopo
    other = make_agent("morec-mobile", robot, S, A, {}, quality).settings
    plain = {"real_ratio": 0.05, "deterministic_backup": False, "temperature": 0.1}
    assert {key: getattr(other, key) for key in plain | mobile} == plain | mobile
    if quality == "medium-expert":
        assert preset(agent_class("morec"), robot, quality) == preset(agent_class("morec"), robot, "expert")


@pytest.mark.parametrize("name", AGENTS)
def test_published_constants(name):
    agent = make_agent(name, "ant", 27, 8, {}, "medium")
    settings, dynamics = agent.settings, agent.settings.dynamics
    published = make_agent(name, "ant", 27, 8, {"form": "paper"}, "medium")
    found = published.settings
    assert (found.horizon, found.starts, found.refill_every, published.capacity) == (100, 2000, 1000, 1_000_000)
    assert (found.actor_rate, found.alpha_rate) == (1e-4, 1e-4)
    if name == "morec":
        assert (settings.horizon, settings.starts, settings.actor_rate, settings.alpha_rate) == (500, 100, 3e-4, 1e-3)
    assert (settings.elites, settings.draws, settings.candidate_bound, settings.threshold) == (5, 2, 25.0, 0.6)
    assert settings.discriminators == {"morec": 40, "morec-mobile": 10}[name]
    assert (settings.dynamics_reward.opponent, settings.scorer.form) == ("nce", "distilled")
    assert (dynamics.members, dynamics.width, dynamics.patience) == (7, 200, 5)
    assert settings.actor_critics == {"morec": "online", "morec-mobile": "target"}[name]
    reward_settings = settings.dynamics_reward
    assert (reward_settings.batch_size, reward_settings.entropy, reward_settings.horizon) == (1024, 1e-3, 100)
    assert 1 <= reward_settings.discriminator_steps <= 5
    assert reward_settings.kept * reward_settings.stride == 400
    assert reward_settings.iterations >= 400
    assert tuning(agent_class(name))["tuning_evaluations"] >= 7


def test_a_rollout_goes_on_from_the_candidate_taken():
    agent = small("morec", threshold=0.0, temperature=0.0)
    world = agent.world(view(agent, Judged(random_ensemble(), REWARD)))
    starts = torch.randn(20, S, generator=torch.Generator().manual_seed(0))
    rows = roll_out(world, lambda s, g: torch.zeros(len(s), A), starts, 3, torch.Generator().manual_seed(0))
    s, _, following, *_ = Layout(S, A).split(rows)
    assert torch.equal(s[20:40], following[:20])
    assert torch.equal(s[40:], following[20:40])


@pytest.mark.parametrize(
    ("robot", "inputs", "noise"),
    [
        *((robot, "whitened", 0.1) for robot in ("hopper", "walker2d")),
        ("ant", "standardised", 0.1),
        ("halfcheetah", "standardised", 0.0),
    ],
)
@pytest.mark.parametrize("name", ["morec", "morec-mobile"])
def test_inputs_of_the_discriminators_of_each_robot(name, robot, inputs, noise):
    found = chosen(agent_class(name), robot, "medium", {}).dynamics_reward
    assert (found.inputs, found.input_noise) == (inputs, noise)
    found = chosen(agent_class(name), robot, "medium", {"form": "paper"}).dynamics_reward
    assert (found.opponent, found.inputs, found.input_noise) == ("ppo", "raw", 0.0)
