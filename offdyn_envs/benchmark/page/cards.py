"""The card of one entry: who, how trained, claimed against re-run, and the exact commands."""

import shlex
from typing import Any

from offdyn_envs.benchmark.page.markup import Html, element, join, link, number
from offdyn_envs.benchmark.scoring import protocol

__all__ = ["claimed", "entry_card", "training_commands", "verify_command"]

Json = dict[str, Any]


def entry_card(entry: Json, key: Html, badge: Html) -> Html:
    """Draws the card of one entry.

    Args:
        entry: The entry's part of the standings.
        key: Sample of its line and marker.
        badge: Its badge.
    """
    reference = element("span", "reference row", class_="badge plain") if entry["reference"] else None
    children = [
        element("h3", element("span", key, entry["method"]), badge, reference),
        element("p", _who(entry), class_="who"),
        _verdict(entry),
        _results(entry),
        _robustness(entry),
        element("dl", *_facts(entry)),
        element(
            "p",
            element("b", "Reproduce the training"),
            " (the submitter's commands: read before running)",
            class_="sub",
        ),
        _command(training_commands(entry)),
        element("p", element("b", "Check the score"), class_="sub"),
        _command(verify_command(entry)),
        _hyperparameters(entry),
    ]
    return element("article", *children, class_="card", id=f"entry-{entry['name']}")


def claimed(source: str) -> Html | None:
    """Returns the mark of a figure that is only the submitter's, and nothing for a re-run one.

    Args:
        source: `claim` or `re-run`, as the standings have it.
    """
    return element("span", "claimed", class_="claimed") if source == "claim" else None


def training_commands(entry: Json) -> str:
    """Returns the commands that reproduce an entry's training, one a line."""
    lines: list[str] = []
    code = entry["links"].get("code")
    if code:
        checkout = f" && git checkout {entry['commit']}" if entry["commit"] else ""
        lines.append(f"git clone {shlex.quote(code)} code && cd code{checkout}")
    lines += [training["command"] for _, training in sorted(entry["disclosure"].items()) if training["command"]]
    return "\n".join(dict.fromkeys(lines)) or "not given"


def verify_command(entry: Json) -> str:
    """Returns the command that re-runs an entry's policies as its verdict did: same seeds, same episodes."""
    command = f"offdyn leaderboard verify leaderboard/submissions/{entry['name']}"
    verdict = entry.get("verdict", {})
    if verdict.get("episodes", protocol.CLEAN_EPISODES) != protocol.CLEAN_EPISODES:
        command += f" --episodes {verdict['episodes']}"
    return command + (f" --salt {shlex.quote(verdict['salt'])}" if verdict.get("salt") else "")


def _who(entry: Json) -> Html:
    parts: list[object] = [", ".join(entry["authors"])] if entry["authors"] else []
    parts += [link(label, url) for label, url in sorted(entry["links"].items())]
    return join(parts, " \N{MIDDLE DOT} ") if parts else Html("")


def _verdict(entry: Json) -> Html:
    verdict = entry.get("verdict")
    if verdict is None:
        return element(
            "p", "The returns below are the submitter's; nobody has re-run these policies yet.", class_="note"
        )
    if "worst" not in verdict:
        return element("p", verdict["reason"], class_="note")
    worst = verdict["worst"]
    p_values = ", ".join(f"{value:.3g} ({name})" for name, value in sorted(verdict["p_values"].items()))
    words = (
        f"Re-run over {verdict['episodes']} episodes per policy from seed {verdict['seed']}; "
        f"permutation test of the whole entry: p = "
        f"{p_values}. Furthest apart: {worst['task']}, seed {worst['seed']}, claimed return "
        f"{number(worst['claimed'])}, re-run "
        f"{number(worst['rerun'])} ({number(worst['distance'])} standard errors)."
    )
    return element("p", words, class_="note")


def _results(entry: Json) -> Html:
    heads = ("Task", "Score", "Claimed", "Return", "Seeds")
    rows = [_result_row(name, task) for name, task in sorted(entry["tasks"].items())]
    head = element(
        "tr", *(element("th", text, scope="col", class_="method" if text == "Task" else None) for text in heads)
    )
    table = element("table", element("thead", head), element("tbody", *rows))
    return element("div", table, class_="inner", tabindex=0, role="region", aria_label=f"Results of {entry['method']}")


def _robustness(entry: Json) -> Html | None:
    sources = {row["source"] for row in entry["robustness"].values()}
    if not sources:
        return None
    if "claim" in sources:
        return element("p", "Scores under perturbation: ", claimed("claim"), ", not re-run.", class_="note")
    return element("p", "Scores under perturbation: re-run like the others.", class_="note")


def _result_row(name: str, task: Json) -> Html:
    score = task.get("score")
    returns = task["return"]
    cells = (
        "not scored" if score is None else _estimate(score, 1, task["source"]),
        number(task["claimed_score"]) if "claimed_score" in task else "",
        _estimate(returns, 0, task["source"]),
        ", ".join(str(seed) for seed in task["seeds"]),
    )
    return element("tr", element("th", name, scope="row"), *(element("td", cell) for cell in cells))


def _estimate(interval: Json, digits: int, source: str) -> Html:
    limits = f"{number(interval['low'], digits)} to {number(interval['high'], digits)}"
    return element("span", number(interval["mean"], digits), element("span", limits, class_="sub"), claimed(source))


def _facts(entry: Json) -> list[Html]:
    trainings = [training for _, training in sorted(entry["disclosure"].items())]
    facts = [
        ("Gradient updates", _values(f"{training['updates']:,}" for training in trainings)),
        ("Training time", _values(_duration(training["wall_clock_s"]) for training in trainings)),
        ("Device", _values(training["device"] for training in trainings)),
        ("Precision", _values(training.get("precision", "") for training in trainings)),
        ("Parameters", _values(f"{training['parameters']:,}" for training in trainings)),
        ("Tuning evaluations", _values(f"{training['tuning_evaluations']:,}" for training in trainings)),
        ("Tuned", _values(training["tuning_note"] for training in trainings if "tuning_note" in training)),
    ]
    return [join([element("dt", label), element("dd", value)]) for label, value in facts if value]


def _values(values: Any) -> str:
    """Joins the tasks' values, each different one once."""
    return ", ".join(dict.fromkeys(values))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _command(commands: str) -> Html:
    return element("div", element("pre", commands), class_="command")


def _hyperparameters(entry: Json) -> Html | None:
    blocks: list[Html] = []
    for task, training in sorted(entry["disclosure"].items()):
        pairs = [
            join([element("dt", name), element("dd", value)]) for name, value in training["hyperparameters"].items()
        ]
        if pairs:
            blocks.append(join([element("p", element("b", task), class_="sub"), element("dl", *pairs)]))
    if not blocks:
        return None
    return element("details", element("summary", "Hyperparameters"), *blocks)
