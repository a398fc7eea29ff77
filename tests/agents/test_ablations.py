"""The papers' ablations: what each variant changes, and `offdyn ablate` on small stand-ins for the datasets."""

import json

import pytest

from offdyn_agents.ablations.report import markdown, record_rows
from offdyn_agents.ablations.studies import STUDIES, Study, Variant, get_study, joined, over_tasks, variant_plans
from offdyn_agents.algorithms.registry import agent_class, make_agent
from offdyn_agents.engine.resources import Budget, Hardware
from offdyn_agents.engine.settings import build, to_json
from offdyn_agents.models.dual.settings import BY_FORM
from offdyn_agents.presets import preset
from offdyn_agents.runs import runs
from offdyn_agents.runs.runs import Plan, plan_agent
from offdyn_agents.testing import small_settings
from offdyn_envs import cli
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import WALKERS
from tests.agents import stand_ins
from tests.agents.synthetic import dataset

TASK = "hopper-gravity-0.5-medium"
OTHER = "hopper-from-kinematic-severe-medium"
STUDIED = [(study, variant) for study in STUDIES.values() for variant in study.variants]
ENSEMBLE = ("dynamics.epochs=3", "dynamics.width=16", "dynamics.batch_size=32", "dynamics.learning_rate=0.01")
SMALL = ("width=16", "batch_size=32", *ENSEMBLE)


def flat(settings, prefix=""):
    return {
        name: leaf
        for key, value in settings.items()
        for name, leaf in (
            flat(value, f"{prefix}{key}.").items() if isinstance(value, dict) else {f"{prefix}{key}": value}.items()
        )
    }


@pytest.mark.parametrize(("study", "variant"), STUDIED, ids=lambda item: item.name)
def test_a_variant_differs_in_its_declared_settings_only(study, variant):
    changed = set()
    for robot in WALKERS:
        full = flat(to_json(make_agent(study.agent, robot, 11, 3, {}, "medium").settings))
        other = flat(to_json(make_agent(study.agent, robot, 11, 3, dict(variant.settings), "medium").settings))
        agent = agent_class(study.agent)
        # A variant may take its settings from the preset's published form.
        parts = (preset(agent, robot, "medium", form=variant.settings.get(key, "")) for key in ("form", ""))
        of_form = dict({*next(parts).items()} - {*next(parts).items()})
        declared = flat(to_json(build(agent.settings_class, of_form, variant.settings)))
        names = {*of_form, *variant.settings}
        assert other == full | {key: declared[key] for key in names}
        changed |= {key for key in full if full[key] != other[key]}
    # Values of a sweep that are a method's own at every robot are the method.
    own = {"delta-30"}
    # What the other form would change with it, and is held.
    held = {f"dynamics.{name}" for name in BY_FORM["difference"]} if variant.name == "whole-states" else set()
    if "form" in variant.settings:
        assert "form" in changed and changed <= names
    else:
        assert changed == (set() if variant.name in own else set(variant.settings) - held)
    assert variant.settings or variant.target_rows or variant.name == "full"


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_variants_of_a_study_are_different(study):
    assert len({variant.name for variant in study.variants}) == len(study.variants)
    assert len({(*sorted(v.settings.items()), v.target_rows) for v in study.variants}) == len(study.variants)


def test_what_the_papers_ask():
    names = {name: [variant.name for variant in study.variants] for name, study in STUDIES.items()}
    assert {"full", "single-encoder", "no-cycle-loss", "plain-cloning", "awr-cloning", "mopo-dynamics"} <= {
        *names["mobody"]
    }
    assert {"full", "no-filter", "no-early-stop", "single-discriminator"} <= {*names["morec"]}
    assert {"full", "unbounded", "raw-rewards", "endless-ball"} <= {*names["droco"]}
    # Every cure can be turned off.
    assert {"constant-rate", "early-stopping", "raw-outputs", "target-lead"} <= {*names["droco"]}
    assert {"raw-uncertainty", "paper-cloning", "equal-cloning", "constant-rates"} <= {*names["mobody"]}
    assert {"unbounded", "raw-rewards", "target-lead"} <= {*names["iql"]}
    assert {"full", "unbounded"} <= {*names["td3-bc"]}
    assert {"beta-0.1", "beta-0.3", "beta-0.5", "beta-1"} <= {*names["droco-beta"]}
    assert {"delta-30", "delta-50"} <= {*names["droco-delta"]}
    assert names["droco-target-size"] == ["target-500", "target-5k", "target-50k", "target-100k"]


