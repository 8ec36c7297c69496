"""CLIP's common space of images and texts: unit vectors whose inner product is the cosine similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from esd_core.evaluation.pretrained import load_model, load_processor, pixel_values

BATCH = 64


@dataclass(frozen=True)
class ClipSpace:
    ref: str
    model: Any
    processor: Any
    tokenizer: Any

    @torch.inference_mode()
    def of_images(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 -> (N, D) float32 unit vectors."""
        parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        return _unit([self.model.get_image_features(pixel_values(self.processor, part, self.model)) for part in parts])

    @torch.inference_mode()
    def of_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32 unit vectors. What goes beyond the encoder's length (77 tokens) is cut off."""
        parts = [list(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
        return _unit([self.model.get_text_features(**self._tokens(part)) for part in parts])

    def _tokens(self, texts: list[str]) -> Any:
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        return tokens.to(self.model.device)


def load_clip(ref: str, device: str = "cpu") -> ClipSpace:
    """A `CLIPModel` from a folder or from `owner/name@commit`, in float32."""
    processor, tokenizer = load_processor(AutoImageProcessor, ref), load_processor(AutoTokenizer, ref)
    return ClipSpace(ref, load_model(CLIPModel, ref, device), processor, tokenizer)


def _unit(outputs: list[Any]) -> np.ndarray:
    vectors = torch.cat([output.pooler_output for output in outputs]).float()
    return np.asarray(F.normalize(vectors, dim=-1).cpu().numpy())
