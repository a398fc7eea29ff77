"""Presets, overrides, and one clear line for what is wrong."""

import dataclasses
import math
import sys
from fnmatch import filter as filter_names
from pathlib import Path
from typing import get_type_hints

import pytest

from offdyn_agents.algorithms.iql import IQL
from offdyn_agents.algorithms.registry import AGENTS, agent_class, make_agent
from offdyn_agents.algorithms.rowwise.agent import SCORES, RowwiseIQL
from offdyn_agents.engine.agent import DATA_CHOICES
from offdyn_agents.engine.resources import Budget, Hardware
from offdyn_agents.engine.rows import RowCounts
from offdyn_agents.engine.settings import build, parse_overrides, setting_names, to_json
from offdyn_agents.presets import _preset_file, forms, preset, tuning
from offdyn_agents.runs.plans import Plan
from offdyn_agents.runs.runs import plan_agent
from offdyn_agents.runs.settings_page import setting_rows
from offdyn_agents.testing.sizes import small_agent
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import HANDS, WALKERS
from offdyn_envs.shifts.registry import KINDS
from offdyn_envs.tasks import DatasetId, Task


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("robot", WALKERS)
def test_every_preset_builds(name, robot):
    agent = make_agent(name, robot, 11, 3, {})
    assert agent.settings.batch_size == 256
    assert agent.settings.width == 256
    # JSON and back: what run.json says makes the same agent.
    flat = {}
    for key, value in to_json(agent.settings).items():
        flat.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value})
    assert build(type(agent.settings), flat) == agent.settings


@pytest.mark.parametrize(
    ("agent", "form", "expected"),
    [
        ("iql", "paper", {"value_bounds": "none", "reward_scale": "none"}),
        ("iql", "code", {"value_bounds": "none", "reward_scale": "returns"}),
        ("td3-bc", "paper", {"value_bounds": "none"}),
        ("droco", "code", {"robust_min": "coordinate", "penalty_clamp": True, "radius": float("inf")}),
        ("mobody", "paper", {"beta": 0.1, "uncertainty": "paper", "uncertainty_limit": 10.0}),
        ("mobody", "code", {"bc_weight": "code", "uncertainty": "code"}),
    ],
)
def test_published_forms(agent, form, expected):
    own, published = (make_agent(agent, "hopper", 11, 3, more).settings for more in ({}, {"form": form}))
    assert {name: getattr(published, name) for name in expected} == expected
    assert published != own
    assert (own.form, published.form) == ("suite", form)
    by_hand = make_agent(
        agent, "hopper", 11, 3, {"form": form, next(iter(expected)): str(next(iter(expected.values())))}
    )
    assert by_hand.settings == published


def test_published_forms_of_stages():
    mobody, morec = (make_agent(name, "hopper", 11, 3, {"form": "paper"}).settings for name in ("mobody", "morec"))
    assert (mobody.dynamics.form, mobody.dynamics.schedule, mobody.dynamics.latent) == ("paper", "blocks", 16)
    assert (morec.dynamics_reward.opponent, morec.scorer.form) == ("ppo", "exact")


