"""FLUX.1: double-stream and single-stream blocks of joint attention, CLIP's pooled embedding and T5, flow matching.

Guidance: the dev model was distilled to take a guidance scale as an input. It is asked with 1 here, teacher and student
alike, where it predicts what it would without guidance; so does the authors' code (FluxESDAdapter in
utils/esd_trainer.py of rohitgandikota/erasing, commit 46599b3). That code samples x_t at an embedded scale of 3.5 with
the concept alone; here rollouts are guided away from the empty prompt by `start_guidance` as for every other family,
because those two predictions are the ones a bank keeps. The schnell model has no such input and is distilled to a few
steps: give it few `rollout_steps`, and `start_guidance` 1.

Drawing follows the pipeline: its guidance_scale is the embedded one (people use 3.5 for dev), and schnell ignores it.

Latents are packed, 2x2 cells to a token: (B, (h/2)(w/2), 4C); text embeddings (B, L, D); pooled (B, D').
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from esd_core.backbones.base import Conditioning
from esd_core.backbones.families import FAMILIES
from esd_core.backbones.flow_matching import FlowMatching

EMBEDDED_GUIDANCE = 1.0
TIMESTEPS = 1000  # the transformer takes timesteps as fractions of this


class Flux(FlowMatching):
    family = FAMILIES["FluxPipeline"]
    max_shift = 1.15

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        self._across = int(pipeline.default_sample_size) // 2  # tokens

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self._across**2, int(self.denoiser.config.in_channels)

    def set_timesteps(self, scheduler: Any, steps: int) -> None:
        sigmas = np.linspace(1.0, 1 / steps, steps)
        scheduler.set_timesteps(steps, device=self.device, sigmas=sigmas, mu=self.shift_for(self._across**2))

    @torch.no_grad()
    def encode(self, prompt: str) -> Conditioning:
        embeds, pooled, _ = self.pipeline.encode_prompt(prompt, None, device=self.device)
        told = {"encoder_hidden_states": embeds, "pooled_projections": pooled}
        return {name: tensor.to(self.working_dtype) for name, tensor in told.items()}

    def unscaled(self, latents: torch.Tensor, config: Any) -> torch.Tensor:
        """Tokens are unpacked, each to 2x2 cells."""
        tokens = latents.unflatten(1, (self._across, self._across)).unflatten(-1, (-1, 2, 2))
        cells = tokens.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)  # channel, row, in row, column, in column
        return super().unscaled(cells, config)

    def denoise(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        batch, device = len(latents), latents.device
        guided = self.denoiser.config.guidance_embeds
        text = conditioning["encoder_hidden_states"]
        (predicted,) = self.denoiser(
            hidden_states=latents,
            timestep=timesteps.expand(batch).to(latents.dtype) / TIMESTEPS,
            guidance=torch.full((batch,), EMBEDDED_GUIDANCE, device=device) if guided else None,
            txt_ids=torch.zeros(text.shape[1], 3, device=device, dtype=text.dtype),
            img_ids=places(self._across).to(latents),
            return_dict=False,
            **conditioning,
        )
        return predicted


def places(across: int) -> torch.Tensor:
    """(across², 3): 0, row and column of each token of a square picture, row by row."""
    rows, columns = torch.meshgrid(torch.arange(across), torch.arange(across), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
