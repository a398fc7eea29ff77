"""Data collected under a delay, noise and a local shift, simulated again: the queue is in the stored actions."""

import gymnasium
import numpy as np
import pytest

from offdyn_envs import tasks
from offdyn_envs.datasets.checking.check import resimulate, verify
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.errors import OffDynError
from offdyn_envs.shifts import Delay, Gravity, Local, Noise

DYNAMICS = {
    "delayed": (Delay(3),),
    "noisy": (Noise(0.1), Delay(1)),
    "local": (Local((Gravity(0.3),), on=1, above=0.0),),
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
