"""Measuring edited weights: counts before and after, cached base images, nothing done twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from esd_core import digest
from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import ResolvedBase
from esd_core.concepts import Concept, ConceptKind
from esd_core.errors import EvaluationError, WeightsError
from esd_core.evaluation import evaluate as module
from esd_core.evaluation.classifiers import load_classifier
from esd_core.evaluation.evaluate import BATCH, FIXED_NUMBER, GRID_SEEDS, evaluate
from esd_core.evaluation.gates import Gates
from esd_core.evaluation.judged_images import Answers, drawing_order
from esd_core.evaluation.results import EvaluationReport
from esd_core.evaluation.suite import Suite
from esd_core.generation import generate
from esd_core.recipe import RolloutSampler
from esd_core.weights import apply_weights, read_weights

HOUSE = Concept(name="House", kind=ConceptKind.OBJECT)
IMAGES = 5


LAX = Gates(erased_at_most=1, others_drop_at_most=1)  # decided by any images
ENDLESS = Gates(erased_at_most=0.1, others_drop_at_most=0.05, indifference=0.05)  # decided by very many


def measured(
    base: ResolvedBase,
    weights: Path,
    suite: Suite,
    folder: Path,
    concept: Concept = HOUSE,
    images: int = IMAGES,
    gates: Gates = FIXED_NUMBER,
) -> EvaluationReport:
    out = folder / concept.slug
    return evaluate(
        base,
        weights,
        [concept],
        suite,
        images_per_probe=images,
        gates=gates,
        cache=folder / "cache",
        out=out,
        device="cpu",
        progress=False,
    )


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every load of a pipeline, noted."""
    noted: list[str] = []

    def noting(base: ResolvedBase, device: str = "auto") -> Any:
        noted.append(base.id)
        return load_pipeline(base, device)

    monkeypatch.setattr(module, "load_pipeline", noting)
    monkeypatch.setattr("esd_core.generation.load_pipeline", noting)
    return noted


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str, int]]:
    """Every image that is drawn: which pipeline, prompt and seed."""
    noted: list[tuple[int, str, int]] = []
    pipelines: list[Any] = []  # kept, so that no two have one id

    def noting(pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> np.ndarray:
        pipelines.append(pipeline)
        noted.extend((id(pipeline), prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True))
        return generate(pipeline, prompts, seeds, **options)

    monkeypatch.setattr("esd_core.evaluation.artist.generate", noting)
    return noted


def images_of(report: EvaluationReport) -> dict[str, int]:
    return {row.probe: row.images for row in (*report.erased, *report.others)}


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


def test_a_finished_evaluation_is_returned_without_work(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, loads: list[str]
) -> None:
    first = measured(base, edited_weights, tiny_suite, tmp_path)
    assert len(loads) == 2  # the base, and a copy with the edited weights
    assert measured(base, edited_weights, tiny_suite, tmp_path) == first
    assert len(loads) == 2


def test_base_images_are_made_once_for_all_concepts(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, loads: list[str]
) -> None:
    house = measured(base, edited_weights, tiny_suite, tmp_path)
    tree = measured(base, edited_weights, tiny_suite, tmp_path, Concept(name="tree", kind=ConceptKind.OBJECT))
    assert len(loads) == 3
    assert [row.probe for row in tree.others] == ["house", "no tree unasked"]
    assert tree.others[0] == house.erased[0]


def test_damaged_base_images_are_made_again(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, loads: list[str]
) -> None:
    first = measured(base, edited_weights, tiny_suite, tmp_path)
    damaged = min((tmp_path / "cache").rglob("*.npy"))
    whole = np.load(damaged)
    np.save(damaged, np.zeros_like(whole))
    (tmp_path / HOUSE.slug / "evaluation.json").unlink()
    assert measured(base, edited_weights, tiny_suite, tmp_path) == first
    assert (np.load(damaged) == whole).all()
    assert len(loads) == 4


def test_altered_answers_are_noticed_and_the_images_judged_again(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, loads: list[str]
) -> None:
    first = measured(base, edited_weights, tiny_suite, tmp_path)
    answers = min((tmp_path / "cache").rglob("*.json"))
    told = json.loads(answers.read_text())
    answers.write_text(json.dumps({**told, "seen": [["house", "tree"] for _ in told["seen"]]}))
    (tmp_path / HOUSE.slug / "evaluation.json").unlink()
    assert measured(base, edited_weights, tiny_suite, tmp_path) == first
    assert json.loads(answers.read_text()) == told
    assert len(loads) == 4


def test_an_interrupted_evaluation_continues(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measured(base, edited_weights, tiny_suite, tmp_path)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / HOUSE.slug
    (out / "evaluation.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_before_after", interrupt)
        with pytest.raises(KeyboardInterrupt):
            measured(base, edited_weights, tiny_suite, tmp_path)
    assert not (out / "evaluation.json").exists()
    monkeypatch.setattr("esd_core.evaluation.artist.generate", interrupt)
    assert measured(base, edited_weights, tiny_suite, tmp_path) == whole


def test_decided_gates_ask_for_no_more_images(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path
) -> None:
    report = measured(base, edited_weights, tiny_suite, tmp_path, images=200, gates=LAX)
    assert images_of(report) == {"house": BATCH, "tree": GRID_SEEDS, "no tree unasked": GRID_SEEDS}


def test_undecided_gates_are_given_all_images_there_may_be_and_none_twice(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, drawn: list[tuple[int, str, int]]
) -> None:
    gates = ENDLESS.model_copy(update={"erased_at_most": 1})
    report = measured(base, edited_weights, tiny_suite, tmp_path, images=18, gates=gates)
    assert images_of(report) == {"house": BATCH, "tree": 18, "no tree unasked": 18}
    assert len(drawn) == len(set(drawn)) == 2 * (BATCH + 2 * 18)


def test_images_that_came_in_batches_are_those_that_come_at_once(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path
) -> None:
    batches = measured(base, edited_weights, tiny_suite, tmp_path / "batches", images=18, gates=ENDLESS)
    at_once = measured(base, edited_weights, tiny_suite, tmp_path / "at once", images=18)
    assert {**images_of(batches), "house": 18} == images_of(at_once)  # the erased gate may fail at once
    assert batches.others == at_once.others


def test_more_images_of_the_base_are_added_to_the_cache(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, drawn: list[tuple[int, str, int]]
) -> None:
    measured(base, edited_weights, tiny_suite, tmp_path, images=4)
    del drawn[:]
    measured(base, edited_weights, tiny_suite, tmp_path, images=7)
    assert len(drawn) == 3 * (3 + 7)  # of the base the three that are new, of the edited weights all


def test_stricter_gates_go_on_with_a_finished_evaluation_and_laxer_ones_do_not(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, loads: list[str]
) -> None:
    first = measured(base, edited_weights, tiny_suite, tmp_path, images=18, gates=LAX)
    assert measured(base, edited_weights, tiny_suite, tmp_path, images=18, gates=LAX) == first
    assert len(loads) == 2
    more = measured(base, edited_weights, tiny_suite, tmp_path, images=18, gates=ENDLESS)
    assert images_of(more)["tree"] == 18
    assert measured(base, edited_weights, tiny_suite, tmp_path, images=18, gates=LAX) == more


def test_part_of_the_images_shows_every_prompt_about_equally_often(tiny_suite: Suite) -> None:
    probe = tiny_suite.probes[0].model_copy(update={"prompts": tuple("abcdef")})
    order = drawing_order(tiny_suite, probe, 15)
    assert order[:9] == drawing_order(tiny_suite, probe, 9)
    assert sorted(prompt for prompt, _ in order[:6]) == list("abcdef")
    assert sorted(order[:12]) == sorted(tiny_suite.cases(probe, 12))
    assert [prompt for prompt, _ in order[:12]] != list("abcdef") * 2


def test_an_evaluation_of_an_older_release_is_made_again(
    base: ResolvedBase, edited_weights: Path, tiny_suite: Suite, tmp_path: Path, loads: list[str]
) -> None:
    report = measured(base, edited_weights, tiny_suite, tmp_path)
    path = tmp_path / HOUSE.slug / "evaluation.json"
    old = json.loads(path.read_text())
    for row in (*old["erased"], *old["others"]):
        for count in ("both", "only_before", "only_after", "neither"):
            del row[count]
    del old["schema_version"]
    path.write_text(json.dumps(old))
    assert measured(base, edited_weights, tiny_suite, tmp_path) == report
    assert len(loads) == 3


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
