"""Grids of images as PNG files: before beside after at equal seeds, or plain rows and columns.

Images are (H, W, 3) uint8. Small ones are enlarged by whole pixels, large ones shrunk, to read well on a screen.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from esd_core import digest

CELL = 128  # pixels across, at most
GAP, PAIR_GAP, MARGIN = 2, 14, 16
LABEL_WIDTH, HEADER, SMALLEST = 190, 62, 12
PAPER, INK, FAINT, ACCENT = (255, 255, 255), (28, 32, 38), (112, 120, 130), (190, 40, 40)


@dataclass(frozen=True)
class GridRow:
    """One probe: images at equal seeds with the base and with the edited weights, each (S, H, W, 3)."""

    label: str
    before: np.ndarray
    after: np.ndarray
    erased: bool = False


def fit(image: np.ndarray, cell: int = CELL) -> Image.Image:
    """Enlarge by the largest whole factor that fits the cell, or shrink to the cell."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    longest = max(picture.size)
    factor = cell // longest
    if factor >= 1:
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    scale = cell / longest
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitting(
    draw: ImageDraw.ImageDraw, text: str, size: int, width: int
) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """The text with a font of that size, or as much smaller as it needs, within reason; then on several lines."""
    while size > SMALLEST and draw.textlength(text, font=_font(size)) > width:
        size -= 1
    length = draw.textlength(text, font=_font(size))
    if length > width:
        text = "\n".join(textwrap.wrap(text, max(1, int(0.9 * len(text) * width / length))))
    return text, _font(size)


def _row_label(draw: ImageDraw.ImageDraw, text: str, y: int, colour: tuple[int, int, int]) -> None:
    text, font = _fitting(draw, text, 24, LABEL_WIDTH - 10)
    draw.text((MARGIN, y + CELL // 2), text, fill=colour, font=font, anchor="lm")


def write_before_after(path: Path, rows: Sequence[GridRow]) -> None:
    """Rows of probes; for each seed a pair, base on the left, edited on the right. The erased rows stand out."""
    seeds = min(len(row.before) for row in rows)
    pair = 2 * CELL + GAP
    width = 2 * MARGIN + LABEL_WIDTH + seeds * pair + (seeds - 1) * PAIR_GAP
    height = 2 * MARGIN + HEADER + len(rows) * CELL + (len(rows) - 1) * PAIR_GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    left = [MARGIN + LABEL_WIDTH + i * (pair + PAIR_GAP) for i in range(seeds)]
    for i, x in enumerate(left):
        draw.text((x, MARGIN - 2), f"seed {i + 1}", fill=FAINT, font=_font(19))
        draw.text((x, MARGIN + 24), "before", fill=INK, font=_font(22))
        draw.text((x + CELL + GAP, MARGIN + 24), "after", fill=INK, font=_font(22))
    for r, row in enumerate(rows):
        y = MARGIN + HEADER + r * (CELL + PAIR_GAP)
        _row_label(draw, row.label, y, ACCENT if row.erased else INK)
        for i, x in enumerate(left):
            sheet.paste(fit(row.before[i]), (x, y))
            sheet.paste(fit(row.after[i]), (x + CELL + GAP, y))
        if row.erased:
            edge = (left[0] - 5, y - 5, left[-1] + pair + 4, y + CELL + 4)
            draw.rectangle(edge, outline=ACCENT, width=2)
    _save(sheet, path)


def write_table(path: Path, rows: Sequence[str], columns: Sequence[str], images: np.ndarray) -> None:
    """Images (rows, columns, H, W, 3) with the names of rows and columns."""
    step = CELL + GAP
    size = (2 * MARGIN + LABEL_WIDTH + len(columns) * step, 2 * MARGIN + HEADER + len(rows) * step)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for c, name in enumerate(columns):
        x = MARGIN + LABEL_WIDTH + c * step
        text, font = _fitting(draw, name, 22, CELL)
        draw.text((x + CELL // 2, MARGIN + HEADER // 2), text, fill=INK, font=font, anchor="mm", align="center")
        for r in range(len(rows)):
            sheet.paste(fit(images[r, c]), (x, MARGIN + HEADER + r * step))
    for r, name in enumerate(rows):
        _row_label(draw, name, MARGIN + HEADER + r * step, INK)
    _save(sheet, path)


def _save(sheet: Image.Image, path: Path) -> None:
    with digest.whole_file(path) as partial:
        sheet.save(partial, format="PNG", compress_level=3)  # a third of the time, a tenth larger
