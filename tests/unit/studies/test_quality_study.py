"""Quality, in a study and in an evaluation, on a tiny random base: what is compared with what, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import ResolvedBase
from esd_core.concepts import Concept, ConceptKind
from esd_core.errors import InvalidInput
from esd_core.evaluation import artist
from esd_core.evaluation.clip_space import load_clip
from esd_core.evaluation.evaluate import GRID_SEEDS, evaluate
from esd_core.evaluation.intervals import mean_interval
from esd_core.evaluation.judged_images import drawing_order
from esd_core.evaluation.metrics.clip_score import clip_score
from esd_core.evaluation.metrics.features import load_features
from esd_core.evaluation.metrics.perceptual import perceptual_distance
from esd_core.evaluation.results import EvaluationReport
from esd_core.evaluation.suite import Suite, load_suite
from esd_core.generation import generate
from esd_core.machine import Machine
from esd_core.recipe import named_recipe
from esd_core.studies import protocols
from esd_core.studies.figures import Figure
from esd_core.studies.request import checked_request
from esd_core.studies.study import Study, Table
from esd_core.studies.workbench import Folders
from esd_core.weights import apply_weights, read_weights

IMAGES, OTHERS = 3, 4
WAYS = ["base", "negative prompt", "SLD medium", "SLD max", "ESD-x", "ESD-u"]


@pytest.fixture(autouse=True)
def quick_erasures(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {"iterations": 4, "learning_rate": 1e-3, "negative_guidance": 1.0}
    rollouts = {"rollout_steps": 4, "points_per_rollout": 4, "contexts": 0}
    monkeypatch.setattr(
        "esd_core.concepts.named_recipe", lambda name, kind: {**named_recipe(name, kind), **quick, **rollouts}
    )


@pytest.fixture(scope="module")
def suite_file(tiny_suite: Suite, tiny_clip: Path) -> Path:
    raw = yaml.safe_load((tiny_suite.folder / "suite.yaml").read_text())
    path = tiny_suite.folder / "quality.yaml"
    whole = {**raw, "kinds": {"object": ["house"]}, "quality": {"features": "object", "clip": str(tiny_clip)}}
    path.write_text(yaml.safe_dump(whole))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def study(base: ResolvedBase, suite_file: Path, home: Path, tmp_path: Path) -> Callable[..., Study]:
    def run(**settings: Any) -> Study:
        raw = {"protocol": "quality", "base": base.id, "suite": str(suite_file), "images": IMAGES, "others": OTHERS}
        folders = Folders(home / "jobs", home / "banks", home / "cache")
        request = checked_request({**raw, **settings})
        return protocols.run(request, tmp_path / "out", folders, Machine("cpu"), progress=False)

    return run


def column(table: Table, name: str) -> dict[str, Figure]:
    """The figures of a column by model."""
    place = table.columns.index(name)
    return {str(row[0]): cell for row in table.rows if isinstance(cell := row[place], Figure)}


def test_everything_else_is_compared_with_another_draw_of_the_base(study: Callable[..., Study]) -> None:
    table = study().tables[0]
    assert [row[0] for row in table.rows] == WAYS
    moved, own = column(table, "others moved by"), column(table, "house moved by")
    assert (moved["base"].value, moved["base"].between) == (0, "0 to 0")
    assert moved["ESD-u"].value > 0
    assert {figure.images for figure in moved.values()} == {2 * OTHERS}
    assert {figure.images for figure in own.values()} == {IMAGES}
    assert all(figure.lower is not None and figure.lower <= figure.value for figure in moved.values())
    distances = column(table, "FID")
    assert set(distances) == set(WAYS)
    assert distances["base"].value > 0  # other seeds, so what chance alone makes
    scores = column(table, "CLIP score")
    assert all(0 <= figure.value <= 100 and figure.images == 2 * OTHERS for figure in scores.values())


def test_what_was_measured_is_found_unless_it_is_damaged(
    study: Callable[..., Study], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = study()
    drawn: list[str] = []

    def noting(pipeline: object, prompts: tuple[str, ...], *given: object, **options: object) -> np.ndarray:
        drawn.extend(prompts)
        return generate(pipeline, prompts, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(artist, "generate", noting)
    assert study() == first
    assert not drawn
    damaged = min((home / "cache" / "looks").iterdir())
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-50] + bytes(50))
    assert study() == first
    assert len(drawn) in (IMAGES, 2 * OTHERS)
    assert damaged.read_bytes() == whole


def test_prompts_and_real_images_may_be_given(study: Callable[..., Study], tmp_path: Path) -> None:
    prompts, real = tmp_path / "coco.csv", tmp_path / "real"
    rows = [f"{n},a tree by Monet,{n}" for n in range(5)]
    prompts.write_text("\n".join(["case_number,prompt,evaluation_seed", *rows]))
    real.mkdir()
    for n in range(4):
        pixels = np.random.default_rng(n).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(real / f"{n}.png")
    table = study(prompts=str(prompts), real=real).tables[0]
    assert {figure.images for figure in column(table, "others moved by").values()} == {5}
    assert column(table, "FID")["base"].value > 0
    (real / "4.png").write_text("no image")
    with pytest.raises(InvalidInput, match=r"cannot read the image .*4\.png"):
        study(real=real)
    with pytest.raises(InvalidInput, match="holds 0 images"):
        study(real=tmp_path / "nowhere")


def test_an_evaluation_says_how_far_its_images_moved_and_how_they_fit(
    base: ResolvedBase, edited_weights: Path, suite_file: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    suite = load_suite(str(suite_file))
    house = Concept(name="house", kind=ConceptKind.OBJECT)
    places: dict[str, Any] = {"cache": tmp_path / "cache", "out": tmp_path / "out", "device": "cpu", "progress": False}
    report = evaluate(base, edited_weights, [house], suite, images_per_probe=5, **places)
    assert report.quality is not None
    assert report.quality.erased_moved.images == GRID_SEEDS
    assert report.quality.others_moved.images == 2 * GRID_SEEDS
    pipeline, features = load_pipeline(base, "cpu"), load_features(str(suite.folder / "object"))
    prompts, seeds = zip(*drawing_order(suite, suite.probes[0], GRID_SEEDS), strict=True)

    def drawn() -> np.ndarray:
        return generate(pipeline, prompts, seeds, steps=2, guidance_scale=3.0, progress=False, sampler=suite.sampler)

    before = drawn()
    apply_weights(pipeline.unet, read_weights(edited_weights), base.digest)
    moved = perceptual_distance(features(before), features(drawn()))
    assert report.quality.erased_moved.value == pytest.approx(moved.mean(), abs=1e-5)
    assert report.metrics["erased_moved"] == report.quality.erased_moved.value
    others = [drawing_order(suite, probe, GRID_SEEDS) for probe in suite.probes[1:]]
    prompts, seeds = zip(*(case for cases in others for case in cases), strict=True)
    after = clip_score(drawn(), prompts, load_clip(str(tiny_clip)))
    assert report.quality.others_fit_after is not None
    assert report.quality.others_fit_after.value == pytest.approx(after.mean(), abs=1e-3)
    assert EvaluationReport.model_validate_json((tmp_path / "out" / "evaluation.json").read_text()) == report


def test_a_suite_without_features_says_what_to_add(study: Callable[..., Study], tiny_suite: Suite) -> None:
    with pytest.raises(InvalidInput, match="no 'quality' entry"):
        study(suite=str(tiny_suite.folder / "suite.yaml"), concepts=["house"])


def test_what_measures_quality_leaves_the_judged_images_as_they_are(suite_file: Path) -> None:
    suite = load_suite(str(suite_file))
    assert suite.quality is not None
    assert suite.digest == suite.model_copy(update={"quality": None}).digest


def test_the_interval_of_a_mean_is_students() -> None:
    """Of 1, 2, 3, 4: 2.5 plus or minus 3.182 * 1.291 / 2."""
    interval, distances = mean_interval([1.0, 2.0, 3.0, 4.0]), mean_interval([0.0, 0.0, 0.9])
    assert interval is not None
    assert [interval.lower, interval.upper] == pytest.approx([0.446, 4.554], abs=1e-3)
    assert distances is not None
    assert distances.lower == 0  # a distance is never less
    assert mean_interval([3.0]) is None


def test_a_single_image_has_a_distance_but_no_interval(
    base: ResolvedBase, edited_weights: Path, suite_file: Path, tmp_path: Path
) -> None:
    house = Concept(name="house", kind=ConceptKind.OBJECT)
    places: dict[str, Any] = {"cache": tmp_path / "cache", "out": tmp_path / "out", "device": "cpu", "progress": False}
    report = evaluate(base, edited_weights, [house], load_suite(str(suite_file)), images_per_probe=1, **places)
    assert report.quality is not None
    assert (report.quality.erased_moved.images, report.quality.erased_moved.lower) == (1, None)
    assert "erased_moved" in report.metrics
    assert "erased_moved_lower" not in report.metrics
    assert report.metrics["others_moved_lower"] <= report.metrics["others_moved"]
    assert EvaluationReport.model_validate_json((tmp_path / "out" / "evaluation.json").read_text()) == report


def test_a_matrix_says_how_far_every_concept_moved(
    study: Callable[..., Study], suite_file: Path, tmp_path: Path
) -> None:
    """As far as the images in its picture did, by the features of the suite's quality entry."""
    found = study(protocol="objects", concepts=["house", "tree"])
    chart = found.charts[-1]
    assert chart.kind == "heat-map"
    assert (chart.rows, chart.columns) == (("house erased", "tree erased"), ("house", "tree"))
    assert chart.outlined == ((0, 0), (1, 1))
    assert [[figure.images for figure in row] for row in chart.figures] == [[IMAGES, OTHERS], [OTHERS, IMAGES]]
    assert all(0 < figure.value < 2 for row in chart.figures for figure in row)
    assert (tmp_path / "out" / "objects-moved.png").is_file()
    raw = yaml.safe_load(suite_file.read_text())
    plain = suite_file.parent / "without-quality.yaml"
    plain.write_text(yaml.safe_dump({**raw, "quality": None}))
    assert len(study(protocol="objects", concepts=["house", "tree"], suite=str(plain)).charts) == len(found.charts) - 1
