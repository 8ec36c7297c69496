"""Zero-shot CLIP: an image shows the label whose text lies nearest to it. For styles and concepts in free words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from esd_core.evaluation.classifiers.base import OneLabelClassifier
from esd_core.evaluation.clip_space import ClipSpace, load_clip


@dataclass(frozen=True)
class ClipClassifier(OneLabelClassifier):
    """`texts` (number of labels, D): the labels' unit vectors. Radford et al., ICML 2021, section 3.1."""

    space: ClipSpace
    texts: np.ndarray

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Cosine similarities, in [-1, 1]."""
        return np.asarray(self.space.of_images(images) @ self.texts.T)


def load_clip_classifier(ref: str, labels: Sequence[str], template: str, device: str = "cpu") -> ClipClassifier:
    """Labels are free texts, each put into `template` at its {}."""
    space = load_clip(ref, device)
    texts = space.of_texts([template.replace("{}", label) for label in labels])
    return ClipClassifier(ref, tuple(labels), space, texts)
