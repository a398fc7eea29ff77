"""The conformance suite finds what it is for: each of these agents breaks one promise, and one test says so."""

from dataclasses import dataclass

import pytest
import torch

from offdyn_agents.algorithms.iql import IQL, IQLSettings
from offdyn_agents.engine.networks import policy
from offdyn_agents.engine.rows import RowColumns
from offdyn_agents.engine.stages import StageResults
from offdyn_agents.testing import AgentConformance
from offdyn_agents.testing.conformance import Trained, train


@dataclass(frozen=True)
class ListSettings(IQLSettings):
    sizes: tuple = (1, 2)


class Unsayable(IQL):
    settings_class = ListSettings


class Silent(IQL):
    metrics = (*IQL.metrics, "entropy")


class Untrained(IQL):
    def loss(self, params, batch):
        frozen = [tensor.detach() for tensor in params["value"]]
        return super().loss({**params, "value": frozen}, batch)


class Boundless(IQL):
    def act(self, params, observations):
        return 100.0 * policy(params["actor"], observations)


class Random(IQL):
    def stages(self, context):
        return StageResults(columns=[RowColumns(rewards=torch.randn(len(context.source))) for _ in context.seeds])


class Sociable(IQL):
    def stages(self, context):
        seeds = len(context.seeds)
        return StageResults(columns=[RowColumns(torch.full((len(context.source),), float(seeds)))] * seeds)


class OtherFile(IQL):
    def exported(self, params):
        found = super().exported(params)
        return found | {"actor": [1.1 * tensor for tensor in found["actor"]]}


class Mixed(IQL):
    def loss(self, params, batch):
        loss, metrics = super().loss(params, batch)
        return loss * loss.detach().sum(), metrics


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Unsayable, "test_settings"),
        (Silent, "test_fit"),
        (Untrained, "test_fit"),
        (Boundless, "test_act"),
        (Random, "test_a_run_is_itself_in_any_company"),
        (Sociable, "test_a_run_is_itself_in_any_company"),
        (Random, "test_resumed_is_uninterrupted"),
        (Random, "test_killed_is_uninterrupted"),
        (OtherFile, "test_saved_networks_are_the_trained_ones"),
        (Mixed, "test_an_update_of_a_population_is_that_of_its_runs"),
    ],
)
def test_it_notices(kind, test, tmp_path, monkeypatch):
    suite = type("Suite", (AgentConformance,), {"agent": kind})()
    trained = Trained(train(kind, tmp_path / "whole/run", cache=tmp_path / "whole/stages"), tmp_path / "whole")
    given = {"kind": kind, "trained": trained, "tmp_path": tmp_path / "other", "monkeypatch": monkeypatch}
    method = getattr(suite, test)
    wanted = method.__code__.co_varnames[1 : method.__code__.co_argcount]
    with pytest.raises(AssertionError):
        method(**{name: given[name] for name in wanted})


def test_a_class_that_its_name_does_not_lead_to_is_noticed():
    suite = type("Suite", (AgentConformance,), {"agent": "iql"})()
    with pytest.raises(AssertionError):
        suite.test_it_is_found_by_its_name(Silent)
