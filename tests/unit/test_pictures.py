"""Tables of images: every column is named above itself, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
