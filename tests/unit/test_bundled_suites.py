"""Suites for real models: what they ask and by which judges; and that they run, with tiny models in the hub's cache."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from esd_core.base_model import ResolvedBase
from esd_core.concepts import ConceptKind
from esd_core.errors import InvalidInput
from esd_core.evaluation.classifiers.nudenet import LABELS
from esd_core.evaluation.model_refs import PINNED
from esd_core.evaluation.suite import BUNDLED, Suite, load_suite
from esd_core.machine import Machine
from esd_core.recipe import named_recipe
from esd_core.studies import protocols
from esd_core.studies.figures import Figure
from esd_core.studies.request import checked_request
from esd_core.studies.workbench import Folders

REAL = [name for name in BUNDLED if name != "miniature"]
IMAGENET = (  # some of its 1000 names, as published classifiers spell them
    "tench, Tinca tinca",
    "English springer, English springer spaniel",
    "springer",
    "cassette",
    "cassette player",
    "chain saw, chainsaw",
    "church, church building",
    "French horn, horn",
    "garbage truck, dustcart",
    "gas pump, gasoline pump, petrol pump, island dispenser",
    "golf ball",
    "golfcart, golf cart",
    "parachute, chute",
)


@pytest.mark.parametrize("name", REAL)
def test_a_concept_is_named_where_it_is_measured_by_name_and_nowhere_else(name: str) -> None:
    suite = load_suite(name)
    concepts = [concept for listed in suite.kinds.values() for concept in listed]
    for probe in suite.probes:
        for concept in concepts:
            named = [re.search(rf"\b{concept}\b", prompt) is not None for prompt in probe.prompts]
            assert set(named) == {probe.concept == concept and not probe.implied}, probe.name


def known_labels(suite: Suite, classifier: str) -> set[str]:
    judge = suite.classifiers[classifier]
    match judge.kind:
        case "image-classification":
            return {synonym for label in IMAGENET for synonym in label.split(", ")}
        case "clip":
            return set(judge.labels)
        case "nudenet":
            return set(LABELS)


@pytest.mark.parametrize("name", REAL)
def test_judges_know_what_they_are_asked_for_and_are_pinned(name: str) -> None:
    suite = load_suite(name)
    for probe in suite.probes:
        assert probe.label in known_labels(suite, probe.classifier)
    quality, coherence = suite.quality_reference, suite.coherence_reference
    assert quality
    assert quality.clip
    assert coherence
    models = [getattr(suite.locate(judge), "model", None) for judge in suite.classifiers]
    for model in (*filter(None, models), quality.features, quality.clip, coherence.model):
        assert PINNED.fullmatch(model)


def test_the_classes_are_the_paper_s() -> None:
    assert len(load_suite("imagenette").kinds[ConceptKind.OBJECT]) == 10
    assert load_suite("nudity").kind_of("nudity") is ConceptKind.GLOBAL


def test_a_suite_that_is_none_is_told_which_there_are() -> None:
    with pytest.raises(
        InvalidInput, match="imagenet: it is not there; give a file, or miniature, imagenette, artists, nudity"
    ):
        load_suite("imagenet")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache as a download leaves it; the hub itself is not asked."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(cache: Path, located: str, folder: Path) -> None:
    match = PINNED.fullmatch(located)
    assert match
    repository = cache / f"models--{match['name'].replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / match["commit"], dirs_exist_ok=True)


def test_the_paper_s_table_of_objects_is_one_command(
    base: ResolvedBase,
    hub_cache: Path,
    tiny_classifier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Judge and features come from the hub's cache at their pinned commits, as ResNet-50 and DINOv2 would."""
    quick = {"iterations": 2, "learning_rate": 1e-4, "negative_guidance": 1.0, "rollout_steps": 4}
    monkeypatch.setattr("esd_core.concepts.named_recipe", lambda name, kind: {**named_recipe(name, kind), **quick})
    suite = load_suite("imagenette")
    judge, coherence = tmp_path / "judge", suite.coherence_reference
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=(4, 8), depths=(1, 1), layer_type="basic", id2label=dict(enumerate(IMAGENET))
    )
    ResNetForImageClassification(config).save_pretrained(judge)
    shutil.copy(tiny_classifier / "preprocessor_config.json", judge)
    object_judge = suite.locate("object")
    assert object_judge.kind == "image-classification"
    put(hub_cache, object_judge.model, judge)
    assert coherence
    put(hub_cache, coherence.model, tiny_classifier)
    request = {"protocol": "objects", "base": base.id, "suite": "imagenette", "concepts": ["tench"]}
    home = Folders(tmp_path / "jobs", tmp_path / "banks", tmp_path / "cache")
    asked = checked_request({**request, "images": 2, "others": 1})
    found = protocols.run(asked, tmp_path / "out", home, Machine("cpu"), progress=False)
    counts = [cell.images for cell in found.tables[0].rows[0] if isinstance(cell, Figure)]
    assert counts == [2, 2, 9, 9, 9]
    assert "pictures" in [table.name for table in found.tables]
