"""Shift values come back from logs that were made under known ones, with intervals, and with what logs cannot tell."""

from __future__ import annotations

import json
import re
import runpy
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

import offdyn
from offdyn_envs.datasets import dynamics_gap, identify, load_dataset
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.collecting.collect import RandomBehaviour, collect
from offdyn_envs.datasets.commands import app
from offdyn_envs.datasets.identifying import identify as fitting_module
from offdyn_envs.datasets.identifying.fitting import row_losses, slopes
from offdyn_envs.datasets.identifying.intervals import _quantile
from offdyn_envs.datasets.identifying.logs import read_logs
from offdyn_envs.datasets.identifying.posing import Pose
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import WALKERS, get_robot
from offdyn_envs.tasks import DatasetId, get_dynamics
from offdyn_envs.vector import OffDynVectorEnv
from tests.envs.test_own_robots import REACHER

HOPPER, WALKER = "offdyn/hopper/gravity-0p5/medium-5k-v0", "offdyn/walker2d/friction-0p5/medium-5k-v0"
NOMINAL = "offdyn/hopper/nominal/medium-5k-v0"
KEYS = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")


def fit(target: Any, free: Any, **options: Any) -> fitting_module.Identification:
    return identify(target, options.pop("robot", None), free, num_threads=2, quiet=True, **options)


def arrays(name: str, rows: int) -> dict[str, np.ndarray]:
    data = load_dataset(name)
    return {key: np.array(getattr(data, key)[:rows]) for key in KEYS}


@pytest.fixture(scope="module")
def delayed() -> dict[str, np.ndarray]:
    """Random actions that arrive two steps late, with simulator states."""
    env, rng = OffDynVectorEnv("hopper", 15, shifts={"kind": "delay", "steps": 2}), np.random.default_rng(0)
    observations, kept = env.reset(seed=0)[0], []
    for step in range(10):
        before, actions = (env.qpos, env.qvel), rng.uniform(-1, 1, (15, 3)).astype(np.float32)
        following, rewards, terminated, _, _ = env.step(actions)
        assert not terminated.any()
        cut = np.full(15, step == 9)
        kept.append((observations, actions, rewards, following, terminated, cut, *before))
        observations = following
    env.close()
    columns = (np.stack(column, axis=1) for column in zip(*kept, strict=True))
    return {
        name: column.reshape(150, *column.shape[2:])
        for name, column in zip((*KEYS, "qpos", "qvel"), columns, strict=True)
    }


def test_gravity_from_states(tmp_path: Path) -> None:
    found = fit("Hopper-gravity-0p5-medium", "gravity, friction", rows=300)
    assert (found.robot, found.rows, found.left_out, found.from_states) == ("hopper", 300, 0, True)
    for name, truth in (("gravity", 0.5), ("friction", 1.0)):
        item = found[name]
        assert item.told and item.low <= truth <= item.high and item.value == pytest.approx(truth, rel=1e-4)
    rows = np.linspace(0, 4999, 300).astype(int)
    for shifts, errors in (([], found.before), (list(found.shifts), found.after)):
        gap = dynamics_gap(load_dataset(HOPPER), shifts, rows, units="step", num_threads=1, quiet=True).summary()
        # A gap is stored in float32.
        assert errors.steps[0] == pytest.approx(gap["mean"], rel=1e-5, abs=1e-12)
        assert errors.dimensions == pytest.approx(gap["dimensions"], rel=1e-5, abs=1e-12)
    assert found.after.steps[0] < 1e-6 < found.before.steps[0]
    found.save(tmp_path / "shifts.json")
    shifts = json.loads((tmp_path / "shifts.json").read_text())
    env: Any = gymnasium.make("OffDyn/Hopper-v0", shifts=shifts)
    assert env.unwrapped.model.opt.gravity[2] == pytest.approx(-9.81 / 2, rel=1e-4)
    assert json.dumps(found.to_json(), allow_nan=False)
    with pytest.raises(OffDynError, match="unknown free parameter 'mass'; allowed: gravity, friction"):
        _ = found["mass"]


def test_friction_from_observations() -> None:
    target = arrays(WALKER, 600)
    found = fit(target, {"friction": None}, robot="walker2d")
    clipped = int((np.abs(target["observations"][:, 8:]) >= 10).any(axis=1).sum())
    assert not found.from_states and 0 < clipped == found.left_out and found.rows == 600 - clipped
    assert found["friction"].told and found["friction"].value == pytest.approx(0.5, rel=0.01)
    assert 0 < found.after.steps[0] < 1e-3 * found.before.steps[0]


