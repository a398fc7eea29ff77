"""Exported policies, the choice of medium and expert, and the commands around them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from offdyn_agents.behaviour import learners, programme, publish, recipes, references, reports
from offdyn_agents.behaviour.commands import app
from offdyn_agents.behaviour.evaluation import Evaluation, choose_medium, evaluate, find_expert, find_medium
from offdyn_agents.behaviour.export import LOG_STD_RANGE, policy_from_snapshot
from offdyn_agents.behaviour.ppo import PpoLearner, PpoSettings
from offdyn_agents.behaviour.programme import PROGRAMME, Behaviour, select, taught
from offdyn_agents.behaviour.recipes import SEED, TAUGHT, HeadStart, Recipe, WarmStart
from offdyn_agents.behaviour.sac import LOG_STD_MAX, LOG_STD_MIN, SacLearner, SacSettings, actor_outputs
from offdyn_agents.behaviour.training import Run, repeatable
from offdyn_agents.runs.locks import held
from offdyn_envs.benchmark.scoring.protocol import PROTOCOL
from offdyn_envs.benchmark.scoring.scores import get_reference
from offdyn_envs.errors import OffDynError
from offdyn_envs.policies import BehaviourPolicy, read_card
from offdyn_envs.robots import WALKERS
from offdyn_envs.shipped import REPLAY, behaviour_path
from offdyn_envs.tasks import DYNAMICS
from tests.datasets.conftest import make_policy

runner = CliRunner()
ROOT = Path(__file__).parents[2]


def observations_for(size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0.0, 2.0, (200, size))


def fixed_noise(monkeypatch: pytest.MonkeyPatch, noise: np.ndarray) -> np.random.Generator:
    generator = SimpleNamespace(standard_normal=lambda shape, dtype: noise.reshape(shape).astype(dtype))
    return generator  # type: ignore[return-value]


def test_ppo_policy_is_the_same_in_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = PpoLearner("hopper", "nominal", 0, PpoSettings(rows=8, horizon=64, minibatch=128, steps=10_000))
    learner.iterate()
    learner.iterate()
    learner.moments.variance[3] = 1e-4  # a nearly constant entry, where folding loses the most digits
    policy_from_snapshot(learner.snapshot()).save(tmp_path / "p.safetensors", {})
    policy = BehaviourPolicy.load(tmp_path / "p.safetensors")
    assert (policy.distribution, policy.activation) == ("clipped-gaussian", "tanh")
    observations = observations_for(11)
    observations[:, 3] = learner.moments.mean[3] + 0.01 * observations[:, 3]
    noise = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    with torch.no_grad():
        mean = learner.policy(learner._normalised(observations))
        sampled = (mean + learner.log_std.exp() * torch.from_numpy(noise)).clamp(-1.0, 1.0)
    np.testing.assert_allclose(policy.act(observations), mean.clamp(-1.0, 1.0).numpy(), atol=1e-5)
    drawn = policy.act(observations, fixed_noise(monkeypatch, noise))
    np.testing.assert_allclose(drawn, sampled.numpy(), atol=1e-5)
    assert (np.abs(drawn) == 1.0).any()
    assert (np.abs(drawn) < 1.0).any()


def test_sac_policy_is_the_same_in_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = SacLearner("halfcheetah", "nominal", 0, tmp_path, SacSettings(capacity=100, compiled=False))
    actor = learner.tensors["actor"]
    actor[-2] *= 20.0  # so that both bounds of the log standard deviation are met
    policy_from_snapshot(learner.snapshot()).save(tmp_path / "p.safetensors", {})
    policy = BehaviourPolicy.load(tmp_path / "p.safetensors")
    assert (policy.distribution, policy.activation) == ("tanh-gaussian", "relu")
    assert policy.log_std_range == LOG_STD_RANGE == (LOG_STD_MIN, LOG_STD_MAX)
    observations = observations_for(17)
    noise = np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)
    mean, log_std = actor_outputs(actor, torch.from_numpy(observations.astype(np.float32)))
    assert bool((log_std == LOG_STD_MIN).any())
    assert bool((log_std == LOG_STD_MAX).any())
    sampled = torch.tanh(mean + log_std.exp() * torch.from_numpy(noise))
    np.testing.assert_allclose(policy.act(observations), torch.tanh(mean).numpy(), atol=1e-5)
    np.testing.assert_allclose(policy.act(observations, fixed_noise(monkeypatch, noise)), sampled.numpy(), atol=1e-5)


def test_warm_start_keeps_the_policy_and_draws_its_own_noise(tmp_path: Path) -> None:
    first = PpoLearner("hopper", "nominal", 0, PpoSettings(rows=8, horizon=64, minibatch=128, steps=10_000))
    first.iterate()
    settings = PpoSettings(rows=8, horizon=64, minibatch=128, steps=5_000, discount=0.995)
    second = PpoLearner("hopper", "nominal", 1, settings)
    second.take_over(first.state())
    before, after = first.snapshot(), second.snapshot()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert (second.steps, second.total, len(second.collector.finished)) == (0, 5_000, 0)
    assert np.array_equal(second.collector.observations, first.collector.observations)
    assert not torch.equal(torch.randn(3, generator=second.generator), torch.randn(3, generator=first.generator))
    second.iterate()
    assert all(np.isfinite(value).all() for value in second.snapshot().values())
    with pytest.raises(OffDynError, match="made for ppo"):
        learners.make_warm_learner(Behaviour("halfcheetah", "nominal"), WarmStart(1, 1, 0.9, 0))


def test_adopted_policy_acts_as_before_and_moves_only_when_it_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn_values = PpoLearner._learn_values  # pyright: ignore[reportPrivateUsage]

    def watched(self: PpoLearner, batch: Any) -> None:
        before = [x.detach().clone() for x in (*self.policy.parameters(), self.log_std)]
        learn_values(self, batch)
        assert all(torch.equal(a, b) for a, b in zip(before, (*self.policy.parameters(), self.log_std), strict=True))

    monkeypatch.setattr(PpoLearner, "_learn_values", watched)
    settings = PpoSettings(rows=8, horizon=64, minibatch=128, steps=10_000)
    teacher = PpoLearner("hopper", "nominal", 0, settings)
    for _ in range(3):
        teacher.iterate()
    given = policy_from_snapshot(teacher.snapshot())
    learner = PpoLearner("hopper", "friction-0.5", 1, settings)
    value = [x.detach().clone() for x in learner.value.parameters()]
    learner.adopt(given, 4)
    assert (learner.steps, learner.moments.count) == (0, 8 * 8 * 64)
    # Normalised by its own moments now: neither none nor the teacher's.
    assert not np.allclose(learner.moments.std, 1.0, atol=1e-3)
    assert not np.allclose(learner.moments.mean, teacher.moments.mean, atol=1e-9)
    assert all(not torch.equal(a, b) for a, b in zip(value, learner.value.parameters(), strict=True))
    # The moments moved on while the values were learned; at those of the start the actions are the teacher's.
    observations = learner.collector.observations
    kept = policy_from_snapshot(learner.snapshot())
    np.testing.assert_allclose(kept.act(observations), given.act(observations), atol=0.05)
    assert np.array_equal(kept.log_std, given.log_std)
    head = learner.policy[-1].weight.detach().clone()
    learner.iterate()
    assert not torch.equal(head, learner.policy[-1].weight)
    cheetah = SacLearner("halfcheetah", "nominal", 0, tmp_path, SacSettings(capacity=100, compiled=False))
    with pytest.raises(OffDynError, match="cannot begin as a policy of the kind"):
        learner.adopt(policy_from_snapshot(cheetah.snapshot()), 1)


def test_warm_start_as_a_shipped_expert(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behaviour = Behaviour("hopper", "gravity-0.5")
    warm = WarmStart(after=16_384, units=16_384, discount=0.99, seed=7, expert_of="nominal")
    own = {("hopper", "gravity-0.5"): Recipe("ppo", 16_384 * 3, 0.99, warm)}
    monkeypatch.setattr("offdyn_agents.behaviour.recipes.OWN", own)
    monkeypatch.setattr("offdyn_agents.behaviour.learners.ADOPTION", 1)
    teacher = PpoLearner("hopper", "nominal", 0, PpoSettings(steps=10_000))
    with torch.no_grad():
        teacher.policy[-1].bias.fill_(0.25)
    path = tiny / "shipped" / "behaviours" / "hopper" / "nominal" / "expert.safetensors"
    policy_from_snapshot(teacher.snapshot()).save(path, {"policy_sha256": "?"})
    runs: list[Any] = []
    monkeypatch.setattr(publish, "publish", lambda _, scratch, second: runs.append((scratch, second)) or {})
    publish.train_behaviour(behaviour, tiny / "runs", quiet=True)
    ((first, second),) = runs
    assert (first[0].steps, second[0].steps, second[0].seed) == (16_384, 16_384, 7)
    assert second[0].policy[-1].bias.tolist() == pytest.approx([0.25] * 3, abs=0.1)
    told = learners.told_of(warm, "hopper", first[0])
    assert told == {"expert_of": "nominal", "policy_sha256": read_card(path)["policy_sha256"]}
    # Interrupted, it goes on from its own checkpoint and adopts nothing again.
    monkeypatch.setattr(PpoLearner, "adopt", lambda *_: pytest.fail("adopted twice"))
    publish.train_behaviour(behaviour, tiny / "runs", quiet=True)


def test_evaluation_repeats_itself_and_ends_episodes() -> None:
    learner = PpoLearner("hopper", "nominal", 0, PpoSettings(rows=2))
    policy = policy_from_snapshot(learner.snapshot())
    first, again, other = (evaluate(policy, "hopper", "nominal", 30, seed) for seed in (5, 5, 6))
    assert np.array_equal(first.returns, again.returns)
    assert not np.array_equal(first.returns, other.returns)
    assert first.lengths.min() >= 1
    assert first.lengths.max() < 1000
    assert np.isclose(first.standard_error, np.std(first.returns, ddof=1) / np.sqrt(30))
    cheetah = BehaviourPolicy(
        hidden=[], mean=(np.zeros((17, 6), np.float32), np.zeros(6, np.float32)), log_std=np.zeros(6, np.float32)
    )
    assert set(evaluate(cheetah, "halfcheetah", "nominal", 3, 0).lengths) == {1000}


returns = st.lists(
    st.tuples(st.integers(1, 10_000), st.floats(-1000.0, 5000.0)), min_size=0, max_size=30, unique_by=lambda x: x[0]
)


@given(returns, st.floats(100.0, 5000.0))
@settings(max_examples=200, deadline=None)
def test_medium_is_the_nearest_to_half_inside_the_interval(candidates: list[tuple[int, float]], expert: float) -> None:
    chosen = choose_medium(candidates, expert)
    inside = {steps: value for steps, value in candidates if expert / 3 <= value <= expert * 2 / 3}
    if chosen is None:
        assert not inside
    else:
        gap = abs(inside[chosen] - expert / 2)
        assert all(gap <= abs(value - expert / 2) for value in inside.values())


@pytest.mark.parametrize("count", [5, 41, 160])
def test_search_finds_the_nearest_of_a_steady_run(count: int) -> None:
    steps = [10 * i for i in range(1, count + 1)]
    looked_at: list[int] = []

    def measure(x: int) -> float:
        looked_at.append(x)
        return 1000.0 * x / steps[-1]

    found, value = find_medium(steps, 1000.0, measure)
    assert value == 1000.0 * found / steps[-1]
    assert abs(value - 500.0) == min(abs(1000.0 * x / steps[-1] - 500.0) for x in steps)
    assert len(looked_at) == len(set(looked_at)) <= 24 * 2 + 13
    with pytest.raises(OffDynError, match="1/3 to 2/3"):
        find_medium(steps, 1000.0, lambda _: 5.0)


def test_expert_is_the_best_measured_late_policy() -> None:
    history = [(i, float(i)) for i in range(40)]
    assert find_expert(history, lambda steps: 100.0 - abs(steps - 36)) == (36, 100.0)


def test_programme_and_selection() -> None:
    assert len(set(PROGRAMME)) == len(PROGRAMME) >= 36
    assert {x.robot for x in PROGRAMME} == set(WALKERS)
    assert select([], []) == list(PROGRAMME)
    assert select(["hopper"], []) == [x for x in PROGRAMME if x.robot == "hopper"]
    assert select(["ant"], ["friction-0.1"]) == [Behaviour("ant", "friction-0.1")]
    for robots, dynamics in ((["hoper"], []), (["hopper"], ["gravty-0.5"]), (["hopper", "ant"], ["nominal"])):
        with pytest.raises(OffDynError):
            select(robots, dynamics)


@pytest.mark.parametrize("dynamics", [[], ["--dynamics", "nominal"]])
@pytest.mark.parametrize(
    ("robot", "words"),
    [
        ("adroit-pen", "learns from a teacher, not from nothing; use: offdyn dev behaviour teach adroit-pen --teacher"),
        ("crane", "'crane' has no recipe (allowed: halfcheetah, hopper, walker2d, ant); give its package a scripted"),
        ("hoper", "unknown robot 'hoper'; did you mean 'hopper'?"),
    ],
)
def test_robots_outside_the_programme_are_refused(
    robot: str, words: str, dynamics: list[str], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offdyn_envs.robots.registry._points", lambda: {"crane": "crane:register"})
    with pytest.raises(OffDynError) as refused:
        runner.invoke(app, ["train", "--robot", robot, *dynamics, "--runs", str(tiny)], catch_exceptions=False)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("robot", "dynamics", "discount"),
    [
        ("hopper", "gravity-2.0", 0.995),
        ("hopper", "gravity-0.1", 0.999),
        ("walker2d", "gravity-0.5", 0.995),
        ("walker2d", "friction-0.1", 0.99),
        ("ant", "gravity-0.1", 0.99),
        ("hopper", "nominal", 0.99),
    ],
)
def test_discount_follows_the_length_of_a_leap(robot: str, dynamics: str, discount: float) -> None:
    assert Behaviour(robot, dynamics).recipe.discount == pytest.approx(discount)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A programme of one short run, with its files below a temporary folder."""
    monkeypatch.setattr("offdyn_envs.shipped.shipped_root", lambda: tmp_path / "shipped")
    only = (Behaviour("hopper", "gravity-0.5"),)
    for module in ("programme", "reports", "references"):
        monkeypatch.setattr(f"offdyn_agents.behaviour.{module}.PROGRAMME", only)
    monkeypatch.setattr("offdyn_agents.behaviour.reports.TAUGHT", {})
    warm = WarmStart(after=16_384 * 2, units=16_384, discount=0.995, seed=7)
    own = {("hopper", "gravity-0.5"): Recipe("ppo", 16_384 * 3, 0.99, warm)}
    monkeypatch.setattr("offdyn_agents.behaviour.recipes.OWN", own)
    monkeypatch.setattr("offdyn_agents.behaviour.publish.EXPERT_EPISODES", 20)
    return tmp_path


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An empty folder of behaviours, whatever is shipped; and what puts a medium and an expert into it."""
    monkeypatch.setattr("offdyn_envs.shipped.shipped_root", lambda: tmp_path / "shipped")
    figures = {"mean": 5.0, "se": 0.5, "episodes": 100}
    card = {"algorithm": "ppo", "run_seconds": 100.0, "run_steps": 1000}

    def write(robot: str, dynamics: str, **more: object) -> None:
        told = card | {"returns": {kind: figures for kind in ("sampled", "deterministic")}} | more
        for quality in programme.QUALITIES:
            make_policy(robot, 0, 4).save(behaviour_path(robot, dynamics, quality), told)

    return write


def killed(*_: object) -> None:
    raise SystemError


def test_train_status_and_references(tiny: Path) -> None:
    runs = ["--runs", str(tiny / "runs")]

    def status() -> dict[str, object]:
        result = runner.invoke(app, ["status", "--json", *runs], catch_exceptions=False)
        assert result.exit_code == 0
        (row,) = json.loads(result.stdout)
        return row

    assert (status()["state"], status()["progress"], status()["expert"]) == ("left", 0.0, None)
    behaviour = Behaviour("hopper", "gravity-0.5")
    directory = behaviour.directory(tiny / "runs")
    directory.mkdir(parents=True)
    from offdyn_agents.behaviour.training import Run, learn

    learn(learners.make_learner(behaviour, directory), Run(directory), "part", limit=16_384, quiet=True)
    assert status()["state"] == "training"
    assert status()["progress"] == pytest.approx(1 / 3)
    assert (status()["tier"], status()["seconds_left"]) == ("A", None)  # no run has told yet how long one takes
    shown = runner.invoke(app, ["status", *runs], catch_exceptions=False).output
    assert "tier A, hopper: 1 left, time not known" in shown
    assert "training 33%" in shown
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(publish, "publish", killed)
        runner.invoke(app, ["train", "--quiet", *runs], catch_exceptions=False)
    assert (status()["progress"], status()["expert"]) == (1.0, None)
    shown = runner.invoke(app, ["status", *runs], catch_exceptions=False).output
    assert "0 of 1 have medium and expert" in shown
    assert "tier A, hopper: 1 left" in shown
    trained = runner.invoke(app, ["train", "--quiet", *runs], catch_exceptions=False)
    assert trained.exit_code == 0, trained.output
    done = status()
    assert (done["state"], done["seconds_left"]) == ("done", 0.0)
    assert "1 of 1 have medium and expert" in runner.invoke(app, ["status", *runs], catch_exceptions=False).output
    folder = tiny / "shipped" / "behaviours" / "hopper" / "gravity-0.5"
    cards = {quality: json.loads((folder / f"{quality}.json").read_text()) for quality in ("medium", "expert")}
    share = cards["medium"]["returns"]["sampled"]["mean"] / cards["expert"]["returns"]["sampled"]["mean"]
    assert 1 / 3 <= share <= 2 / 3
    assert cards["expert"]["algorithm"] == "ppo"
    assert cards["expert"]["returns"]["deterministic"]["episodes"] == 100
    assert cards["medium"]["training_steps"] in (16_384, 32_768)
    assert (cards["medium"]["seed"], cards["medium"]["settings"]["discount"]) == (SEED, 0.99)
    assert (cards["expert"]["seed"], cards["expert"]["settings"]["discount"]) == (7, 0.995)
    assert cards["expert"]["warm_start"] == {"from_seed": SEED, "after_steps": 32_768}
    assert "warm_start" not in cards["medium"]
    before = (folder / "expert.safetensors").read_bytes()
    assert "done" in runner.invoke(app, ["train", *runs], catch_exceptions=False).output
    assert (folder / "expert.safetensors").read_bytes() == before
    check_references(tiny, cards["expert"])


@pytest.mark.parametrize("warm", [False, True])
def test_card_tells_of_a_warm_start_where_there_was_one(
    warm: bool, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour, settings = Behaviour("hopper", "gravity-0.5"), PpoSettings(rows=2, horizon=4)
    runs: list[tuple[PpoLearner, Run]] = []
    for seed in (1, 2):
        told = {"warm_start": {"from_seed": 1, "after_steps": 1000}} if seed == 2 else {}
        learner, run = PpoLearner("hopper", "gravity-0.5", seed, settings), Run(tiny / f"{seed}", origin=told)
        learner.steps = 1000 * seed
        run.remember(learner)
        runs.append((learner, run))
    results = iter((100.0, 50.0))  # the expert is measured first

    def report(*_: object) -> dict[str, Evaluation]:
        return {"sampled": Evaluation(np.full(2, next(results)), np.full(2, 10))}

    monkeypatch.setattr(publish, "_report", report)
    monkeypatch.setattr(publish, "find_expert", lambda history, _: (history[-1][0], 100.0))
    monkeypatch.setattr(publish, "find_medium", lambda steps, *_: (steps[0], 50.0))
    cards = publish.publish(behaviour, runs[0], runs[1] if warm else None)
    assert "warm_start" not in cards["medium"]
    assert cards["expert"].get("warm_start") == ({"from_seed": 1, "after_steps": 1000} if warm else None)
    assert (cards["expert"]["training_steps"], cards["expert"]["seed"]) == ((2000, 2) if warm else (1000, 1))


def test_shipped_cards_tell_of_warm_starts_where_the_programme_has_them() -> None:
    for behaviour in PROGRAMME:
        if behaviour.measured:
            cards = [read_card(behaviour_path(behaviour.robot, behaviour.dynamics, q)) for q in programme.QUALITIES]
            recipe, medium = behaviour.recipe, cards[0]
            assert {card["algorithm"] for card in cards} == {recipe.algorithm}, behaviour
            budget = medium["settings"]["steps" if recipe.algorithm == "ppo" else "updates"]
            assert (budget, medium["settings"]["discount"]) == (recipe.budget, recipe.discount), behaviour
            told = ["warm_start" in card for card in cards]
            assert told == [False, behaviour.recipe.warm_start is not None], f"{behaviour}: {told}"
            start = behaviour.recipe.head_start
            expected = {"dynamics": start.dynamics, "least_std": start.least_std} if start else None
            assert [card.get("head_start") for card in cards] == [expected, expected], behaviour


@pytest.fixture
def ahead(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The short run's end is the head start of another one."""
    plain = Recipe("ppo", 16_384 * 2, 0.995)
    begun = replace(plain, head_start=HeadStart("gravity-0.5", least_std=0.5))
    own = {("hopper", "gravity-0.5"): plain, ("hopper", "friction-0.5"): begun}
    monkeypatch.setattr("offdyn_agents.behaviour.recipes.OWN", own)
    monkeypatch.setattr(publish, "publish", lambda behaviour, scratch, warm=None: {"run": scratch})
    return tiny / "runs"


