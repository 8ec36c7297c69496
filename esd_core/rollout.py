"""Guided rollouts: partly denoised latents of a prompt, with the predictions that made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from esd_core.objective import guided

Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class RolloutPoint:
    """x_t as the model sees it before sampler step number `step`, and what it predicts there.

    latents, eps_prompt, eps_null: (B, C, h, w); timestep: scalar tensor, the sampler's own.
    """

    step: int
    latents: torch.Tensor
    timestep: torch.Tensor
    eps_prompt: torch.Tensor
    eps_null: torch.Tensor


@torch.no_grad()
def guided_rollout(
    predict: Predict,
    scheduler: Any,
    noise: torch.Tensor,
    prompt_embeds: torch.Tensor,
    null_embeds: torch.Tensor,
    guidance_scale: float,
    steps: int,
) -> Iterator[RolloutPoint]:
    """Sample with classifier-free guidance, yielding every point on the way; stop early by not asking for more.

    noise: (B, C, h, w), standard normal. Embeddings: (1, L, D). `scheduler` is any diffusers scheduler; its state is
    reset. A point costs two U-Net evaluations per sample, the ones the sampler needs anyway.
    """
    scheduler.set_timesteps(steps, device=noise.device)
    latents = noise * scheduler.init_noise_sigma
    batch = len(noise)
    embeds = torch.cat([null_embeds.expand(batch, -1, -1), prompt_embeds.expand(batch, -1, -1)])
    for step, timestep in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(latents, timestep)
        eps_null, eps_prompt = predict(torch.cat([seen, seen]), timestep, embeds).chunk(2)
        yield RolloutPoint(step, seen, timestep, eps_prompt, eps_null)
        noise_estimate = guided(eps_null, eps_prompt, guidance_scale)
        latents = scheduler.step(noise_estimate, timestep, latents, return_dict=False)[0]
