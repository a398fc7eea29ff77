"""`offdyn.fit`: from arrays to a run folder."""

import csv
import json

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

import offdyn
from offdyn_agents.algorithms.registry import names
from offdyn_agents.runs import problems
from tests.agents.stand_ins import target_returns
from tests.api import stand_in
from tests.api.conftest import ENV_ID, SMALL
from tests.api.point import Point, as_object


class Watching(Callback):
    """Writes down what a callback may look at."""

    def __init__(self):
        self.seen, self.ended = [], 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert trainer.lightning_module is pl_module
        self.seen.append((pl_module.updates_done, pl_module.metrics_of(0), list(pl_module.live)))

    def on_train_end(self, trainer, pl_module):
        self.ended += 1


def test_a_run_made_from_python_is_a_run(run):
    facts = json.loads((run.folder / "run.json").read_text())
    assert run.folder.parts[-2:] == ("points", "iql")
    assert (facts["agent"], facts["task"], facts["status"]) == ("iql", "points", "complete")
    assert (facts["seeds"], facts["updates"], facts["settings"]["width"]) == ([0, 1], 12, 16)
    assert facts["pair"]["env"] == ENV_ID
    assert facts["contract"]["action_low"] == [-2.0, -2.0]  # Those of the environment.
    files = {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()}
    assert {f"seeds/{seed}/{name}" for seed in (0, 1) for name in ("policy.onnx", "contract.json")} <= files
    assert {"metrics.csv", "checkpoints/last.ckpt"} <= files


