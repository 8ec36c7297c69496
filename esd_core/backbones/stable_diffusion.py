"""Stable Diffusion 1.x: loading it, encoding prompts, predicting noise.

Shapes: latents (B, C, h, w); text embeddings (B, L, D); timesteps () or (B,).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from esd_core.base_model import ResolvedBase
from esd_core.errors import BaseModelError


def choose_device(device: str) -> torch.device:
    """`auto` is the GPU when there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as e:
        raise BaseModelError(f"device {device!r} is not known to torch: use auto, cpu, cuda or cuda:N") from e
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise BaseModelError(f"device {device!r} asked for, but torch sees no GPU: use --device cpu")
    return chosen


def load_pipeline(
    base: ResolvedBase, device: str = "auto", dtype: torch.dtype | None = None
) -> StableDiffusionPipeline:
    """The pipeline of a resolved base, from safetensors only. dtype: float32 on a CPU, bfloat16 on a GPU by default."""
    chosen = choose_device(device)
    precision = dtype or (torch.bfloat16 if chosen.type == "cuda" else torch.float32)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            Path(base.folder),
            dtype=precision,
            use_safetensors=True,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        raise BaseModelError(f"cannot load base model {base.id!r}: {(str(e).splitlines() or [''])[0]}") from e
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(chosen)


@torch.no_grad()
def encode_prompt(pipeline: StableDiffusionPipeline, prompt: str) -> torch.Tensor:
    """Text embeddings of one prompt, (1, L, D), in float32 or wider."""
    embeds, _ = pipeline.encode_prompt(prompt, pipeline.device, 1, do_classifier_free_guidance=False)
    return embeds if embeds.dtype is torch.float64 else embeds.float()


def latent_shape(unet: UNet2DConditionModel) -> tuple[int, int, int]:
    """(C, h, w) of the latents the model was trained on."""
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return int(unet.config.in_channels), int(height), int(width)


def rollout_sampler(scheduler: Any) -> DDIMScheduler:
    """DDIM on the base's own noise schedule: the sampler of the paper's rollouts."""
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False)


class NoisePredictor:
    """epsilon(x_t, t, c) of a U-Net, in the latents' own precision, counting samples evaluated."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet
        self.evaluations = 0

    def __call__(self, latents: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        self.evaluations += len(latents)
        mixed = latents.device.type == "cuda"
        with torch.autocast(latents.device.type, dtype=torch.bfloat16, enabled=mixed):
            (noise,) = self.unet(latents, timesteps, encoder_hidden_states=embeds, return_dict=False)
        return noise.to(latents.dtype)
