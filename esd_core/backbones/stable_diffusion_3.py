"""Stable Diffusion 3 and 3.5: a transformer of joint attention, three text encoders, flow matching.

Every block attends from text and picture together to text and picture together; each has projections of its own
(add_q_proj, add_k_proj, add_v_proj, to_add_out for the text; to_q, to_k, to_v, to_out for the picture). Some blocks of
3.5 medium have a second attention `attn2`, of the picture to itself only: no cross-attention, unlike the U-Nets' of
that name. Every prompt comes with its own pooled embedding, the empty one too, as in the pipeline. The T5 encoder may
be missing (`text_encoder_3`): the pipeline puts zeros in its place. Shapes: latents (B, 16, h, w); text (B, L, D).
"""

from __future__ import annotations

from typing import Any

import torch

from esd_core.backbones.base import Conditioning
from esd_core.backbones.families import FAMILIES
from esd_core.backbones.flow_matching import FlowMatching


class StableDiffusion3(FlowMatching):
    family = FAMILIES["StableDiffusion3Pipeline"]
    max_shift = 1.16

    @property
    def latent_shape(self) -> tuple[int, ...]:
        config = self.denoiser.config
        return int(config.in_channels), int(config.sample_size), int(config.sample_size)

    def set_timesteps(self, scheduler: Any, steps: int) -> None:
        _, height, width = self.latent_shape
        patch = self.denoiser.config.patch_size
        mu = self.shift_for((height // patch) * (width // patch)) if scheduler.config.use_dynamic_shifting else None
        scheduler.set_timesteps(steps, device=self.device, mu=mu)

    @torch.no_grad()
    def encode(self, prompt: str) -> Conditioning:
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompt, None, None, device=self.device, do_classifier_free_guidance=False
        )
        told = {"encoder_hidden_states": embeds, "pooled_projections": pooled}
        return {name: tensor.to(self.working_dtype) for name, tensor in told.items()}

    def denoise(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        (predicted,) = self.denoiser(
            hidden_states=latents, timestep=timesteps.expand(len(latents)), return_dict=False, **conditioning
        )
        return predicted
