"""A study's folder: study.json, a PNG for each chart and picture, and study.html with everything inside."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from esd_core import digest
from esd_core.errors import InvalidInput
from esd_core.evaluation.pictures import write_table
from esd_core.page_template import template
from esd_core.studies import charts
from esd_core.studies.figures import Figure
from esd_core.studies.markdown import INTERVALS
from esd_core.studies.study import STUDY_FILE, Sheet, Study

PAGE = "study.html"
WIDTH_ON_PAGE = 1400  # pixels of a picture inside the page


def check_folder(out: Path) -> None:
    """Raises InvalidInput before any work when nothing can be written there."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise InvalidInput(f"{there} is a file: give a folder for the study")
    if not os.access(there, os.W_OK):
        raise InvalidInput(f"nothing can be written into {there}: give another folder for the study")


def write_study(out: Path, study: Study, sheets: Sequence[Sheet]) -> None:
    """Everything but the page first, the page last."""
    for chart in (*study.charts, *study.course):
        charts.write_png(out / f"{chart.name}.png", chart)
    for sheet in sheets:
        write_table(out / f"{sheet.name}.png", sheet.rows, sheet.columns, _one_array(sheet))
    digest.write_text(out / STUDY_FILE, study.model_dump_json(indent=1))
    digest.write_text(out / PAGE, page(study, out))


def page(study: Study, folder: Path) -> str:
    """One HTML file that fetches nothing: charts as SVG, the pictures of `folder` inside."""
    return template("esd_core.studies", "study.html.j2").render(
        study=study,
        charts=[(chart.title, Markup(charts.svg(chart))) for chart in study.charts],
        course=[(chart.title, Markup(charts.svg(chart))) for chart in study.course],
        pictures=[(picture, _data_uri(folder / f"{picture.name}.png")) for picture in study.pictures],
        notes=(*study.notes, INTERVALS),
        is_figure=lambda cell: isinstance(cell, Figure),
    )


def _one_array(sheet: Sheet) -> np.ndarray:
    """(rows, columns, H, W, 3); images of another size, of another base, are brought to the first one's."""
    height, width, _ = sheet.images[0][0].shape

    def fitted(image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == (height, width):
            return image
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))

    return np.stack([np.stack([fitted(image) for image in row]) for row in sheet.images])


def _data_uri(png: Path) -> str:
    """The picture at WIDTH_ON_PAGE at most, as an address that needs no file beside the page."""
    with Image.open(png) as image:
        image.thumbnail((WIDTH_ON_PAGE, 100 * WIDTH_ON_PAGE))
        buffer = BytesIO()
        image.convert("RGB").save(buffer, "WEBP", quality=82)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
