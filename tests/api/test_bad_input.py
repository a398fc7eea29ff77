"""What `offdyn.fit` refuses: one line that says what and why, and nothing is left behind."""

import numpy as np
import pytest

import offdyn
from offdyn_agents.algorithms.bc import BC
from offdyn_envs.errors import OffDynError
from tests.api.point import A, S, Sideways, as_object, transitions


def spoilt(key, change):
    """Return good data with one array changed."""
    data = transitions(10)
    data[key] = change(data[key].copy())
    return data


def put(row, value):
    def change(array):
        array[row] = value
        return array

    return change


def ragged(array):
    return [list(row) for row in array[:-1]] + [[0.0]]


DATA = {
    "missing": ({key: value for key, value in transitions(10).items() if key != "rewards"}, "rewards is missing"),
    "missing in an object": (as_object({"observations": np.ones((3, S))}), "actions is missing"),
    "nothing": (None, "observations is missing"),
    "NaN": (spoilt("observations", put(3, np.nan)), "observations of row 3 is not finite"),
    "infinite reward": (spoilt("rewards", put(5, np.inf)), "rewards of row 5 is not finite"),
    "ragged": (spoilt("observations", ragged), "observations is ragged"),
    "text": (spoilt("actions", lambda array: array.astype(str)), "actions is of type"),
    "one dimension": (spoilt("observations", np.ravel), "observations has shape"),
    "too few rows": (spoilt("rewards", lambda array: array[:-1]), "rewards has 59 rows and observations 60"),
    "no rows": ({key: array[:0] for key, array in transitions(1).items()}, "has no rows"),
    "outside": (spoilt("actions", put((7, 1), 2.5)), "action 'action_1' of row 7 is 2.5; [-2, 2] is allowed"),
    "flags": (spoilt("terminations", lambda array: array + 2), "terminations of row 0 is"),
    "half the bounds": ({**transitions(10), "action_low": -2}, "action_low without action_high"),
    "bounds upside down": ({**transitions(10), "action_low": 2, "action_high": -2}, "low < high"),
    "bounds of another number": ({**transitions(10), "action_low": [-2] * 3, "action_high": [2] * 3}, "values"),
    "words for bounds": ({**transitions(10), "action_low": "low", "action_high": "high"}, "action_low is low"),
    "a path": ("no/such/file.npz", "no dataset and no file of that name: 'no/such/file.npz'"),
}


@pytest.mark.parametrize("which", ["source", "target"])
@pytest.mark.parametrize(("data", "words"), DATA.values(), ids=DATA)
def test_data(fit, tmp_path, data, words, which):
    good = transitions(10)
    pair = {"source": good, "target": good} | {which: data}
    if pair["source"] is None:
        words = "agent 'iql' learns from source rows"  # Others need none.
    refused(lambda: fit("iql", **pair, env="tests.api.point:Point", out=tmp_path / "out"), words, tmp_path)


def test_dimensions(fit, tmp_path):
    source, target = transitions(10), transitions(10)
    for key in ("observations", "next_observations"):
        target[key] = np.hstack([target[key], target[key]])
    bounds = {"action_low": -2, "action_high": 2}
    words = f"source has {S} observations and {A} actions and target {2 * S} observations and {A} actions"
    refused(lambda: fit("bc", source | bounds, target | bounds, env=None, out=tmp_path / "out"), words, tmp_path)


