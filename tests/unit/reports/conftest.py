"""One erasure as a report shows it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from esd_core.concepts import ConceptEntry, ConceptKind, ErasureJob
from esd_core.evaluation.evaluate import FIXED_NUMBER
from esd_core.evaluation.gates import judge
from esd_core.evaluation.pictures import GridRow, write_before_after
from esd_core.evaluation.report import (
    JobSection,
)
from tests.written_reports import report_of


@pytest.fixture
def section(tmp_path: Path) -> JobSection:
    entry = ConceptEntry(name="sun", kind=ConceptKind.GLOBAL, learning_rate=1e-4)
    job = ErasureJob(base="miniature", base_digest="b" * 64, erasures=(entry.erasure,))
    report = report_of("sun", 1)
    grid, history = tmp_path / "grid.png", tmp_path / "history.jsonl"
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    write_before_after(grid, [GridRow("sun", images, images[::-1], erased=True), GridRow("house", images, images)])
    history.write_text("".join(json.dumps({"step": i, "loss": 1 / i}) + "\n" for i in range(1, 101)))
    return JobSection(
        job=job,
        report=report,
        verdict=judge(report, FIXED_NUMBER),
        grid=grid,
        loss_history=history,
        unet_evaluations=12_345,
        seconds=185,
        comparison=report_of("sun", 12),
        links={"MLflow": "http://127.0.0.1:5000/#/models"},
    )
