"""Any `AutoModelForImageClassification`: closed classes, learned from pictures of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from esd_core.evaluation.classifiers.base import OneLabelClassifier
from esd_core.evaluation.pretrained import load_model, load_processor, pixel_values


@dataclass(frozen=True)
class ImageClassifier(OneLabelClassifier):
    """Labels as the model's own configuration names its classes."""

    model: Any
    processor: Any

    @torch.inference_mode()
    def scores(self, images: np.ndarray) -> np.ndarray:
        logits = self.model(pixel_values(self.processor, images, self.model)).logits
        return np.asarray(logits.float().cpu().numpy())


def load_image_classifier(ref: str, device: str = "cpu") -> ImageClassifier:
    """Load from a folder or from `owner/name@commit`, in float32."""
    processor = load_processor(AutoImageProcessor, ref)
    model = load_model(AutoModelForImageClassification, ref, device)
    labels = tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))
    return ImageClassifier(ref, labels, model, processor)