def test_published_rewards_ensembles_and_rollouts_are_those_of_the_published_form():
    """So there is one meaning of "published"; its three parts differ in nothing else."""
    variants = {variant.name: variant.settings for variant in get_study("morec").variants}

    def settings(name):
        found = flat(to_json(make_agent("morec", "hopper", 11, 3, dict(variants[name]), "medium").settings))
        return {key: value for key, value in found.items() if key != "form"}

    own, whole = settings("full"), settings("published")
    parts = {name: settings(f"published-{name}") for name in ("reward", "ensemble", "rollouts")}
    changed = {name: {key for key in own if found[key] != own[key]} for name, found in parts.items()}
    assert changed["reward"] == {
        "dynamics_reward.opponent",
        "dynamics_reward.changes",
        "dynamics_reward.inputs",
        "dynamics_reward.input_noise",
        "scorer.form",
    }
    assert {key.partition(".")[0] for key in changed["ensemble"]} == {"dynamics"}
    assert changed["rollouts"] == {"horizon", "starts", "actor_rate", "alpha_rate"}
    assert whole == own | {key: parts[name][key] for name in parts for key in changed[name]}


def test_the_reference_for_wandering_policies_is_the_public_kit():
    """Specifications of MOPO and SAC."""
    found = make_agent("morec", "hopper", 11, 3, dict(get_study("morec-wander").only(["public"]).variants[0].settings))
    settings = found.settings
    assert (settings.actor_rate, settings.learning_rate, settings.alpha_rate) == (1e-4, 3e-4, 1e-4)
    assert (settings.horizon, settings.starts, settings.refill_every, settings.refills_kept) == (5, 50_000, 1000, 5)
    assert (settings.auto_alpha, settings.real_ratio, settings.polyak, settings.discount) == (True, 0.05, 0.005, 0.99)


def plan(agent, out, task=TASK, **overrides):
    return Plan(agent, task, (0, 1), overrides, Budget(12, 12, 6), Hardware("cpu", "fp32", 1), out, quiet=True)


def test_the_method_itself_has_the_folder_of_offdyn_train(tmp_path):
    pairs = variant_plans(get_study("droco-beta"), [plan("droco", tmp_path)])
    assert [found.folder.relative_to(tmp_path / TASK).as_posix() for _, found in pairs] == [
        "droco@beta-0",
        "droco",
        *(f"droco@beta-{beta}" for beta in ("0.3", "0.5", "1", "2")),
    ]
    sized = dict(
        (variant.name, found) for variant, found in variant_plans(get_study("droco-target-size"), [pairs[1][1]])
    )
    assert sized["target-5k"] == plan("droco", tmp_path)
    assert str(sized["target-500"].problem.target) == "offdyn/hopper/gravity-0p5/medium-500-v0"
    assert sized["target-500"].command.endswith("--target-rows 500")


def test_settings_by_hand_are_for_all_variants(tmp_path):
    study = get_study("mobody")
    for variant, found in variant_plans(study, [plan("mobody", tmp_path, bc="0.7", **{"dynamics.updates": "3"})]):
        settings = plan_agent(found).settings
        # Blocks have no such steps: what would count for nothing is left out there.
        assert (settings.bc, settings.dynamics.updates) == (0.7, 3 if settings.dynamics.interleaved else 16_000)
        assert ("dynamics.updates" in found.overrides) == settings.dynamics.interleaved
        assert settings.bc_weight == variant.settings.get("bc_weight", "code")
    with pytest.raises(OffDynError, match="setting 'bc_weight' is what study mobody varies"):
        variant_plans(study, [plan("mobody", tmp_path, bc_weight="code")])
    variant_plans(study.only(["full", "single-encoder"]), [plan("mobody", tmp_path, bc_weight="code")])
    with pytest.raises(OffDynError, match="unknown setting 'betta'; did you mean 'beta'"):
        variant_plans(study, [plan("mobody", tmp_path, betta="1")])


