"""`offdyn train --agents`: the order, what is left, what one failure does."""

import json
from pathlib import Path

import pytest

from offdyn_agents import commands
from offdyn_agents.algorithms import registry
from offdyn_agents.presets import place
from offdyn_agents.runs import campaign, rates, variants
from offdyn_envs import cli
from offdyn_envs.errors import OffDynError
from tests.agents import stand_ins

ROOT = Path(__file__).parents[2]
TASK = "hopper-gravity-0.5-medium"
TASKS = (TASK, "walker2d-gravity-5.0-medium")
SHORT = ("--updates", 4, "--quiet", "--threads", 1)


UNKNOWN = {"rates": [], "times_iql": {}, "devices": []}
NO_TIMES = "how long they take is known once the first has ended"


@pytest.fixture(autouse=True)
def no_shipped_times(monkeypatch):
    monkeypatch.setattr(campaign, "shipped", lambda: UNKNOWN)


@pytest.fixture
def data(monkeypatch):
    import offdyn_envs

    monkeypatch.setattr(offdyn_envs, "load_task", stand_ins.load_task)
    monkeypatch.setattr("offdyn_envs.datasets.task.available", stand_ins.available)
    monkeypatch.setattr("offdyn_agents.runs.problems.target_returns", stand_ins.target_returns)
    monkeypatch.setattr("offdyn_agents.engine.execution.can_compile", lambda _: False)


