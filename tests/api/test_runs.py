"""What a run gives: policies, scores, curves, files; and runs beside each other."""

import json

import gymnasium
import numpy as np
import pytest

import offdyn
from offdyn_agents.api.comparing import _welch
from offdyn_agents.api.table import Table
from offdyn_envs import cli
from offdyn_envs.benchmark.scoring.protocol import PROTOCOL
from offdyn_envs.benchmark.scoring.scores import normaliser
from offdyn_envs.errors import OffDynError
from tests.api.conftest import ENV_ID
from tests.api.point import BOUND, A, Point, S, returns_by_hand, transitions

TASK = "hopper-gravity-0.5-medium"


@pytest.mark.parametrize("lead", [(), (1,), (7,), (2, 5), (2, 3, 4), (0,)])
def test_policies_take_numpy_of_any_shape(run, lead):
    policy = run.policy(0)
    observations = np.random.default_rng(0).standard_normal((*lead, S))
    actions = policy(observations)
    assert actions.shape == (*lead, A) and actions.dtype == np.float32
    assert (np.abs(actions) <= BOUND).all()
    flat = actions.reshape(-1, A)
    for observation, action in zip(observations.reshape(-1, S), flat, strict=True):
        np.testing.assert_allclose(policy(observation.tolist()), action, atol=1e-6)


def test_policies_act_in_the_units_of_the_data(run):
    observations = 30 * np.random.default_rng(0).standard_normal((500, S))
    # A policy in [-1, 1] that nobody scales stays below 1.
    assert np.abs(run.policy(0)(observations)).max() > 1.0
    assert run.policy(0).contract["actions"][0] == {"name": "action_0", "unit": "", "low": -BOUND, "high": BOUND}


def test_policies_of_seeds_differ_and_the_first_is_the_default(run):
    observations = np.ones((3, S))
    np.testing.assert_array_equal(run.policy()(observations), run.policy(0)(observations))
    assert not np.allclose(run.policy(0)(observations), run.policy(1)(observations))


@pytest.mark.parametrize(
    "env",
    [
        None,
        ENV_ID,
        "tests.api.point:Point",
        Point,
        lambda: Point(),
        pytest.param("object", id="object without spec"),
        pytest.param("made", id="object with spec"),
    ],
)
def test_returns_are_those_of_the_environment(run, env):
    env = {"object": Point(), "made": gymnasium.make(ENV_ID)}.get(env, env) if isinstance(env, str) else env
    table = run.evaluate(env, episodes=3)
    assert table.columns == ["seed", "episodes", "return", "std"]
    for seed, row in zip(run.seeds, table, strict=True):
        returns = returns_by_hand(run.policy(seed), 3)
        assert (row["seed"], row["episodes"]) == (seed, 3)
        assert row["return"] == pytest.approx(np.mean(returns), rel=1e-5)
        assert row["std"] == pytest.approx(np.std(returns), rel=1e-4)


def test_another_environment_may_score(run):
    (first, _) = run.evaluate(lambda: Point(push=0.5), episodes=2)
    assert first["return"] == pytest.approx(np.mean(returns_by_hand(run.policy(0), 2, push=0.5)), rel=1e-5)


def test_evaluate_takes_any_function_and_knows_the_scores_of_tasks():
    (row,) = offdyn.evaluate(lambda observations: np.zeros((len(observations), 3)), TASK, episodes=2)
    assert row["score"] == pytest.approx(float(normaliser(TASK)(row["return"])))
    env = gymnasium.make("OffDyn/Hopper-gravity-0.5-v0")
    (other,) = offdyn.evaluate(lambda observations: np.zeros((len(observations), 3)), env, episodes=2)
    assert other["return"] == row["return"] and "score" not in other


