"""Parameters that are lists of numbers: any list will do, NumPy's and torch's too, and what is made of it is plain."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec

from offdyn_envs import Field, Noise, OffDynError, Payload, sample_shifts
from offdyn_envs.shifts import parse_shifts
from offdyn_envs.shifts.base import several
from offdyn_envs.vector import OffDynVectorEnv

LISTS = (list, tuple, np.array, torch.tensor)
PAYLOAD = {"kind": "payload", "kg": 1, "body": "torso", "position": [0.0, 0.5, 1.0]}
NOISE = {"kind": "noise", "std": 0.1, "entries": [0, 2]}
FIELD = {"kind": "field", "field": "geom_friction", "scale": 2.0, "index": [1, 0]}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize(
    ("form", "name", "shift"),
    (
        (PAYLOAD, "position", Payload(1.0, "torso", (0.0, 0.5, 1.0))),
        (NOISE, "entries", Noise(0.1, (0, 2))),
        (FIELD, "index", Field("geom_friction", 2.0, index=(1, 0))),
    ),
)
def test_any_list_is_read_and_becomes_plain(kind, form, name, shift):
    given = form | {name: kind(form[name])}
    assert parse_shifts(given) == (shift,)
    env = gymnasium.make("OffDyn/Hopper-v0", shifts=given)
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert env.unwrapped.shifts == again.unwrapped.shifts == (shift,)
    batch = gymnasium.make_vec("OffDyn/Hopper-v0", 2, row_shifts=[given, None])
    assert isinstance(batch.unwrapped, OffDynVectorEnv) and f'"{name}"' in batch.spec.to_json()


def test_what_is_a_list():
    for values in ([1, 2], (1, 2), range(1, 3), np.array([1, 2]), torch.tensor([1, 2])):
        assert several(values) == [1, 2]
    grown = torch.tensor([1.0, 2.0], requires_grad=True)
    assert several(grown) == [1.0, 2.0]
    assert several([]) == several(np.zeros(0)) == []
    for value in (3, 3.0, "12", b"12", None, np.array(3), torch.tensor(3), {1: 2}, {1, 2}):
        assert several(value) is None


def test_ranges_are_lists_too():
    drawn = [sample_shifts("hopper", {"gravity": kind([0.5, 2.0])}, seed=0) for kind in (list, torch.tensor, np.array)]
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize(
    ("shift", "words"),
    (
        (PAYLOAD | {"position": np.zeros(2)}, "three numbers"),
        (PAYLOAD | {"position": np.zeros((3, 3))}, "from -100 to 100"),
        (PAYLOAD | {"position": torch.tensor(1.0)}, "three numbers"),
        (NOISE | {"entries": np.array([0.5])}, "entries must be different whole numbers"),
        (NOISE | {"entries": np.zeros(0)}, "entries must be different whole numbers"),
        (FIELD | {"index": np.array([[3]])}, "index must be whole numbers"),
        (FIELD | {"index": torch.zeros(0)}, "index must be whole numbers"),
    ),
)
def test_other_lists_are_refused_in_one_line(shift, words):
    with pytest.raises(OffDynError, match=words) as refused:
        gymnasium.make("OffDyn/Hopper-v0", shifts=shift)
    assert "\n" not in str(refused.value)
