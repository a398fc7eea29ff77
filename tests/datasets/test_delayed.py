"""Data collected under a delay, noise and a local shift, simulated again: the queue is in the stored actions."""

import gymnasium
import numpy as np
import pytest

from offdyn_envs import tasks
from offdyn_envs.datasets import counterfactual, dynamics_gap
from offdyn_envs.datasets.checking.check import resimulate, verify
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.errors import OffDynError
from offdyn_envs.shifts import Delay, Gravity, Kinematic, Local, Noise
from offdyn_envs.vector import OffDynVectorEnv

DYNAMICS = {
    "delayed": (Delay(3),),
    "noisy": (Noise(0.1), Delay(1)),
    "local": (Local((Gravity(0.3),), on=1, above=0.0),),
    "narrow": (Local((Kinematic(preset="severe"),), on=1, below=-0.1), Delay(2)),
}


@pytest.fixture
def more_dynamics(monkeypatch):
    """Hopper with three more dynamics."""
    for slug, shifts in DYNAMICS.items():
        monkeypatch.setitem(tasks._DYNAMICS["hopper"], slug, shifts)
        gymnasium.register(
            id=f"OffDyn/Hopper-{slug}-v0",
            entry_point="offdyn_envs.environment:Hopper",
            max_episode_steps=1000,
            kwargs={"dynamics": slug},
        )
    yield
    for slug in DYNAMICS:
        del gymnasium.registry[f"OffDyn/Hopper-{slug}-v0"]


@pytest.mark.parametrize("slug", tuple(DYNAMICS))
def test_every_row_is_simulated_again_bit_for_bit(more_dynamics, slug, tmp_path):
    from offdyn_envs.datasets.loading import load_dataset

    name = f"offdyn/hopper/{slug}/random-500-v0"
    build(tasks.DatasetId.parse(name), root=tmp_path, num_threads=1, quiet=True)
    dataset = load_dataset(name, root=tmp_path)
    assert resimulate(dataset, rows=500) == ("exact", 0.0)
    if slug != "local":  # Without the queue another path: the test can fail.
        arrays = type(dataset.arrays)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(OffDynError, match="simulated again differs"):
            under_way = arrays.under_way
            patch.setattr(arrays, "under_way", lambda self, *given: np.zeros_like(under_way(self, *given)))
            resimulate(dataset, rows=500)
    assert verify(tmp_path / "offdyn" / "hopper" / slug / "random-500-v0")


def test_actions_under_way(more_dynamics, tmp_path):
    from offdyn_envs.datasets.loading import load_dataset

    name = "offdyn/hopper/delayed/random-500-v0"
    build(tasks.DatasetId.parse(name), root=tmp_path, num_threads=1, quiet=True)
    arrays = load_dataset(name, root=tmp_path).arrays
    start = int(arrays.starts[1])
    queue = arrays.under_way(np.array([0, start, start + 1, start + 5]), 3)
    assert queue.shape == (4, 3, 3) and not queue[:2].any() and not queue[2, :2].any()
    np.testing.assert_array_equal(queue[2, 2], arrays.actions[start])
    np.testing.assert_array_equal(queue[3], arrays.actions[start + 2 : start + 5])


@pytest.fixture
def made(more_dynamics, tmp_path):
    """Load small sets of Hopper by their dynamics."""
    from offdyn_envs.datasets.loading import load_dataset

    def load(slug):
        name = f"offdyn/hopper/{slug}/random-500-v0"
        build(tasks.DatasetId.parse(name), root=tmp_path, num_threads=1, quiet=True)
        return load_dataset(name, root=tmp_path)

    return load


@pytest.mark.parametrize("slug", ("delayed", "local", "narrow"))
def test_own_dynamics_have_no_gap_and_others_have_one(made, slug):
    source, shifts = made(slug), DYNAMICS[slug]
    env = gymnasium.make(f"OffDyn/Hopper-{slug}-v0")
    for own in (slug, f"OffDyn/Hopper-{slug}-v0", list(shifts), env, OffDynVectorEnv("hopper", 2, shifts=shifts)):
        answer = counterfactual(source, own, num_threads=1, quiet=True)
        assert answer.valid.all()
        for key in ("next_observations", "next_qpos", "next_qvel", "rewards", "terminations"):
            np.testing.assert_array_equal(getattr(answer, key), getattr(source, key))
        assert not dynamics_gap(source, own, np.arange(300), num_threads=2, quiet=True).values.any()
    other = dynamics_gap(source, "nominal", num_threads=1, quiet=True)
    assert other.summary()["changed"] > 0.1


def test_a_local_body_takes_the_states_that_it_can(made):
    """Narrow joints refuse states of wide ones, but only where they are narrow."""
    source, narrow = made("delayed"), Kinematic(preset="severe")
    everywhere = counterfactual(source, [narrow], quiet=True).masks["limit"]
    pitch = source.qpos[:, 2]
    bound = float(np.sort(pitch[everywhere])[[5, 6]].mean())
    refused = counterfactual(source, [Local((narrow,), on=1, below=bound)], quiet=True).masks["limit"]
    np.testing.assert_array_equal(refused, everywhere & (pitch < bound))
    assert refused.sum() == 6 < everywhere.sum()


def test_noise_has_no_exact_gap(made):
    source, words = (
        made("noisy"),
        "noise shift: .* draw noise anew for every observation, so that no step has one exact",
    )
    env = gymnasium.make("OffDyn/Hopper-v0", shifts=Noise(0.1))
    for dynamics in ("noisy", [Noise(0.1)], env, OffDynVectorEnv("hopper", 2, shifts=Noise(0.1))):
        with pytest.raises(OffDynError, match=words) as refused:
            counterfactual(source, dynamics, quiet=True)
        assert "\n" not in str(refused.value)
    with pytest.raises(OffDynError, match=words):
        dynamics_gap(source, "nominal", quiet=True)
    exact = counterfactual(source, [Delay(1)], quiet=True)
    np.testing.assert_array_equal(exact.next_qpos, source.next_qpos)
