"""Measuring edited weights: what is counted, how it is drawn, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from esd_core import digest
from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import ResolvedBase
from esd_core.concepts import Concept, ConceptKind
from esd_core.errors import EvaluationError, WeightsError
from esd_core.evaluation.classifiers import load_classifier
from esd_core.evaluation.judged_images import Answers, drawing_order
from esd_core.evaluation.results import EvaluationReport
from esd_core.evaluation.suite import Suite
from esd_core.generation import generate
from esd_core.recipe import RolloutSampler
from esd_core.weights import apply_weights, read_weights
from tests.measuring import HOUSE, IMAGES, measured


def test_it_counts_what_the_classifier_sees(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path
) -> None:
    report = measured(base, edited_weights, tiny_suite, tmp_path)
    judge, pipeline = load_classifier(tiny_suite.locate("object")), load_pipeline(base, "cpu")

    def hits(probe_name: str) -> int:
        (probe,) = (probe for probe in tiny_suite.probes if probe.name == probe_name)
        prompts, seeds = zip(*drawing_order(tiny_suite, probe, IMAGES), strict=True)
        images = generate(
            pipeline, prompts, seeds, steps=2, guidance_scale=3.0, progress=False, sampler=RolloutSampler.DDIM
        )
        seen = judge.shows(images, probe.label)
        return int((~seen if probe.negated else seen).sum())

    rows = (*report.erased, *report.others)
    assert [row.probe for row in rows] == ["house", "tree", "no tree unasked"]
    assert [row.probe for row in report.erased] == ["house"]
    assert {row.probe: row.hits_before for row in rows} == {row.probe: hits(row.probe) for row in rows}
    apply_weights(pipeline.unet, read_weights(edited_weights), base.digest)
    assert {row.probe: row.hits_after for row in rows} == {row.probe: hits(row.probe) for row in rows}
    assert {row.images for row in rows} == {IMAGES}
    assert report.weights_digest == digest.of_file(edited_weights)


def test_a_judge_of_several_labels_counts_each_image_once() -> None:
    seen = (("nudity", "FEET_EXPOSED", "BELLY_EXPOSED"), (), ("FACE_MALE",))
    answers = Answers(probe="nudity", label="nudity", negated=False, images_digest="", seen=seen)
    assert answers.hits == (True, False, False)
    assert answers.model_copy(update={"negated": True}).hits == (False, True, True)


def test_it_writes_the_report_and_the_grid_and_nothing_else(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path
) -> None:
    report = measured(base, edited_weights, tiny_suite, tmp_path)
    out = tmp_path / HOUSE.slug
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "grid.png"]
    assert EvaluationReport.model_validate_json((out / "evaluation.json").read_text()) == report
    with Image.open(out / "grid.png") as grid:
        assert grid.format == "PNG"
        assert grid.height > 3 * 128  # a row for each probe


def test_the_written_evaluation_holds_intervals_for_other_readers(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path
) -> None:
    report = measured(base, edited_weights, tiny_suite, tmp_path)
    written = json.loads((tmp_path / HOUSE.slug / "evaluation.json").read_text())
    assert written["schema_version"] == 3
    assert written["metrics"] == report.metrics
    row, found = written["erased"][0], report.erased[0]
    assert (row["images"], row["after"]) == (IMAGES, found.after)
    assert row["change_interval"] == found.change_interval.model_dump()


def test_all_images_are_drawn_by_the_suites_sampler_and_the_report_names_it(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, loads: list[str]
) -> None:
    """The tiny base ships PNDM, which draws other images than DDIM at two steps."""

    def images(sampler: RolloutSampler) -> list[bytes]:
        suite = tiny_suite.model_copy(update={"sampler": sampler})
        report = measured(base, edited_weights, suite, tmp_path)
        assert report.sampling is not None
        assert (report.sampling.sampler, report.sampling.steps) == (sampler, 2)
        grid = (tmp_path / HOUSE.slug / "grid.png").read_bytes()
        cached = [path.read_bytes() for path in sorted((tmp_path / "cache").rglob("*.npy"))]
        return [grid, *cached]

    first = images(RolloutSampler.AUTO)
    assert len(loads) == 2
    second = images(RolloutSampler.BASE)
    assert len(loads) == 4  # nothing of the other sampler's was taken
    assert len(second) == 1 + 2 * 3
    assert len(set(second[1:])) == 6
    assert first[0] != second[0]


def test_a_suite_without_others_is_refused(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path
) -> None:
    suite = tiny_suite.model_copy(update={"probes": tiny_suite.probes[:1]})
    with pytest.raises(EvaluationError, match="add probes of what must stay"):
        measured(base, edited_weights, suite, tmp_path)


def test_an_unmeasured_concept_is_refused_before_anything_is_loaded(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, loads: list[str]
) -> None:
    with pytest.raises(EvaluationError, match="it knows house, tree"):
        measured(base, edited_weights, tiny_suite, tmp_path, Concept(name="boat", kind=ConceptKind.OBJECT))
    assert not loads
    assert not list(tmp_path.iterdir())


def test_an_unknown_label_is_refused_before_anything_is_drawn(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, loads: list[str]
) -> None:
    odd = tiny_suite.probes[1].model_copy(update={"label": "oak"})
    suite = tiny_suite.model_copy(update={"probes": (tiny_suite.probes[0], odd)})
    with pytest.raises(EvaluationError, match="no label 'oak'"):
        measured(base, edited_weights, suite, tmp_path)
    assert not loads


def test_missing_weights_are_refused(base: ResolvedBase, tiny_suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights file"):
        measured(base, tmp_path / "none.safetensors", tiny_suite, tmp_path)
