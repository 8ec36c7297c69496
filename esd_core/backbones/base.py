"""What the engine asks of a family of base models.

Shapes: latents (B, ...) in the family's own layout; timesteps () or (B,); a conditioning is what the denoiser is told
of a prompt, tensors by the name of its forward argument, (1, ...) for one prompt and (B, ...) for a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)

from esd_core.backbones.families import Family
from esd_core.recipe import RolloutSampler

Conditioning = dict[str, torch.Tensor]


def repeat(conditioning: Conditioning, count: int) -> Conditioning:
    """One prompt's conditioning for a batch of `count`."""
    return {name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in conditioning.items()}


def concatenate(parts: Sequence[Conditioning]) -> Conditioning:
    """Conditionings one after the other along the batch."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class Backbone(ABC):
    """A loaded pipeline with one denoiser that is rolled out, asked and trained. Counts the samples it evaluates."""

    family: ClassVar[Family]

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.denoiser: Any = getattr(pipeline, self.family.denoiser)  # a diffusers model: a module with a config
        self.scheduler = pipeline.scheduler
        self.evaluations = 0

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the denoiser's weights."""
        return next(self.denoiser.parameters()).dtype

    @property
    def working_dtype(self) -> torch.dtype:
        """Of latents and predictions between evaluations: float32 or wider."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """Of one sample's latents, as the denoiser was trained on them."""

    @abstractmethod
    def encode(self, prompt: str) -> Conditioning:
        """The conditioning of one prompt, (1, ...), in the working dtype."""

    @abstractmethod
    def denoise(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The denoiser's own output, all tensors in its dtype."""

    def vocabulary(self) -> list[str]:
        """Whole words of three letters or more that the text encoder's tokenizer knows, sorted."""
        words = {token.removesuffix("</w>") for token in self.pipeline.tokenizer.get_vocab() if token.endswith("</w>")}
        return sorted(word for word in words if word.isascii() and word.isalpha() and len(word) >= 3)

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """What the denoiser predicts (noise, v or velocity, as it was trained), like `latents`."""
        self.evaluations += len(latents)
        told = {name: tensor.to(self.dtype) for name, tensor in conditioning.items()}
        return self.denoise(latents.to(self.dtype), timesteps, told).to(latents.dtype)

    def sampler(self, choice: RolloutSampler, steps: int) -> Any:
        """A fresh scheduler on the base's own noise schedule, its timesteps set."""
        scheduler = self.scheduler_of(choice)
        self.set_timesteps(scheduler, steps)
        return scheduler

    def set_timesteps(self, scheduler: Any, steps: int) -> None:
        scheduler.set_timesteps(steps, device=self.device)

    def scheduler_of(self, choice: RolloutSampler) -> Any:
        """The scheduler that a choice names, made from the base's own configuration."""
        config = self.scheduler.config
        match choice:
            case RolloutSampler.BASE:
                return type(self.scheduler).from_config(config)
            case RolloutSampler.PNDM:
                return PNDMScheduler.from_config(config, skip_prk_steps=True)  # as Stable Diffusion ships it
            case RolloutSampler.EULER:
                return EulerDiscreteScheduler.from_config(config)
            case RolloutSampler.DPM:
                return DPMSolverMultistepScheduler.from_config(config)
            case RolloutSampler.DDIM | RolloutSampler.AUTO:
                return DDIMScheduler.from_config(config, clip_sample=False)

    def decode(self, autoencoder: Any, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W), about [-1, 1], of final latents, in the autoencoder's dtype."""
        cells = self.unscaled(latents, autoencoder.config).to(autoencoder.dtype)
        return cast("torch.Tensor", autoencoder.decode(cells, return_dict=False)[0])

    def unscaled(self, latents: torch.Tensor, config: Any) -> torch.Tensor:
        """(B, C, h, w): final latents as the autoencoder of this configuration made them."""
        return latents / config.scaling_factor + (config.get("shift_factor") or 0.0)

    def release(self) -> None:
        """Let text encoders and autoencoder leave memory; from now on prompts cannot be encoded."""
        self.pipeline = None