def test_the_same_call_finds_it_complete(fit, run, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("offdyn_agents.engine.training.module.PopulationModule.training_step", None)
    again = fit("iql", out=run.folder.parents[1], name="points")
    assert again.folder == run.folder and again.facts == run.facts
    written = {path for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert {path.name for path in written} <= {"lock"}


def test_without_out_every_call_has_a_folder_of_its_own(fit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {fit(env=None, updates=6).folder for _ in range(2)}
    assert len(folders) == 2
    assert all(folder.parts[:2] == ("runs", "source-to-target") for folder in folders)


def test_an_object_of_arrays_is_as_good_as_a_mapping(fit, pair, run, tmp_path):
    source, target = map(as_object, pair)
    other = fit("iql", source, target, out=tmp_path, name="points")
    observations = pair[1]["observations"]
    np.testing.assert_array_equal(other.policy(1)(observations), run.policy(1)(observations))


def test_bounds_may_come_with_the_arrays(fit, pair, run, tmp_path):
    source, target = ({**data, "action_low": [-2, -2], "action_high": [2, 2]} for data in pair)
    other = fit("iql", source, target, env=None, updates=6, out=tmp_path)
    assert other.facts["contract"] == run.facts["contract"]
    assert other.facts["data"]["sha256"] == run.facts["data"]["sha256"]


@pytest.mark.parametrize(
    ("seeds", "wanted"), [(1, [0]), ([3, 1], [1, 3]), ("2", [0, 1]), ("4,", [4]), (np.arange(2), [0, 1])]
)
def test_seeds_are_a_number_or_chosen(fit, tmp_path, seeds, wanted):
    run = fit(seeds=seeds, updates="6", env=None, out=tmp_path)
    assert run.seeds == wanted
    assert sorted(int(path.name) for path in (run.folder / "seeds").iterdir()) == wanted


def test_settings_are_python_values(fit, tmp_path):
    agent = offdyn.agents.DROCO(beta=0.25, dynamics={"epochs": 1, "width": 16}, **SMALL)
    settings = fit(agent, env=None, updates=6, out=tmp_path).facts["settings"]
    assert (settings["beta"], settings["dynamics"]["epochs"], settings["dynamics"]["width"]) == (0.25, 1, 16)
    assert repr(agent) == "droco(beta=0.25, dynamics.epochs=1, dynamics.width=16, width=16, batch_size=32)"


def test_callbacks_and_loggers_are_the_users(fit, tmp_path):
    watching, logger = Watching(), CSVLogger(str(tmp_path / "logs"))
    run = fit("iql", out=tmp_path / "runs", callbacks=watching, loggers=[logger], name="points")
    assert [done for done, _, _ in watching.seen] == [6, 12]
    assert watching.ended == 1
    assert all(live == [0, 1] for _, _, live in watching.seen)
    # What callbacks see, the run's own file and the user's logger are the same numbers.
    with open(run.folder / "metrics.csv", newline="") as file:
        own = list(csv.DictReader(file))
    with open(tmp_path / "logs/lightning_logs/version_0/metrics.csv", newline="") as file:
        logged = [row for row in csv.DictReader(file) if row["value_loss"]]
    for (done, metrics, _), row, other in zip(watching.seen, own, logged, strict=True):
        assert int(row["updates"]) == int(other["step"]) == done
        for name, value in metrics.items():
            assert float(row[name]) == pytest.approx(value) and float(other[name]) == pytest.approx(value)
    told = (tmp_path / "logs/lightning_logs/version_0/hparams.yaml").read_text()
    assert "agent: iql" in told and "width: 16" in told and "expectile: " in told


def test_a_callback_may_stop_the_training_and_the_same_call_goes_on(fit, tmp_path):
    class Stopping(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            raise KeyboardInterrupt

    watching = Watching()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit("iql", out=tmp_path, name="points", callbacks=[Stopping()])
    run = fit("iql", out=tmp_path, name="points", callbacks=[watching])
    assert run.facts["status"] == "complete" and run.facts["updates"] == 12
    assert watching.seen[-1][0] == 12


def test_arguments_of_the_trainer_reach_it(fit, tmp_path):
    class Steps(Callback):
        def on_train_start(self, trainer, pl_module):
            assert trainer.log_every_n_steps == 7

    fit(env=None, updates=6, out=tmp_path, callbacks=[Steps()], trainer={"log_every_n_steps": 7})


def test_termination_is_learned_where_the_data_hold_any(fit, pair, tmp_path):
    def ended(data):
        fell = np.abs(data["next_observations"][:, 0]) > 0.8
        return {**data, "terminations": fell, "truncations": data["truncations"] & ~fell}

    source, target = map(ended, pair)
    run = fit("mopo", source, target, env=None, updates=6, seeds=1, out=tmp_path)
    assert run.facts["stages"]["termination"]["kind"] == "learned"
    other = fit("mopo", source, target, env=None, updates=6, seeds=1, out=tmp_path, name="b", termination="never")
    assert other.facts["stages"]["termination"]["kind"] == "never"


def test_a_task_of_the_suite_is_known_by_its_data(monkeypatch, tmp_path):
    """Stand-ins of the two datasets: what counts is their ids."""
    task = "hopper-gravity-0.5-medium"
    stand_in.install(monkeypatch)
    monkeypatch.setattr(problems, "target_returns", target_returns)
    found = offdyn.load_task(task)
    named = {"seeds": 1, "updates": 6, "out": tmp_path, "progress": False}
    agent = offdyn.agents.BC(**SMALL)
    run = offdyn.fit(agent, found.source, found.target, env=found.env, **named)
    assert run.folder == tmp_path / task / "bc"
    assert "pair" not in run.facts and run.facts["data"]["target"] == str(found.target.id)
    (row,) = run.evaluate(episodes=2)
    assert set(row) == {"seed", "episodes", "return", "std", "score"}
    # Another environment makes another pair of the same data, without reference returns.
    other = offdyn.fit(agent, found.source, found.target, env="OffDyn/Hopper-v0", **named)
    assert other.facts["pair"]["env"] == "OffDyn/Hopper-v0" and "score" not in other.evaluate(episodes=1).columns
    # A pair that is no task is scored where its target was collected.
    free = offdyn.fit(agent, found.target, found.target, **named)
    assert free.facts["pair"]["env"] == "OffDyn/Hopper-gravity-0.5-v0"
    with (free.folder / "metrics.csv").open() as lines:
        assert all(float(row["return_0"]) for row in csv.DictReader(lines))


def test_every_agent_has_its_class_in_offdyn_agents():
    for name in names():
        found = [
            kind for kind in dir(offdyn.agents) if kind[0].isupper() and getattr(offdyn.agents, kind)().name == name
        ]
        assert len(found) == 1, name


def test_the_data_decide_the_sizes():
    agent = offdyn.agents.IQL(width=16).sized(7, 3)
    assert (agent.observation_dim, agent.action_dim, agent.settings.width) == (7, 3, 16)


def test_an_environment_object_may_score(fit, tmp_path):
    run = fit(env=Point(), out=tmp_path)
    assert run.facts["pair"]["env"] is None
    assert np.isfinite(run.evaluate(episodes=2).column("return")).all()


def test_there_is_one_default_of_updates():
    from inspect import signature

    import typer

    from offdyn_agents.engine.settings import DEFAULT_UPDATES
    from offdyn_agents.engine.training.module import PopulationModule
    from offdyn_envs.cli import build_app
    from tests.pages import read

    for function in (offdyn.fit, PopulationModule.from_data):
        assert signature(function).parameters["updates"].default == DEFAULT_UPDATES
    commands = typer.main.get_command(build_app()).commands
    for name in ("train", "ablate"):
        (option,) = (one for one in commands[name].params if one.name == "updates")
        assert option.default == DEFAULT_UPDATES
    assert f"| `updates` | {DEFAULT_UPDATES:,} |" in read("docs/python.md")
    assert f"The default is {DEFAULT_UPDATES:,} updates" in read("README.md")
