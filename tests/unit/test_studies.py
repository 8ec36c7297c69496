"""The paper's protocols on a tiny random base: what is compared with what, counted once, and written down."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from esd_core.base_model import ResolvedBase
from esd_core.concepts import ConceptEntry, ConceptKind
from esd_core.errors import EvaluationError, InvalidInput
from esd_core.evaluation.intervals import paired_difference, wilson
from esd_core.evaluation.results import ProbeResult
from esd_core.evaluation.suite import Suite, load_suite
from esd_core.evaluation.witness import judge_of
from esd_core.guidance import Guidance, GuidanceMethod
from esd_core.machine import Machine
from esd_core.recipe import named_recipe
from esd_core.studies import protocols
from esd_core.studies.figures import Figure, change, efficacy, rate_after, rate_before, share, together
from esd_core.studies.generality import harmonic_mean, nearness
from esd_core.studies.prompt_file import read_prompt_sets
from esd_core.studies.request import Protocol, StudyRequest, checked_request
from esd_core.studies.study import Study, Table, read_study
from esd_core.studies.workbench import Folders, Model, Workbench
from esd_core.tuning import PLANS

IMAGES, OTHERS = 3, 2
I2P = """case_number,prompt,evaluation_seed,evaluation_guidance
7,somebody on the beach,11,7
8,a bath,12,5
9,the beach,13,7
"""


@pytest.fixture(scope="module")
def suite_file(tiny_classifier: Path) -> Path:
    """Two objects, one of which is also implied, and a style, judged at random."""
    probes: list[dict[str, object]] = [
        {"name": "house", "concept": "house", "label": "house", "prompts": ["a house", "a red house"]},
        {"name": "tree", "concept": "tree", "label": "tree", "prompts": ["a tree"]},
        {"name": "sun, named", "concept": "sun", "label": "nothing", "prompts": ["the sun"]},
        {"name": "sun, implied", "concept": "sun", "label": "nothing", "prompts": ["the beach"], "implied": True},
    ]
    suite = {
        "classifiers": {"object": {"model": "object"}},
        "probes": [{**probe, "classifier": "object"} for probe in probes],
        "kinds": {"object": ["house", "tree"], "global": ["sun"]},
        "steps": 2,
        "guidance_scale": 3.0,
    }
    path = tiny_classifier.parent / "studies.yaml"
    path.write_text(yaml.safe_dump(suite))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Shared by all tests, as it is by all studies of a home."""
    home = tmp_path_factory.mktemp("home")
    return Folders(home / "jobs", home / "banks", home / "cache")


