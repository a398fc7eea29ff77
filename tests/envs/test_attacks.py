"""Attacks stay in their box, never raise the attacked value, and leave the simulator alone."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offdyn_envs.attacks import MinQAttack, RandomAttack
from offdyn_envs.errors import OffDynError
from offdyn_envs.vector import OffDynVectorEnv

SIGMA = [0.1] * 11
OBSERVATIONS = arrays(np.float64, (3, 4), elements=st.floats(-1e6, 1e6))
SPREAD = arrays(np.float64, (4,), elements=st.floats(0, 1e3))


def policy(observations):
    return np.tanh(observations[:, :2])


def critic(observations, actions):
    return np.sin(3 * observations[:, 0]) * actions[:, 0] - actions[:, 1] ** 2


def generators(count, seed=0):
    return [np.random.default_rng([seed, row]) for row in range(count)]


@settings(deadline=None)
@given(OBSERVATIONS, SPREAD, st.floats(0, 1), st.sampled_from(("random", "min-q")))
def test_perturbation_stays_in_its_box(observations, sigma, scale, kind):
    attack = RandomAttack(scale, sigma) if kind == "random" else MinQAttack(scale, sigma, policy, critic, samples=8)
    before = observations.copy()
    seen = attack.perturb(observations, generators(3))
    np.testing.assert_array_equal(observations, before)
    assert (seen >= observations - scale * sigma).all() and (seen <= observations + scale * sigma).all()


@settings(deadline=None)
@given(OBSERVATIONS, SPREAD, st.floats(0, 1))
def test_min_q_never_raises_the_attacked_value(observations, sigma, scale):
    seen = MinQAttack(scale, sigma, policy, critic, samples=8).perturb(observations, generators(3))
    assert (critic(observations, policy(seen)) <= critic(observations, policy(observations))).all()


def test_min_q_finds_the_worst_corner():
    """With Q = -a and pi = s the worst observation is the largest: the samples must come close to it."""
    attack = MinQAttack(1.0, [0.5], lambda s: s, lambda s, a: -a[:, 0], samples=50)
    seen = attack.perturb(np.zeros((20, 1)), generators(20))
    assert (seen > 0.4).all()


def test_min_q_judges_at_the_clean_observation():
    calls = []

    def recording(observations, actions):
        calls.append(observations)
        return actions[:, 0]

    MinQAttack(0.2, [1.0, 1.0], lambda s: s, recording, samples=5).perturb(np.ones((2, 2)), generators(2))
    np.testing.assert_array_equal(calls[0], np.ones((12, 2)))


def test_min_q_judges_executed_actions():
    """Beyond 1 an action is clipped: a critic must not be shown what no actuator does."""
    shown = []

    def recording(observations, actions):
        shown.append(actions)
        return actions[:, 0]

    MinQAttack(0.2, [1.0], lambda s: 5.0 * s, recording, samples=5).perturb(np.ones((2, 1)), generators(2))
    np.testing.assert_array_equal(shown[0], np.ones((12, 1)))


def test_non_finite_critic_leaves_the_observation_clean():
    attack = MinQAttack(0.2, [1.0], lambda s: s, lambda s, a: np.full(len(s), np.nan))
    np.testing.assert_array_equal(attack.perturb(np.ones((2, 1)), generators(2)), np.ones((2, 1)))


def test_environment_is_attacked_but_not_its_simulator():
    attack = {"kind": "random", "scale": 0.2, "sigma": SIGMA}
    clean, attacked = gymnasium.make("OffDyn/Hopper-v0"), gymnasium.make("OffDyn/Hopper-v0", attack=attack)
    twin = gymnasium.make("OffDyn/Hopper-v0", attack=attack)
    assert not np.array_equal(clean.reset(seed=1)[0], attacked.reset(seed=1)[0])
    twin.reset(seed=1)
    action = np.array([0.1, -0.2, 0.3], np.float32)
    for _ in range(5):
        left, right = clean.step(action), attacked.step(action)
        np.testing.assert_array_equal(right[0], twin.step(action)[0])
        assert left[1:3] == right[1:3]
        assert 0 < np.abs(left[0] - right[0]).max() <= 0.02 + 1e-12
    np.testing.assert_array_equal(clean.unwrapped.data.qpos, attacked.unwrapped.data.qpos)


@pytest.mark.parametrize("mode", ("next_step", "same_step"))
def test_batched_attack_equals_scalar_attack(mode):
    attack = MinQAttack(0.2, SIGMA, lambda s: np.tanh(s[:, :3]), lambda s, a: a.sum(axis=1), samples=5)
    batched = OffDynVectorEnv("hopper", 2, attack=attack, autoreset_mode=mode, max_episode_steps=25)
    makers = [lambda: gymnasium.make("OffDyn/Hopper-v0", attack=attack, max_episode_steps=25)] * 2
    peer = gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=batched.autoreset_mode)
    np.testing.assert_array_equal(batched.reset(seed=4)[0], peer.reset(seed=4)[0])
    for step in range(60):
        actions = np.full((2, 3), 0.3 * (-1) ** step, np.float32)
        got, expected = batched.step(actions), peer.step(actions)
        np.testing.assert_array_equal(got[0], expected[0])
        if "final_obs" in got[4]:
            for row in np.flatnonzero(got[4]["_final_obs"]):
                np.testing.assert_array_equal(got[4]["final_obs"][row], expected[4]["final_obs"][row])


@pytest.mark.parametrize(
    ("attack", "words"),
    (
        ({"kind": "random", "scale": -0.1, "sigma": SIGMA}, "scale must be a finite number"),
        ({"kind": "random", "scale": 0.1, "sigma": [0.1]}, "sigma has 1 entries; hopper has 11"),
        ({"kind": "random", "scale": 0.1, "sigma": ["x"] * 11}, "sigma must be a list of numbers"),
        ({"kind": "random", "scale": 0.1}, "'sigma' is missing"),
        ({"kind": "random", "scale": 0.1, "sigma": SIGMA, "sgima": 1}, "did you mean 'sigma'"),
        ({"kind": "min-q", "scale": 0.1, "sigma": SIGMA, "policy": 3, "critic": 4}, "policy must be the path"),
        (5, "attack must be an object"),
    ),
)
def test_malformed_attacks(attack, words):
    with pytest.raises(OffDynError, match=words):
        OffDynVectorEnv("hopper", 2, attack=attack)
