"""The figures of README and docs/results are those of the files beside them and of the leaderboard's entries."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from offdyn_agents.ablations.report import record_rows
from offdyn_agents.algorithms.registry import agent_class
from offdyn_agents.engine.settings import build, flat, to_json
from offdyn_agents.judging.exams import HOLDOUT, SOURCE
from offdyn_agents.judging.report import table
from offdyn_agents.judging.rows_page import collect, lines, with_tables
from offdyn_agents.runs.evaluation import read_evaluation, summarise
from offdyn_envs.benchmark.scoring.scores import normaliser
from offdyn_envs.benchmark.scoring.statistics import mean_difference, t_interval
from offdyn_envs.tasks import TRACKS

ROOT = Path(__file__).parents[2]
RESULTS, ENTRIES = ROOT / "docs/results", ROOT / "leaderboard/submissions"
SCORE = re.compile(r"^(-?[\d.]+) (\[[^]]+\])")
TASK = re.compile(r"^[a-z0-9]+-[a-z0-9.-]+-medium$")


def read(page):
    return (RESULTS / f"{page}.md").read_text(encoding="utf-8")


def tables(page):
    """Yield (header, task, cells) of every row about a task."""
    header = []
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] == "task":
            header = cells
        elif TASK.match(cells[0]) and len(cells) == len(header):
            yield header, cells[0], cells[1:]


def result(page, task, column, cell):
    """Return what the run of a cell scored, in the form of an evaluation.json."""
    label, _, form = column.partition(", ")
    # Without an agent's name a column is of the one table that has DROCO alone.
    agent = "droco" if label.startswith(("return", "score")) else label.split(" (")[0].lower()
    if "(leaderboard" in cell:
        entry = json.loads((ENTRIES / f"offdyn-{agent}/entry.json").read_text(encoding="utf-8"))
        clean = {str(one["seed"]): one["returns"] for one in entry["results"] if one["task"] == task}
        return {"task": task, "clean": clean, "perturbed": []}
    variant = {"": "", "published": "@paper"}.get(form, f"@{form}")
    return read_evaluation(RESULTS / task / f"{agent}{variant}")


CELLS = [
    pytest.param(page, task, column, cell, id=f"{page.relative_to(ROOT)} {task} {column}")
    for page in (ROOT / "README.md", *sorted(RESULTS.glob("*.md")))
    for header, task, cells in tables(page)
    for column, cell in zip(header[1:], cells, strict=True)
    if cell != "-"
]


def test_there_are_tables():
    assert len(CELLS) >= 50


@pytest.mark.parametrize(("page", "task", "column", "cell"), CELLS)
def test_a_figure_is_that_of_its_file(page, task, column, cell):
    rows = {row["condition"]: row for row in summarise(result(page, task, column, cell))}
    if column.startswith("return"):
        assert cell == f"{rows['clean']['return']:,.0f}"
    elif "min-Q" in column:
        assert cell == f"{rows['min-q 0.2']['score']}"
    else:
        found = SCORE.match(cell)
        assert found.groups() == (str(rows["clean"]["score"]), rows["clean"]["95% interval"])


JUDGED = {
    "mobody, difference form": ("difference", "mobody"),
    "mobody, published form": ("judge", "mobody"),
    "target, published": ("difference", "target"),
    "target, ours": ("target-alone", "target"),
    "target, MOBODY's networks": ("target-alone", "alone"),
    "merged, published": ("judge", "merged"),
    "merged, ours": ("merged", "merged"),
    "mobody, standardised": ("standardised", "mobody"),
    "single": ("single", "single"),
    "mobody, the paper's weights": ("paper", "mobody"),
}
"""File and model of each row of a table of judged dynamics."""


def judged_rows():
    """Yield (task, cells) of the rows of tables of judged dynamics; the command above a table names its task."""
    task, inside = "", False
    for line in read("learned-dynamics").splitlines():
        if line.startswith("offdyn diagnose judge "):
            task = line.split()[3]
        inside = line.startswith("| model | target hold-out") or (inside and line.startswith("|"))
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if inside and cells[0] in JUDGED:
            yield task, cells
        else:
            assert not inside or cells[0] in ("model", "---"), cells[0]


def test_errors_of_judged_dynamics_are_those_of_their_files():
    rows = list(judged_rows())
    assert len(rows) >= 15
    for task, (label, *cells) in rows:
        file, model = JUDGED[label]
        record = json.loads((RESULTS / task / f"judge/{file}.json").read_text(encoding="utf-8"))
        (found,) = (row for row in table(record) if row["model"] == model)
        names = [name for exam in (HOLDOUT, SOURCE) for name in (exam, f"MSE, {exam}")]
        assert cells == [found[name] for name in names], label


def test_errors_of_the_sources_simulator_are_those_of_their_files():
    table_ = read("learned-dynamics").partition("| as in the source |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(table_) == 4
    for line in table_:
        task, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        record = json.loads((RESULTS / f"{task}-medium/judge/difference.json").read_text(encoding="utf-8"))
        assert cells == [f"{record['references'][exam]['as in the source']:.3g}" for exam in (HOLDOUT, SOURCE)]


def test_rollouts_in_model_and_simulator_are_those_of_their_files():
    text, rows = read("dynamics-reward"), 0
    pattern = r"offdyn diagnose rollouts runs/([^/]+)/morec@paper\n```\n\n(.*?)\n\n"
    for task, section in re.findall(pattern, text, re.DOTALL):
        folder = RESULTS / task / "morec@paper"
        record = json.loads((folder / "judged_rollouts.json").read_text(encoding="utf-8"))
        returns = read_evaluation(folder)["clean"]
        shown = re.findall(r"^\| (\d) \| (.*) \|$", section, re.MULTILINE)
        assert [int(seed) for seed, _ in shown] == [seed["seed"] for seed in record["seeds"]]
        for (seed, cells), found in zip(shown, record["seeds"], strict=True):
            source, model, simulator = found["source"], found["target"]["model"], found["target"]["simulator"]
            assert cells.split(" | ") == [
                f"{np.mean(returns[seed]):,.0f}",
                f"{source['model']['refused_at_once']:.1%}",
                f"{source['simulator']['steps']:.1f}",
                *(
                    f"{where[name]:.{digits}f}"
                    for where in (model, simulator)
                    for name, digits in (("steps", 1), ("reward", 2))
                ),
            ]
            rows += 1
    assert rows == 6


def test_what_policies_do_from_target_rows_and_from_resets_is_that_of_their_files():
    section = read("severe-shift").partition("| task and agent |")[2]
    rows = re.findall(r"^\| (\S+) \| (\S+) \| ([\d,]+) \| (\S+) \| ([\d,]+) \| (\S+) \|$", section, re.MULTILINE)
    assert len(rows) == 10
    for task, agent, *cells in rows:
        file = RESULTS / f"{task}-medium" / agent.lower() / "judged_rollouts.json"
        record = json.loads(file.read_text(encoding="utf-8"))
        assert (record["horizon"], record["starts"], len(record["seeds"])) == (1000, 50, 3)
        means = {
            (starts, name): np.mean([seed[starts]["simulator"][name] for seed in record["seeds"]])
            for starts in ("target", "resets")
            for name in ("steps", "reward")
        }
        assert cells == [f"{mean:,.0f}" if name == "steps" else f"{mean:.2f}" for (_, name), mean in means.items()]


def test_values_are_those_of_their_files():
    pattern = r"^\| ([a-z0-9.-]+) \| ([\d,]+) \| (-?[\d,]+) \| ([\d,]+) \| ([\d.]+%) \|"
    rows = re.findall(pattern, read("runaway-values"), re.MULTILINE)
    assert len(rows) == 6
    for task, value, low, high, clipped in rows:
        last = last_metrics(f"{task}-medium/droco")
        assert value == f"{float(last['v']):,.0f}"
        told = json.loads((RESULTS / f"{task}-medium/droco/run.json").read_text(encoding="utf-8"))["stages"]
        assert clipped == f"{float(last['outside']):.1%}"
        assert (low, high) == tuple(f"{told['values'][end][0]:,.0f}" for end in ("low", "high"))
    shown = re.findall(r"^\| ([a-z0-9.-]+) \| ([\d,]+) \| ([\d,]+) \|$", read("runaway-values"), re.MULTILINE)
    assert len(shown) == 3
    for task, *values in shown:
        assert values == [f"{float(last_metrics(f'{task}-medium/{run}')['v']):,.0f}" for run in ("iql", "iql@paper")]


def last_metrics(run):
    with (RESULTS / run / "metrics.csv").open(encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    return last


def seed_scores(task, run):
    """Return the mean score of every seed of a run."""
    score = normaliser(task)
    return {seed: np.mean(score(one)) for seed, one in read_evaluation(RESULTS / task / run)["clean"].items()}


def mean_score(task, run):
    return float(np.mean(list(seed_scores(task, run).values())))


def test_what_bounds_cost_on_walker2d_is_that_of_the_files():
    bounded, *without = (
        seed_scores("walker2d-gravity-5.0-medium", f"droco{name}")
        for name in ("", "@unbounded", "@unbounded-seeds-3-4")
    )
    unbounded = without[0] | without[1]
    assert [*bounded] == [*unbounded] == [*"01234"]
    found = t_interval([bounded[seed] - unbounded[seed] for seed in bounded])
    assert f"minus unbounded is {found.mean:.1f} [{found.low:.1f}, {found.high:.1f}]" in read("runaway-values")


def test_what_iql_gains_on_a_mild_shift_is_that_of_the_files():
    scores = {name: [*seed_scores("hopper-gravity-0.5-medium", name).values()] for name in ("bc", "iql", "droco")}
    assert [len(one) for one in scores.values()] == [5, 5, 5]
    task = "hopper-gravity-0.5-medium"
    ten = scores["iql"] + [*seed_scores(task, "iql@seeds-5-9").values()]
    no_penalty = [*seed_scores(task, "droco@beta-0").values()]
    for ours, theirs, words in (
        (scores["iql"], scores["bc"], "first five it is "),
        (ten, scores["bc"], "(BC), by "),
        (scores["droco"], scores["bc"], "level with cloning**, "),
        (ten, no_penalty, "Ten seeds of IQL are "),
    ):
        found = mean_difference([ours], [theirs])
        assert f"{words}{found.mean:.1f} [{found.low:.1f}, {found.high:.1f}]" in read("mild-shift")


def test_the_front_page_of_the_results_names_all_that_has_five_seeds():
    named = {
        "walker2d-gravity-5.0": "Walker2d under five times gravity",
        "hopper-gravity-0.5": "Hopper under half of the gravity",
    }
    found = {}
    for path in sorted(RESULTS.glob("*/*/run.json")):
        seeds = json.loads(path.read_text(encoding="utf-8"))["seeds"]
        # Variants are of single questions, whose pages tell their seeds.
        if "@" not in path.parent.name and len(seeds) != 3:
            assert len(seeds) == 5
            found.setdefault(path.parents[1].name.removesuffix("-medium"), []).append(path.parent.name.upper())
    told = [f"- on {named[task]}: {', '.join(agents)}" for task, agents in found.items()]
    shown = read("index").partition("mostly three seeds. Five seeds have:\n\n")[2].partition("\n\n")[0]
    assert sorted(line.rstrip(";.") for line in shown.splitlines()) == sorted(told)


def test_policies_that_wander_are_those_of_their_files():
    shown = re.findall(
        r"^\| ([a-z0-9-]+) \| (.*?) \| ([-\d.]+ \| [-\d.]+ \| \d+, \d+ \| \d+) \|$",
        read("dynamics-reward"),
        re.MULTILINE,
    )
    record = ablation("morec-wander")
    assert [name for name, *_ in shown] == [row["variant"] for row in record["rows"]]
    for (name, about, cells), row in zip(shown, record["rows"], strict=True):
        with (RESULTS / f"ablations/morec-wander/{name}.csv").open(encoding="utf-8") as file:
            late = [one for one in csv.DictReader(file) if one["score"]][-10:]
        returns = np.array([[float(one[f"return_{seed}"]) for seed in record["seeds"]] for one in late])
        moved = ", ".join(f"{step:.0f}" for step in np.abs(np.diff(returns, axis=0)).mean(0))
        score = np.mean([float(one["score"]) for one in late])
        found = f"{row['score']['mean']:.1f} | {score:.1f} | {moved} | {float(late[-1]['q']):.0f}"
        assert (about, cells) == (row["about"], found)


def test_rollouts_early_and_late_are_those_of_their_files():
    text, folder = read("dynamics-reward"), RESULTS / "hopper-gravity-0.5-medium/morec@standardised"
    rows = re.findall(r"^\| ([\d,]+) \| (target rows|resets) \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == 4
    for updates, starts, cells in rows:
        name = {"40,000": "judged_rollouts-40k", "100,000": "judged_rollouts"}[updates]
        record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        assert (record["horizon"], record["starts"]) == (300, 100)
        assert [seed["seed"] for seed in record["seeds"][:2]] == [0, 1]
        found = [seed[starts.partition(" ")[0]] for seed in record["seeds"][:2]]
        means = [
            f"{np.mean([one[where][what] for one in found]):.{digits}f}"
            for what, digits in (("steps", 0), ("reward", 2))
            for where in ("model", "simulator")
        ]
        assert cells.split(" | ") == means


def test_what_filtered_policies_do_is_that_of_their_files():
    text = re.sub(r"\s+", " ", read("dynamics-reward"))
    for task, horizon, seeds, sentence in (
        (
            "walker2d-gravity-5.0",
            500,
            3,
            "they last {0:.0f} steps at {1:.1f} a step in the model, and {2:.0f} at {3:.1f} in",
        ),
        (
            "hopper-gravity-0.5",
            300,
            2,
            "last {0:.0f} steps at {1:.2f} a step from target rows in the model, and {2:.0f} at",
        ),
    ):
        record = json.loads((RESULTS / f"{task}-medium/morec/judged_rollouts.json").read_text(encoding="utf-8"))
        assert (record["horizon"], record["starts"], len(record["seeds"])) == (horizon, 100, 3)
        found = [seed["target"] for seed in record["seeds"][:seeds]]
        means = [
            np.mean([one[w][name] for one in found]) for w in ("model", "simulator") for name in ("steps", "reward")
        ]
        assert sentence.format(*means) in text
        if task.startswith("walker2d"):
            ends = [f"{one['model']['refused']:.0%}".removesuffix("%") for one in found]
            assert f"The filter ends {ends[0]}, {ends[1]} and {ends[2]}% of these rollouts" in text


def test_late_scores_of_filtered_policies_are_those_of_their_files():
    text = re.sub(r"\s+", " ", read("dynamics-reward"))

    def late(task, run):
        with (RESULTS / f"{task}-medium" / run / "metrics.csv").open(encoding="utf-8") as file:
            scores = [float(one["score"]) for one in csv.DictReader(file) if one["score"]]
        return f"{np.mean(scores[-10:]):.1f}"

    hopper, narrow, walker = "hopper-gravity-0.5", "hopper-from-kinematic-severe", "walker2d-gravity-5.0"
    ours, theirs = ([late(task, run) for task in (hopper, narrow, walker)] for run in ("morec", "morec@standardised"))
    assert f"policies have {ours[0]} on Hopper, {ours[1]} from narrow joints and {ours[2]} on Walker2d" in text
    assert f"With standardised inputs they have {theirs[0]}, {theirs[1]} and {theirs[2]}." in text
    more = [late(task, "morec@more-fakes") for task in (hopper, narrow)]
    assert f"{more[0]} on Hopper and {more[1]} from narrow joints, though" in text


def ablation(name):
    return json.loads((RESULTS / f"ablations/{name}.json").read_text(encoding="utf-8"))


def ablation_rows(command):
    """Return header and rows of the table below a command of the page of ablations."""
    table = read("ablations").partition(command)[2].partition("\n\n|")[2].partition("\n\n")[0]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return header, rows


@pytest.mark.parametrize("study", ["droco", "iql", "td3-bc", "mobody", "morec"])
def test_scores_of_ablations_are_those_of_their_files(study):
    record = ablation(study)
    header, shown = ablation_rows(f"offdyn ablate {study} ")
    assert header[2:] == [task.removesuffix("-medium") for task in record["tasks"]]
    scores = {(row["variant"], row["task"]): row["score"] for row in record_rows(record)}
    about = {row["variant"]: row["about"] for row in record["rows"]}
    assert shown == [
        [name, about[name], *(scores.get((name, task), "-") for task in record["tasks"])] for name in about
    ]


def test_dynamics_of_ablations_are_those_of_their_files():
    found = {}
    for row in ablation("mobody-dynamics")["rows"]:
        cells = [f"{one['state']:.3g}" for exam in (HOLDOUT, SOURCE) for one in row["errors"][exam]]
        found.setdefault((row["variant"], row["about"]), []).extend(cells)
    assert ablation_rows("--set dynamics.elites=2")[1] == [[*names, *cells] for names, cells in found.items()]


def test_errors_of_drocos_ensembles_are_those_of_their_files():
    found = {}
    for row in ablation("droco-dynamics")["rows"]:
        means = [np.mean([one[unit] for one in row["errors"][HOLDOUT]]) for unit in ("state", "mse")]
        cells = [*(f"{mean:.3g}" for mean in means), f"{row['seconds']:.0f}"]
        found.setdefault((row["variant"], row["about"]), []).extend(cells)
    assert ablation_rows("--dynamics-only --seeds 3")[1] == [[*names, *cells] for names, cells in found.items()]


@pytest.mark.parametrize(
    ("robot", "task"),
    [
        ("Walker2d", "walker2d-gravity-5.0-medium"),
        ("Hopper", "hopper-gravity-0.5-medium"),
        ("HalfCheetah", "halfcheetah-friction-0.1-medium"),
    ],
)
def test_rewards_of_ablations_are_those_of_their_files(robot, task):
    files = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("ablations/reward-*.json")]
    method = json.loads((RESULTS / task / "conditions-task.json").read_text(encoding="utf-8"))
    # A record's own command is of its commit, whose defaults were others.
    found = {f"`{record['today'].partition('--set ')[2]}`": record for record in files if record["task"] == task}
    found["the method"] = method
    text = read("ablations").partition(f"| setting, {robot} |")[2].partition("\n\n")[0]
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert {cells[0] for cells in shown} == set(found)
    for name, *cells in shown:
        assert found[name]["real"] == [1.0] * 3
        rankings, source = found[name]["rankings"], found[name]["source"]
        asked = [(rankings[policy], "correlation") for policy in ("behaviour", "noisy", "random")]
        asked += [(rankings["random"], "within"), (source, "correlation")]
        means = [round(float(np.mean([one[what] for one in seeds])), 2) for seeds, what in asked]
        assert [float(cell) for cell in cells[:-1]] == means
        # Records of a lowered threshold say apart what is below .6.
        assert cells[-1] == ", ".join(f"{one.get('doubted', one['refused']):.0%}" for one in source)


@pytest.mark.parametrize(
    ("head", "file"),
    [("| policy | correlation of r_D", "conditions"), ("| policy, published form |", "conditions-published")],
)
def test_hoppers_conditions_are_those_of_their_files(head, file):
    text = read("dynamics-reward").partition(head)[2]
    record = json.loads((RESULTS / f"hopper-gravity-0.5-medium/{file}.json").read_text(encoding="utf-8"))
    shown = [[float(cell) for cell in line.strip("|").split("|")[1:]] for line in text.splitlines()[2:5]]
    columns = {"correlation": 2, "within": 2, "best": 3, "random": 3, "lowest": 3}
    rankings = record["rankings"]
    assert list(rankings) == ["behaviour", "noisy", "random"]
    assert shown == [[round(row[name], digits) for name, digits in columns.items()] for row in rankings.values()]
    assert record["real"] == 1.0
    assert all(record["holds"].values())


@pytest.mark.parametrize(
    ("robot", "task"),
    [
        ("Walker2d", "walker2d-gravity-5.0-medium"),
        ("Hopper", "hopper-gravity-0.5-medium"),
        ("HalfCheetah", "halfcheetah-friction-0.1-medium"),
        ("narrow joints", "hopper-from-kinematic-severe-medium"),
    ],
)
def test_conditions_on_tasks_are_those_of_their_files(robot, task):
    text = read("dynamics-reward").partition(f"| policy, {robot} |")[2]
    record = json.loads((RESULTS / task / "conditions-task.json").read_text(encoding="utf-8"))
    assert record["command"].startswith(f"offdyn diagnose reward {task} --seeds 3")
    columns = {"correlation": 2, "within": 2, "best": 3, "random": 3, "lowest": 3, "refused": 2}
    shown = [line.strip("|").replace("%", "").split("|")[1:] for line in text.splitlines()[2:6]]
    means = [
        [round(float(np.mean([one[name] for one in seeds])), digits) for name, digits in columns.items()]
        for seeds in (*record["rankings"].values(), record["source"])
    ]
    cells = [[*map(float, row[:-1]), float(row[-1]) / 100] for row in shown]
    np.testing.assert_allclose(cells, means, atol=1e-9)
    assert record["real"] == [1.0] * 3
    assert all(all(seeds) for seeds in record["holds"].values())


def test_the_second_condition_fails_on_ant():
    record = json.loads((RESULTS / "ant-gravity-5.0-medium/conditions-task.json").read_text(encoding="utf-8"))
    whitened = json.loads((RESULTS / "ablations/reward-ant-whitened.json").read_text(encoding="utf-8"))
    text = read("dynamics-reward")
    for words, one in (("correlations are {}", record), ("[{}](ablations/reward-ant-whitened.json)", whitened)):
        found = [seed["correlation"] for seeds in one["rankings"].values() for seed in seeds]
        assert words.format(f"{max(found):.2f} to {min(found):.2f}".replace("0.", ".")) in text
    assert {name for name, seeds in record["holds"].items() if not all(seeds)} == {"r_D falls with the error"}


def test_hoppers_published_conditions_on_its_task_are_those_of_their_run():
    run = json.loads((RESULTS / "hopper-gravity-0.5-medium/morec@paper/run.json").read_text(encoding="utf-8"))
    record = run["stages"]["judged"]["reward"]
    text = read("dynamics-reward").partition("| policy, Hopper as a task, published form |")[2]
    shown = [[float(cell) for cell in line.strip("|").split("|")[1:]] for line in text.splitlines()[2:6]]
    columns = {"correlation": 2, "within": 2, "best": 3, "random": 3, "lowest": 3}
    assert shown == [
        [round(float(np.mean([one[name] for one in seeds])), digits) for name, digits in columns.items()]
        for seeds in record["rankings"].values()
    ]
    assert record["holds"]["r_D falls with the error"] == [False] * 3


@pytest.mark.parametrize(("form", "file"), [("", "errors"), (", published form", "published")])
def test_the_refrigerators_tables_are_those_of_their_files(form, file):
    text = read("dynamics-reward")
    head = f"| p{form} | mean of the elites | plain | filtered | filtered - plain |"
    shown = [
        [float(number) for number in re.findall(r"-?\d*\.?\d+", line.replace("(data)", ""))]
        for line in text.partition(head)[2].strip().splitlines()[1:7]
    ]
    lines = (RESULTS / f"refrigerator/{file}.txt").read_text(encoding="utf-8").splitlines()[1:7]
    written = [[float(word) for word in line.replace("+-", "").split()] for line in lines]
    assert len(shown) == 6
    np.testing.assert_array_equal(shown, written)


def test_the_page_of_graded_rows_is_what_its_command_makes():
    """Whoever adds a file makes the tables anew: offdyn diagnose rows --table docs/results/filters.md."""
    text, records = read("filters"), collect(RESULTS)
    assert with_tables(text, records) == text
    for path in RESULTS.glob("*/rows/*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert (record["name"], record["task"]) == (path.stem, path.parts[-3])
        # Other settings than an agent has would be computed again.
        kind = agent_class(record["agent"]).settings_class
        assert to_json(build(kind, flat(record["settings"]))) == record["settings"], path
    found = {(line["task"], line["method"], line["column"]): line for line in lines(records)}
    hopper, walker = "hopper-from-kinematic-severe-medium", "walker2d-gravity-5.0-medium"
    ice, mild, ant = "halfcheetah-friction-0.1-medium", "halfcheetah-gravity-0.5-medium", "ant-gravity-5.0-medium"
    half = "hopper-gravity-0.5-medium"
    said = {
        "oracle's better half has": (walker, "oracle", "-gap", "better half"),
        "TABB's `nearness` has": (hopper, "tabb (our reading)", "nearness", "correlation"),
        "Its rewards have": (hopper, "dara", "rewards", "correlation"),
        "noise of 1 they have": (hopper, "dara@dara.noise=1", "rewards", "correlation"),
        "`closeness` has": (hopper, "stc", "closeness", "correlation"),
        "IGDF keeps has": (hopper, "igdf", "scores", "gap of the kept"),
        "oracle's quarter has": (hopper, "igdf", "scores", "oracle's gap"),
        "as in public code, have": (hopper, "igdf@encoders.updates=0", "scores", "correlation"),
        "where trained ones have": (hopper, "igdf", "scores", "correlation"),
        "half**, which has": (ice, "dara", "rewards", "better half"),
        "STC's by `nearness` has": (ice, "stc", "nearness", "better half"),
        "and TABB's has": (ice, "tabb (our reading)", "nearness", "better half"),
        "The oracle's has": (ice, "oracle", "-gap", "better half"),
        "of the gravity, with": (half, "otdf", "scores", "correlation"),
        "a little, by up to": (mild, "otdf", "scores", "correlation"),
        "It says": (hopper, "tabb (our reading)", "nearness", "correlation"),
        "joints and": (ant, "tabb (our reading)", "nearness", "correlation"),
        "and the noise) it has": (hopper, "dara@dara.form=code+dara.noise=1", "rewards", "correlation"),
    }
    words = " ".join(text.partition("In the tables")[0].split())
    for sentence, (*where, figure) in said.items():
        (shown,) = re.findall(rf"{re.escape(sentence)} (-?\d\.\d\d)", words)
        assert shown == f"{found[tuple(where)][figure] + 0.0:.2f}", sentence
    over_igdf, over_otdf = (
        {
            task: found[task, method, "g"]["correlation"] - found[task, method, "scores"]["correlation"]
            for task in TRACKS["core-6"]
        }
        for method in ("dvdf", "dvdf@score=otdf")
    )
    assert f"both ways**, by up to {max(map(abs, over_igdf.values())):.2f}: for the worse" in words
    assert (max(over_igdf, key=over_igdf.__getitem__), min(over_igdf, key=over_igdf.__getitem__)) == (hopper, half)
    assert f"they move them by up to {max(map(abs, over_otdf.values())):.2f}." in words
    for task, agent, column in ((hopper, "stc", "closeness"), (walker, "dara", "rewards")):
        (record,) = (one for one in records if (one["task"], one["name"]) == (task, agent))
        seeds = [run[column]["rank_correlation"] for run in record["columns"]]
        assert f"seeds lie between {min(seeds):.2f} and {max(seeds):.2f}" in words
    for task, sentence in (
        (hopper, "falls from (.*?) to (.*?)\\.( )"),
        (walker, "rises from (.*?) to (.*?), and (.*?)% of"),
    ):
        (moves,) = (one["actions"] for one in records if (one["task"], one["agent"]) == (task, "stc"))
        moved = {key: float(np.mean([one[key] for one in moves])) for key in ("own_gap", "gap", "nearer")}
        ((before, after, nearer),) = re.findall(sentence, words)
        assert (before, after) == (f"{moved['own_gap']:.2f}", f"{moved['gap']:.2f}")
        assert nearer in (" ", f"{100 * moved['nearer']:.0f}")


def test_first_scores_are_those_of_their_files():
    """The table is made from the files; sentences are about these figures."""
    words = " ".join(read("first-scores").split())
    narrow, walker = "hopper-from-kinematic-severe-medium", "walker2d-gravity-5.0-medium"
    assert f"one of its seeds scores {max(seed_scores(narrow, 'oracle-filter@first').values()):.0f}" in words
    for task, updates, name in ((narrow, 20_000, "narrow joints IQL"), (walker, 5_000, "Walker2d it")):
        with (RESULTS / task / "iql@first/metrics.csv").open(encoding="utf-8") as file:
            early = {int(one["updates"]): float(one["score"]) for one in csv.DictReader(file) if one["score"]}
        last = mean_score(task, "iql@first")
        assert re.search(rf"{name} has {early[updates]:.0f} after {updates:,}( updates)?, and {last:.0f}\b", words)
    bc, droco, oracle, bosa = (
        [mean_score(task, f"{agent}@first") for task in (narrow, walker)]
        for agent in ("bc", "droco", "oracle-filter", "bosa")
    )
    assert f"BOSA has {bosa[1]:.1f} on Walker2d" in words and f"pass, and it has {bosa[0]:.1f}." in words
    assert f"with {bc[0]:.1f} from narrow joints and {bc[1]:.1f} on Walker2d" in words
    assert f"On Walker2d it scores {droco[1]:.1f}, where the oracle has {oracle[1]:.1f}." in words
    *rest, best = sorted(seed_scores(walker, "otdf@first").values())
    assert f"On Walker2d one of its seeds scores {best:.0f} and the others {max(rest):.0f} or less." in words
    with (RESULTS / walker / "cql@first/metrics.csv").open(encoding="utf-8") as file:
        late = [float(one["score"]) for one in csv.DictReader(file) if one["score"]][-2:]
    assert f"still rises from {late[0]:.1f} to {late[1]:.1f} in the last 5,000 updates" in words
    others = sorted(seed_scores(narrow, "oracle-filter@first").values())[:2]
    assert max(others) < mean_score(narrow, "iql@first")
    for path in RESULTS.glob("*/*@first/run.json"):
        run = json.loads(path.read_text(encoding="utf-8"))
        assert (run["updates"], run["seeds"], run["task"]) == (50_000, [0, 1, 2], path.parts[-3])


def test_micros_values_without_bounds_are_as_they_were_measured():
    page = " ".join((ROOT / "docs/methods/micro.md").read_text(encoding="utf-8").split())
    for task, sentence in (
        ("walker2d-gravity-5.0-medium", "the mean of Q is {q:,.0f} after 50,000 updates"),
        ("hopper-from-kinematic-severe-medium", "From narrow joints Q ends at {q:,.0f}"),
    ):
        run = RESULTS / task / "micro@first-unbounded"
        with (run / "metrics.csv").open(encoding="utf-8") as file:
            *_, last = csv.DictReader(file)
        assert last["updates"] == "50000" and sentence.format(q=float(last["q"])) in page
        score = t_interval([*seed_scores(task, run.name).values()])
        assert f"score is {score.mean:.1f} [{score.low:.1f}, {score.high:.1f}]" in page
        assert f"{score.mean:.1f}" in read("first-scores").partition("Not here yet")[2]


def test_daras_noise_is_as_it_was_measured():
    text = (ROOT / "docs/methods/dara.md").read_text(encoding="utf-8")
    files = ("dara", "dara@dara.noise=0.1", "dara@dara.noise=1")
    rows = re.findall(r"^\| (\S+-\d\.\d|\S+-severe) \| (.*) \|$", text, re.MULTILINE)
    assert {f"{task}-medium" for task, _ in rows} == set(TRACKS["core-6"])
    for task, row in rows:
        records = [
            json.loads((RESULTS / f"{task}-medium/rows/{name}.json").read_text(encoding="utf-8")) for name in files
        ]
        (found,) = {tuple(one["seeds"]) for one in records}
        assert found == (0, 1, 2)
        seeds = [[run["rewards"] for run in one["columns"]] for one in records]
        ranks = [[run["rank_correlation"] for run in runs] for runs in seeds]
        shown = [f"{np.mean(rank) + 0.0:.2f} ±{np.std(rank, ddof=1):.2f}" for rank in ranks]
        assert row.split(" | ") == shown + [f"{np.mean([run['std'] for run in runs]):.2f}" for runs in seeds]
        if task == "hopper-from-kinematic-severe":
            halves = [float(np.mean([run["better_half"] for run in runs])) for runs in seeds]
            assert f"has {halves[0]:.2f} of the mean gap without it, and {halves[2]:.2f} with 1" in text
            scores = [mean_score(f"{task}-medium", f"dara@{name}") for name in ("first", "first-noise-1")]
            assert f"it has {scores[0]:.1f} there without noise and {scores[1]:.1f} with 1." in text
