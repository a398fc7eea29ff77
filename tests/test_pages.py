"""The pages of the site: what they say can be done is done, and what they link to is there."""

import itertools
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from offdyn_envs.cli import build_app, main
from tests.pages import DOCS, ELSEWHERE, EXECUTED, OUTSIDE, ROOT, blocks, commands, pages, read, sentences

RUN = [page for page in pages() if page not in ELSEWHERE and page != "README.md"]
RUN = [page for page in RUN if any(block.does_something and not block.why_not for block in blocks(read(page)))]
# But for pages that the code writes or that are made of tables.
TABLES = ("docs/gallery/README.md", "docs/environments.md", "docs/speed.md", "docs/python.md")
PLAIN = [page for page in pages() if page not in TABLES]


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """An empty folder to work in, and updates that are not compiled: that takes longer than these runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("OFFDYN_COMPILE", "0")


def run_block(block, names):
    """Do what a block says; one of YAML is the file that its first line names."""
    if block.language == "python":
        exec(compile(block.text, "page", "exec"), names)
    elif block.language == "yaml":
        Path(block.text.splitlines()[0].removeprefix("# ")).write_text(block.text, encoding="utf-8")
    else:
        for command, *words in commands(f"```\n{block.text}```"):
            assert command == "offdyn", f"mark it, or run it: {command}"
            with pytest.raises(SystemExit) as ended:
                main(words)
            assert ended.value.code == 0, words


# What Lightning warns of in a trainer of one's own: its loaders are a batch a step, its own old imports.
@pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore::FutureWarning")
@pytest.mark.parametrize("page", RUN)
def test_a_page_runs_from_top_to_bottom(page, quick, capsys):
    names = {}
    for block in blocks(read(page)):
        if block.does_something and not block.why_not:
            run_block(block, names)
    shown = capsys.readouterr().out
    assert shown
    if page == "docs/your-own-data.md":
        for name in ("pusher", "pusher-heavy", "pusher-parquet"):
            assert f"imported/{name}: imported, 300 rows of 23 observations and 7 actions in 3 episodes" in shown
        for name in ("pusher-log", "arm", "pusher-close"):
            assert f"imported/{name}: imported, 297 rows of 23 observations and 7 actions in 3 episodes" in shown


def test_pages_that_run_elsewhere_do():
    for page, test in ELSEWHERE.items():
        assert page in pages() and Path(page).name in read(test)
    assert len(RUN) >= 10


def test_a_comment_belongs_to_the_block_below_it_alone():
    above = "<!-- mark -->\n**This runs.** That too.\n\n```\noffdyn tasks\n```\n\n"
    text = above + "<!-- not run: it takes minutes -->\n```\nmake\n```\n"
    first, second = blocks(text)
    assert (first.text, first.why_not) == ("offdyn tasks\n", "")
    assert (second.text, second.why_not) == ("make\n", "it takes minutes")
    assert sentences(text) == ["**This runs.", "That too."]


@pytest.mark.parametrize("page", pages())
def test_languages_of_blocks_are_known(page):
    known = {*EXECUTED, "python from the package", "toml", "text", "bibtex", "{toctree}", "{eval-rst}"}
    generated = re.compile(r"\{(settings|results|scores|commands|page)\}( [\w./-]+)?")
    assert not [
        one.language
        for one in blocks(read(page))
        if one.language not in known and not generated.fullmatch(one.language)
    ]


COMMANDS = {page: [words for words in commands(read(page))] for page in (*pages(), *OUTSIDE)}


@pytest.mark.parametrize("page", [page for page, found in COMMANDS.items() if found])
def test_commands_exist_with_their_options(page):
    """Also of blocks that are not run."""
    for program, *words in COMMANDS[page]:
        if program == "offdyn":
            command, rest = found_command(words)
            given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
            passed_on = command.context_settings.get("ignore_unknown_options")
            assert passed_on or given <= options(command), (page, words)
        elif program == "python" and words[0] == "-m":
            assert find_spec(words[1]), (page, words)
        elif program == "python":
            assert (ROOT / words[0]).is_file() or page == "leaderboard/README.md", (page, words)
        elif program == "make":
            assert all(f"\n{word}:" in read("Makefile") for word in words if "=" not in word), (page, words)


@cache
def application():
    import typer

    return typer.main.get_command(build_app())


def found_command(words):
    """Return the command that words name, and the other words."""
    found = application()
    while words and words[0] in getattr(found, "commands", {}):
        found, words = found.commands[words[0]], words[1:]
    assert found is not application() or words[0].startswith("-") or words[0] == "COMMAND", words
    return found, words


def options(command):
    return {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}


LINK = re.compile(r"!?\[(?:[^]\[]|\[[^]]*\])*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", [*pages(), *OUTSIDE])
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", read(page), flags=re.DOTALL)
    for link in LINK.findall(text):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), link
        assert not anchor or anchor in anchors(found.read_text(encoding="utf-8")), link


def anchors(text):
    """Return the addresses of a page's headings, as code hosts and the site both make them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PLAIN)
