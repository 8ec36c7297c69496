"""CLIP score: the model's own similarity of image and prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from esd_core.errors import EvaluationError
from esd_core.evaluation.clip_space import load_clip
from esd_core.evaluation.metrics.clip_score import clip_score

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 24, 20, 3), dtype=np.uint8)
PROMPTS = ("a house", "a tree by Monet", "nothing", "a picture of a house", "by", "tree tree")


@torch.inference_mode()
def test_it_is_a_hundred_times_the_models_similarity_and_never_negative(tiny_clip: Path) -> None:
    model = CLIPModel.from_pretrained(tiny_clip).eval()
    tokens = AutoTokenizer.from_pretrained(tiny_clip)(list(PROMPTS), padding=True, return_tensors="pt")
    pixels = AutoImageProcessor.from_pretrained(tiny_clip)(list(IMAGES), return_tensors="pt")
    cosines = (model(**tokens, **pixels).logits_per_image / model.logit_scale.exp()).numpy()
    space = load_clip(str(tiny_clip))
    for turn in range(len(PROMPTS)):  # every image with every prompt
        scores = clip_score(IMAGES, PROMPTS[turn:] + PROMPTS[:turn], space)
        assert np.allclose(scores, 100 * np.maximum(np.roll(cosines, -turn, axis=1).diagonal(), 0), atol=1e-4)
    assert (cosines < 0).any()
    assert (cosines > 0).any()


def test_a_prompt_longer_than_the_encoder_is_cut(tiny_clip: Path) -> None:
    space = load_clip(str(tiny_clip))
    length = space.model.config.text_config.max_position_embeddings
    long = ("house " * length, "house " * (2 * length))
    first, second = clip_score(IMAGES[:1].repeat(2, axis=0), long, space)
    assert first == second


def test_every_image_needs_its_prompt(tiny_clip: Path) -> None:
    with pytest.raises(EvaluationError, match="6 images but 3 prompts"):
        clip_score(IMAGES, PROMPTS[:3], load_clip(str(tiny_clip)))