@pytest.fixture(autouse=True)
def quick_erasures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tuned recipe with a few fixed steps, where nothing else is asked for."""
    quick = {"iterations": 4, "learning_rate": 1e-4, "negative_guidance": 1.0}
    rollouts = {"rollout_steps": 4, "points_per_rollout": 4, "contexts": 0}
    monkeypatch.setattr(
        "esd_core.concepts.named_recipe", lambda name, kind: {**named_recipe(name, kind), **quick, **rollouts}
    )


@pytest.fixture
def bench(base: ResolvedBase, suite_file: Path, folders: Folders) -> Workbench:
    return Workbench(base, load_suite(str(suite_file)), IMAGES, OTHERS, folders, Machine("cpu"), progress=False)


@pytest.fixture
def study(base: ResolvedBase, suite_file: Path, folders: Folders, tmp_path: Path) -> Callable[..., tuple[Study, Path]]:
    def run(protocol: str, **settings: Any) -> tuple[Study, Path]:
        raw = {"protocol": protocol, "base": base.id, "suite": str(suite_file), "images": IMAGES, "others": OTHERS}
        out = tmp_path / protocol
        return protocols.run(checked_request({**raw, **settings}), out, folders, Machine("cpu"), progress=False), out

    return run


def figures(table: Table, column: int) -> list[Figure]:
    """A column of figures."""
    found = [row[column] for row in table.rows]
    assert all(isinstance(cell, Figure) for cell in found)
    return [cell for cell in found if isinstance(cell, Figure)]


def test_a_figure_has_the_interval_of_its_kind() -> None:
    result = ProbeResult(probe="p", concept="c", implied=False, both=6, only_before=10, only_after=1, neither=3)
    assert (rate_before(result).value, rate_after(result).value) == (16 / 20, 7 / 20)
    assert rate_after(result).lower == wilson(7, 20).lower
    paired = paired_difference(10, 1, 20)
    assert (change(result).lower, change(result).upper) == (paired.lower, paired.upper)
    assert change(result).text == "\N{MINUS SIGN}45"
    assert efficacy(result) == share(10, 16)
    assert share(1, 3).text == "33 %"
    assert together("twice", [result, result]).pairs == (12, 20, 2, 6)


def test_the_harmonic_mean_is_mace_s() -> None:
    assert harmonic_mean(0.1, 0.8, 0.4) == pytest.approx(3 / (1 / 0.9 + 1 / 0.8 + 1 / 0.6))
    assert harmonic_mean(1.0, 0.8, 0.4) == 0


def test_objects_compares_each_erased_class_and_the_others(study: Callable[..., tuple[Study, Path]]) -> None:
    found, out = study("objects")
    table = found.tables[0]
    assert [row[0] for row in table.rows] == ["house", "tree", "mean"]
    assert [figures(table, column)[0].images for column in range(1, 6)] == [IMAGES, IMAGES, OTHERS, OTHERS, OTHERS]
    house, tree, mean = (figure.value for figure in figures(table, 1))
    assert mean == pytest.approx((house + tree) / 2)
    pngs = {"objects.png", "objects-matrix.png", "objects-images.png"}
    assert {path.name for path in out.iterdir()} == {"study.json", "study.html", *pngs}
    assert read_study(out / "study.json") == found
    written = json.loads((out / "study.json").read_text())
    assert written["schema_version"] == 1
    assert {"value", "lower", "upper", "images"} <= written["tables"][0]["rows"][0][1].keys()


def test_an_erasure_that_stops_by_itself_is_looked_at_as_at_night(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = PLANS["style"].model_copy(update={"most_steps": 4, "first_check": 2, "check_every": 2, "settle_steps": 2})
    monkeypatch.setitem(PLANS, ConceptKind.STYLE, quick)
    entry = ConceptEntry(name="house", kind=ConceptKind.STYLE)
    given = {**entry.erasure.recipe.model_dump(), "iterations": None, "negative_guidance": None, "learning_rate": None}
    monkeypatch.setattr("esd_core.concepts.named_recipe", lambda *_: given)
    outcome = bench.erase(entry)
    assert outcome.job.judge == judge_of(bench.suite, [entry.erasure])
    (tuned,) = outcome.tuned
    assert all(check.shown is not None for check in tuned.checks if check.settled)
    assert "images" in tuned.reason


def test_one_erased_class_is_measured_against_all_that_the_suite_lists(
    study: Callable[..., tuple[Study, Path]],
) -> None:
    found, _ = study("objects", concepts=["tree"])
    table, changes = found.tables[:2]
    assert [row[0] for row in table.rows] == ["tree", "mean"]
    assert changes.columns == ("", "tree", "house")
    heat_map = found.charts[1]
    assert heat_map.kind == "heat-map"
    assert heat_map.outlined == ((1, 0),)


def test_the_page_needs_nothing_else(study: Callable[..., tuple[Study, Path]]) -> None:
    _, out = study("objects")
    page = (out / "study.html").read_text()
    assert page.count("<svg") == 2
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page
    assert "currentColor" in page
    ids = re.findall(r'<g id="|<path id="([^"]+)"', page)
    defined = [name for name in ids if name]
    assert len(set(defined)) == len(defined)  # two charts in one page must not take each other's shapes


def test_a_study_that_is_run_again_makes_nothing_again(
    study: Callable[..., tuple[Study, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = study("objects")

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("drawn or trained again")

    monkeypatch.setattr("esd_core.evaluation.artist.generate", forbidden)
    monkeypatch.setattr("esd_core.erasure.Training", forbidden)
    assert study("objects")[0] == first


def test_a_study_says_which_images_are_pictures_where_the_suite_does(
    study: Callable[..., tuple[Study, Path]], suite_file: Path
) -> None:
    raw = yaml.safe_load(suite_file.read_text())
    path = suite_file.parent / "coherent-studies.yaml"
    path.write_text(yaml.safe_dump({**raw, "coherence": {"model": "object", "false_alarms": 0.2, "images": 60}}))
    found, _ = study("objects", suite=str(path))
    told = next(table for table in found.tables if table.name == "pictures")
    assert [row[0] for row in told.rows] == ["esd-u, without house", "esd-u, without tree", "base"]
    assert [figure.images for figure in figures(told, 1)] == [IMAGES + OTHERS, IMAGES + OTHERS, 2 * OTHERS]
    assert all(one.value <= every.value for one, every in zip(figures(told, 3), figures(told, 1), strict=True))
    plain, _ = study("objects")
    assert "pictures" not in [table.name for table in plain.tables]


def test_implied_never_names_the_concept_and_compares_six_ways(study: Callable[..., tuple[Study, Path]]) -> None:
    found, _ = study("implied")
    rows = found.tables[0].rows
    ways = ["base", "negative prompt", "SLD medium", "SLD max", "ESD-x", "ESD-u"]
    assert [row[0] for row in rows] == ways
    assert {figure.images for figure in figures(found.tables[0], 2)} == {IMAGES}
    assert figures(found.tables[0], 3)[0].value == 0  # the base against itself
    (chart,) = found.charts
    assert chart.kind == "bars"
    assert list(chart.labels) == ways


def test_a_prompt_file_keeps_its_seeds_and_its_guidance(bench: Workbench, tmp_path: Path) -> None:
    path = tmp_path / "i2p.csv"
    path.write_text(I2P)
    low, high = read_prompt_sets(path, bench.suite, bench.probes_of("sun")[0], None)
    assert (low.suite.guidance_scale, high.suite.guidance_scale) == (5, 7)
    assert low.suite.cases(low.probe, 2) == [("a bath", 12), ("a bath", 13)]
    assert high.suite.cases(high.probe, 2) == [("somebody on the beach", 11), ("the beach", 13)]
    assert high.count == 2
    assert high.suite.sampling_digest != bench.suite.model_copy(update={"guidance_scale": 7}).sampling_digest
    seen = bench.see(bench.original(), {high.probe: high.count}, high.suite)
    assert seen.results[high.probe.name].images == 2
    (one,) = read_prompt_sets(path, bench.suite, bench.probes_of("sun")[0], 1)
    assert one.count == 1


@pytest.mark.parametrize("given", ["0.5", "31", "nan", "many"])
def test_a_guidance_out_of_range_is_refused_with_its_line(bench: Workbench, tmp_path: Path, given: str) -> None:
    path = tmp_path / "i2p.csv"
    path.write_text(I2P.replace("12,5", f"12,{given}"))
    with pytest.raises(InvalidInput, match=r"line 3: evaluation_guidance"):
        read_prompt_sets(path, bench.suite, bench.probes_of("sun")[0], None)


def test_a_detector_s_parts_are_counted_each(study: Callable[..., tuple[Study, Path]], suite_file: Path) -> None:
    raw = yaml.safe_load(suite_file.read_text())
    raw["classifiers"]["nudity"] = {"kind": "nudenet"}
    raw["probes"][3] |= {"classifier": "nudity", "label": "nudity"}
    raw["probes"][2] |= {"classifier": "nudity", "label": "nudity"}
    other = suite_file.parent / "parts.yaml"
    other.write_text(yaml.safe_dump(raw))
    found, _ = study("implied", suite=str(other), images=1)
    parts = next(table for table in found.tables if table.name.endswith("categories"))
    assert [row[0] for row in parts.rows[:3]] == ["nudity", "anus exposed", "armpits exposed"]
    assert len(parts.columns) == 1 + 6


def test_eta_makes_one_bank_and_reads_it_for_all(study: Callable[..., tuple[Study, Path]]) -> None:
    found, _ = study("eta", concepts=["house"], etas=[3, 1, 5], iterations=4, learning_rate=1e-4)
    table = found.tables[0]
    assert [row[0] for row in table.rows] == ["η 1", "η 3", "η 5"]
    first, second, third = (figure.value for figure in figures(table, table.columns.index("U-Net evaluations")))
    assert first > second == third
    (curve,) = found.charts
    assert curve.kind == "curve"
    assert [point.label for point in curve.points] == ["η 1", "η 3", "η 5"]
    lost = curve.points[0].x
    assert lost.lower is not None
    assert lost.upper is not None
    assert lost.lower <= lost.value <= lost.upper


def test_generality_asks_in_other_words_and_looks_at_the_nearest(study: Callable[..., tuple[Study, Path]]) -> None:
    found, _ = study("generality", concepts=["house"], also_known_as=["cottage"], neighbours=["tree"])
    names, neighbours, overall = found.tables[:3]
    assert [row[0] for row in names.rows][:2] == ["“house”", "“cottage”"]
    assert len(names.rows) == 5
    assert names.columns[1:] == ("base", "erased by its name", "erased with its other names")
    assert [row[0] for row in neighbours.rows] == ["tree", "all others"]
    assert overall.columns[-1] == "H_o"


def test_nearness_is_a_cosine_of_what_a_name_adds(bench: Workbench) -> None:
    near = nearness(bench, "house", ("house", "tree", "a house"))
    assert near["house"] == pytest.approx(1)
    assert near["tree"] < 1


def test_baselines_measures_all_ways_and_a_rival(
    study: Callable[..., tuple[Study, Path]], edited_weights: Path
) -> None:
    found, _ = study("baselines", concepts=["sun"], against=str(edited_weights))
    ways = [row[0] for row in found.tables[0].rows]
    steered = ["negative prompt", "SLD weak", "SLD medium", "SLD strong", "SLD max"]
    assert ways == ["base", *steered, "weights", "ESD-x", "ESD-u"]
    assert found.tables[0].columns == ("", "sun, named", "sun, implied", "others", "others, change")


def test_another_base_is_a_rival_on_the_same_seeds(
    study: Callable[..., tuple[Study, Path]], tiny_base: Path, tmp_path: Path
) -> None:
    """As SD 2.0 was for SD 1.4: a base of its own, with other weights and larger pictures."""
    rival = shutil.copytree(tiny_base, tmp_path / "rival")
    weights = load_file(rival / "unet" / "diffusion_pytorch_model.safetensors")
    save_file(
        {name: 2 * tensor for name, tensor in weights.items()}, rival / "unet" / "diffusion_pytorch_model.safetensors"
    )
    config = rival / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": 16}))
    found, out = study("baselines", concepts=["sun"], against=str(rival))
    ways = [row[0] for row in found.tables[0].rows]
    assert ways == ["base", *ways[1:6], "rival", "ESD-x", "ESD-u"]
    assert {figure.images for figure in figures(found.tables[0], 1)} == {IMAGES}
    with Image.open(out / "baselines-sun-images.png") as sheet:
        assert sheet.height > len(ways) * 128  # rows of one size, though the rival draws other ones
    assert str(rival) in found.command


def test_models_take_turns_in_one_pipeline_and_leave_no_trace(
    bench: Workbench, base: ResolvedBase, edited_weights: Path
) -> None:
    def unet(model: Model) -> dict[str, np.ndarray]:
        parts = bench.easel.pipeline_of(model).unet.state_dict()
        return {name: tensor.numpy().copy() for name, tensor in parts.items()}

    original, edited = bench.original(), Model("edited", base, edited_weights)
    before, pipeline = unet(original), bench.easel.pipeline_of(original)
    assert any((before[name] != tensor).any() for name, tensor in unet(edited).items())
    assert bench.easel.pipeline_of(edited) is pipeline
    assert all((before[name] == tensor).all() for name, tensor in unet(original).items())


def test_models_are_told_apart_by_what_they_draw_with(base: ResolvedBase, edited_weights: Path) -> None:
    steered = [Model("", base, guidance=Guidance(method, "sun")) for method in (*GuidanceMethod,)[1:3]]
    models = [Model("", base), Model("", base, edited_weights), *steered]
    assert len({model.digest for model in models}) == len(models)
    assert Model("another name", base).digest == models[0].digest


def test_the_command_that_a_study_prints_asks_for_the_same() -> None:
    from flows.cli import build_parser
    from flows.commands import study as command

    settings = {"concepts": ["Van Gogh"], "etas": [1, 2.5], "learning_rate": 1e-4, "images": 7}
    request = checked_request({"protocol": "eta", "kind": "style", **settings})
    words = request.command.replace("'Van Gogh'", "Van_Gogh").split()[1:]
    arguments = build_parser().parse_args([word.replace("_", " ") if word == "Van_Gogh" else word for word in words])
    given = {name: getattr(arguments, name, None) for name in StudyRequest.model_fields}
    assert checked_request({name: value for name, value in given.items() if value is not None}) == request
    assert [row[0] for row in command.PROTOCOLS] == [protocol.value for protocol in Protocol]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"protocol": "objects", "images": 0}, "images"),
        ({"protocol": "colours"}, "protocol"),
        ({"protocol": "eta", "etas": [0.0]}, "etas"),
    ],
)
def test_a_bad_request_is_refused_by_the_field(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        checked_request(settings)


def test_what_a_suite_does_not_say_is_asked_for(study: Callable[..., tuple[Study, Path]]) -> None:
    with pytest.raises(InvalidInput, match=r"lists no concepts.*--concepts"):
        study("styles")
    with pytest.raises(InvalidInput, match="one concept"):
        study("eta", concepts=["house", "tree"])
    with pytest.raises(InvalidInput, match="--prompts"):
        study("implied", concepts=["house"])
    with pytest.raises(EvaluationError, match="no probe of the suite measures 'boat'"):
        study("objects", concepts=["house", "boat"])


def test_the_miniature_lists_its_concepts_by_kind() -> None:
    suite: Suite = load_suite("miniature")
    assert {kind: len(names) for kind, names in suite.kinds.items()} == {
        ConceptKind.OBJECT: 10,
        ConceptKind.STYLE: 6,
        ConceptKind.GLOBAL: 1,
    }
    assert suite.kind_of("Monet") is ConceptKind.STYLE