@pytest.mark.parametrize(
    ("agent", "settings", "message"),
    [
        ("mobody", {"dynamics.form": "paper", "dynamics.anchor": "0.1"}, "dynamics.anchor .* dynamics.form=difference"),
        ("mobody", {"form": "paper", "dynamics.divergence": "1"}, "dynamics.divergence .* dynamics.form=difference"),
        ("mobody", {"dynamics.loss_weights": "paper"}, "dynamics.loss_weights .* dynamics.form=paper"),
        ("mobody", {"dynamics.epochs": "5"}, "dynamics.epochs .* dynamics.schedule=blocks"),
        ("mobody", {"form": "code", "dynamics.updates": "5"}, "dynamics.updates .* dynamics.schedule=interleaved"),
        (
            "mobody",
            {"dynamics.structure": "plain", "dynamics.anchor": "0"},
            "dynamics.anchor .* dynamics.structure=dual",
        ),
        ("mobody", {"expectile": "0.9"}, "expectile .* bc_weight=awr"),
        ("mobody", {"dynamics.elites": "9"}, "dynamics.elites is 9; at most dynamics.members, 7"),
        ("mopo", {"elites": "9"}, "elites is 9; at most dynamics.members, 7"),
        ("morec", {"dynamics_reward.opponent": "ppo", "dynamics_reward.inputs": "whitened"}, "opponent=nce"),
        ("droco", {"ensemble": "dual", "dynamics.epochs": "5"}, "dynamics.epochs .* ensemble=gaussian"),
        ("droco", {"dual.updates": "5"}, "dual.updates .* ensemble=dual"),
        ("dara", {"schedule": "loop", "dara.updates": "5"}, "dara.updates .* schedule=loop; .* schedule=stage"),
        ("dara", {"form": "code", "dara.batch_size": "64"}, "dara.batch_size .* schedule=stage"),
        ("dara", {"schedule": "loop", "dara.learning_rate": "1e-3"}, "dara.learning_rate .* schedule=stage"),
        ("dvdf", {"score": "otdf", "encoders.updates": "5"}, "encoders.updates .* score=otdf; .* score=igdf"),
        ("dvdf", {"transport.chunk": "5"}, "transport.chunk .* score=igdf; .* score=otdf"),
        ("bosa", {"masked": "false", "support.members": "2"}, "support.members .* masked=false; .* masked=true"),
    ],
)
def test_settings_that_would_count_for_nothing_are_refused(agent, settings, message):
    with pytest.raises(OffDynError, match=message) as told:
        make_agent(agent, "hopper", 11, 3, settings)
    assert "\n" not in str(told.value)


def test_settings_that_count_are_taken():
    for agent, settings in (
        ("mobody", {"dynamics.form": "paper", "dynamics.loss_weights": "paper", "dynamics.epochs": "5"}),
        ("mobody", {"dynamics.schedule": "blocks", "dynamics.epochs": "5", "dynamics.elites": "7"}),
        ("mobody", {"bc_weight": "awr", "expectile": "0.9", "temperature": "1"}),
        ("droco", {"ensemble": "dual", "dual.updates": "5", "dynamics.memory_gb": "1", "dual.members": "3"}),
        ("dara", {"dara.updates": "5", "dara.batch_size": "64", "dara.learning_rate": "1e-3"}),
        ("dara", {"schedule": "loop", "dara.noise": "0", "dara.width": "64", "dara.clip": "5", "dara.weight": "0.2"}),
        ("dvdf", {"score": "otdf", "transport.chunk": "5"}),
        ("dvdf", {"encoders.updates": "5"}),
        ("bosa", {"support.members": "2"}),
    ):
        make_agent(agent, "hopper", 11, 3, settings)


@pytest.mark.parametrize("name", [name for name in AGENTS if issubclass(agent_class(name), RowwiseIQL)])
def test_a_share_of_rows_is_kept_by_those_that_score_rows(name):
    """Elsewhere nothing is ranked, and a share would count for nothing."""
    agent = small_agent(agent_class(name))
    keeps = "keep_share" in setting_names(type(agent.settings))
    assert keeps == (SCORES in agent.columns)
    if not keeps:
        assert agent.kept_share == 1.0
        with pytest.raises(OffDynError, match="unknown setting 'keep_share'"):
            make_agent(name, "hopper", 11, 3, {"keep_share": "0.5"})
    else:
        assert small_agent(agent_class(name), {"keep_share": 0.3}).kept_share == 0.3


def test_names_in_tables_of_what_belongs_to_what_are_settings():
    """A misspelt one would refuse nothing, or everything."""

    def check(kind, checked):
        names = setting_names(kind)
        for name, others in getattr(kind, "BELONGS", {}).items():
            assert {name, *others} <= {*names}
            for other, allowed in others.items():
                assert all(build(kind, {other: word}) for word in allowed)
            checked.append(name)
        for hint in get_type_hints(kind).values():
            if dataclasses.is_dataclass(hint):
                check(hint, checked)

    found = []
    for name in AGENTS:
        check(agent_class(name).settings_class, found)
    assert len(set(found)) > 20


