"""One vector for each image, from any transformers vision model: DINOv2, CLIP, ViT, ResNet, ..."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoImageProcessor, AutoModel

from esd_core.evaluation.pretrained import load_model, load_processor, pixel_values

BATCH = 64


@dataclass(frozen=True)
class Features:
    ref: str
    model: Any
    processor: Any

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(N, D) float32: the joint space's vector where the model has one (CLIP), else the pooled output."""
        parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        outputs = [self._outputs(pixel_values(self.processor, part, self.model)) for part in parts]
        return np.concatenate([output.pooler_output.flatten(1).float().cpu().numpy() for output in outputs])

    @torch.inference_mode()
    def patches(self, images: np.ndarray) -> torch.Tensor:
        """(N, T, D) unit vectors of T places in each image, from an early layer: looks rather than meaning."""
        vision = getattr(self.model, "vision_model", self.model)
        layers = vision(pixel_values(self.processor, images, self.model), output_hidden_states=True).hidden_states
        early = layers[len(layers) // 4].float()
        places = early.flatten(2).transpose(1, 2) if early.ndim == 4 else early
        return F.normalize(places, dim=-1)

    def _outputs(self, pixels: torch.Tensor) -> Any:
        joint = getattr(self.model, "get_image_features", None)
        return joint(pixels) if joint else self.model(pixels)


def load_features(ref: str, device: str = "cpu") -> Features:
    """A vision model without its head, from a folder or from `owner/name@commit`, in float32."""
    return Features(ref, load_model(AutoModel, ref, device), load_processor(AutoImageProcessor, ref))


def unit(vectors: np.ndarray) -> np.ndarray:
    """(N, D) -> the same directions with length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(min=1e-12))