def offdyn(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


def plans(monkeypatch, folder, agents):
    from offdyn_agents.engine.training.module import Hardware
    from offdyn_agents.runs.plans import Plan

    hardware = Hardware("cpu", "fp32", 1)
    told = []
    found = campaign.parts(
        agents,
        lambda name: [
            Plan(name.partition("@")[0], task, (0, 1), {}, hardware.budget(100, 100), hardware, folder)
            for task in TASKS
        ],
        told.append,
    )
    return found, told


def write_ended(folder, agent, task, seconds):
    """Write what an ended run says, as far as its time is concerned."""
    place = folder / task / agent
    place.mkdir(parents=True)
    facts = {"format": 1, "agent": agent, "task": task, "seeds": [0, 1], "updates": 100, "settings": {}}
    (place / "run.json").write_text(json.dumps(facts | {"status": "complete", "wall_clock_s": seconds}))


def test_all_agents_come_in_the_order_that_is_asked_for(monkeypatch, tmp_path):
    found, told = plans(monkeypatch, tmp_path, commands._several("all", {}))
    names = [part.agent for part in found]
    places = [None if "@" in name else place(registry.agent_class(name)) for name in names]
    asked = [number for number in places if number]
    assert asked == list(range(1, len(asked) + 1)) == places[: len(asked)]
    assert names[:4] == ["droco", "iql", "td3-bc", "bc"] and names[len(asked) - 1] == "morec"
    left_out = {line.partition(":")[0] for line in told}
    assert sorted(names[-3:]) == sorted(variants.REFERENCES)
    assert set(names[:-3]) | left_out == set(registry.names())
    assert "oracle-filter" in left_out
    assert all(part.work == 2 * 2 * 100 and part.tasks == 2 for part in found)
    assert {row["time left"] for row in campaign.outlook(found)} == {"not measured yet"}
    assert campaign.total(found) == f"{len(found)} of {len(found)} agents left; {NO_TIMES}"


def test_an_agent_that_nobody_has_named_takes_its_turn(monkeypatch, tmp_path):
    """Its class inherits all of DARA but for the place, which is in DARA's preset alone."""
    from offdyn_agents.algorithms.rowwise.dara import DARA

    monkeypatch.setattr(registry, "_REGISTERED", {})
    registry.register(type("Newcomer", (DARA,), {"name": "newcomer", "__module__": __name__}))
    found, _ = plans(monkeypatch, tmp_path, registry.names())
    names = [part.agent for part in found]
    assert names.index("morec") < names.index("newcomer")


def test_what_was_measured_says_how_long_the_rest_takes(monkeypatch, tmp_path):
    monkeypatch.setattr(campaign, "arrange", lambda plans: campaign_arrangement(plans))
    for agent, seconds in (("cql", 200.0), ("srpo", 20.0)):
        write_ended(tmp_path, agent, TASK, seconds)
    found, _ = plans(monkeypatch, tmp_path, ("cql", "srpo", "iql"))
    assert [part.agent for part in found] == ["iql", "srpo", "cql"]
    assert [part.seconds for part in found] == [None, 20.0, 200.0]
    rows = {row["agent"]: row for row in campaign.outlook(found)}
    # Runs on Hopper say it of Walker2d.
    assert (rows["cql"]["tasks done"], rows["cql"]["time left"]) == ("1 of 2", "3 min, estimated")
    assert campaign.total(found) == "3 of 3 agents left; about 4 min, estimated; without iql, not measured yet"


def test_each_robot_has_its_own_pace_and_another_table_stands_in(monkeypatch, tmp_path):
    monkeypatch.setattr(campaign, "arrange", lambda plans: campaign_arrangement(plans))
    rows = [
        ("iql", "hopper", "cuda", "fp32", 0.1),
        ("cql", "walker2d", "cpu", "bf16", 3.0),
        ("cql", "hopper", "cpu", "bf16", 2.0),
        ("iql", "hopper", "cpu", "bf16", 0.2),
        ("iql", "hopper", "cpu", "fp32", 0.5),
    ]
    told = [dict(zip(("agent", "robot", "kind", "precision", "seconds"), row, strict=True)) for row in rows]
    monkeypatch.setattr(campaign, "shipped", lambda: {"rates": told, "times_iql": {"srpo": 2.0}})
    write_ended(tmp_path, "cql", TASK, 200.0)
    found, _ = plans(monkeypatch, tmp_path, ("cql", "srpo", "iql", "bc"))
    left = {part.agent: (part.seconds, part.estimated) for part in found}
    # Walker2d's 200 at 1 s here, and half as much again as elsewhere; 400 at IQL's half second, and at twice that.
    assert left == {"cql": (300.0, True), "iql": (200.0, True), "srpo": (400.0, True), "bc": (None, False)}
    assert campaign.total(found).endswith("about 15 min, estimated; without bc, not measured yet")
    numbers = campaign.figures(found)
    assert numbers["total"] == {
        "agents_left": 4,
        "tasks": 8,
        "tasks_done": 1,
        "seed_updates_left": 1400,
        "seconds_left": 900.0,
        "estimated": True,
        "not_measured": ["bc"],
    }
    write_ended(tmp_path, "cql", TASKS[1], 400.0)
    (cql,), _ = plans(monkeypatch, tmp_path, ("cql",))
    assert (cql.work, cql.seconds, cql.estimated) == (0, 0.0, False)


def test_variants_are_trained_by_name(monkeypatch, tmp_path, data, capsys):
    line = ("train", "--agents", "bc,iql@data-target", TASK, "--seeds", 1, *SHORT, "--out", tmp_path)
    assert offdyn(capsys, *line)[0] == 0
    facts = json.loads((tmp_path / TASK / "iql@data-target/run.json").read_text())
    assert (facts["agent"], facts["settings"]["data"]) == ("iql", "target")
    assert not (tmp_path / TASK / "iql").exists()
    # `train iql --set data=target` finds it there.
    out = offdyn(capsys, "train", "iql", TASK, "--set", "data=target", "--seeds", 1, *SHORT, "--out", tmp_path)[1]
    assert f"{tmp_path / TASK / 'iql@data-target'}: already complete" in out
    named = (*line, "--variant", "x", "--plan", "--json")
    assert offdyn(capsys, *named)[0] == 0


def test_rates_come_from_runs_of_the_preset_where_there_are_any(tmp_path, capsys):
    for agent, task, seconds in (("iql", TASK, 20.0), ("iql@x", TASK, 200.0), ("iql@x", TASKS[1], 100.0)):
        write_ended(tmp_path / "runs", agent.partition("@")[0], task, seconds)
        place = tmp_path / "runs" / task / agent.partition("@")[0]
        facts = json.loads((place / "run.json").read_text()) | {"device": "A Processor, 1 threads"}
        (place / "run.json").write_text(json.dumps(facts))
        place.rename(place.with_name(f"{agent}{'' if '@' in agent else '-'}"))
    beside = tmp_path / "updates.json"
    beside.write_text(json.dumps({"results": [{"agent": "cql", "times_iql": 20.0}]}))
    out = tmp_path / "rates.json"
    assert offdyn(capsys, "dev", "rates", tmp_path / "runs", "--updates", beside, "--out", out)[0] == 0
    table = json.loads(out.read_text())
    rows = {row["robot"]: (row["agent"], row["kind"], row["seconds"], row["runs"]) for row in table["rates"]}
    assert rows == {"hopper": ("iql", "cpu", 0.1, 1), "walker2d": ("iql", "cpu", 0.5, 1)}
    assert rates.estimate(table, "cql", "hopper", "cpu") == pytest.approx(2.0)
    assert rates.estimate(table, "iql", "ant", "cpu") == pytest.approx(0.3)
    assert rates.estimate(table, "iql", "hopper", "cuda") is None
    table["rates"] += [row | {"precision": "bf16", "seconds": row["seconds"] / 2} for row in table["rates"]]
    assert [rates.estimate(table, "iql", "hopper", "cpu", kind) for kind in ("fp32", "bf16")] == [0.1, 0.05]
    with pytest.raises(OffDynError, match="no ended run"):
        rates.write_rates([tmp_path / "empty"], out=out)
    with pytest.raises(OffDynError, match=r"is not what `python benchmarks/agents\.py --json` prints"):
        rates.write_rates([tmp_path / "runs"], out, tmp_path / "none.json")


def test_the_shipped_table_knows_every_agent_of_a_table_on_a_processor():
    known = [name for name in registry.AGENTS if not registry.agent_class(name).diagnosis]
    assert all((rates.estimate(rates.shipped(), name, "hopper", "cpu") or 0.0) > 0.0 for name in known)


def campaign_arrangement(plans):
    from offdyn_agents.runs.track import Arrangement, Population

    ended = {index: {} for index, plan in enumerate(plans) if (plan.folder / "run.json").exists()}
    return Arrangement(ended, [Population((index,), 200) for index in range(len(plans)) if index not in ended])


def test_the_command_trains_what_is_left_and_goes_on_after_a_failure(data, tmp_path, capsys, monkeypatch):
    line = ("train", "--agents", "bc,iql", TASK, "--seeds", 1, "--updates", 4, "--quiet", "--threads", 1)
    line += ("--out", tmp_path)
    from offdyn_agents.runs import runs
    from offdyn_envs.errors import OffDynError

    original = runs.train_tasks

    def failing(plans, *rest):
        if plans[0].agent == "iql":
            raise OffDynError("no memory")
        return original(plans, *rest)

    monkeypatch.setattr(runs, "train_tasks", failing)
    code, out, err = offdyn(capsys, *line)
    assert code == 2
    assert "offdyn: iql: no memory; the others go on" in err
    assert err.splitlines()[-1] == "offdyn: iql: no memory"
    assert f"{tmp_path / TASK / 'bc'}: 4 updates" in out
    monkeypatch.setattr(runs, "train_tasks", original)
    code, out, err = offdyn(capsys, *line)
    assert code == 0
    assert err.startswith("offdyn: agent iql, tasks done 0 of 1, seed-updates left 4, time left not measured yet\n")
    assert "offdyn: agent bc, tasks done 1 of 1, seed-updates left 0, time left -\n" in err
    assert err.endswith("offdyn: nothing is left\n")
    assert f"{tmp_path / TASK / 'bc'}: already complete" in out
    code, out, _ = offdyn(capsys, *line, "--json")
    assert [facts["agent"] for facts in json.loads(out)] == ["iql", "bc"]


def test_a_plan_of_runs_that_are_partly_there_trains_nothing(data, tmp_path, capsys):
    folder = tmp_path / "elsewhere"
    assert offdyn(capsys, "train", "bc", TASK, "--seeds", 3, *SHORT, "--out", folder)[0] == 0
    facts = json.loads((folder / TASK / "bc/run.json").read_text())
    facts["wall_clock_s"] = 12 * 60.0
    (folder / TASK / "bc/run.json").write_text(json.dumps(facts))
    before = sorted(folder.rglob("*"))
    line = ("train", "--agents", "bc,iql", *TASKS, "--seeds", 5, *SHORT, "--out", folder)
    code, out, err = offdyn(capsys, *line, "--plan", "--json")
    assert (code, err) == (0, "")
    # 3 seeds of 4 updates took 12 minutes: a minute each. Two seeds are left of the one task, five of the other.
    told = {"tasks": 2, "tasks_done": 0}
    assert json.loads(out)["agents"] == [
        {"agent": "iql", **told, "seed_updates_left": 40, "seconds_left": None, "estimated": False},
        {"agent": "bc", **told, "seed_updates_left": 28, "seconds_left": 28 * 60.0, "estimated": True},
    ]
    assert "about 28 min, estimated; without iql, not measured yet" in offdyn(capsys, *line, "--plan")[1]
    code, out, _ = offdyn(capsys, "train", "bc", TASK, "--seeds", 5, *SHORT, "--out", folder, "--plan")
    assert (code, out.splitlines()[-1]) == (0, "1 of 1 agents left; about 8 min")
    # In the usual folder there is nothing of it.
    code, out, _ = offdyn(capsys, "train", "bc", TASK, "--seeds", 5, *SHORT, "--out", tmp_path / "runs", "--plan")
    assert NO_TIMES in out
    assert sorted(folder.rglob("*")) == before and not (tmp_path / "runs").exists()
    _, _, err = offdyn(capsys, "train", "--agents", "bc", TASK, "--seeds", 5, *SHORT, "--out", folder)
    assert "offdyn: agent bc, tasks done 0 of 1, seed-updates left 8, time left 8 min" in err
    assert json.loads((folder / TASK / "bc/run.json").read_text())["seeds"] == [0, 1, 2, 3, 4]


def test_the_plan_of_the_results_page_is_what_its_command_prints(tmp_path, capsys, monkeypatch):
    """Whoever adds an agent or a rate makes it and the page anew, as docs/contribute/releases.md says."""
    monkeypatch.setattr(campaign, "shipped", rates.shipped)
    line = ("--agents", "all", "--track", "core-6", "--seeds", 5, "--updates", "100k", "--plan", "--json")
    _, out, _ = offdyn(capsys, "train", *line, "--device", "cpu", "--out", tmp_path)
    assert json.loads(out) == json.loads((ROOT / "docs/results/core-6/plan.json").read_text())


def test_the_data_of_all_agents_are_looked_for_before_one_is_trained(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("offdyn_envs.datasets.task.available", lambda dataset: dataset.rows != "1m")
    line = ("train", "--agents", "bc,iql@data-oracle", TASK, "--seeds", 1, *SHORT, "--out", tmp_path)
    oracle = "offdyn/hopper/gravity-0p5/medium-1m-v0"
    told = f"offdyn: not on this machine: {oracle}; build with: offdyn data build {oracle}\n"
    assert offdyn(capsys, *line) == (2, "", told)
    assert list(tmp_path.iterdir()) == []
    for words in ((), ("--json",)):
        code, out, err = offdyn(capsys, *line, "--plan", *words)
        assert (code, err) == (0, told) and "bc" in out
    # What has ended needs none.
    monkeypatch.setattr("offdyn_envs.datasets.load_dataset", lambda _: stand_ins.load_task(TASK)[2])
    monkeypatch.setattr("offdyn_envs.datasets.task.available", stand_ins.available)
    assert offdyn(capsys, *line)[0] == 0
    monkeypatch.setattr("offdyn_envs.datasets.task.available", lambda dataset: False)
    assert offdyn(capsys, *line)[0] == 0


def test_all_agents_do_not_wait_for_a_million_target_rows(data, tmp_path, capsys, monkeypatch):
    large = "offdyn/hopper/gravity-0p5/medium-1m-v0"
    monkeypatch.setattr("offdyn_envs.datasets.task.available", lambda dataset: str(dataset) != large)
    trained = []
    monkeypatch.setattr(campaign, "train_campaign", lambda found, *_: trained.extend(p.agent for p in found) or [])
    line = ("train", "--agents", "all", TASK, "--seeds", 1, *SHORT, "--out", tmp_path)
    code, _, err = offdyn(capsys, *line)
    assert code == 0 and "bc" in trained and "iql@data-source" in trained and "iql@data-oracle" not in trained
    assert f"iql@data-oracle: left out: not on this machine: {large}; build with: offdyn data build {large}\n" in err
    # What all need is another matter.
    monkeypatch.setattr("offdyn_envs.datasets.task.available", lambda dataset: False)
    trained.clear()
    code, _, err = offdyn(capsys, *line)
    assert code == 2 and not trained and "offdyn/hopper/nominal/medium-1m-v0" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--agents", "bc,drocko", TASK), "did you mean 'droco'"),
        (("--agents", "bc", TASK, "--set", "width=16"), "--set belongs to one agent"),
        (("--agents", "iql@fast", TASK), "variant 'fast' of --agents is not SETTING-VALUE"),
        (("--agents", "iql@width-16", TASK), "of the settings data and form"),
        (("--agents", "iqll@data-target", TASK), "did you mean 'iql'"),
        (("--agents", "all", "--track", "core-7"), "did you mean 'core-6'"),
        (("--agents", "all"), "name tasks or --track"),
        ((), "name an agent, one of iql, droco,"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, words, message):
    code, out, err = offdyn(capsys, "train", *words, "--out", tmp_path)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
