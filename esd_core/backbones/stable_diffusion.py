"""Stable Diffusion 1.x and 2.x: one text encoder, a U-Net that predicts noise or v.

The formulas hold for v as for noise: v = alpha * eps - sigma * x, and in the target the coefficients of the frozen
predictions sum to one, so that x cancels. Shapes: latents (B, C, h, w); text embeddings (B, L, D).
"""

from __future__ import annotations

import torch

from esd_core.backbones.base import Backbone, Conditioning
from esd_core.backbones.families import FAMILIES


class StableDiffusion(Backbone):
    family = FAMILIES["StableDiffusionPipeline"]

    @property
    def latent_shape(self) -> tuple[int, ...]:
        size = self.denoiser.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return int(self.denoiser.config.in_channels), int(height), int(width)

    @torch.no_grad()
    def encode(self, prompt: str) -> Conditioning:
        embeds, _ = self.pipeline.encode_prompt(prompt, self.device, 1, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": embeds.to(self.working_dtype)}

    def denoise(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        (predicted,) = self.denoiser(latents, timesteps, return_dict=False, **conditioning)
        return predicted