def test_own_hdf5_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "log.hdf5", "w") as file:
        for key, array in arrays(HOPPER, 400).items():
            file[{"terminations": "terminals", "truncations": "timeouts"}.get(key, key)] = array
    found = fit(tmp_path / "log.hdf5", "gravity", robot="hopper")
    assert found["gravity"].value == pytest.approx(0.5, rel=0.01)


def test_what_no_row_reaches_cannot_be_told() -> None:
    found = fit(NOMINAL, "kinematic:leg=0.8..1.5", rows=200)
    item = found["kinematic:leg"]
    assert not item.told and item.value == 1.0 and item.low < 1.0 and item.high == pytest.approx(1.5)
    assert "equally small" in item.note
    assert found.shifts == () and found.after == found.before


def test_effects_that_are_alike_cannot_be_told_apart() -> None:
    found = fit(HOPPER, ["gravity", "field:opt.gravity"], rows=200)
    one, other = found.estimates
    assert one.value * other.value == pytest.approx(0.5, rel=1e-3)
    assert not one.told and not other.told and "opt.gravity" in one.note and "gravity" in other.note


def test_delay_is_tried(delayed: dict[str, np.ndarray]) -> None:
    found = fit(delayed, "delay=0..3", robot="hopper")
    item = found["delay"]
    assert (item.value, item.low, item.high, item.told) == (2.0, 2.0, 2.0, True)
    assert found.after.steps[0] < 1e-6 and [shift.to_json() for shift in found.shifts] == [
        {"kind": "delay", "steps": 2}
    ]


def test_known_shifts_and_more_steps(delayed: dict[str, np.ndarray]) -> None:
    found = fit(delayed, "mass:torso", robot="hopper", shifts={"kind": "delay", "steps": 2}, horizon=3, rows=60)
    assert len(found.after.steps) == 3 and found.rows == 60 and max(found.before.steps) < 1e-6
    assert found["mass:torso"].value == pytest.approx(1.0, rel=1e-4)
    assert [shift.to_json()["kind"] for shift in found.shifts] == ["delay", "mass"]


def test_interval_holds_the_truth_under_noise() -> None:
    target = arrays(HOPPER, 800)
    spread = (target["next_observations"] - target["observations"]).std(axis=0)
    data = load_dataset(HOPPER)
    target["next_observations"] += (0.05 * spread * np.random.default_rng(0).normal(size=(800, 11))).astype(np.float32)
    target["truncations"] = np.ones(800, bool) & ~target["terminations"]  # Noise breaks rows from each other.
    item = fit({**target, "qpos": data.qpos[:800], "qvel": data.qvel[:800]}, "gravity", robot="hopper")["gravity"]
    assert item.told and item.low <= 0.5 <= item.high and 1e-3 < item.high - item.low < 0.05


def test_result_depends_on_neither_threads_nor_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from offdyn_envs.datasets.identifying import replay

    first = identify(HOPPER, free="gravity", rows=120, num_threads=1, quiet=True)
    monkeypatch.setattr(replay, "BATCH", 50)
    assert identify(HOPPER, free="gravity", rows=120, num_threads=3, quiet=True).to_json() == first.to_json()
    assert offdyn.identify is identify


@pytest.mark.parametrize("name", WALKERS)
def test_robots_can_be_put_into_their_observations(name: str) -> None:
    robot, rng = get_robot(name), np.random.default_rng(0)
    qpos, qvel = rng.normal(size=(5, robot.nq)), rng.normal(size=(5, robot.nv))
    qvel[2] = 30.0
    found = Pose(robot).states(robot.observe(qpos, qvel))
    whole = ~(np.isfinite(robot.velocity_clip) & (np.arange(5) == 2))
    np.testing.assert_array_equal(found[2], whole)
    hidden = robot.nq + robot.nv - robot.observation_dim
    np.testing.assert_array_equal(found[0][:, hidden:], qpos[:, hidden:])
    np.testing.assert_array_equal(found[1][whole], qvel[whole])


