"""One small run that many tests look at, and a name for the environment that scores it."""

import gymnasium
import pytest

import offdyn
from offdyn_agents.algorithms.registry import agent_class
from offdyn_agents.api.recipe import recipe
from offdyn_agents.testing.sizes import small_settings
from tests.api.point import BOUND, transitions

ENV_ID = "TestPoint-v0"
SMALL = {"width": 16, "batch_size": 32}


@pytest.fixture(scope="package", autouse=True)
def _quick():
    """Compiling takes longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offdyn_agents.engine.execution.can_compile", lambda _: False)
        patch.setattr("offdyn_agents.models.ensemble.training.can_compile", lambda _: False)
        gymnasium.register(ENV_ID, entry_point="tests.api.point:Point")
        yield
        del gymnasium.registry[ENV_ID]


@pytest.fixture(scope="package")
def pair():
    bounds = {"action_low": -BOUND, "action_high": BOUND}
    return transitions(40, seed=0) | bounds, transitions(20, seed=100) | bounds


@pytest.fixture(scope="package")
def fit(pair):
    """Train a small agent on the pair, scored in the point's environment unless told otherwise."""

    def small(agent="bc", source=pair[0], target=pair[1], **named):
        named = {"seeds": 2, "updates": 12, "eval_every": 6, "env": ENV_ID, "progress": False, "threads": 1} | named
        if isinstance(agent, str):
            agent = recipe(agent, small_settings(agent_class(agent).settings_class))
        return offdyn.fit(agent, source, target, **named)

    return small


@pytest.fixture(scope="package")
def run(fit, pair, tmp_path_factory):
    return fit("iql", *map(without_bounds, pair), out=tmp_path_factory.mktemp("iql"), name="points")


def without_bounds(data):
    """Return data whose bounds are for the environment to say."""
    return {key: array for key, array in data.items() if not key.startswith("action_")}
