"""Stable Diffusion XL: two text encoders, a pooled embedding and picture sizes as further conditions of the U-Net.

The empty prompt is what the pipeline guides away from when no negative prompt is given: zeros where the model says
so (`force_zeros_for_empty_prompt`), as in the base model that was published. The authors' esd_sdxl.py samples x_t with
those zeros, but asks its teacher with the encoded empty string; here both are the same, so that a rollout's predictions
can be kept. Shapes: latents (B, 4, h, w); text embeddings (B, L, D1 + D2); pooled (B, D); sizes (B, 6).
"""

from __future__ import annotations

from typing import Any

import torch

from esd_core.backbones.base import Backbone, Conditioning
from esd_core.backbones.families import FAMILIES


class StableDiffusionXL(Backbone):
    family = FAMILIES["StableDiffusionXLPipeline"]

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        self._cells = int(pipeline.default_sample_size)
        self._pixels = self._cells * int(pipeline.vae_scale_factor)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return int(self.denoiser.config.in_channels), self._cells, self._cells

    @torch.no_grad()
    def encode(self, prompt: str) -> Conditioning:
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompt, device=self.device, do_classifier_free_guidance=False
        )
        if not prompt and self.pipeline.config.force_zeros_for_empty_prompt:
            embeds, pooled = torch.zeros_like(embeds), torch.zeros_like(pooled)
        whole_picture = [[self._pixels, self._pixels, 0, 0, self._pixels, self._pixels]]  # original, corner, target
        told = {"encoder_hidden_states": embeds, "text_embeds": pooled}
        sizes = torch.tensor(whole_picture, device=self.device, dtype=self.working_dtype)
        return {**{name: tensor.to(self.working_dtype) for name, tensor in told.items()}, "time_ids": sizes}

    def unscaled(self, latents: torch.Tensor, config: Any) -> torch.Tensor:
        """Models finetuned from XL may ship means and deviations of their latents, as the pipeline reads them."""
        means, deviations = config.get("latents_mean"), config.get("latents_std")
        if means is None or deviations is None:
            return super().unscaled(latents, config)
        mean, deviation = (torch.tensor(of).view(1, -1, 1, 1).to(latents) for of in (means, deviations))
        return latents * deviation / config.scaling_factor + mean

    def denoise(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        added = {name: conditioning[name] for name in ("text_embeds", "time_ids")}
        (predicted,) = self.denoiser(
            latents, timesteps, conditioning["encoder_hidden_states"], added_cond_kwargs=added, return_dict=False
        )
        return predicted
