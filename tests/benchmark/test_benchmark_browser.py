"""The pages in a browser: three widths, two colour schemes, what a screen reader is told, and the keyboard alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import benchmark_boards as boards
import pytest
from benchmark_browser import Browser, opened
from benchmark_tools import require
from test_benchmark_page import EVIL, FIVE, at_level, reproduced

from offdyn_envs.benchmark.page import page
from offdyn_envs.tasks import get_track

ROOT = Path(__file__).parents[2]
AXE = ROOT / "node_modules/axe-core/axe.min.js"
WIDER = "hopper-gravity-2.0-medium"
"""A task that core-6 lacks: with an entry of it there is a second track."""
BOARD = ROOT / "leaderboard"
COMMITTED = ("index.html", *sorted(path.relative_to(BOARD).as_posix() for path in BOARD.glob("pages/*.html")))
MADE = ("index.html", "pages/entry-forged.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with opened(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Entries on two tracks, one of them refuted and full of markup."""
    folder = tmp_path_factory.mktemp("board")
    most = get_track("core-6")[:4]  # As few are missing as are named in the table.
    entry, files = boards.entry_json("honest", most, FIVE, returns=at_level(0.7), family="model-based")
    boards.write_entry(folder, entry, files)
    tasks = (boards.HOPPER, WIDER)
    entry, files = boards.entry_json("forged", tasks, FIVE, returns=at_level(0.9), method=EVIL, authors=[EVIL])
    entry["disclosure"]["tasks"][WIDER] = boards.training(device=EVIL, command=EVIL, hyperparameters={EVIL: EVIL})
    boards.write_entry(folder, entry, files)
    reproduced(folder, "forged", factor=0.4)
    page.write_page(folder)
    return folder


AUDIT = """axe.run().then((found) => [
  ...found.violations.map((one) => one.id + " " + one.nodes[0].html.slice(0, 200)),
  ...found.passes.some((one) => one.id === "color-contrast") ? [] : ["no contrast was measured"],
  ...document.documentElement.scrollWidth > innerWidth ? ["wider than its window"] : [],
])"""
CUT = """[...document.querySelectorAll("nav a, .board th, .board td")].filter((one) => one.getClientRects().length
  && one.getBoundingClientRect().right > one.closest("nav, .sheet").getBoundingClientRect().right + 0.5
).map((one) => one.outerHTML.slice(0, 200))"""
"""Links of the navigation and cells of the standings that end beyond the box they are in, where one has to scroll."""