def test_stretches_and_starts() -> None:
    logs = read_logs(HOPPER)
    lengths = logs.arrays.lengths
    assert len(logs.starts(3)) == len(logs) - 2 * len(lengths)
    number = logs.stretches(np.arange(len(logs)), 25)
    assert number[-1] + 1 == sum(-(-length // 25) for length in lengths) == len(set(number))
    assert np.bincount(number).max() == 25
    first = lengths[0]
    assert number[first] == number[first - 1] + 1


def test_slopes_are_those_of_the_losses() -> None:
    rng = np.random.default_rng(0)
    errors, jacobian = rng.normal(size=(6, 2, 4)), rng.normal(size=(3, 6, 2, 4))
    along, above, curve = slopes(errors, jacobian)
    for index in range(3):
        step = 1e-6 * jacobian[index]
        numerical = (row_losses(errors + step) - row_losses(errors - step)) / 2e-6
        np.testing.assert_allclose(along[:, index], numerical, rtol=1e-6, atol=1e-9)
        step *= 1e2
        second = (row_losses(errors + step) - 2 * row_losses(errors) + row_losses(errors - step)).sum() / 1e-8
        assert curve[index, index] == pytest.approx(second, rel=1e-3)
    assert (np.linalg.eigvalsh(above - curve) > -1e-12).all()


def test_quantile_is_students() -> None:
    np.testing.assert_allclose(_quantile(np.array([4.0, 10.0, 1e9])), [2.776, 2.228, 1.960], rtol=0.02)


def bad(**given: Any) -> dict[str, Any]:
    return {"target": HOPPER, "free": "gravity", **given}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (bad(free="gravitty"), "unknown shift kind 'gravitty'; did you mean 'gravity'"),
        (bad(free="gravity:torso"), "acts everywhere"),
        (bad(free="mass:torzo"), "did you mean 'torso'"),
        (bad(free="gravity,gravity"), "'gravity' is named twice"),
        (bad(free=""), "nothing is named"),
        (bad(free=3), "free must be names such as"),
        (bad(free="noise"), "noise cannot be fitted"),
        (bad(free="local"), "local cannot be fitted"),
        (bad(free="friction=2..1"), "must rise, got 2 and 1"),
        (bad(free="friction=a..1"), "the range of friction must be LOW..HIGH"),
        (bad(free="friction=1"), "the range of friction must be LOW..HIGH"),
        (bad(free={"friction": (1,)}), "must be a lowest and a highest value"),
        (bad(free="friction=0..1"), "friction shift: scale must be a finite number"),
        (bad(free="frictionloss.scale"), "has 0, which no scale changes"),
        (bad(rows=0), "rows must be a whole number, 1 or above, got 0"),
        (bad(horizon=1.5), "horizon must be a whole number"),
        (bad(horizon=100_000), "no row can start a simulation of 100000 steps"),
        (bad(seed=-1), "seed must be a whole number"),
        (bad(profile="odlr"), "unknown profile 'odlr'; did you mean 'odrl'"),
        (bad(robot="hoper"), "did you mean 'hopper'"),
        (bad(robot="ant"), "holds data of hopper, not of ant"),
        (bad(shifts={"kind": "noise", "std": 0.1}), "noise cannot be simulated again"),
        (bad(target="nowhere.hdf5"), "no dataset and no file"),
        (bad(target=3), "target must be a name, a file"),
    ],
)
def test_bad_input_is_refused_in_one_line(call: dict[str, Any], words: str) -> None:
    with pytest.raises(OffDynError) as refused:
        identify(**{"robot": None, **call}, quiet=True)
    assert words in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "robot", "words"),
    [
        ({}, None, "does not say whose data it holds"),
        ({}, "ant", "has 11 observations and 3 actions; 27 and 8 are expected of ant"),
        ({"qpos": np.zeros((50, 6))}, "hopper", "both 'qpos' and 'qvel' are needed, or none"),
        (
            {"qvel": np.zeros((50, 6)), "goal": np.zeros((50, 3))},
            "hopper",
            "both 'qpos' and 'qvel' are needed, or none",
        ),
        ({"qpos": np.zeros((50, 6)), "qvel": np.zeros((50, 5))}, "hopper", "'qvel' is float64 [50, 5]"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(change: dict[str, Any], robot: str | None, words: str) -> None:
    with pytest.raises(OffDynError, match="target") as refused:
        fit(arrays(HOPPER, 50) | change, "gravity", robot=robot)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("observe", "words"),
    [
        (lambda qpos, qvel: np.concatenate([qpos[..., 1:], qvel**2], axis=-1), "observation 5 is no position"),
        (lambda qpos, qvel: np.concatenate([qpos, qvel[..., 1:]], axis=-1), "velocity 0 is not observed"),
        (
            lambda qpos, qvel: np.concatenate([qpos[..., :1], qpos[..., 2:], qvel], axis=-1),
            "how it moves depends on what is not observed",
        ),
    ],
)
def test_a_robot_that_hides_its_state_is_refused(monkeypatch: pytest.MonkeyPatch, observe: Any, words: str) -> None:
    robot = get_robot("hopper")
    monkeypatch.setattr(type(robot), "observe", lambda self, qpos, qvel: observe(qpos, qvel))
    with pytest.raises(OffDynError, match=words):
        Pose(replace(robot))


@pytest.mark.usefixtures("own_robots")
def test_an_own_robot_with_a_goal() -> None:
    """How far the target is, is observed: another one leads elsewhere; without it the states are not whole."""

    class Far(type(REACHER)):
        def observe(self, qpos: Any, qvel: Any, goal: Any) -> Any:
            tip = self.bodies(qpos, "tip")[..., 0, :]
            return np.concatenate((qpos, qvel, ((tip - goal) ** 2).sum(axis=-1, keepdims=True)), axis=-1)

    robot = offdyn.register_robot(Far(**{item.name: getattr(REACHER, item.name) for item in fields(REACHER)}))
    offdyn.register_dynamics("reacher", "heavy", offdyn.Damping(3.0))
    data = collect("reacher", "heavy", RandomBehaviour(), 300)
    assert data.goal is not None
    target = {key: getattr(data, key) for key in KEYS}
    rows = data.state_rows
    states = {"qpos": data.qpos[rows], "qvel": data.qvel[rows], "goal": data.goal[rows]}
    found = fit(target | states, "damping=0.5..10", robot="reacher")
    assert found["damping"].told and found["damping"].value == pytest.approx(3.0, rel=1e-4)
    assert found.after.steps[0] < 1e-6 < found.before.steps[0]
    others = states["goal"] * 2.0
    assert fit(target | states | {"goal": others}, "damping=0.5..10", robot="reacher").after.steps[0] > 1e-3
    for change, words in (
        ({"goal": None}, "a state of Reacher has a goal, and 'goal' is missing"),
        ({"goal": others[:, :2]}, "'goal' is float64 [300, 2]; expected numbers [300, 3]"),
        (dict.fromkeys(states), "Reacher cannot be put into its observations, .*: its states have a goal"),
    ):
        with pytest.raises(OffDynError, match=re.escape(words).replace(r"\.\*", ".*")):
            fit(target | states | change, "damping=0.5..10", robot=robot)


def test_the_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path))
    built = build(DatasetId.parse("adroit-pen/broken-joint-easy/random-500"), quiet=True)
    free = {"shrink-finger": (0.9, 1.1)}
    found = fit(load_dataset(built.id), free, rows=10, shifts=get_dynamics("adroit-pen", "broken-joint-easy"))
    assert found.before.steps[0] == 0.0 and found.robot == "adroit-pen"
    assert found["shrink-finger"].value == pytest.approx(1.0, rel=1e-4)


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "shifts.json"
    arguments = ["identify", "hopper-gravity-0.5-medium", "--free", "gravity", "--rows", "100", "--threads", "2"]
    shown = CliRunner().invoke(app, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert shown.exit_code == 0 and "100 rows from simulator states" in shown.output and "  left " in shown.output
    ((gravity,),) = (json.loads(out.read_text()),)
    assert gravity["kind"] == "gravity" and gravity["scale"] == pytest.approx(0.5, rel=1e-4)
    printed = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout
    assert json.loads(printed)["shifts"] == [gravity]


def test_command_says_that_logs_cannot_tell(tmp_path: Path) -> None:
    arguments = ["identify", NOMINAL, "--free", "kinematic:leg=0.8..1.5", "--rows", "50"]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "CANNOT TELL" in shown.output


def test_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "identify.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/identify.md", "exec"), {})


