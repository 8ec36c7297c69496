"""The paper's protocols on a tiny random base: what is compared with what, counted once, and written down."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from esd_core.errors import EvaluationError, InvalidInput
from esd_core.generation import generate
from esd_core.studies.figures import Figure
from esd_core.studies.study import Study, Table, read_study
from esd_core.studies.workbench import Folders

IMAGES, OTHERS = 3, 2  # as studies ask for here


def figures(table: Table, column: int) -> list[Figure]:
    """A column of figures."""
    found = [row[column] for row in table.rows]
    assert all(isinstance(cell, Figure) for cell in found)
    return [cell for cell in found if isinstance(cell, Figure)]


def test_objects_compares_each_erased_class_and_the_others(study: Callable[..., tuple[Study, Path]]) -> None:
    found, out = study("objects")
    table = found.tables[0]
    assert [row[0] for row in table.rows] == ["house", "tree", "mean"]
    assert [figures(table, column)[0].images for column in range(1, 6)] == [IMAGES, IMAGES, OTHERS, OTHERS, OTHERS]
    house, tree, mean = (figure.value for figure in figures(table, 1))
    assert mean == pytest.approx((house + tree) / 2)
    pngs = {"objects.png", "objects-matrix.png", "objects-images.png", "losses.png"}
    assert {path.name for path in out.iterdir()} == {"study.json", "study.html", *pngs}
    assert read_study(out / "study.json") == found
    written = json.loads((out / "study.json").read_text())
    assert written["schema_version"] == 2
    assert written["sampling"] == {"sampler": "auto", "steps": 2, "guidance_scale": 3.0, "seed": 0}
    older = {name: value for name, value in written.items() if name not in ("course", "sampling")}
    (out / "older.json").write_text(json.dumps({**older, "schema_version": 1}))
    assert read_study(out / "older.json").tables == found.tables
    assert {"value", "lower", "upper", "images"} <= written["tables"][0]["rows"][0][1].keys()


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
    assert page.count("<svg") == 3  # bars, heat map, losses
    assert "mathdefault" not in page
    assert "2 steps of the sampler auto, guidance 3, seed 0" in page
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
    (losses,) = found.course  # none of them chose when to stop
    assert [line.name for line in losses.lines] == [f"house, esd-u, η {value}" for value in (1, 3, 5)]
    assert all(line.x == (1, 2, 3, 4) for line in losses.lines)
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


def test_what_a_suite_does_not_say_is_asked_for(study: Callable[..., tuple[Study, Path]]) -> None:
    with pytest.raises(InvalidInput, match=r"lists no concepts.*--concepts"):
        study("styles")
    with pytest.raises(InvalidInput, match="one concept"):
        study("eta", concepts=["house", "tree"])
    with pytest.raises(InvalidInput, match="--prompts"):
        study("implied", concepts=["house"])
    with pytest.raises(EvaluationError, match="no probe of the suite measures 'boat'"):
        study("objects", concepts=["house", "boat"])


@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_study_that_was_stopped_goes_on_with_what_is_missing(
    study: Callable[..., tuple[Study, Path]], folders: Folders, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Erasures are kept too; stopped ones are continued (tests of the checkpoint)."""
    whole, _ = study("objects", concepts=["house"])
    shutil.rmtree(folders.cache)
    drawn: list[int] = []

    def until(pipeline: Any, prompts: Sequence[str], *given: Any, **options: Any) -> np.ndarray:
        drawn.append(len(prompts))
        if len(drawn) == at:
            raise KeyboardInterrupt
        return generate(pipeline, prompts, *given, **options)

    monkeypatch.setattr("esd_core.evaluation.judged_images.Artist.at_once", 1)
    monkeypatch.setattr("esd_core.evaluation.artist.generate", until)
    with pytest.raises(KeyboardInterrupt):
        study("objects", concepts=["house"])
    assert study("objects", concepts=["house"])[0] == whole
    images = sum(figure.images or 0 for figure in figures(whole.tables[0], 1)[:1]) + OTHERS
    assert len(drawn) == 2 * images + 1  # each image of the two models once, and the one that was interrupted
