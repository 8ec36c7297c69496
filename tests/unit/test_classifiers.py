"""Classifiers as judges: any transformers folder, labels by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ResNetForImageClassification

from esd_core.errors import EvaluationError
from esd_core.evaluation.classifiers import Classifier, load_classifier


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def test_it_answers_what_the_model_answers(tiny_classifier: Path) -> None:
    images = random_images(5)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    model = ResNetForImageClassification.from_pretrained(tiny_classifier).eval()
    with torch.inference_mode():
        expected = model(pixels).logits.argmax(-1).numpy()
    assert (load_classifier(str(tiny_classifier)).classify(images) == expected).all()


def test_the_batch_size_changes_nothing(tiny_classifier: Path) -> None:
    judge, images = load_classifier(str(tiny_classifier)), random_images(7)
    assert (judge.classify(images, batch_size=2) == judge.classify(images, batch_size=64)).all()


def test_other_image_sizes_are_resized_by_the_processor(tiny_classifier: Path) -> None:
    large = np.zeros((2, 48, 48, 3), np.uint8)
    assert load_classifier(str(tiny_classifier)).classify(large).shape == (2,)


def test_half_precision_files_are_computed_in_float32(tiny_classifier: Path, tmp_path: Path) -> None:
    ResNetForImageClassification.from_pretrained(tiny_classifier).half().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((tiny_classifier / "preprocessor_config.json").read_bytes())
    assert load_classifier(str(tmp_path)).model.dtype is torch.float32


def test_an_unknown_label_names_the_known_ones(tiny_classifier: Path) -> None:
    judge = load_classifier(str(tiny_classifier))
    assert judge.index_of("tree") == 1
    with pytest.raises(EvaluationError, match="no label 'boat': use one of house, tree, nothing"):
        judge.index_of("boat")


def test_one_of_several_synonyms_is_enough() -> None:
    labels = ("tench, Tinca tinca", "church, church building", "crane", "crane, bird", *map(str, range(30)))
    judge = Classifier("imagenet", labels, model=None, processor=None)
    assert judge.index_of("tench") == 0
    assert judge.index_of("church building") == 1
    assert judge.index_of("crane") == 2
    with pytest.raises(EvaluationError, match="its 34 labels include 'church, church building'"):
        judge.index_of("church buildings")


@pytest.mark.parametrize("ref", ["nobody/nothing", "nobody/nothing@main", "missing"])
def test_unpinned_classifiers_are_refused(ref: str) -> None:
    with pytest.raises(EvaluationError, match="neither a folder nor pinned"):
        load_classifier(ref)


def test_a_folder_that_is_no_classifier_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot load classifier") as refusal:
        load_classifier(str(tmp_path))
    assert "\n" not in str(refusal.value)