def test_evaluate_takes_a_folder_and_an_exported_policy(run, tmp_path):
    assert offdyn.evaluate(run.folder, episodes=2) == run.evaluate(episodes=2)
    (home, _) = run.export(tmp_path / "out")
    policy = offdyn.load_policy(home)
    assert offdyn.evaluate(policy, ENV_ID, 2)[0]["return"] == run.evaluate(episodes=2)[0]["return"]
    assert sorted(path.name for path in home.iterdir()) == ["contract.json", "policy.onnx"]
    np.testing.assert_array_equal(policy(np.ones(S)), run.policy(0)(np.ones(S)))
    np.testing.assert_array_equal(offdyn.load_policy(home / "policy.onnx")(np.ones(S)), policy(np.ones(S)))


def test_curves_are_the_file(run):
    curves = run.curves()
    assert curves.column("updates") == [6, 12]
    assert {"value_loss", "return_0", "return_1"} <= set(curves.columns)
    lines = (run.folder / "metrics.csv").read_text().splitlines()
    assert curves[0]["return_1"] == pytest.approx(float(lines[1].split(",")[lines[0].split(",").index("return_1")]))


def test_load_run_is_the_same_run(run):
    again = offdyn.load_run(str(run.folder))
    assert again.facts == run.facts and again.seeds == run.seeds == [0, 1]
    assert again.evaluate(episodes=2) == run.evaluate(episodes=2)
    assert again.name == "points iql"
    assert repr(again) == f"Run('{run.folder}', complete, 12 updates, seeds [0, 1])"


def test_the_commands_take_a_run_from_python(run, capsys):
    for words in (["evaluate", run.folder, "--episodes", 2, "--quiet"], ["curves", run.folder]):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        assert ended.value.code == 0, capsys.readouterr().err
    result = json.loads((run.folder / "evaluation.json").read_text())
    assert np.mean(result["clean"]["1"]) == pytest.approx(run.evaluate(episodes=2)[1]["return"])


def with_returns(run, folder, returns):
    """Copy a run, with other returns of its policies."""
    import shutil

    shutil.copytree(run.folder, folder)
    for name in ("evaluation.json", "clean.json"):
        (folder / name).unlink(missing_ok=True)
    facts = run.facts
    (folder / "run.json").write_text(json.dumps(facts | {"seeds": list(range(len(returns)))}))
    told = {"protocol": PROTOCOL, "task": facts["task"], "episodes": 2, "agent": "iql"}
    told["clean"] = {str(seed): [value - 1.0, value + 1.0] for seed, value in enumerate(returns)}
    (folder / "clean.json").write_text(json.dumps(told))
    return folder


def test_compare_gives_welchs_interval(run, tmp_path):
    """By hand: means 3 and 7, variances 2.5 and 20/3; 4.7494 degrees of freedom, t 2.6119."""
    first = with_returns(run, tmp_path / "a", [1.0, 2.0, 3.0, 4.0, 5.0])
    second = with_returns(run, tmp_path / "b", [4.0, 6.0, 8.0, 10.0])
    table = offdyn.compare(first, offdyn.load_run(second), episodes=2)
    assert [row["return"] for row in table] == [3.0, 7.0]
    assert [row["seeds"] for row in table] == [5, 4]
    # t interval of the first: 3 +- 2.776445 * sqrt(2.5 / 5).
    assert table[0]["low"] == pytest.approx(3 - 2.776445 * np.sqrt(0.5), rel=1e-5)
    assert table[0]["difference"] is None and table[1]["difference"] == 4.0
    assert table[1]["difference_high"] - 4.0 == pytest.approx(4.0 - table[1]["difference_low"])
    assert table[1]["difference_high"] - 4.0 == pytest.approx(2.6119161 * np.sqrt(2.5 / 5 + 20 / 3 / 4), rel=1e-6)


def test_compare_of_one_seed_has_no_interval(run, tmp_path):
    first, second = (with_returns(run, tmp_path / name, [value]) for name, value in (("a", 1.0), ("b", 3.0)))
    table = offdyn.compare(first, second, episodes=2)
    assert table[1]["difference"] == 2.0 and "difference_low" not in table.columns and "low" not in table.columns


def test_equal_returns_have_an_interval_of_no_width():
    assert _welch(np.array([2.0, 2.0]), np.array([1.0, 1.0])) == 0.0