def test_head_start_begins_where_the_other_run_ends(ahead: Path) -> None:
    begun: dict[str, PpoLearner] = {}

    def learn(learner: PpoLearner, run: Run, name: str, **more: Any) -> bool:
        assert name not in begun or "head" not in name
        begun[name] = learner
        if "head start" in name:
            learner.log_std.data.fill_(-3.0)
        learner.steps = learner.total
        run.save(learner)
        return True

    behaviour = Behaviour("hopper", "friction-0.5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "learn", learn)
        publish.train_behaviour(behaviour, ahead, quiet=True)
    assert list(begun) == ["hopper gravity-0.5 (head start of hopper friction-0.5)", "hopper friction-0.5"]
    origin, mine = begun.values()
    for ours, theirs in zip(mine.policy.parameters(), origin.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert mine.log_std.exp().tolist() == pytest.approx([0.5] * 3)
    # What was interrupted goes on from its own checkpoint, and the other run is not touched again: see the fake.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "learn", learn)
        publish.train_behaviour(behaviour, ahead, quiet=True)
    assert begun["hopper friction-0.5"] is not mine


def test_run_does_not_go_on_under_another_recipe(ahead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behaviour = Behaviour("hopper", "friction-0.5")
    recipe = recipes.OWN["hopper", "friction-0.5"]

    def train(head_start: HeadStart | None) -> Run:
        monkeypatch.setitem(recipes.OWN, ("hopper", "friction-0.5"), replace(recipe, head_start=head_start))  # type: ignore[arg-type]
        return publish.train_behaviour(behaviour, ahead, quiet=True)["run"][1]  # type: ignore[return-value]

    assert train(None).origin == {}
    with pytest.raises(OffDynError, match=r"written with origin \{\}, not \{'head_start': .*delete the folder"):
        train(HeadStart("gravity-0.5", 0.5))
    # What a card tells is what the run began as, whatever is shipped by then.
    run = Run(ahead / "warm", origin={"warm_start": {"expert_of": "nominal", "policy_sha256": "then"}})
    run.save(PpoLearner("hopper", "nominal", 1, PpoSettings(rows=2, horizon=4)))
    later = Run(ahead / "warm", origin={"warm_start": {"expert_of": "nominal", "policy_sha256": "now"}})
    assert later.load(PpoLearner("hopper", "nominal", 1, PpoSettings(rows=2, horizon=4)))
    assert later.origin == run.origin
    other = Run(ahead / "warm", origin={"warm_start": {"from_seed": 1, "after_steps": 1}})
    with pytest.raises(OffDynError, match="written with origin"):
        other.load(PpoLearner("hopper", "nominal", 1, PpoSettings(rows=2, horizon=4)))


def test_adoption_does_not_depend_on_the_threads(tmp_path: Path) -> None:
    settings = PpoSettings(rows=64, horizon=64, minibatch=1024, steps=10_000)
    given = policy_from_snapshot(PpoLearner("hopper", "nominal", 0, settings).snapshot())
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with repeatable():
                assert torch.get_num_threads() == 1
                learner = PpoLearner("hopper", "friction-0.5", 1, settings)
                learner.adopt(given, 1)
            assert torch.get_num_threads() == threads
            found.append(torch.cat([x.detach().flatten() for x in learner.value.parameters()]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_second_run_is_prepared_under_the_same_conditions(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "learn", lambda *_, **__: True)
    monkeypatch.setattr(publish, "publish", lambda *_: {})
    seen: list[int] = []
    make = publish.make_learner
    monkeypatch.setattr(publish, "make_learner", lambda *x: seen.append(torch.get_num_threads()) or make(*x))
    monkeypatch.setattr(publish, "take_warm_start", lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        publish.train_behaviour(Behaviour("hopper", "gravity-0.5"), tiny / "runs", quiet=True)
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1]


def test_missing_expert_is_named_before_anything_is_trained(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warm = WarmStart(after=16_384, units=16_384, discount=0.99, expert_of="nominal")
    monkeypatch.setitem(recipes.OWN, ("hopper", "gravity-0.5"), Recipe("ppo", 16_384 * 3, 0.99, warm))  # type: ignore[arg-type]
    monkeypatch.setattr(publish, "learn", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(OffDynError, match="offdyn dev behaviour train --robot hopper --dynamics nominal"):
        publish.train_behaviour(Behaviour("hopper", "gravity-0.5"), tiny / "runs", quiet=True)
    assert not (tiny / "runs").exists()


def test_one_failure_does_not_hold_up_the_others(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slugs = ("gravity-0.5", "gravity-2.0", "gravity-5.0")
    monkeypatch.setattr(programme, "PROGRAMME", tuple(Behaviour("hopper", slug) for slug in slugs))
    tried: list[str] = []

    def train(behaviour: Behaviour, *_: object, **__: object) -> dict[str, Any]:
        tried.append(behaviour.dynamics)
        if behaviour.dynamics == "gravity-2.0":
            raise OffDynError("no policy qualifies")
        return {}

    monkeypatch.setattr(publish, "train_behaviour", train)
    result = runner.invoke(app, ["train", "--quiet", "--runs", str(tiny / "runs")])
    assert (result.exit_code, tried) == (2, list(slugs))
    assert result.stderr == "offdyn: no policy qualifies\n"


def test_nothing_is_written_where_nothing_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OffDynError, match=r"hopper friction-0\.1 has all of its policies"):
        publish.train_behaviour(Behaviour("hopper", "friction-0.1"), tmp_path, quiet=True)


def test_head_start_waits_for_nobody(ahead: Path) -> None:
    folder = Behaviour("hopper", "gravity-0.5").directory(ahead)
    folder.mkdir(parents=True)
    with held(folder / "lock") as mine, pytest.raises(OffDynError, match=r"hopper gravity-0\.5 ends, which another"):
        assert mine
        publish.train_behaviour(Behaviour("hopper", "friction-0.5"), ahead, quiet=True)


def test_head_start_is_for_the_on_policy_learner(tmp_path: Path) -> None:
    cheetah = learners.make_learner(Behaviour("halfcheetah", "nominal"), tmp_path)
    with pytest.raises(OffDynError, match="head start is made for ppo, not sac"):
        learners.take_head_start(cheetah, HeadStart("nominal", 0.3), cheetah)


def test_status_fits_80_columns(tmp_path: Path) -> None:
    shown = runner.invoke(app, ["status", "--runs", str(tmp_path)], env={"COLUMNS": "80"}).output
    rows = [line.split() for line in shown.splitlines()]
    assert ["halfcheetah", "nominal", "done"] in [row[:3] for row in rows]
    assert sum(row[:1] == ["adroit-relocate"] for row in rows) == len(DYNAMICS["adroit-relocate"])
    assert "…" not in shown


def test_status_tells_how_long_the_rest_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished, left, soft = (Behaviour("hopper", x) for x in ("nominal", "kinematic-foot-hard", "kinematic-severe"))
    cheetah = Behaviour("halfcheetah", "nominal")
    monkeypatch.setattr(reports, "PROGRAMME", (finished, left, soft))
    monkeypatch.setattr(reports, "TAUGHT", {})
    monkeypatch.setattr(Behaviour, "measured", property(lambda self: self.dynamics == "nominal"))

    def seconds(of: Behaviour, like: Behaviour) -> float:
        card = read_card(behaviour_path(like.robot, like.dynamics, "medium"))
        return of.recipe.budget * card["run_seconds"] / card["run_steps"]

    first, second, third = reports.programme_status(tmp_path)
    assert (first["tier"], first["seconds_left"], second["tier"], second["state"]) == ("A", 0.0, "C", "left")
    assert second["seconds_left"] == pytest.approx(seconds(left, finished))
    # Updates of soft actor-critic take longer than steps: without a run of it, how long is not known.
    assert (third["algorithm"], third["seconds_left"]) == ("sac", None)
    assert reports.summary([first, second, third]) == [
        "1 of 3 have medium and expert",
        f"tier C, hopper: 1 left, about {seconds(left, finished) / 60:.0f} min of one core",
        "tier B, hopper: 1 left, time not known",
    ]
    monkeypatch.setattr(reports, "PROGRAMME", (finished, left, soft, cheetah))
    _, second, third, _ = reports.programme_status(tmp_path)
    assert second["seconds_left"] == pytest.approx(seconds(left, finished))
    assert third["seconds_left"] == pytest.approx(seconds(soft, cheetah))


def test_status_tells_of_the_hands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Callable[..., None]) -> None:
    monkeypatch.setattr(reports, "PROGRAMME", (Behaviour("hopper", "nominal"),))
    put("hopper", "nominal")
    walker, *left = reports.programme_status(tmp_path)
    assert (walker["robot"], walker["state"], len(left)) == ("hopper", "replay missing", 28)
    assert {(row["tier"], row["state"]) for row in left} == {("D", "left")}
    # A step of a hand takes longer than one of a walker.
    assert {row["seconds_left"] for row in left} == {None}
    put("adroit-pen", "nominal")
    done, *left = reports.programme_status(tmp_path)[1:]
    assert (done["state"], done["seconds_left"]) == ("done", 0.0)
    assert {row["seconds_left"] for row in left} == {
        0.1 * Behaviour("adroit-pen", "broken-joint-easy").recipe.budget,
        0.1 * Behaviour("adroit-door", "nominal").recipe.budget,
    }
    put("adroit-door", "nominal", run_seconds=300.0)
    left = reports.programme_status(tmp_path)[1:]
    budget = Behaviour("adroit-door", "shrink-finger-hard").recipe.budget
    assert {row["seconds_left"] for row in left if row["robot"] == "adroit-door"} == {0.0, 0.3 * budget}


def test_the_page_of_tasks_has_the_time_of_every_missing_behaviour(tmp_path: Path) -> None:
    page = ROOT / "docs/concepts/tasks-and-tracks.md"
    copy = tmp_path / "page.md"
    copy.write_text(page.read_text(encoding="utf-8").replace("of one core", "of somebody's core"), encoding="utf-8")
    shown = runner.invoke(app, ["status", "--table", str(copy)])
    assert (shown.exit_code, shown.output.split()) == (0, [str(copy)])
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8"), "stale: make docs"
    assert f"behaviour status --table {page.relative_to(ROOT)}" in (ROOT / "Makefile").read_text()
    copy.write_text("# A page")
    with pytest.raises(OffDynError, match="lacks '<!-- missing behaviours: written"):
        reports.write_missing(copy)


def test_the_table_of_missing_behaviours_has_no_finished_one(monkeypatch: pytest.MonkeyPatch) -> None:
    finished, left, soft = (Behaviour("hopper", x) for x in ("nominal", "kinematic-foot-hard", "kinematic-severe"))
    monkeypatch.setattr(reports, "PROGRAMME", (finished, left, soft))
    monkeypatch.setattr(Behaviour, "measured", property(lambda self: self.dynamics == "nominal"))
    card = read_card(behaviour_path("hopper", "nominal", "medium"))
    minutes = left.recipe.budget * card["run_seconds"] / card["run_steps"] / 60
    assert reports.missing_table().splitlines()[2:] == [
        f"| `hopper` | `kinematic-foot-hard` | {minutes:.0f} |",
        "| `hopper` | `kinematic-severe` | not known |",
        "",
        "Together, 2: time not known.",
    ]
    monkeypatch.setattr(reports, "PROGRAMME", (finished,))
    assert reports.missing_table() == "None is missing."


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """References that are not measured, of two walkers and of what is taught; and what would have been measured."""
    calls: list[str] = []

    def fake(name: str) -> Callable[..., dict[str, object]]:
        def returns(robot: str, dynamics: str, *_: object) -> dict[str, object]:
            calls.append(f"{name} {robot} {dynamics}")
            policy = read_card(behaviour_path(robot, "nominal", "expert"))["policy_sha256"]
            return {"episodes": 200, "mean": 1.0, "se": 0.1} | ({"policy_sha256": policy} if name == "transfer" else {})

        return returns

    for name in ("random", "transfer"):
        monkeypatch.setattr(references, f"{name}_returns", fake(name))
    monkeypatch.setattr(references, "PROGRAMME", HOPPERS)
    return calls


HOPPERS = (Behaviour("hopper", "nominal"), Behaviour("hopper", "gravity-0.5"))


def test_references_keep_what_belongs_to_the_same_policies(
    tmp_path: Path, put: Callable[..., None], measured: list[str]
) -> None:
    for behaviour in HOPPERS:
        put(behaviour.robot, behaviour.dynamics)
    path = tmp_path / "references.json"
    assert references.write_references(path, 200) == (2, 2)
    asked = [f"{name} {behaviour}" for behaviour in HOPPERS for name in ("random", "transfer")]
    assert measured == asked
    first = path.read_bytes()
    references.write_references(path, 200)
    assert (measured, path.read_bytes()) == (asked, first)
    put("adroit-pen", "nominal")
    assert references.write_references(path, 200) == (3, 3)
    assert measured[4:] == ["random adroit-pen nominal", "transfer adroit-pen nominal"]
    nominal = read_card(behaviour_path("hopper", "nominal", "expert"))["policy_sha256"]
    # Another nominal expert than before.
    path.write_bytes(path.read_bytes().replace(nominal.encode(), b"0" * 64))
    references.write_references(path, 200)
    assert measured[6:] == ["transfer hopper nominal", "transfer hopper gravity-0.5"]


@pytest.mark.parametrize("robot", ["hopper", "halfcheetah"])
def test_replay_policies_lead_up_to_the_medium(robot: str) -> None:
    medium = read_card(behaviour_path(robot, "nominal", "medium"))
    cards = [read_card(behaviour_path(robot, "nominal", name)) for name in REPLAY]
    steps = [card["training_steps"] for card in cards]
    assert steps == sorted(steps)
    assert steps[-1] <= medium["training_steps"]
    assert steps[0] < medium["training_steps"] / 8
    assert all((card["seed"], card["settings"]) == (medium["seed"], medium["settings"]) for card in cards)


def check_references(tiny: Path, card: dict[str, object]) -> None:
    out = tiny / "references.json"
    result = runner.invoke(app, ["references", "--episodes", "100", "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    table = json.loads(out.read_text())
    entry = table["returns"]["hopper"]["gravity-0.5"]
    assert table["protocol"] == PROTOCOL
    expected = {name: card["returns"]["deterministic"][name] for name in ("mean", "se", "episodes")}  # type: ignore[index]
    assert entry["expert"] == expected | {"policy_sha256": card["policy_sha256"]}
    assert "transfer" not in entry  # there is no nominal expert here
    assert entry["random"] == references.random_returns("hopper", "gravity-0.5", 100)
    assert entry["random"]["episodes"] == 100
    assert 0.0 < entry["random"]["mean"] < 100.0


def test_dynamics_without_an_expert_have_the_other_references(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy = {"policy_sha256": read_card(behaviour_path("hopper", "nominal", "expert"))["policy_sha256"]}
    monkeypatch.setattr(references, "random_returns", lambda *_: {"episodes": 200, "mean": 1.0})
    monkeypatch.setattr(references, "transfer_returns", lambda *_: policy)
    monkeypatch.setattr(references, "PROGRAMME", (Behaviour("hopper", "gravity-0.5"),))
    monkeypatch.setattr(Behaviour, "measured", False)
    assert references.write_references(tmp_path / "references.json", 200) == (1, 0)
    table = json.loads((tmp_path / "references.json").read_text())
    assert table["returns"]["hopper"] == {"gravity-0.5": {"random": {"episodes": 200, "mean": 1.0}, "transfer": policy}}
    with pytest.raises(OffDynError) as refused:
        get_reference("hopper", "gravity-0.5", table=table)
    assert str(refused.value) == "no reference returns for 'hopper' under 'gravity-0.5'; with an expert: none"


def learned() -> list[Behaviour]:
    """The programme, and what has been taught."""
    return [*PROGRAMME, *(each for robot in TAUGHT for each in taught(robot, []) if each.measured)]


def test_every_dynamics_has_references() -> None:
    table = json.loads(references.default_path().read_text())["returns"]
    for behaviour in learned():
        entry = table[behaviour.robot][behaviour.dynamics]
        assert ("expert" in entry) == behaviour.measured, behaviour
        for name in entry:
            assert entry[name]["episodes"] >= 100
            assert entry[name]["se"] > 0.0


def test_every_expert_is_at_least_what_the_nominal_one_earns_there() -> None:
    check_experts(json.loads(references.default_path().read_text())["returns"], learned())


def check_experts(table: dict[str, Any], behaviours: Sequence[Behaviour]) -> None:
    """Hold the experts of a table against the nominal ones; it has those of all behaviours that are there."""
    compared = {
        f"{robot} {slug}": entry for robot, slugs in table.items() for slug, entry in slugs.items() if "expert" in entry
    }
    assert sorted(compared) == sorted(str(behaviour) for behaviour in behaviours if behaviour.measured)
    for name, entry in compared.items():
        expert, transfer = entry["expert"], entry["transfer"]
        # Both are means over 100 episodes.
        slack = 3.0 * (expert["se"] ** 2 + transfer["se"] ** 2) ** 0.5
        assert expert["mean"] >= transfer["mean"] - slack, name


def test_experts_that_were_taught_are_held_against_the_nominal_one_too(
    tmp_path: Path, put: Callable[..., None], measured: list[str]
) -> None:
    path = tmp_path / "references.json"

    def table() -> dict[str, Any]:
        references.write_references(path, 200)
        return json.loads(path.read_text())["returns"]

    put("hopper", "nominal")
    put("adroit-pen", "nominal")
    put("adroit-pen", "broken-joint-easy")
    check_experts(table(), learned())
    put("adroit-pen", "broken-joint-hard")
    with pytest.raises(AssertionError):
        check_experts(json.loads(path.read_text())["returns"], learned())
    check_experts(table(), learned())
    poor = {"mean": 0.1, "se": 0.1, "episodes": 100}
    put("adroit-pen", "broken-joint-hard", returns={"sampled": poor, "deterministic": poor})
    with pytest.raises(AssertionError, match="adroit-pen broken-joint-hard"):
        check_experts(table(), learned())
