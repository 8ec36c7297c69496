"""A quick look before stopping: a few images drawn with the student as it is, and what a judge sees in them.

Text encoders and autoencoder have left memory by then: prompts are encoded before, and the autoencoder comes back for
as long as it decodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from esd_core.backbones.base import Backbone, concatenate
from esd_core.backbones.loading import load_autoencoder
from esd_core.base_model import ResolvedBase
from esd_core.errors import ErasureFailed
from esd_core.machine import give_back_freed_memory
from esd_core.point_source import rollouts_at_once
from esd_core.recipe import RolloutSampler
from esd_core.rollout import end_of, guided_rollout
from esd_core.score_bank import start_noise

STEPS = 8  # of the sampler


@dataclass(frozen=True)
class Witness:
    """What is drawn to see whether a concept is still there, and who says so.

    shows: from images (N, H, W, 3) uint8 in the order of prompts and seeds, whether each shows the concept: (N,) bool.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    guidance_scale: float
    shows: Callable[[np.ndarray], np.ndarray]


class QuickLook:
    """Draws a witness's images. Costs two evaluations for each sampler step and image."""

    def __init__(self, backbone: Backbone, base: ResolvedBase, witness: Witness) -> None:
        """Encodes the prompts: the text encoders must be there still."""
        self.backbone, self.base, self.witness = backbone, base, witness
        self.told = [backbone.encode(prompt) for prompt in witness.prompts]
        self.null = backbone.encode("")

    def shown(self) -> float:
        """Share of the images that show the concept; raises ErasureFailed when the model draws no finite pixels."""
        return float(self.witness.shows(self.images()).mean())

    def images(self) -> np.ndarray:
        """(N, H, W, 3) uint8, of the denoiser as it is."""
        at_once = rollouts_at_once(self.backbone)
        latents = [self._sampled(first, first + at_once) for first in range(0, len(self.told), at_once)]
        autoencoder = load_autoencoder(self.base, self.backbone.device)
        images = np.concatenate([self._decoded(autoencoder, batch) for batch in latents])
        del autoencoder
        give_back_freed_memory()
        return images

    def _sampled(self, first: int, last: int) -> torch.Tensor:
        backbone = self.backbone
        noise = start_noise(backbone.latent_shape, self.witness.seeds[first:last], backbone.working_dtype)
        told = concatenate(self.told[first:last])
        scheduler = backbone.sampler(RolloutSampler.AUTO, STEPS)
        scale = self.witness.guidance_scale
        return end_of(guided_rollout(backbone.predict, scheduler, noise.to(backbone.device), told, self.null, scale))

    @torch.no_grad()
    def _decoded(self, autoencoder: torch.nn.Module, latents: torch.Tensor) -> np.ndarray:
        pixels = (self.backbone.decode(autoencoder, latents) / 2 + 0.5).clamp(0, 1)
        if not torch.isfinite(pixels).all():
            raise ErasureFailed("the model draws no finite pixels any more: lower learning_rate or negative_guidance")
        return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