def test_runs_scored_by_an_object_are_compared_too(fit, tmp_path):
    runs = [fit(agent, env=lambda: Point(), out=tmp_path) for agent in ("bc", "iql")]
    table = offdyn.compare(*runs, episodes=2)
    assert table.column("run") == ["bc", "iql"]
    assert table[0]["return"] == pytest.approx(np.mean(runs[0].evaluate(episodes=2).column("return")))


def test_compare_refuses_what_is_not_comparable(fit, run, tmp_path):
    other = fit(env=None, updates=6, out=tmp_path, name="elsewhere")
    with pytest.raises(OffDynError, match=r"runs of elsewhere in no environment, points in .* cannot be compared"):
        offdyn.compare(run, other)
    with pytest.raises(OffDynError, match="two runs or more, not 1"):
        offdyn.compare(run)
    elsewhere = fit(env=Point, updates=6, out=tmp_path, name="points")
    with pytest.raises(OffDynError, match="cannot be compared"):
        offdyn.compare(run, elsewhere)


def test_a_table_prints_itself_and_is_plain_rows():
    table = Table([{"a": 1, "b": 0.123456}, {"a": 20, "c": "<x>"}])
    assert table == [{"a": 1, "b": 0.123456, "c": None}, {"a": 20, "b": None, "c": "<x>"}]
    assert str(table) == " a       b    c\n 1  0.1235     \n20          <x>"
    assert "<td>&lt;x&gt;</td>" in table._repr_html_()
    long = Table({"row": row} for row in range(100))
    assert len(long) == 100 and str(long).splitlines()[21] == "..." and len(str(long).splitlines()) == 42
    assert str(Table()) == "" and Table().columns == []
    with pytest.raises(OffDynError, match=r"unknown column 'aa'; did you mean 'a'\?"):
        table.column("aa")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: run.policy(7), "has no policy of seed 7; it has those of [0, 1]"),
        (lambda run: run.policy(0)(np.ones(S + 1)), f"observations of shape ({S + 1},); [..., {S}] is allowed"),
        (lambda run: run.policy(0)(1.0), "observations of shape ()"),
        (lambda run: run.evaluate(episodes=0), "episodes is 0; at least 1 is allowed"),
        (lambda run: run.evaluate("TestPiont-v0"), "did you mean 'TestPoint-v0'?"),
        (lambda run: run.evaluate("OffDyn/Hopper-v0"), "observations are Box[11]; the data have 3 numbers"),
        (lambda run: run.evaluate(TASK), f"has (observations, actions) (11, 3), points ({S}, {A})"),
        (lambda run: offdyn.evaluate(run.policy(0)), "a policy needs an environment"),
        (lambda run: offdyn.load_run(run.folder / "nothing"), "is no run: it has no run.json"),
        (lambda run: offdyn.load_policy(run.folder / "seeds" / "9"), "does not exist"),
        (lambda run: offdyn.load_policy(run.folder / "run.json"), "run.json"),
        (
            lambda run: offdyn.evaluate(3, ENV_ID),
            "a policy is a function of observations [N, |S|], or a run, not a int",
        ),
        (
            lambda run: offdyn.evaluate(lambda rows: rows, ENV_ID),
            f"observations [20, {S}] give actions [20, {S}]; [20, {A}] is wanted",
        ),
    ],
)
def test_bad_input_is_one_line(run, call, words):
    with pytest.raises(OffDynError) as refused:
        call(run)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_run_without_environment_says_so(fit, tmp_path):
    run = fit(env=None, updates=6, out=tmp_path)
    with pytest.raises(OffDynError, match="there is no environment to score in"):
        run.evaluate()
    assert run.evaluate(ENV_ID, episodes=1).columns == ["seed", "episodes", "return", "std"]


def test_data_of_own_bounds_meet_an_environment_of_others(fit, tmp_path):
    wide = [{**transitions(5), "action_low": -4, "action_high": 4} for _ in range(2)]
    with pytest.raises(OffDynError, match=r"actions lie in \[-2, 2\]; those of the data in \[-4, 4\]"):
        fit(source=wide[0], target=wide[1], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
