"""Figures of an evaluation where people meet them outside of its report: version page, model card, the night."""

from __future__ import annotations

from typing import Any

import pytest

from esd_core.evaluation.results import EvaluationReport
from tasks.nights.night import Findings, Settled
from tasks.records.model_card import figures_table
from tests.unit.test_gates import probe, report


@pytest.fixture
def found() -> EvaluationReport:
    erased = probe("sun", 20, 1, 20).model_copy(update={"coherent": probe("", 20, 8, 20)})
    plain = report(erased, images=20, probes=2)
    others = tuple(p.model_copy(update={"coherent": probe("", 20, 19, 20)}) for p in plain.others)
    return plain.model_copy(update={"others": others})


def test_the_table_says_which_images_are_pictures_where_it_was_measured(found: EvaluationReport) -> None:
    lines = figures_table(found).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].endswith("| pictures at all |")
    assert lines[2].endswith("| 100% -> 40% (22% to 61%) |")
    assert lines[-1].endswith("| 100% -> 95% (83% to 99%) |")
    unmeasured = figures_table(report(probe("sun", 20, 1, 20))).splitlines()
    assert len({line.count("|") for line in unmeasured}) == 1
    assert "pictures" not in unmeasured[0]


def test_the_night_says_how_many_images_are_pictures(found: EvaluationReport) -> None:

    def erased(measured: EvaluationReport) -> str:
        findings: dict[str, Any] = {"report": measured}
        row: dict[str, Any] = {"findings": Findings.model_construct(**findings)}
        return Settled.model_construct(**row).erased

    assert erased(found) == "100% -> 5% (1% to 24%), 40% pictures"
    assert erased(report(probe("sun", 20, 1, 20))) == "100% -> 5% (1% to 24%)"


def test_the_registry_gets_flat_figures_with_bounds(found: EvaluationReport) -> None:
    told = {name: figure for name, figure in found.metrics.items() if "coherent" in name}
    assert told["erased_coherent_before"] == 1
    assert told["erased_coherent_after"] == 0.4
    assert told["erased_coherent_after_lower"] < 0.4 < told["erased_coherent_after_upper"]
    assert told["others_coherent_after"] == 0.95
