"""How well an image fits its prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from esd_core.errors import EvaluationError
from esd_core.evaluation.clip_space import ClipSpace


def clip_score(images: np.ndarray, prompts: Sequence[str], space: ClipSpace) -> np.ndarray:
    """100 max(cos(image, prompt), 0) for each image and its prompt: (N,) float in [0, 100].

    Hessel et al., EMNLP 2021, equation 1, with the weight 100 instead of 2.5, as text-to-image papers give it.
    """
    if len(images) != len(prompts):
        raise EvaluationError(f"{len(images)} images but {len(prompts)} prompts: give one prompt for each image")
    cosines = (space.of_images(images) * space.of_texts(prompts)).sum(-1)
    return np.asarray(100 * cosines.clip(min=0))