@pytest.fixture
def data(monkeypatch):
    """Datasets of Hopper's shape in the place of the million rows."""
    import gymnasium

    import offdyn_envs

    source = dataset(500, 0, observation_dim=11, action_dim=3)
    targets = {rows: dataset(rows, 1, observation_dim=11, action_dim=3) for rows in (100, 200)}
    used = []

    def load_task(name=None, *, source=None, target=None):
        used.append(name or str(target))
        return gymnasium.make("OffDyn/Hopper-gravity-0.5-v0"), given, targets[200 if name else 100]

    given = source
    monkeypatch.setattr(offdyn_envs, "load_task", load_task)
    monkeypatch.setattr("offdyn_envs.datasets.task.available", stand_ins.available)
    monkeypatch.setattr("offdyn_agents.engine.execution.can_compile", lambda _: False)
    monkeypatch.setattr("offdyn_agents.models.ensemble.training.can_compile", lambda _: False)
    monkeypatch.setattr("offdyn_agents.models.dual.training.can_compile", lambda _: False)
    monkeypatch.setattr("offdyn_agents.models.short_training.can_compile", lambda _: False)
    return used


def ablate(capsys, folder, *words, settings=SMALL):
    line = [
        "ablate",
        "--seeds",
        2,
        *words,
        "--out",
        folder,
        "--updates",
        12,
        "--episodes",
        2,
        "--quiet",
        "--threads",
        1,
    ]
    for word in settings:
        line += ["--set", word]
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in line])
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