@pytest.mark.parametrize(("robot", "beta"), [("hopper", 0.1), ("halfcheetah", 0.3), ("walker2d", 1.0), ("ant", 1.0)])
def test_published_constants(robot, beta):
    settings = make_agent("droco", robot, 11, 3, {"form": "paper"}).settings
    assert (settings.value_bounds, settings.radius, settings.reward_scale) == ("none", float("inf"), "none")
    assert (settings.beta, settings.delta, settings.robust_min, settings.huber_on) == (beta, 30.0, "value", "source")
    assert (settings.discount, settings.polyak, settings.expectile, settings.temperature) == (0.99, 0.005, 0.7, 3.0)
    assert (settings.learning_rate, settings.weight_clip, settings.penalty_clamp) == (3e-4, 100.0, False)
    dynamics = settings.dynamics
    assert (dynamics.members, dynamics.width, dynamics.learning_rate, dynamics.batch_size) == (7, 200, 1e-3, 256)
    assert (dynamics.schedule, dynamics.patience, dynamics.improvement) == ("early-stopping", 5, 0.01)


HAND_METHODS = [name for name in AGENTS if issubclass(agent_class(name), IQL) and name != "droco"]
"""IQL and the methods on it whose published values for Adroit are known to be IQL's."""


@pytest.mark.parametrize("robot", HANDS)
@pytest.mark.parametrize("form", ["suite", "code"])
@pytest.mark.parametrize("name", HAND_METHODS)
def test_published_constants_of_the_hand(name, form, robot):
    if form not in ("suite", *(_preset_file(agent_class(name)).get("forms") or {})):
        form = "suite"
    hand, walker = (make_agent(name, which, 45, 24, {"form": form}).settings for which in (robot, "walker2d"))
    assert (hand.temperature, walker.temperature) == (0.5, 3.0)


@pytest.mark.parametrize("robot", HANDS)
def test_published_constants_of_cql_on_the_hand(robot):
    own, code = (make_agent("cql", robot, 45, 24, {"form": form}).settings for form in ("suite", "code"))
    assert (own.weight, own.actor_rate, own.alpha_rate, own.learning_rate) == (1.0, 1e-4, 1e-4, 3e-4)
    # The other repository's numbers are the same for all robots.
    assert (code.weight, code.actor_rate) == (10.0, 3e-4)


def test_the_kind_of_shift_counts_where_the_preset_says_so():
    def weights(task, **more):
        rows = {row["setting"]: row["value"] for row in setting_rows("otdf", task, more)}
        plan = Plan("otdf", task, (0,), more, Budget(1), Hardware(), Path("runs"))
        assert str(plan_agent(plan).settings.regularisation) == rows["regularisation"]
        return float(rows["regularisation"])

    assert weights("hopper-from-kinematic-severe-medium") == weights("walker2d-kinematic-severe-medium") == 0.1
    assert weights("hopper-from-morphology-severe-medium") == weights("walker2d-gravity-5.0-medium") == 0.5
    assert weights("hopper-kinematic-severe-medium", form="code") == 0.1
    assert weights("hopper-kinematic-severe-medium", regularisation="0.3") == 0.3


def test_shifts_that_both_domains_have_are_no_difference():
    tasks = [
        Task("t", "hopper", *"xy", DatasetId("hopper", one, "medium", "1m"), two, "")
        for one, two in (
            ("kinematic-severe", DatasetId("hopper", "kinematic-severe", "medium", "5k")),
            ("kinematic-severe", DatasetId("hopper", "gravity-0.5", "medium", "5k")),
            ("gravity-5.0", DatasetId("hopper", "gravity-0.5", "medium", "5k")),
        )
    ]
    assert [task.shift_kinds for task in tasks] == [(), ("kinematic", "gravity"), ("gravity",)]


UNPUBLISHED = [name for name in AGENTS if "paper" not in forms(agent_class(name))]


@pytest.mark.parametrize("name", UNPUBLISHED)
def test_a_form_that_an_agent_has_not_is_refused(name):
    with pytest.raises(OffDynError, match=f"unknown form of agent '{name}' 'paper'") as told:
        make_agent(name, "hopper", 11, 3, {"form": "paper"})
    assert "\n" not in str(told.value)


def test_readings_of_abstracts_claim_no_published_form():
    readings = {name for name in AGENTS if agent_class(name).reading}
    assert readings and readings <= {*UNPUBLISHED}


def test_sizes_of_networks():
    assert make_agent("iql", "hopper", 11, 3, {}).parameters == 2 * 69_889 + 69_121 + 69_635