ARGUMENTS = {
    "agent": ({"agent": "dorco"}, "unknown agent 'dorco'; did you mean 'droco'?"),
    "no agent": ({"agent": 3}, "agent is a int"),
    "a class that is none": ({"agent": dict}, "is no class that inherits from"),
    "seeds": ({"seeds": 0}, "0 seeds train nothing"),
    "seed twice": ({"seeds": [1, 1]}, "seed 1 is there twice"),
    "negative seed": ({"seeds": [-1]}, "neither a number of seeds nor seeds"),
    "no seeds": ({"seeds": []}, "neither a number of seeds nor seeds"),
    "updates": ({"updates": 0}, "'0' is no whole number from 1 on"),
    "updates in words": ({"updates": "many"}, "'many' is no whole number"),
    "evaluations": ({"eval_every": 0}, "'0' is no whole number from 1 on"),
    "device": ({"device": "gpu"}, "gpu"),
    "precision": ({"precision": "fp8"}, "fp8"),
    "threads": ({"threads": -1}, "threads is -1"),
    "termination": ({"termination": "lerned"}, "unknown termination 'lerned'; did you mean 'learned'?"),
    "name": ({"name": "../up"}, "name '../up': letters, digits and ._+- are allowed"),
    "a task's name": ({"name": "hopper-gravity-0.5-medium"}, "are allowed, but for a task's name"),
    "callbacks": ({"callbacks": [print]}, "is no lightning.pytorch Callback"),
    "one callback": ({"callbacks": print}, "is no lightning.pytorch Callback"),
    "loggers": ({"loggers": ["csv"]}, "str is no lightning.pytorch Logger"),
    "devices": ({"trainer": {"devices": 2}}, "trainer: 'devices' is set by device="),
    "no such argument": ({"trainer": {"max_epoch": 2}}, "unknown argument of trainer 'max_epoch'"),
    "env": ({"env": "TestPiont-v0"}, "did you mean 'TestPoint-v0'?"),
    "env's module": ({"env": "no_such_module:Env"}, "cannot be imported"),
    "env's class": ({"env": "tests.api.point:Poimt"}, "did you mean 'Point'?"),
    "env's image": ({"env": Sideways}, "observations are Box[4, 4, 3]; the data have 3 numbers"),
    "env of other spaces": ({"env": "OffDyn/Hopper-v0"}, "the data have 3 numbers"),
    "env that fails": ({"env": "tests.api.point:Broken"}, "cannot be made: the simulator is not here"),
    "env that is none": ({"env": "tests.api.point:no_environment"}, "is a int; a gymnasium.Env is allowed"),
}


@pytest.mark.parametrize(("named", "words"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments(tmp_path, named, words):
    data = {**transitions(10), "action_low": -2, "action_high": 2}
    named = {"agent": "bc", "out": tmp_path / "out", "seeds": 1, "updates": 1, "progress": False} | named
    agent = named.pop("agent")
    refused(lambda: offdyn.fit(agent, data, data, **named), words, tmp_path)


SETTINGS = {
    "unknown": (lambda: offdyn.agents.DROCO(betta=0.1), "did you mean 'beta'?"),
    "of the wrong kind": (lambda: offdyn.agents.DROCO(beta="much"), "much"),
    "out of range": (lambda: offdyn.agents.IQL(discount=2), "discount"),
    "nested": (lambda: offdyn.agents.DROCO(dynamics={"epoch": 5}), "dynamics.epochs"),
}


@pytest.mark.parametrize(("make", "words"), SETTINGS.values(), ids=SETTINGS)
def test_settings(tmp_path, make, words):
    refused(make, words, tmp_path)


def test_an_agents_class_is_an_agent(fit, tmp_path):
    assert fit(BC, env=None, updates=1, seeds=1, out=tmp_path).facts["agent"] == "bc"


def test_a_folder_of_another_run_is_left_alone(fit, run, tmp_path):
    before = (run.folder / "run.json").read_bytes()
    with pytest.raises(OffDynError, match="holds a run with"):
        fit("iql", out=run.folder.parents[1], name="points", updates=18)
    with pytest.raises(OffDynError, match="holds a run with width 16, not 17"):
        fit(offdyn.agents.IQL(width=17, batch_size=24), out=run.folder.parents[1], name="points")
    assert (run.folder / "run.json").read_bytes() == before


def refused(call, words, folder):
    with pytest.raises(OffDynError) as error:
        call()
    assert words in str(error.value) and "\n" not in str(error.value)
    assert list(folder.iterdir()) == []
