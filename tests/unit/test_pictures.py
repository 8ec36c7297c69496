"""Tables of images: every column is named above itself, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esd_core.evaluation.pictures import CELL, GAP, HEADER, LABEL_WIDTH, MARGIN, PAPER, write_table


def test_the_names_of_columns_do_not_run_into_each_other(tmp_path: Path) -> None:
    names = ["near: mushroom", "near: mushroom", "tree"]
    write_table(tmp_path / "table.png", ["base"], names, np.full((1, 3, 64, 64, 3), 128, np.uint8))
    sheet = np.asarray(Image.open(tmp_path / "table.png"))
    left = MARGIN + LABEL_WIDTH
    between = sheet[: MARGIN + HEADER, [left + c * (CELL + GAP) - 1 for c in range(1, 4)]]
    assert (between == PAPER).all()
    above = sheet[: MARGIN + HEADER, left : left + CELL]
    assert (above != PAPER).any()


@pytest.mark.parametrize("name", ["concept number 10 of very many", "Donaudampfschifffahrtsgesellschaftskapitän"])
def test_a_long_name_stays_in_its_place(tmp_path: Path, name: str) -> None:
    write_table(tmp_path / "table.png", [name], [name, ""], np.full((1, 2, CELL, CELL, 3), 128, np.uint8))
    drawn = (np.asarray(Image.open(tmp_path / "table.png")) != PAPER).any(-1)
    top, left = MARGIN + HEADER, MARGIN + LABEL_WIDTH
    assert drawn[:top, left : left + CELL].any()
    assert not drawn[:top, :left].any()
    assert not drawn[:top, left + CELL :].any()
    assert drawn[top:, :left].any()
    assert not drawn[top:, left - 4 : left].any()
