"""Proximal policy optimisation: golden values, and a run that can be interrupted."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offdyn_agents.behaviour import training
from offdyn_agents.behaviour.moments import RunningMoments
from offdyn_agents.behaviour.ppo import PpoLearner, PpoSettings
from offdyn_agents.behaviour.training import Run, learn
from offdyn_agents.engine.policy_gradient import advantages, log_density
from offdyn_agents.runs.locks import held
from offdyn_envs.errors import OffDynError

SMALL = PpoSettings(rows=8, horizon=32, minibatch=64, epochs=2, steps=8 * 32 * 6)


def test_advantages_golden() -> None:
    # By hand, discount 0.5, lambda 0.5. Errors: t=0: 1 + .5*2 - 1 = 1; t=1: 1 + .5*8 - 2 = 3 (truncated: the final
    # observation is worth 8, and nothing flows back over the end); t=2: 1 - 3 = -2 (terminated); t=3: 1 + .5*6 - 0 = 4.
    rewards = np.ones((4, 1))
    values = np.array([[1.0], [2.0], [3.0], [0.0]])
    following = np.array([[2.0], [8.0], [100.0], [6.0]])
    terminated = np.array([[0.0], [0.0], [1.0], [0.0]])
    done = np.array([[0.0], [1.0], [1.0], [0.0]])
    result = advantages(rewards, values, following, terminated, done, 0.5, 0.5)
    np.testing.assert_allclose(result[:, 0], [1.0 + 0.25 * 3.0, 3.0, -2.0, 4.0], atol=1e-12)


def test_advantages_with_full_trace_are_returns_minus_values() -> None:
    rng = np.random.default_rng(0)
    rewards, values, last = rng.normal(size=(20, 3)), rng.normal(size=(20, 3)), rng.normal(size=3)
    following = np.concatenate([values[1:], last[None]])
    zero = np.zeros((20, 3))
    result = advantages(rewards, values, following, zero, zero, 0.97, 1.0)
    weights = 0.97 ** np.arange(20)[:, None]
    expected = (weights * rewards).sum(0) + 0.97**20 * last - values[0]
    np.testing.assert_allclose(result[0], expected, atol=1e-10)


def test_log_density_matches_a_library() -> None:
    torch.manual_seed(0)
    mean, log_std, actions = torch.randn(5, 3), torch.randn(3), torch.randn(5, 3)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(actions).sum(-1)
    torch.testing.assert_close(log_density(mean, log_std, actions), expected)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_running_moments_equal_those_of_all_rows(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(3.0, 2.0, (size, 4)) for size in sizes]
    moments = RunningMoments(4)
    for part in parts:
        moments.add(part)
    rows = np.concatenate(parts)
    np.testing.assert_allclose(moments.mean, rows.mean(0), atol=1e-10)
    np.testing.assert_allclose(moments.variance, rows.var(0), atol=1e-10)
    assert moments.count == len(rows)


def final_policy(run: Run) -> dict[str, np.ndarray]:
    return run.snapshot(run.history[-1][0])


def equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


def test_interrupted_run_equals_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    whole, parts = Run(tmp_path / "whole"), tmp_path / "parts"
    assert learn(PpoLearner("hopper", "gravity-0.5", 3, SMALL), whole, "whole", quiet=True)
    for limit in (256, 768, None):
        run = Run(parts)
        complete = learn(PpoLearner("hopper", "gravity-0.5", 3, SMALL), run, "parts", limit=limit, quiet=True)
        assert complete == (limit is None)
    assert [x[:1] for x in run.history] == [x[:1] for x in whole.history]
    assert equal(final_policy(whole), final_policy(run))
    assert all(np.isfinite(x).all() for x in final_policy(run).values())
    # The seed matters, so the equality above is not that of constants.
    other = Run(tmp_path / "other")
    learn(PpoLearner("hopper", "gravity-0.5", 4, SMALL), other, "other", quiet=True)
    assert not equal(final_policy(whole), final_policy(other))


KILLED = """
import sys
from pathlib import Path
from offdyn_agents.behaviour import training
from offdyn_agents.behaviour.ppo import PpoLearner, PpoSettings
training.CHECKPOINT_SECONDS = 0.0
settings = PpoSettings(rows=8, horizon=32, minibatch=64, epochs=2, steps=8 * 32 * 400)
training.learn(PpoLearner("hopper", "nominal", 0, settings), training.Run(Path(sys.argv[1])), "killed", quiet=True)
"""


def test_run_survives_kill(tmp_path: Path) -> None:
    # The same environment: other numbers of BLAS threads would round differently.
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "killed")])
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    deadline = time.monotonic() + 60.0
    while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    wanted = PpoSettings(rows=8, horizon=32, minibatch=64, epochs=2, steps=8 * 32 * 400)
    run = Run(tmp_path / "killed")
    learner = PpoLearner("hopper", "nominal", 0, wanted)
    assert run.load(learner)
    reached = learner.steps
    assert reached >= 256
    goal = reached + 512
    learn(learner, run, "resumed", limit=goal, quiet=True)
    straight = PpoLearner("hopper", "nominal", 0, wanted)
    learn(straight, Run(tmp_path / "straight"), "straight", limit=goal, quiet=True)
    assert equal(learner.snapshot(), straight.snapshot())


def test_other_settings_do_not_continue_a_run(tmp_path: Path) -> None:
    learn(PpoLearner("hopper", "nominal", 0, SMALL), Run(tmp_path), "first", limit=256, quiet=True)
    with pytest.raises(OffDynError, match="seed 0, not 1"):
        learn(PpoLearner("hopper", "nominal", 1, SMALL), Run(tmp_path), "second", quiet=True)


def test_learning_raises_the_return(tmp_path: Path) -> None:
    chosen = PpoSettings(rows=32, horizon=64, minibatch=512, steps=32 * 64 * 16)
    run = Run(tmp_path)
    learn(PpoLearner("hopper", "nominal", 0, chosen), run, "short", quiet=True)
    returns = [x[1] for x in run.history if np.isfinite(x[1])]
    assert returns[-1] > 2.0 * returns[0]


def test_learning_leaves_small_numbers_to_the_process(tmp_path: Path) -> None:
    # The processor's switch for denormal numbers outlives a training that does not put it back.
    learn(PpoLearner("hopper", "nominal", 0, SMALL), Run(tmp_path), "flushed", limit=256, quiet=True)
    assert sys.float_info.min / 2.0 > 0.0


@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_flushed_in_the_block_alone(before: bool) -> None:
    torch.set_flush_denormal(before)
    try:
        with training.flushed_denormals():
            assert sys.float_info.min / 2.0 == 0.0
        assert (sys.float_info.min / 2.0 == 0.0) == before
    finally:
        torch.set_flush_denormal(False)


def test_only_one_process_holds_a_run(tmp_path: Path) -> None:
    with held(tmp_path / "lock") as first, held(tmp_path / "lock") as second:
        assert first
        assert not second
    with held(tmp_path / "lock") as again:
        assert again