@pytest.mark.parametrize(
    ("name", "data", "rows"),
    [
        ("iql", None, (128, 128)),
        ("iql", "source", (256, 0)),
        ("iql", "target", (0, 256)),
        ("iql", "oracle", (0, 256)),
        ("bc", "oracle", (0, 256)),
        ("td3-bc", None, (128, 128)),
        ("bc", None, (0, 256)),
        ("bc", "merged", (128, 128)),
        ("droco", None, (128, 128)),
    ],
)
def test_rows(name, data, rows):
    agent = make_agent(name, "hopper", 11, 3, {} if data is None else {"data": data})
    assert agent.rows() == RowCounts(*rows)


def test_overrides():
    words = ["beta=0.5", "delta=inf", "penalty_clamp=true", "dynamics.epochs=3", "robust_min=q"]
    settings = make_agent("droco", "ant", 27, 8, parse_overrides(words)).settings
    assert settings.beta == 0.5
    assert math.isinf(settings.delta)
    assert settings.penalty_clamp is True
    assert settings.dynamics.epochs == 3
    assert to_json(settings)["delta"] == "inf"


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("drocko", [], "unknown agent 'drocko'; did you mean 'droco'? `offdyn agents` lists all"),
        ("droco", ["betta=1"], "unknown setting 'betta'; did you mean 'beta'?"),
        ("droco", ["dynamics.epoch=1"], "did you mean 'dynamics.epochs'?"),
        ("droco", ["beta=-1"], "setting beta is -1.0; a finite number at least 0 is allowed"),
        ("droco", ["beta=nan"], "setting beta is nan; a finite number at least 0 is allowed"),
        ("droco", ["delta=0"], "setting delta is 0.0; a number above 0 is allowed"),
        ("droco", ["data=target"], "unknown value of setting data 'target'"),
        ("droco", ["robust_min=values"], "did you mean 'value'? allowed: value, q, coordinate"),
        ("droco", ["penalty_clamp=2"], "setting penalty_clamp is '2'; true or false is allowed"),
        ("iql", ["expectile=1.5"], "setting expectile is 1.5; a number in (0, 1] is allowed"),
        ("iql", ["batch_size=3.5"], "setting batch_size is '3.5'; a whole number is allowed"),
        ("bc", ["expectile=.7"], "unknown setting 'expectile'"),
        ("bc", ["learning_rate"], "setting 'learning_rate' is not of the form key=value"),
        ("bc", ["width=1", "width=2"], "setting 'width' is given twice"),
    ],
)
def test_bad_settings(name, words, message):
    with pytest.raises(OffDynError) as caught:
        make_agent(name, "hopper", 11, 3, parse_overrides(words))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", AGENTS)
def test_presets_name_robots_and_choices_of_rows_that_exist(name):
    """Sections and settings are checked whenever a file is read."""
    content = _preset_file(agent_class(name))
    assert set(content.get("data", {})) <= set(DATA_CHOICES)
    assert all(filter_names((*WALKERS, *HANDS), robot) for robot in content.get("robots", {}))
    assert set(content.get("shifts", {})) <= set(KINDS)


@pytest.mark.parametrize("data", DATA_CHOICES)
def test_td3_bc_standardises_states_of_one_domain(data):
    assert make_agent("td3-bc", "hopper", 11, 3, {"data": data}).settings.normalise == (data != "merged")
    for word in ("true", "false"):
        by_hand = make_agent("td3-bc", "hopper", 11, 3, {"data": data, "normalise": word})
        assert str(by_hand.settings.normalise).lower() == word
    assert make_agent("td3-bc", "hopper", 11, 3, {}).settings.normalise is False


@pytest.mark.parametrize("name", AGENTS)
def test_every_preset_discloses_its_tuning(name):
    """Values inherited from a paper that tuned on online returns count as tuned."""
    told = tuning(agent_class(name))
    assert told["tuning_evaluations"] >= 0
    assert (told["tuning_evaluations"] > 0) == bool(told.get("tuning_note"))


def test_droco_counts_the_published_grid():
    assert tuning(agent_class("droco"))["tuning_evaluations"] == 8


@pytest.mark.parametrize("name", ("beta", "learning_rate", "temperature"))
def test_infinity_is_refused_where_it_would_only_make_nan(name):
    with pytest.raises(OffDynError, match=f"setting {name} is inf; a finite number"):
        make_agent("droco", "hopper", 11, 3, {name: "inf"})


