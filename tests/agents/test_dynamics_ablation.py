"""`offdyn ablate --dynamics-only`: a study's dynamics on small datasets, judged as everywhere, without a policy."""

import json

import pytest

from offdyn_agents.ablations.dynamics import dynamics_variants
from offdyn_agents.ablations.studies import STUDIES, get_study
from offdyn_agents.engine.resources import Budget, Hardware
from offdyn_agents.judging.exams import HOLDOUT, SOURCE
from offdyn_agents.judging.models import Terms
from offdyn_agents.judging.report import judge_task
from offdyn_agents.models.dual.training import DualLearner
from offdyn_agents.runs.plans import Plan
from offdyn_envs import cli
from offdyn_envs.errors import OffDynError
from tests.agents.test_judging import TASK, datasets  # noqa: F401 - a fixture
from tests.agents.test_run_judging import DUAL, HARDWARE, dotted, here, task  # noqa: F401 - likewise

SMALL = dotted("dynamics", DUAL)


def ablate(capsys, folder, study, *words):
    line = ["ablate", study, TASK, "--dynamics-only", "--seeds", "2", "--out", str(folder), "--quiet", "--threads", "1"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*line, *(f"--set={key}={value}" for key, value in SMALL.items()), *words])
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


def names(study, **overrides):
    plan = Plan(STUDIES[study].agent, TASK, (0,), overrides, Budget(12, 12, 6), Hardware("cpu", "fp32", 1), "runs")
    return [variant.name for variant, _ in dynamics_variants(get_study(study), plan)]


def test_variants_that_differ_in_their_dynamics():
    mobody = names("mobody")
    assert mobody[0] == "full" and {"no-anchor", "blocks", "paper-form", "mopo-dynamics"} <= {*mobody}
    assert not {"plain-cloning", "raw-uncertainty", "constant-rates"} & {*mobody}
    droco = ["full", "dual-ball", "raw-outputs", "constant-rate", "early-stopping", "published-ensemble"]
    assert names("droco") == droco
    assert names("droco-beta") == ["beta-0"]
    with pytest.raises(OffDynError, match="agent 'iql' learns no model; leave --dynamics-only out"):
        names("iql")
    with pytest.raises(OffDynError, match="varies no dynamics"):
        names("droco-target-size")


def test_dynamics_are_judged_once_and_as_everywhere(task, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr("offdyn_agents.models.dual.training.can_compile", lambda _: False)
    fits, fitted = DualLearner.fit, []
    monkeypatch.setattr(DualLearner, "fit", lambda self, *a, **k: fitted.append(1) or fits(self, *a, **k))
    words = ("--variant", "full", "--variant", "mopo-dynamics", "--variant", "plain-cloning", "--json")
    code, out, err = ablate(capsys, tmp_path, "mobody", *words)
    assert (code, err, len(fitted)) == (0, "", 4)
    record = json.loads(out)
    assert record == json.loads((tmp_path / "ablations/mobody-dynamics.json").read_text())
    assert [(row["variant"], row["model"]) for row in record["rows"]] == [
        ("full", "mobody"),
        ("mopo-dynamics", "plain"),
    ]
    # The same models, found in the cache, have the same errors on the same exams.
    judged = judge_task(
        TASK, ("mobody", "plain"), 2, dict(SMALL), Terms(300, 0, "fresh"), tmp_path, HARDWARE, quiet=True
    )
    assert len(fitted) == 4
    assert {row["model"]: row["errors"] for row in record["rows"]} == judged["errors"]
    assert record["tasks"][TASK] == {"rows": judged["rows"], "references": judged["references"]}
    # One more variant joins the table; nothing of the others is trained again.
    code, out, _ = ablate(capsys, tmp_path, "mobody", "--variant", "single-encoder")
    assert (code, len(fitted)) == (0, 6)
    assert all(word in out for word in ("full", "single-encoder", "mopo-dynamics", HOLDOUT, SOURCE))
    record = json.loads((tmp_path / "ablations/mobody-dynamics.json").read_text())
    assert [row["variant"] for row in record["rows"]] == ["full", "single-encoder", "mopo-dynamics"]
