"""The human study in a browser: two people answer by keyboard, the second on a phone's screen; results appear."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, Route, expect

from flows.cli import main
from infra.human_study.server import build_app, listen
from infra.human_study.study import ANSWERS, ORIGINAL, REAL, SIMILAR, Study, read_study
from tests.painted_study import write_study

pytestmark = [pytest.mark.browser, pytest.mark.slow]
RATINGS = {REAL: 5, SIMILAR: 3, ORIGINAL: 4, "ESD-x": 1}  # what Ada always answers; Grace one less
FEW = 10  # trials of each participant


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    definition = write_study(tmp_path / "painted", trials_per_participant=FEW)
    assert main(["human-study", "make", str(definition), "--out", str(tmp_path / "study")]) == 0
    return tmp_path / "study"


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    yield from served(folder)


def served(folder: Path) -> Iterator[str]:
    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(build_app(folder), log_level="warning", lifespan="off"))
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def method_of(page: Page, study: Study) -> str:
    """What made the image on the screen. The page must not know, so it is looked up by the images."""
    shown = page.locator("#image").get_attribute("src")
    works = [work.get_attribute("src") for work in page.locator("#works img").all()]
    for trial in study.trials:
        if shown == f"images/{trial.image}" and works == [f"images/{name}" for name in trial.references]:
            return trial.method
    raise AssertionError(f"the page shows {shown}, which is in no trial")


def begin(page: Page, address: str, name: str) -> None:
    page.goto(address)
    page.keyboard.type(name)  # the field has the focus
    page.keyboard.press("Enter")
    seen(page, 1)


def held_back(page: Page, pattern: str) -> list[Route]:
    """Requests of the page that go no further unless they are told to, as they come in."""
    held: list[Route] = []

    def keep(route: Route) -> None:
        held.append(route)

    page.route(pattern, keep)
    return held


def test_a_name_typed_before_the_page_is_ready_goes_nowhere(browser: Browser, address: str) -> None:
    page = browser.new_context().new_page()
    held = held_back(page, "**/page.js")
    page.goto(address, wait_until="commit")
    expect(page.get_by_label("A name or a code of yours")).to_be_disabled()
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Begin").click(force=True)
    assert page.url == f"{address}/"
    held[0].continue_()
    expect(page.get_by_label("A name or a code of yours")).to_be_focused()
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    seen(page, 1)
    assert page.url == f"{address}/"


def test_a_server_that_does_not_answer_is_told_and_can_be_asked_again(browser: Browser, address: str) -> None:
    page = browser.new_context().new_page()
    held = held_back(page, "**/participants")
    page.goto(address)
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    expect(page.get_by_text("One moment")).to_be_visible()
    expect(page.get_by_role("button", name="Begin")).to_be_disabled()
    held[0].abort()
    expect(page.get_by_text("It cannot begin")).to_be_visible()
    page.unroute("**/participants")
    page.keyboard.press("Enter")
    seen(page, 1)


def seen(page: Page, number: int) -> None:
    """Wait until trial `number` of this participant is on the screen with all its images."""
    expect(page.locator("#count")).to_have_text(f"{number} of {FEW}")
    expect(page.locator("#trial")).not_to_have_class("loading")


def test_people_answer_by_keyboard_and_results_appear(
    browser: Browser, folder: Path, address: str, pictures: Path
) -> None:
    study = read_study(folder)
    asked: list[str] = []
    for name, options in (
        ("Ada", {"viewport": {"width": 1280, "height": 800}}),
        ("Grace", {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}),
    ):
        page = browser.new_context(**options, color_scheme="light").new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: pytest.fail(f"the page fails: {error}"))
        begin(page, address, name)
        for number in range(1, FEW + 1):
            seen(page, number)
            if number == 4:
                page.screenshot(path=pictures / f"human-study-{name.lower()}.png")
            page.keyboard.press(str(max(1, RATINGS[method_of(page, study)] - (name == "Grace"))))
        expect(page.get_by_text("Thank you")).to_be_visible()
        page.screenshot(path=pictures / f"human-study-{name.lower()}-end.png")
    assert all(url.startswith(address) for url in asked)

    assert main(["human-study", "results", str(folder)]) == 0
    stored = json.loads((folder / "results.json").read_text())
    assert (stored["participants"], stored["finished"], stored["answers"]) == (2, 2, 2 * FEW)
    assert {row["method"]: row["mean"] for row in stored["rows"]} == {
        REAL: 4.5,
        SIMILAR: 2.5,
        ORIGINAL: 3.5,
        "ESD-x": 1,
    }
    for width, scheme in ((1000, "light"), (390, "dark")):
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()  # type: ignore[arg-type]
        page.goto((folder / "results.html").as_uri())
        expect(page.get_by_role("rowheader", name="ESD-x").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(path=pictures / f"human-study-results-{scheme}.png", full_page=True)


def test_going_back_changes_an_answer_and_a_reload_continues(browser: Browser, folder: Path, address: str) -> None:
    page = browser.new_context().new_page()
    begin(page, address, "Ada")
    page.keyboard.press("ArrowRight")  # nothing to skip to
    page.keyboard.press("4")
    seen(page, 2)
    page.keyboard.press("9")  # no such answer
    page.keyboard.press("ArrowLeft")
    seen(page, 1)
    expect(page.get_by_role("button", name="4 probably", exact=True)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("2")
    seen(page, 2)
    page.get_by_role("button", name="5 certainly", exact=True).click()
    seen(page, 3)
    page.reload()
    seen(page, 3)
    lines = [json.loads(line) for line in (folder / ANSWERS).read_text().splitlines()]
    assert [line["rating"] for line in lines] == [4, 2, 5]
    assert lines[0]["trial"] == lines[1]["trial"]
    assert all(0 < line["seconds"] < 60 for line in lines)


def test_an_answer_that_is_not_stored_is_not_lost_silently(browser: Browser, folder: Path) -> None:
    running = served(folder)
    page = browser.new_context().new_page()
    begin(page, next(running), "Ada")
    next(running, None)  # the server ends
    page.keyboard.press("3")
    expect(page.get_by_text("This answer was not stored")).to_be_visible()
    seen(page, 1)
    assert not (folder / ANSWERS).exists()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 600), (360, 640), (844, 390)])
def test_images_and_answers_fit_one_screen(
    browser: Browser, address: str, pictures: Path, scheme: str, width: int, height: int
) -> None:
    page = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()  # type: ignore[arg-type]
    page.goto(address)
    page.screenshot(path=pictures / f"human-study-welcome-{scheme}-{width}.png")
    begin(page, address, "Ada")
    page.screenshot(path=pictures / f"human-study-{scheme}-{width}.png")
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    smallest = min(box["height"] for image in page.locator("#pair img").all() if (box := image.bounding_box()))
    assert smallest > 40
