"""Whether an image is a picture at all: a collapsed or noisy one must not count as a good erasure.

The base's own images, of all probes together, say what pictures look like: how flat, how rough, and how far their
patches lie from those of other pictures. An image outside of that range is incoherent. Patches of an early layer are
compared, not what whole images mean: the base never drew the meadow from which a car was erased.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from esd_core.errors import EvaluationError
from esd_core.evaluation.metric_refs import TAILS, fewest_images
from esd_core.evaluation.metrics.features import Features

PATCHES_KNOWN = 2_000
BATCH = 32


@dataclass(frozen=True)
class CoherentRange:
    """Bounds on total variation and on the distance to the nearest of `known`, (M, D) unit features of patches."""

    flattest: float
    roughest: float
    farthest: float
    known: torch.Tensor


def coherent_range(images: np.ndarray, features: Features, false_alarms: float = 0.03, seed: int = 0) -> CoherentRange:
    """The range outside of which at most a share of `false_alarms` of further images of the base are expected.

    A random half of the images is what is known; each bound is the k-th most extreme of the n others, with
    k = floor(false_alarms / 3 (n + 1)), so that one more image of their kind lies beyond it with probability
    k / (n + 1) (split conformal prediction; Papadopoulos et al., ECML 2002). Raises EvaluationError when n is too
    small for k to be 1.
    """
    rng = np.random.default_rng(seed)
    mixed = rng.permutation(len(images))
    chosen, others = images[mixed[: len(images) // 2]], images[mixed[len(images) // 2 :]]
    rank = math.floor(false_alarms / TAILS * (len(others) + 1))
    if rank < 1:
        raise EvaluationError(
            f"{len(images)} images cannot tell {false_alarms:.1%} false alarms: "
            f"give at least {fewest_images(false_alarms)}"
        )
    known = _some_patches(chosen, features, rng)
    variation, distance = np.sort(total_variation(others)), np.sort(patch_distance(others, features, known))
    return CoherentRange(float(variation[rank - 1]), float(variation[-rank]), float(distance[-rank]), known)


def incoherent(images: np.ndarray, features: Features, allowed: CoherentRange) -> np.ndarray:
    """Which images lie outside the range: (N,) bool."""
    variation, distance = total_variation(images), patch_distance(images, features, allowed.known)
    outside = (variation < allowed.flattest) | (variation > allowed.roughest) | (distance > allowed.farthest)
    return np.asarray(outside)


def total_variation(images: np.ndarray) -> np.ndarray:
    """Mean absolute difference of neighbouring pixels, as a share of full contrast: (N,) float in [0, 1].

    0 for one colour, about 1/3 for uniform noise. Rudin, Osher and Fatemi, Physica D 1992, in its anisotropic form,
    per pixel.
    """
    pixels = images.astype(np.float32) / 255
    down, across = (np.abs(np.diff(pixels, axis=axis)).mean((1, 2, 3)) for axis in (1, 2))
    return np.asarray((down + across) / 2)


def patch_distance(images: np.ndarray, features: Features, known: torch.Tensor) -> np.ndarray:
    """Mean over an image's patches of 1 - cosine to the nearest known one: (N,) float in [0, 2].

    After Roth et al., CVPR 2022 (PatchCore), with the mean in place of the largest distance: it is whole images that
    collapse, not spots.
    """
    nearest = [(features.patches(part) @ known.T).amax(-1).mean(-1) for part in _parts(images)]
    return np.asarray(1 - torch.cat(nearest).cpu().numpy())


def _some_patches(images: np.ndarray, features: Features, rng: np.random.Generator) -> torch.Tensor:
    """At most PATCHES_KNOWN of the images' patches, taken at random: (M, D)."""
    patches = torch.cat([features.patches(part).flatten(0, 1) for part in _parts(images)])
    return patches[torch.from_numpy(rng.permutation(len(patches))[:PATCHES_KNOWN])]


def _parts(images: np.ndarray) -> list[np.ndarray]:
    return [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
