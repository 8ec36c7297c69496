"""Guided rollouts: partly denoised latents of a prompt, with the predictions that made them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from inspect import signature
from typing import Any, cast

import torch

from esd_core.backbones.base import Conditioning, concatenate, repeat
from esd_core.objective import guided

Predict = Callable[[torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]


@dataclass(frozen=True)
class RolloutPoint:
    """x_t as the model sees it before sampler step number `step`, and what it predicts there.

    latents, eps_prompt, eps_null: (B, ...); timestep: scalar tensor, the sampler's own.
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
    prompt: Conditioning,
    null: Conditioning,
    guidance_scale: float,
    generator: torch.Generator | None = None,
) -> Generator[RolloutPoint, None, torch.Tensor]:
    """Sample with classifier-free guidance, yielding every point on the way; stop early by not asking for more.

    Returns the final latents. noise: (B, ...), standard normal. Conditionings of one prompt for all, or (B, ...).
    `scheduler`: any of diffusers, its timesteps set; one that adds noise at its steps (ancestral, SDE) draws it from
    `generator`. A point costs two evaluations for each sample, the ones the sampler needs anyway.
    """
    drawing = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
    latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    batch = len(noise)
    told = concatenate([repeat(null, batch), repeat(prompt, batch)])
    for step, timestep in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
        eps_null, eps_prompt = predict(torch.cat([seen, seen]), timestep, told).chunk(2)
        yield RolloutPoint(step, seen, timestep, eps_prompt, eps_null)
        noise_estimate = guided(eps_null, eps_prompt, guidance_scale)
        latents = scheduler.step(noise_estimate, timestep, latents, return_dict=False, **drawing)[0]
    return latents


def end_of(rollout: Generator[RolloutPoint, None, torch.Tensor]) -> torch.Tensor:
    """The final latents of a rollout, gone through to its end."""
    while True:
        try:
            next(rollout)
        except StopIteration as end:
            return cast("torch.Tensor", end.value)
