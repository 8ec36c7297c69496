"""What every judge answers: `sees`, a truth for each image and label; from it, whether an image shows one label.

Judges of one label (image classifiers, zero-shot CLIP) see exactly one label in each image, their likeliest. A
detector sees any number, none included.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from esd_core.errors import EvaluationError

LABELS_SHOWN = 20
BATCH = 64


@dataclass(frozen=True)
class Classifier(ABC):
    """A loaded judge. `labels[i]` is the name of what column i of `sees` says."""

    ref: str
    labels: tuple[str, ...]

    @abstractmethod
    def sees_in_batch(self, images: np.ndarray) -> np.ndarray:
        """(N, number of labels) bool, of a few images at once."""

    def sees(self, images: np.ndarray, batch_size: int = BATCH, progress: bool = False) -> np.ndarray:
        """Whether each image shows each label: (N, number of labels) bool."""
        starts = tqdm(
            range(0, len(images), batch_size),
            desc=f"judging with {Path(self.ref).name}",
            disable=not progress,
            leave=False,
        )
        found = [self.sees_in_batch(images[start : start + batch_size]) for start in starts]
        return np.concatenate(found) if found else np.empty((0, len(self.labels)), bool)

    def shows(self, images: np.ndarray, label: str) -> np.ndarray:
        """Whether each image shows `label`: (N,) bool; raises EvaluationError for a label it does not know."""
        index = self.index_of(label)
        return np.asarray(self.sees(images)[:, index])

    def index_of(self, label: str) -> int:
        """The label called `label`, or of which `label` is one of the comma-separated synonyms (ImageNet's way)."""
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


@dataclass(frozen=True)
class OneLabelClassifier(Classifier):
    """A judge that gives each image a score for every label; the image shows the label of the highest."""

    @abstractmethod
    def scores(self, images: np.ndarray) -> np.ndarray:
        """(N, number of labels) float, of a few images at once; only their order within an image counts."""

    def sees_in_batch(self, images: np.ndarray) -> np.ndarray:
        scores = self.scores(images)
        return np.asarray(scores.argmax(-1)[:, None] == np.arange(len(self.labels)))

    def classify(self, images: np.ndarray, batch_size: int = BATCH, progress: bool = False) -> np.ndarray:
        """The label that each image shows, as its index: (N,) int64."""
        return np.asarray(self.sees(images, batch_size, progress).argmax(-1), dtype=np.int64)
