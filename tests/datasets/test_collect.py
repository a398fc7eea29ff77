from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.collecting.collect import PolicyBehaviour, RandomBehaviour, collect, episode_seed
from offdyn_envs.datasets.store.folders import read_dataset, read_metadata
from offdyn_envs.datasets.store.spec import Arrays, array_digests, validate
from offdyn_envs.policies import BehaviourPolicy
from offdyn_envs.robots import get_robot
from offdyn_envs.shipped import REPLAY
from offdyn_envs.tasks import DatasetId
from tests.datasets.conftest import make_policy


def one_by_one(robot: str, dynamics: str, environment: str, rows: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Collect as one would with the scalar environment: an episode after the other until there are enough rows."""
    env = gymnasium.make(environment)
    body, episodes, left = get_robot(robot), [], rows
    while left > 0:
        own_seed = episode_seed(seed, robot, dynamics, len(episodes))
        noise = np.random.default_rng([own_seed, 2]).uniform(-1, 1, (1000, body.action_dim)).astype(np.float32)
        observations, rewards, ended = [env.reset(seed=own_seed)[0]], [], False
        while not ended and left > 0:
            observation, reward, terminated, truncated, _ = env.step(noise[len(rewards)])
            observations.append(observation)
            rewards.append(reward)
            ended = terminated or truncated
            left -= 1
        episodes.append({"observations": np.array(observations), "rewards": np.array(rewards)})
    return episodes


def test_equals_sequential_collection() -> None:
    arrays = collect("hopper", "gravity-0.5", RandomBehaviour(), 300, seed=7)
    reference = one_by_one("hopper", "gravity-0.5", "OffDyn/Hopper-gravity-0.5-v0", 300, seed=7)
    assert arrays.lengths.tolist() == [len(episode["rewards"]) for episode in reference]
    assert len(reference) > 5
    joined = np.concatenate([episode["observations"][1:] for episode in reference]).astype(np.float32)
    np.testing.assert_array_equal(arrays.next_observations, joined)
    rewards = np.concatenate([episode["rewards"] for episode in reference]).astype(np.float32)
    np.testing.assert_array_equal(arrays.rewards, rewards)


@pytest.mark.parametrize("rows", [1, 137, 500])
def test_rows_are_exact_and_only_the_cut_truncates(rows: int) -> None:
    arrays = collect("hopper", "nominal", RandomBehaviour(), rows, seed=1)
    validate(arrays, get_robot("hopper"), "test")
    assert len(arrays.rewards) == rows
    # Random Hopper episodes fall long before the limit: nothing but the last row can be a truncation.
    assert not arrays.truncations[:-1].any()
    assert arrays.truncations[-1] != arrays.terminations[-1]


def test_time_limit_truncates_and_keeps_the_last_observation() -> None:
    arrays = collect("halfcheetah", "nominal", RandomBehaviour(), 1500, seed=0)
    assert arrays.lengths.tolist() == [1000, 500]
    assert np.flatnonzero(arrays.truncations).tolist() == [999, 1499]
    assert not arrays.terminations.any()
    robot = get_robot("halfcheetah")
    shown = robot.observe(arrays.qpos[1000], arrays.qvel[1000]).astype(np.float32)
    np.testing.assert_array_equal(arrays.next_observations[999], shown)
    assert np.abs(arrays.observations[1000] - arrays.next_observations[999]).max() > 0.1  # A reset lies between.


@pytest.mark.parametrize("behaviour", [RandomBehaviour(), PolicyBehaviour(make_policy("hopper", 2))])
def test_small_is_the_beginning_of_large(behaviour: RandomBehaviour | PolicyBehaviour) -> None:
    small = collect("hopper", "nominal", behaviour, 200, seed=3)
    large = collect("hopper", "nominal", behaviour, 1200, seed=3)  # In a larger batch, too.
    for key in ("observations", "actions", "next_observations", "rewards", "terminations"):
        np.testing.assert_array_equal(getattr(small, key), getattr(large, key)[:200])


def test_domains_and_seeds_share_no_episode() -> None:
    seeds = {
        episode_seed(seed, "hopper", dynamics, episode)
        for seed in range(3)
        for dynamics in ("nominal", "gravity-0.5")
        for episode in range(100)
    }
    assert len(seeds) == 600
    assert min(seeds) >= 0
    assert max(seeds) < 2**63


def test_policy_actions_are_executed_ones() -> None:
    arrays = collect("hopper", "nominal", PolicyBehaviour(make_policy("hopper", 0)), 400, seed=0)
    assert np.abs(arrays.actions).max() == 1.0  # A standard deviation of 0.6 is clipped now and then.
    assert arrays.actions.std() > 0.3


def test_medium_replay_comes_from_the_policies_before_the_medium(tmp_path: Path) -> None:
    built = build(DatasetId("hopper", "nominal", "medium-replay", "500"), root=tmp_path, num_threads=1, quiet=True)
    dataset = read_dataset(built.path)
    facts = read_metadata(built.path)["offdyn"]["behaviour"]
    assert [item["name"] for item in facts] == list(REPLAY)
    assert [item["rows"] for item in facts] == [32] * 4 + [31] * 12
    assert len({item["policy_sha256"] for item in facts}) == len(REPLAY)
    assert len(dataset.arrays.rewards) == 500


def test_medium_expert_is_half_and_half(behaviours: Path, tmp_path: Path) -> None:
    read: dict[str, Arrays] = {}
    for quality in ("medium", "medium-expert"):
        dataset = DatasetId("hopper", "nominal", quality, "500")
        built = build(dataset, root=tmp_path, behaviours=behaviours, num_threads=1, quiet=True)
        read[quality] = read_dataset(built.path).arrays
    mixed = read["medium-expert"]
    assert len(mixed.rewards) == 500
    np.testing.assert_array_equal(mixed.actions[:250], read["medium"].actions[:250])
    expert = PolicyBehaviour(BehaviourPolicy.load(behaviours / "hopper" / "nominal" / "expert.safetensors"))
    second = collect("hopper", "nominal", expert, 250, seed=0, part=1)
    np.testing.assert_array_equal(mixed.actions[250:], second.actions)
    assert not np.isin(mixed.qpos[:250, 1], mixed.qpos[250:, 1]).any()  # The halves start from states of their own.
    facts = read_metadata(tmp_path / "offdyn/hopper/nominal/medium-expert-500-v0")["offdyn"]["behaviour"]
    assert [(item["name"], item["rows"], item["returns"]["mean"]) for item in facts] == [
        ("medium", 250, 0.0),
        ("expert", 250, 10.0),
    ]
    assert mixed.truncations[249] or mixed.terminations[249]


CHILD = """
import sys
from offdyn_envs.datasets.collecting.collect import PolicyBehaviour, collect
from offdyn_envs.datasets.store.spec import array_digests, combined_digest
from tests.datasets.conftest import make_policy
behaviour = PolicyBehaviour(make_policy("hopper", 0, width=256))
arrays = collect("hopper", "nominal", behaviour, 2000, seed=5, num_threads=int(sys.argv[1]))
print(combined_digest(array_digests(arrays)))
"""


def test_threads_change_nothing() -> None:
    digests: set[str] = set()
    for physics, algebra in ((1, "1"), (2, "2")):
        environment = {**os.environ, "OMP_NUM_THREADS": algebra, "OPENBLAS_NUM_THREADS": algebra}
        root = Path(__file__).parents[2]
        command = [sys.executable, "-c", CHILD, str(physics)]
        run = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
        digests.add(run.stdout.strip())
    assert len(digests) == 1
    assert all(len(digest) == 64 for digest in digests)


def test_other_seed_other_data() -> None:
    one = collect("hopper", "nominal", RandomBehaviour(), 100, seed=0)
    two = collect("hopper", "nominal", RandomBehaviour(), 100, seed=1)
    differ = {key for key, digest in array_digests(one).items() if digest != array_digests(two)[key]}
    assert {"observations", "actions", "qpos", "seeds"} <= differ
