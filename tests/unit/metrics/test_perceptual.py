"""Perceptual distance: nothing for nothing, little for another scene in the same style, much for another style."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from esd_core.evaluation.metrics.features import Features
from esd_core.evaluation.metrics.perceptual import perceptual_distance
from esd_core.miniature.painting import paint
from esd_core.miniature.world import STYLES, sample_scene


def test_equal_images_have_no_distance_and_no_pair_more_than_two(dino: Features) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    assert np.allclose(perceptual_distance(dino(images), dino(images)), 0, atol=1e-6)
    apart = perceptual_distance(dino(images), dino(images[::-1]))
    assert apart.shape == (6,)
    assert ((apart > 0) & (apart <= 2)).all()
    assert np.allclose(apart, perceptual_distance(dino(images[::-1]), dino(images)))


def test_another_style_is_farther_than_another_scene(styles: Features) -> None:
    rng = random.Random(0)
    van_gogh, monet = (style for style in STYLES if style in ("Van Gogh", "Monet"))
    scenes = [replace(sample_scene(rng), style=van_gogh) for _ in range(12)]
    before = np.stack([paint(scene) for scene in scenes])
    restyled = np.stack([paint(replace(scene, style=monet)) for scene in scenes])
    others = np.roll(before, 1, axis=0)
    farther = perceptual_distance(*map(styles, (before, restyled))) > perceptual_distance(
        *map(styles, (before, others))
    )
    assert farther.mean() > 0.9
