"""Parity with tensors recorded from the ESD authors' own training loop, in float64, through the public pieces.

Every case file in the oracle's folder is replayed, with the settings that its header names.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.recorded_runs import replay

ORACLE = Path(os.environ.get("ESD_ORACLE", Path(__file__).parents[3] / "shared" / "oracle"))
CASES = sorted(ORACLE.glob("*.safetensors"))

pytestmark = pytest.mark.skipif(
    not (ORACLE / "model").is_dir(), reason=f"the recorded tensors are not at {ORACLE}; set ESD_ORACLE to their folder"
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_replays_the_recorded_run(case: Path) -> None:
    replay(case, ORACLE / "model")
