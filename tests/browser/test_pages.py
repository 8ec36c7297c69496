"""Pages that are one file: nothing is wider than a phone but what scrolls in its own box, rows named all the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from esd_core.studies.figures import share
from esd_core.studies.request import checked_request
from esd_core.studies.study import Bars, HeatMap, Line, Lines, Picture, Series, Sheet, Study, Table
from esd_core.studies.writing import PAGE, write_study

NAMES = tuple(f"concept number {i} of many" for i in range(12))
MEASURED = share(3, 24)
ROW = (MEASURED,) * len(NAMES)


@pytest.fixture
def wide_study(tmp_path: Path) -> Path:
    """Twelve concepts with long names in every table, chart and picture."""
    sheet = Sheet("wide-images", "Images", NAMES, NAMES, ((np.full((64, 64, 3), 128, np.uint8),) * 12,) * 12)
    study = Study(
        request=checked_request({"protocol": "objects"}),
        title="Twelve concepts",
        asks="Does the page fit?",
        tables=(Table(name="wide", title="Wide", columns=("erased", *NAMES), rows=tuple((n, *ROW) for n in NAMES)),),
        charts=(
            HeatMap(name="wide-matrix", title="Matrix", rows=NAMES, columns=NAMES, figures=(ROW,) * 12),
            Bars(name="wide-bars", title="Bars", labels=NAMES, series=(Series(name="after", figures=ROW),)),
        ),
        course=(
            Lines(
                name="wide-losses",
                title="Loss",
                x_axis="step",
                y_axis="mean",
                logarithmic=True,
                lines=tuple(Line(name=name, x=(1.0, 2.0), y=(0.1, 0.02)) for name in NAMES),
            ),
        ),
        pictures=(Picture(name=sheet.name, title=sheet.title),),
        base="a/base@" + 40 * "f",
        base_digest=64 * "0",
        suite_digest=64 * "1",
        code_version="1",
        command="esd study objects " + "--concepts " + ", ".join(NAMES),
    )
    write_study(tmp_path, study, (sheet,))
    return tmp_path / PAGE


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_study_is_no_wider_than_the_screen(
    browser: Browser, wide_study: Path, pictures: Path, scheme: str, width: int
) -> None:
    page = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme).new_page()  # type: ignore[arg-type]
    page.goto(wide_study.as_uri())
    page.screenshot(path=pictures / f"study-{scheme}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = page.locator(".wide")
    assert boxes.count() == 5
    for box in boxes.all():
        assert box.evaluate("box => box.getBoundingClientRect().right <= innerWidth")
    table = boxes.first
    before = table.locator("tbody th").first.bounding_box()
    assert table.evaluate("box => { box.scrollLeft = box.scrollWidth; return box.scrollLeft > 0 }")
    assert table.locator("tbody th").first.bounding_box() == before
    last = table.locator("tbody tr").first.locator("td").last.bounding_box()
    assert last is not None
    assert last["x"] + last["width"] <= width
    page.context.close()