@pytest.mark.parametrize("name", [*COMMITTED, *(f"two tracks: {name}" for name in MADE)])
def test_no_page_is_cut_or_hard_to_reach_at_three_widths_in_two_schemes(
    name: str, browser: Browser, board: Path
) -> None:
    if not AXE.exists():
        require("OFFDYN_REQUIRE_AXE", "no axe-core: npm install --no-save --prefix . axe-core@4.14.1")
    kind, _, made = name.partition(": ")
    browser.load(board / made if made else BOARD / kind)
    browser.ask("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    browser.ask("document.querySelectorAll('.track').forEach((one) => { one.hidden = false; })")
    browser.ask(AXE.read_text(encoding="utf-8") + "; null")
    backgrounds = {"light": "rgb(251, 250, 247)", "dark": "rgb(18, 23, 26)"}
    for width in (1300, 800, 400):
        for scheme, background in backgrounds.items():
            browser.show(width, scheme)
            assert browser.ask(CUT) == [], (width, scheme)
            assert browser.ask(AUDIT) == [], (width, scheme)
            assert browser.ask("getComputedStyle(document.body).backgroundColor") == background
    assert browser.complaints == []


def test_pictures_films_and_figures_of_papers_are_among_what_is_audited(browser: Browser) -> None:
    """Loaded, not only linked: the pages' own policy lets them in."""
    names = ("entry-offdyn-droco", f"task-{boards.HOPPER}", "task-ant-gravity-5.0-medium")
    assert {f"pages/{name}.html" for name in names} < {*COMMITTED}
    entry, task, empty = (BOARD / f"pages/{name}.html" for name in names)
    browser.load(entry)
    acts = "the policy of seed 0 acts in the source (first panel) and in the target (second panel)."
    said = browser.ask("document.querySelector('video').closest('figure').innerText.trim()")
    assert said == f"{boards.HOPPER}: {acts}"
    assert browser.ask(
        "new Promise((done) => { const film = document.querySelector('video'); film.load(); "
        "film.onloadedmetadata = () => done(film.videoWidth > 0); film.onerror = () => done(false); })"
    )
    browser.load(task)
    assert browser.ask("document.querySelector('img').naturalWidth > 0")
    browser.load(empty)
    assert browser.ask("document.querySelector('#published table') !== null")
    assert browser.ask("document.querySelector('#entries .empty') !== null")


FOCUS = "document.activeElement"


@pytest.mark.parametrize("width", [1300, 400])
@pytest.mark.parametrize("name", ["index.html", "pages/entry-forged.html"])
def test_every_stop_of_the_tab_key_has_a_box_within_the_windows_width(
    name: str, width: int, browser: Browser, board: Path
) -> None:
    browser.show(width, "light")
    browser.load(board / name)
    stops: list[str] = []
    while len(stops) < 200:
        browser.press("Tab")
        stop, seen = browser.ask(
            f"(() => {{ const at = {FOCUS}, box = at.getBoundingClientRect(); "
            "return [at === document.body ? '' : at.outerHTML.slice(0, 120), "
            "box.width > 0 && box.right > 0 && box.left < innerWidth]; })()"
        )
        if not stop:
            break
        assert seen, stop
        stops.append(stop)
    assert 10 < len(stops) < 200


@pytest.mark.parametrize("width", [1300, 400])
def test_the_keyboard_chooses_tracks(width: int, browser: Browser, board: Path) -> None:
    browser.show(width, "light")
    browser.load(board / "index.html")
    browser.press("Tab")
    assert browser.ask(f"{FOCUS}.className") == "skip"
    browser.press("Enter")
    browser.press("Tab")
    shown = "[...document.querySelectorAll('.track')].filter((one) => !one.hidden).map((one) => one.id)"
    chosen = f"[{FOCUS}.textContent, ...{shown}]"
    assert browser.ask(chosen) == ["core-6", "track-core-6"]
    for key, expected in (("ArrowRight", "mobody-32"), ("ArrowRight", "core-6"), ("ArrowLeft", "mobody-32")):
        browser.press(key)
        assert browser.ask(chosen) == [expected, f"track-{expected}"]
        assert browser.ask(f"{FOCUS}.getAttribute('aria-selected')") == "true"
    panels = "[...document.querySelectorAll('[role=tabpanel]')]"
    names = f"{panels}.map((one) => document.getElementById(one.getAttribute('aria-labelledby'))?.textContent)"
    assert browser.ask(names) == ["core-6", "mobody-32"]
    # The other tab is passed over: Tab goes on into the panel.
    browser.press("Tab")
    assert browser.ask(f"{FOCUS}.closest('.track').id") == "track-mobody-32"


def test_the_keyboard_sorts_and_brings_entries_forward(browser: Browser, board: Path) -> None:
    browser.show(1300, "light")
    browser.load(board / "index.html")
    names = "[...document.querySelectorAll('.board')[0].querySelectorAll('tbody th')].map((cell) => cell.dataset.sort)"
    browser.ask("document.querySelectorAll('.board thead button')[1].focus()")
    browser.press("Enter")
    rising = browser.ask(names)
    assert len(rising) == 4 and rising == sorted(rising, key=str.casefold)
    browser.press("Enter")
    assert browser.ask(names) == rising[::-1]
    assert browser.ask(f"{FOCUS}.closest('th').getAttribute('aria-sort')") == "descending"
    browser.ask("document.querySelector('.legend button').focus()")
    pressed = f"[{FOCUS}.getAttribute('aria-pressed'), document.querySelectorAll('.series.on').length > 0]"
    for key, expected in (("Enter", ["true", True]), ("Escape", ["false", False])):
        browser.press(key)
        assert browser.ask(pressed) == expected
    browser.ask("document.getElementById('theme').focus()")
    colour = "getComputedStyle(document.body).backgroundColor"
    before = browser.ask(colour)
    browser.press("Enter")
    assert browser.ask(colour) != before
    browser.press("Enter")
    assert browser.ask(colour) == before


@pytest.mark.parametrize("width", [1300, 400])
def test_the_filters_say_what_is_left(width: int, browser: Browser, board: Path) -> None:
    browser.show(width, "light")
    browser.load(board / "index.html")
    left = "[...document.querySelectorAll('#track-core-6 [data-family]')].filter((line) => line.offsetHeight).length"
    every = browser.ask(left)
    browser.ask(
        "(() => { const select = document.querySelector('#track-core-6 .filters select'); "
        "select.value = 'model-based'; select.dispatchEvent(new Event('change')); })()"
    )
    assert 0 < browser.ask(left) * 2 == every
    assert browser.ask("document.querySelector('#track-core-6 [role=status]').textContent") == "1 of 2 entries"