def test_delta_may_be_infinite():
    assert make_agent("droco", "hopper", 11, 3, {"delta": "inf"}).settings.delta == math.inf


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """An agent of another package, and the file of its preset."""
    package = tmp_path / "far_away"
    (package / "methods").mkdir(parents=True)
    for folder in (package, package / "methods"):
        (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("far_away", "far_away.methods"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import far_away.methods

    (package / "presets").mkdir()
    return type("Far", (IQL,), {"name": "far", "__module__": far_away.methods.__name__}), package / "presets/far.yaml"


def test_a_preset_is_optional(outside):
    agent, file = outside
    assert preset(agent, "hopper") == {}
    assert tuning(agent) == {"tuning_evaluations": None}
    file.write_text("settings: {expectile: 0.8}\nrobots:\n  reacher: {expectile: 0.9}\n  pusher:\n")
    assert preset(agent, "hopper") == {"expectile": 0.8}
    assert preset(agent, "reacher") == {"expectile": 0.9}
    assert preset(agent, "pusher") == preset(agent)
    file.write_text(
        "settings: {width: 8}\nrobots:\n  arm-*: {width: 16, discount: 0.9, qualities: {expert: {polyak: 1}}}\n"
        "  arm-2: {width: 32}\nshifts:\n  mass: {discount: 0.8}\n  delay:\nforms:\n  code: {discount: 0.7}"
    )
    assert preset(agent, "arm-1") == {"width": 16, "discount": 0.9}
    assert preset(agent, "arm-1", "expert", shifts=("gravity", "mass")) == {"width": 16, "discount": 0.8, "polyak": 1}
    assert preset(agent, "arm-2", shifts=("delay",)) == {"width": 32}
    assert preset(agent, "crane", shifts=("mass",), form="code") == {"width": 8, "discount": 0.7}
    file.write_text("")
    assert tuning(agent) == {"tuning_evaluations": None}
    file.write_text("tuning: {evaluations: 3, note: by hand}")
    assert tuning(agent) == {"tuning_evaluations": 3, "tuning_note": "by hand"}
    file.write_text("")
    assert preset(agent) == {}


def test_a_class_of_no_package_has_no_preset():
    assert preset(type("Alone", (IQL,), {"name": "iql", "__module__": "__main__"})) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("settings: [", "far.yaml' is no YAML"),
        ("just words", "far.yaml' is 'just words'; names and their values are needed"),
        ("setings: {}", "unknown section of preset"),
        ("settings: 3", "far.yaml': settings is '3'; names and their values are needed"),
        ("settings: {betta: 1}", "far.yaml': settings: unknown setting 'betta'"),
        ("settings: {expectile: 2}", "far.yaml': settings: setting expectile is 2.0; a number in (0, 1] is allowed"),
        ("settings: {width: 3.5}", "settings: setting width is '3.5'; a whole number is allowed"),
        ("settings: {width: true}", "settings: setting width is 'True'; a whole number is allowed"),
        ("settings: {width: .inf}", "settings: setting width is 'inf'; a whole number is allowed"),
        ("settings: {width: [1]}", "settings: setting width is '[1]'; a whole number is allowed"),
        ("settings: {data: 1}", "settings: unknown value of setting data '1'"),
        ("settings: {1: 2}", "settings is '{1: 2}'; names"),
        ("robots: {hopper: 3}", "far.yaml': robots.hopper is '3'"),
        ("robots: {ant: {width: no}}", "far.yaml': robots.ant: setting width is 'False'"),
        ("robots: {ant: {qualities: {random: {a.b: 1}}}}", "robots.ant.qualities.random: unknown setting 'a.b'"),
        ("shifts: {mass: {x: 1}}", "far.yaml': shifts.mass: unknown setting 'x'"),
        ("data: {target: {x: 1}}", "far.yaml': data.target: unknown setting 'x'"),
        ("tuning: {evaluation: 1}", "unknown key of preset"),
        ("tuning: {evaluations: many}", "far.yaml': tuning.evaluations is 'many'; a whole number at least 0"),
        ("tuning: {evaluations: -1}", "tuning.evaluations is '-1'"),
        ("place: 0", "far.yaml': place is '0'; a whole number at least 1 is allowed"),
        ("tuning: {note: 3}", "tuning.note is '3'; text is allowed"),
    ],
)
def test_a_bad_preset_is_one_line_that_names_file_and_key(outside, text, message):
    agent, file = outside
    file.write_text(text)
    with pytest.raises(OffDynError) as caught:
        preset(agent, "hopper")
    assert message in str(caught.value)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