def numbers(record):
    """What of a record has to be the same when it is made again."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in record["rows"]]


def test_a_study_from_nothing_to_its_table(data, tmp_path, capsys):
    names = ("beta-0", "beta-0.1")
    chosen = [word for name in names for word in ("--variant", name)]
    code, out, err = ablate(capsys, tmp_path, "droco-beta", TASK, OTHER, *chosen)
    assert (code, err) == (0, "")
    assert "droco-beta: droco at 12 updates" in out and "Over tasks" in out
    record = json.loads((tmp_path / "ablations/droco-beta.json").read_text())
    assert [(row["task"], row["variant"]) for row in record["rows"]] == [(t, n) for t in (TASK, OTHER) for n in names]
    for row in record["rows"]:
        facts = json.loads((tmp_path / row["folder"] / "run.json").read_text())
        assert facts["settings"]["beta"] == float(row["settings"]["beta"])
        assert facts["status"] == "complete"
        assert (tmp_path / row["folder"] / "curves.png").exists()
        clean = json.loads((tmp_path / row["folder"] / "clean.json").read_text())
        assert {seed: sum(values) / 2 for seed, values in clean["clean"].items()} == row["returns"]
        assert row["return"]["low"] <= row["return"]["mean"] <= row["return"]["high"]
    assert record["rows"][0]["folder"] == f"{TASK}/droco@beta-0"
    assert record["rows"][1]["folder"] == f"{TASK}/droco"
    # Ensembles are the same for every beta, and here for both tasks, whose target rows are: one for each seed.
    assert len(list((tmp_path / ".stages").rglob("*.safetensors"))) == 2
    page = (tmp_path / "ablations/droco-beta.md").read_text()
    assert page.count(f"| {TASK} | beta-") == 2 and "--set width=16" in page
    assert (tmp_path / "ablations/droco-beta.png").stat().st_size > 5000

    def untouched():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.onnx")}

    before = untouched()
    code, out, _ = ablate(capsys, tmp_path, "droco-beta", TASK, OTHER, *chosen, "--json")
    assert code == 0
    assert numbers(json.loads(out)) == numbers(record)
    assert untouched() == before


def test_tasks_and_variants_one_at_a_time_make_one_table(data, tmp_path, capsys):
    words = [(TASK, "beta-0.1"), (OTHER, "beta-0"), (TASK, "beta-0")]
    for task, variant in words:
        assert ablate(capsys, tmp_path, "droco-beta", task, "--variant", variant)[0] == 0
    found = json.loads((tmp_path / "ablations/droco-beta.json").read_text())
    assert [(row["task"], row["variant"]) for row in found["rows"]] == [
        (TASK, "beta-0"),
        (TASK, "beta-0.1"),
        (OTHER, "beta-0"),
    ]
    assert found["tasks"] == [TASK, OTHER]
    assert [row["variant"] for row in found["over tasks"]] == ["beta-0"]
    assert (tmp_path / "ablations/droco-beta.md").read_text().count("| beta-0") == 4
    # Rows of other terms are another table, and there may have been none.
    alone = {**found, "tasks": [OTHER], "rows": found["rows"][2:]}
    assert joined(alone, found)["rows"] == found["rows"]
    for earlier in ({**found, "episodes": 3}, {}):
        assert joined(alone, earlier) == alone


MODELS = {
    "mobody": ("single-encoder", "mopo-dynamics", "plain-cloning"),
    "morec": ("no-filter", "no-early-stop", "single-discriminator", "temperature-1"),
}


def test_a_study_takes_its_seeds_out_of_runs_that_have_more(data, tmp_path, capsys):
    line = ("droco-beta", TASK, "--variant", "beta-0")
    more = (*line, "--seeds", "3")
    assert ablate(capsys, tmp_path, *line)[0] == 0
    first = json.loads((tmp_path / "ablations/droco-beta.json").read_text())
    assert ablate(capsys, tmp_path, *more)[0] == 0
    grown = json.loads((tmp_path / "ablations/droco-beta.json").read_text())
    assert [list(record["rows"][0]["returns"]) for record in (first, grown)] == [["0", "1"], ["0", "1", "2"]]
    code, out, _ = ablate(capsys, tmp_path, *line)
    assert (code, f"{tmp_path / TASK / 'droco@beta-0'}: already complete" in out) == (0, True)
    assert numbers(json.loads((tmp_path / "ablations/droco-beta.json").read_text())) == numbers(first)


@pytest.mark.parametrize("study", MODELS)
def test_studies_of_learned_models(data, tmp_path, capsys, study):
    """Each variant trains what it says, on stages that it shares with the others where it may."""
    small = [f"{key}={value}" for key, value in small_settings(agent_class(study).settings_class).items()]
    # So few steps tell nothing apart in the inputs of Hopper's preset.
    small += ["dynamics_reward.inputs=standardised", "dynamics_reward.input_noise=0"] if study == "morec" else []
    words = [word for variant in MODELS[study] for word in ("--variant", variant)]
    code, _, err = ablate(capsys, tmp_path, study, TASK, *words, "--json", settings=small)
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / f"ablations/{study}.json").read_text())
    assert [row["variant"] for row in record["rows"]] == list(MODELS[study])
    assert all(len(row["scores"]) == 2 and not row["stopped"] for row in record["rows"])
    # Ensembles and discriminators are trained once for all, and scorers for all discriminators and for one; MOBODY's
    # structures are dynamics of their own.
    ended = len(list((tmp_path / ".stages").glob("*.safetensors")))
    assert ended == {"mobody": 2 * 3 + 2, "morec": 2 + 1 + 2 * 2}[study]


def test_an_interrupted_study_goes_on(data, tmp_path, capsys, monkeypatch):
    words = ("droco-delta", TASK, "--variant", "delta-3", "--variant", "delta-inf")
    # Both at once, which learn with numbers of their own; below one after the other.
    assert ablate(capsys, tmp_path / "whole", *words, "--together", "2")[0] == 0
    words = (*words, "--together", "1")
    real, begun = runs.train_runs, []

    def interrupted(*args, **kwargs):
        begun.append(args)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(runs, "train_runs", interrupted)
    assert ablate(capsys, tmp_path / "halves", *words)[0] == 130
    assert not (tmp_path / "halves/ablations/droco-delta.json").exists()
    assert ablate(capsys, tmp_path / "halves", *words)[0] == 0
    assert len(begun) == 3
    records = [json.loads((tmp_path / name / "ablations/droco-delta.json").read_text()) for name in ("whole", "halves")]
    assert numbers(records[0]) == numbers(records[1])
    assert len(list((tmp_path / "halves").rglob("curves.png"))) == 2
    # Results that are damaged are made again, and a task's full evaluation serves too.
    clean = next((tmp_path / "halves").rglob("clean.json"))
    text = clean.read_text()
    clean.write_text("[")
    assert ablate(capsys, tmp_path / "halves", *words)[0] == 0
    assert clean.read_text() == text
    clean.rename(clean.with_name("evaluation.json"))
    assert ablate(capsys, tmp_path / "halves", *words)[0] == 0
    assert not clean.exists()


def test_target_sizes_are_other_datasets(data, tmp_path, capsys):
    words = ("--variant", "target-500", "--variant", "target-5k")
    code, _, err = ablate(capsys, tmp_path, "droco-target-size", TASK, *words, "--together", "2", "--json")
    assert (code, err) == (0, "")
    assert data == ["offdyn/hopper/gravity-0p5/medium-500-v0", TASK]
    small, own = (
        json.loads((tmp_path / TASK / name / "run.json").read_text()) for name in ("droco@target-500", "droco")
    )
    assert (small["target_rows"], small["variant"]) == ("500", "target-500")
    assert small["data"]["target"] == "offdyn/hopper/gravity-0p5/medium-500-v0"
    assert not {"target_rows", "variant"} & own.keys()
    assert small["data"]["sha256"] != own["data"]["sha256"]
    assert small["population"] == {"tasks": 2, "runs": 4}
    (tmp_path / TASK / "droco@target-500/evaluation.json").write_text('{"protocol": 1, "task": "x", "agent": "droco"}')
    code, _, err = call(capsys, "leaderboard", "add", tmp_path / TASK / "droco@target-500", "--name", "small")
    assert code == 2 and "learned from 500 target rows, not from its task's own" in err


def call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


def test_train_takes_another_target_size(data, tmp_path, capsys):
    line = ["train", "iql", TASK, "--out", tmp_path, "--updates", 12, "--seeds", 1, "--quiet", "--set", "width=16"]
    assert call(capsys, *line, "--target-rows", "50k")[0] == 0
    assert data == ["offdyn/hopper/gravity-0p5/medium-50k-v0"]
    assert json.loads((tmp_path / TASK / "iql@target-50k/run.json").read_text())["variant"] == "target-50k"
    assert call(capsys, *line, "--variant", "mine")[0] == 0
    code, _, err = call(capsys, *line, "--variant", "mine", "--target-rows", "50k")
    assert code == 2 and "holds a run with target_rows None, not 50k" in err
    code, _, err = call(capsys, *line, "--target-rows", "6k")
    assert code == 2 and "unknown dataset size '6k'; did you mean" in err
    code, _, err = call(capsys, *line, "--target-rows", "500", "--set", "data=oracle")
    assert code == 2 and "data=oracle learns from 1m target rows" in err


def test_diverged_seeds_are_told_and_do_not_count(data, tmp_path, capsys):
    words = ("droco-beta", TASK, "--variant", "beta-0")
    code, out, err = ablate(capsys, tmp_path, *words, settings=(*SMALL, "learning_rate=1e30"))
    assert code == 0 and "seed 1 diverged before update 12" in err
    assert "0 of 2, others diverged" in out
    (row,) = json.loads((tmp_path / "ablations/droco-beta.json").read_text())["rows"]
    assert (row["returns"], row["scores"], row["stopped"]) == ({}, {}, ["0", "1"])
    assert row["return"] is row["score"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["droco-bta", TASK], "unknown study 'droco-bta'; did you mean 'droco-beta'?"),
        (["droco-beta", "hoper-gravity-0.5-medium"], f"did you mean '{TASK}'?"),
        (["droco-beta"], "name tasks or --track"),
        ([], "`offdyn ablate --list` shows the studies"),
        (["droco-beta", TASK, "--variant", "beta-3"], "unknown variant of study droco-beta 'beta-3'"),
        (["droco-beta", TASK, "--set", "beta=1"], "setting 'beta' is what study droco-beta varies"),
        (["droco-beta", TASK, "--set", "expectil=1"], "did you mean 'expectile'?"),
        (["droco-beta", TASK, "--precision", "fp16"], "'fp16' is not one of 'fp32', 'bf16', 'tf32'"),
        (["--list", "morek"], "unknown study 'morek'; did you mean 'morec'?"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, words, message):
    code, out, err = ablate(capsys, tmp_path, *words, settings=())
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_studies_are_listed(capsys):
    code, out, _ = call(capsys, "ablate", "--list", "--json")
    assert code == 0
    assert [(row["study"], row["variant"]) for row in json.loads(out)] == [(s.name, v.name) for s, v in STUDIED]
    code, out, _ = call(capsys, "ablate", "mobody", "--list")
    assert "dynamics.structure=single" in out and "droco" not in out


def test_a_seed_alone_has_no_interval_and_a_task_without_reference_no_score(tmp_path):
    study = Study("s", "droco", "why", (Variant("full", "the method"),))
    single = {"mean": 3.0, "low": None, "high": None}
    row = {"task": TASK, "variant": "full", "about": "the method", "stopped": [], "returns": {"0": 3.0}, "scores": {}}
    row |= {"return": single, "score": None}
    assert over_tasks(study, [row, row]) == []
    record = {"study": "s", "agent": "droco", "about": "why", "tasks": [TASK], "seeds": [0], "updates": 12}
    record |= {"settings": {}, "precision": "fp32", "episodes": 2, "rows": [row], "over tasks": []}
    assert record_rows(record)[0] | {"what": ""} == {
        "task": TASK,
        "variant": "full",
        "what": "",
        "seeds": "1",
        "return": "3.0",
        "score": "-",
    }
    assert f"| {TASK} | full | the method | 1 | 3.0 | - |" in markdown(record)
