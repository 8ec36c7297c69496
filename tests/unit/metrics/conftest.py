"""Feature models: a random DINOv2, and the judge of styles that comes with the miniature, which has learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, ViTImageProcessorPil

from esd_core.evaluation.metrics.features import Features, load_features
from esd_core.miniature.measure import CLASSIFIERS

IMAGE = 16


@pytest.fixture(scope="session")
def tiny_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("features") / "dino"
    config = Dinov2Config(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=IMAGE, patch_size=8)
    Dinov2Model(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": IMAGE, "width": IMAGE}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dino(tiny_dino: Path) -> Features:
    return load_features(str(tiny_dino))


@pytest.fixture(scope="session")
def styles() -> Features:
    return load_features(str(CLASSIFIERS / "style"))


@pytest.fixture(scope="session")
def objects() -> Features:
    return load_features(str(CLASSIFIERS / "object"))