def test_sentences_are_short_and_finished(page):
    assert "@@" not in read(page), "a place for a figure that never came"
    for sentence in sentences(read(page)):
        assert len(sentence.split()) <= 30, sentence


@pytest.mark.parametrize("page", sorted(str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md")))
def test_headings_go_down_step_by_step(page):
    """The site is built with warnings as errors, and takes minutes to say this."""
    text = re.sub(r"^(```+).*?^\1", "", read(page), flags=re.DOTALL | re.MULTILINE)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))


def test_the_steps_to_new_data_stand_in_their_order_on_a_short_page():
    text = read("docs/contribute/behaviours.md")
    found = [" ".join(words) for words in commands(text)]
    behaviour = [f"offdyn dev behaviour {step}" for step in ("train", "teach", "references")]
    steps = [*behaviour, "offdyn dev ship", "offdyn data build", "offdyn data verify", "offdyn dev ship", "make docs"]
    assert [one[: len(step)] for one, step in zip(found, steps, strict=True)] == steps
    assert found[4].endswith(" --record") and len(text.splitlines()) < 25


def test_every_agent_has_a_page_with_all_parts():
    from offdyn_agents.algorithms.registry import AGENTS

    table = read("docs/methods/README.md")
    for name in AGENTS:
        (page,) = re.findall(rf"\[`{name}`\]\(([\w-]+\.md)\)", table)
        text = read(f"docs/methods/{page}")
        assert f"```{{settings}} {name}\n" in text and f"```{{results}} {name}\n" in text
        assert page == "oracle-filter.md" or "## Citation" in text
    assert {path.stem for path in (DOCS / "methods").glob("*.md")} - {"README"} <= set(AGENTS)


def test_every_question_of_the_results_has_a_page_that_begins_plainly():
    index = read("docs/results/index.md")
    asked = re.findall(r"^\| \[(.*?)\]\((.*?)\)", index, re.MULTILINE)
    assert {page for _, page in asked} == {path.name for path in (DOCS / "results").glob("*.md")} - {"index.md"}
    for question, page in asked:
        title, _, first, *_ = read(f"docs/results/{page}").splitlines()
        assert title == f"# {question}" and question.endswith("?")
        assert first.endswith((".", ",")) and not re.search(r"\d|`|\b[A-Z]{3,}", first), first


def test_files_for_contributors_are_well_formed():
    yaml = pytest.importorskip("yaml")
    files = [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]
    found = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files}
    jobs = found["release.yml"]["jobs"]
    assert list(jobs) == ["build", "test", "publish"] and jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["test"]["needs"] == "build" and jobs["publish"]["needs"] == "test"
    (job,) = found["ci.yml"]["jobs"].values()
    assert any(".ci/run" in step.get("run", "") for step in job["steps"])
    assert len(list((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))) >= 3
    assert (ROOT / ".github/PULL_REQUEST_TEMPLATE.md").is_file()
