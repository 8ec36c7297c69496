"""Features: the model's own output, whichever vision model it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, CLIPModel, Dinov2Model

from esd_core.errors import EvaluationError
from esd_core.evaluation.classifiers import load_image_classifier
from esd_core.evaluation.metrics.features import Features, load_features

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def pixels(folder: Path) -> torch.Tensor:
    return AutoImageProcessor.from_pretrained(folder)(list(IMAGES), return_tensors="pt")["pixel_values"]


@torch.inference_mode()
def test_of_dino_they_are_its_pooled_output(tiny_dino: Path, dino: Features) -> None:
    expected = Dinov2Model.from_pretrained(tiny_dino).eval()(pixels(tiny_dino)).pooler_output
    assert np.allclose(dino(IMAGES), expected.numpy(), atol=1e-6)


@torch.inference_mode()
def test_of_clip_they_are_its_image_vectors(tiny_clip: Path) -> None:
    expected = CLIPModel.from_pretrained(tiny_clip).eval().get_image_features(pixels(tiny_clip)).pooler_output
    assert np.allclose(load_features(str(tiny_clip))(IMAGES), expected.numpy(), atol=1e-6)


def test_of_a_classifier_they_are_what_its_head_sees(tiny_classifier: Path) -> None:
    head = load_image_classifier(str(tiny_classifier)).model.classifier
    features = torch.from_numpy(load_features(str(tiny_classifier))(IMAGES))
    seen = head(features[:, :, None, None]).argmax(-1).numpy()
    assert (seen == load_image_classifier(str(tiny_classifier)).classify(IMAGES)).all()


def test_the_batch_changes_nothing(dino: Features) -> None:
    many = np.tile(IMAGES, (30, 1, 1, 1))
    assert np.allclose(dino(many), np.tile(dino(IMAGES), (30, 1)), atol=1e-6)


def test_a_model_that_lacks_a_tensor_is_refused(tiny_dino: Path) -> None:
    with pytest.raises(EvaluationError, match="lacks 2 tensors of a Dinov2ForImageClassification, such as classifier"):
        load_image_classifier(str(tiny_dino))