def test_page_has_every_row_of_the_benchmark() -> None:
    root = Path(__file__).parents[2]
    cases = runpy.run_path(str(root / "benchmarks" / "identify.py"))["CASES"]
    lines = (root / "docs" / "identify.md").read_text(encoding="utf-8").splitlines()
    for case in cases:
        free = {"gravity": 1.0, "friction": 1.0} | case.truth
        # The leg's limit is what no row of the data reaches.
        told = {name: r"\S+ cannot tell" if name == "kinematic:leg" else r"(\S+)" for name in free}
        said = [rf"{re.escape(f'{name} {truth:g}')}: {told[name]} \([^;|]*\)" for name, truth in free.items()]
        for begin in ("states", "observations"):
            row = re.compile(rf"\| {case.robot} \| {begin} \| [0-9,]+ \| {'; '.join(said)} \| (\S+) \|( \S+ \|){{2}}")
            (found,) = filter(None, map(row.fullmatch, lines))
            *values, worst = map(float, found.groups()[:-1])
            truths = [truth for name, truth in free.items() if name != "kinematic:leg"]
            assert values == pytest.approx(truths, rel=0.05) and worst <= 0.05, (case, begin)


def test_benchmark_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "identify.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--cases", "1", "--rows", "100", "--json"])
    runpy.run_path(str(script), run_name="__main__")
    results = json.loads(capsys.readouterr().out)
    assert [item["from"] for item in results] == ["states", "observations"]
    for item in results:
        assert item["values"][0]["value"] == pytest.approx(0.7, rel=0.05)
