"""Image classifiers as judges: any `AutoModelForImageClassification`, from a folder or pinned on a hub.

Images are (N, H, W, 3) uint8 throughout; a judge answers with one label index for each image.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import logging as transformers_logging

from esd_core.errors import EvaluationError
from esd_core.evaluation.suite import PINNED, classifier_digest

LABELS_SHOWN = 20


@dataclass(frozen=True)
class Classifier:
    """A loaded judge. `labels[i]` is the name of class i, as the model's own configuration gives it."""

    ref: str
    labels: tuple[str, ...]
    model: Any
    processor: Any

    def index_of(self, label: str) -> int:
        """The class called `label`, or of which `label` is one of the comma-separated synonyms (ImageNet's way)."""
        if label in self.labels:
            return self.labels.index(label)
        synonyms = [i for i, known in enumerate(self.labels) if label in (part.strip() for part in known.split(","))]
        if len(synonyms) == 1:
            return synonyms[0]
        raise EvaluationError(f"classifier {self.ref} has no label {label!r}: {self._known_like(label)}")

    def _known_like(self, label: str) -> str:
        if len(self.labels) <= LABELS_SHOWN:
            return f"use one of {', '.join(self.labels)}"
        near = difflib.get_close_matches(label, self.labels, n=5, cutoff=0.3)
        return f"its {len(self.labels)} labels include {', '.join(repr(name) for name in near or self.labels[:5])}"

    @torch.inference_mode()
    def classify(self, images: np.ndarray, batch_size: int = 64, progress: bool = False) -> np.ndarray:
        """Top-1 class of each image: (N,) int64."""
        starts = tqdm(
            range(0, len(images), batch_size),
            desc=f"judging with {Path(self.ref).name}",
            disable=not progress,
            leave=False,
        )
        found = [self._classify_batch(images[start : start + batch_size]) for start in starts]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _classify_batch(self, images: np.ndarray) -> np.ndarray:
        pixels = self.processor(list(images), return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        logits = self.model(pixels.to(self.model.device)).logits
        return np.asarray(logits.argmax(-1).cpu().numpy(), dtype=np.int64)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar for loading a few tensors."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def load_classifier(ref: str, device: str = "cpu") -> Classifier:
    """Load a judge in float32 from a folder or from `owner/name@commit`; runs no code from it, unpickles nothing."""
    classifier_digest(ref)
    pinned = None if Path(ref).is_dir() else PINNED.fullmatch(ref)
    where = {"revision": pinned["commit"]} if pinned else {"local_files_only": True}
    name = pinned["name"] if pinned else ref
    try:
        with _quiet():
            processor = AutoImageProcessor.from_pretrained(name, **where)
            model = AutoModelForImageClassification.from_pretrained(
                name, use_safetensors=True, dtype=torch.float32, **where
            )
    except (OSError, ValueError, KeyError) as e:
        first_line = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise EvaluationError(f"cannot load classifier {ref}: {first_line}") from e
    model = model.to(device).eval().requires_grad_(False)
    labels = tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))
    return Classifier(ref, labels, model, processor)
