"""How many threads a batch has where nobody says."""

import numpy as np
import pytest

from offdyn_envs.batching import threads
from offdyn_envs.vector import OffDynVectorEnv


@pytest.mark.parametrize(("processors", "rows", "expected"), [(2, 1, 1), (2, 7, 1), (2, 8, 2), (64, 64, 16)])
def test_a_batch_has_the_processors_at_hand(monkeypatch, processors, rows, expected):
    monkeypatch.setattr(threads, "usable_threads", lambda: processors)
    env = OffDynVectorEnv("hopper", rows)
    assert env.num_threads == expected
    env.close()


@pytest.mark.parametrize("robot", ["hopper", "ant"])
def test_results_do_not_depend_on_the_processors_at_hand(monkeypatch, robot):
    actions, seen = np.random.default_rng(0), []
    given = actions.uniform(-1, 1, (30, 16, OffDynVectorEnv(robot, 1).single_action_space.shape[0])).astype(np.float32)
    for processors in (1, 3):
        monkeypatch.setattr(threads, "usable_threads", lambda count=processors: count)
        env = OffDynVectorEnv(robot, 16, autoreset_mode="same_step")
        assert env.num_threads == processors
        env.reset(seed=0)
        seen.append([np.concatenate([part.ravel() for part in env.step(action)[:4]]) for action in given])
        env.close()
    np.testing.assert_array_equal(*seen)
