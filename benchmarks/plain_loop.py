"""What the authors' current training loop does, plainly: the yardstick of `benchmarks.cost`.

Rules of esd_sd.py (rohitgandikota/erasing, commit ce8d4d9), written anew from them: two U-Nets in memory; in every
iteration a fresh guided rollout of the frozen one up to a random step, two or three further teacher calls there, one
optimizer step. Gradients are made for all parameters of the edited U-Net, though Adam updates the subset only, and
only the subset's are ever cleared. Weights, moments and latents are in the model's own dtype, without masters. Text
encoder and autoencoder stay loaded. Cheaper than theirs in one thing: the prompts are encoded once for all rollouts.

Shapes: latents (1, 4, h, w); embeddings (1, 77, D); timesteps () from the scheduler that the base model ships.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn

SEEDS = 2**15  # noise seeds are drawn below it


@dataclass(frozen=True)
class PlainSettings:
    """The arguments of esd_sd.py, with its defaults. train_method: esd-x, esd-x-strict, esd-u or esd-all."""

    concept: str
    train_method: str
    erase_from: str | None = None
    num_inference_steps: int = 50
    guidance_scale: float = 3.0
    negative_guidance: float = 2.0  # anchored on the concept: the paper's eta + 1
    lr: float = 5e-5


def trained(unet: nn.Module, train_method: str) -> dict[str, nn.Parameter]:
    """Linear and Conv2d parameters inside or outside cross-attention, by name."""
    chosen: dict[str, nn.Parameter] = {}
    for name, module in unet.named_modules():
        wanted = {
            "esd-x": "attn2" in name,
            "esd-x-strict": "attn2.to_k" in name or "attn2.to_v" in name,
            "esd-u": "attn2" not in name,
            "esd-all": True,
        }[train_method]
        if wanted and isinstance(module, nn.Linear | nn.Conv2d):
            chosen |= {f"{name}.{leaf}": parameter for leaf, parameter in module.named_parameters()}
    return chosen


def _held(module: nn.Module) -> None:
    """Copy weights into memory, as moving them to a device does: mapped files take memory only where they are read."""
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()


class PlainLoop:
    """A pipeline with the frozen U-Net, the edited U-Net beside it, and Adam on the subset."""

    def __init__(self, folder: Path, settings: PlainSettings, dtype: torch.dtype) -> None:
        self.settings = settings
        self.frozen = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", dtype=dtype).eval()
        self.frozen.requires_grad_(False)
        self.edited = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", dtype=dtype).eval()
        self.pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            unet=self.frozen,
            dtype=dtype,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        for part in (self.pipeline.text_encoder, self.pipeline.vae):
            _held(part)
        self.dtype = dtype
        self.scheduler = self.pipeline.scheduler
        self.scheduler.set_timesteps(settings.num_inference_steps)
        self.parameters = trained(self.edited, settings.train_method)
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=settings.lr)
        self.concept, self.null = self.encode(settings.concept), self.encode("")
        self.prompt = self.concept if settings.erase_from is None else self.encode(settings.erase_from)

    @torch.no_grad()
    def encode(self, text: str) -> torch.Tensor:
        embeds, _ = self.pipeline.encode_prompt(text, torch.device("cpu"), 1, do_classifier_free_guidance=False)
        return embeds

    @torch.no_grad()
    def rollout(self, seed: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """x_t before sampler step number `stop`, as the U-Net takes it, and that step's timestep."""
        size = self.frozen.config.sample_size
        shape = (1, self.frozen.config.in_channels, size, size)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=self.dtype)
        self.scheduler.set_timesteps(self.settings.num_inference_steps)
        latents = latents * self.scheduler.init_noise_sigma
        both = torch.cat([self.null, self.prompt])
        for timestep in self.scheduler.timesteps[:stop]:
            seen = self.scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
            eps_null, eps_prompt = self.frozen(seen, timestep, encoder_hidden_states=both).sample.chunk(2)
            eps = eps_null + self.settings.guidance_scale * (eps_prompt - eps_null)
            latents = self.scheduler.step(eps, timestep, latents).prev_sample
        timestep = self.scheduler.timesteps[stop]
        return self.scheduler.scale_model_input(latents, timestep), timestep

    @torch.no_grad()
    def target(self, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """What the edited U-Net must predict: two calls of the frozen one, three when erasing from another text."""
        eps_concept = self.frozen(latents, timestep, encoder_hidden_states=self.concept).sample
        eps_null = self.frozen(latents, timestep, encoder_hidden_states=self.null).sample
        eps_from = eps_concept
        if self.settings.erase_from is not None:
            eps_from = self.frozen(latents, timestep, encoder_hidden_states=self.prompt).sample
        return eps_from - self.settings.negative_guidance * (eps_concept - eps_null)

    def learn(self, latents: torch.Tensor, timestep: torch.Tensor, target: torch.Tensor) -> float:
        """The optimizer step; returns the loss before it."""
        predicted = self.edited(latents, timestep, encoder_hidden_states=self.prompt).sample
        loss = F.mse_loss(predicted, target)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def iteration(self, seed: int, stop: int) -> float:
        """One iteration with its noise seed and its stopping step, 0 <= stop < num_inference_steps."""
        self.optimizer.zero_grad()
        latents, timestep = self.rollout(seed, stop)
        return self.learn(latents, timestep, self.target(latents, timestep))

    def save(self, path: Path) -> None:
        save_file({name: parameter.detach() for name, parameter in self.parameters.items()}, path)


def draws(settings: PlainSettings, seed: int) -> Iterator[tuple[int, int]]:
    """(noise seed, stopping step) of each iteration. Every stopping step comes once before any comes again, so that
    their mean over whole passes is the (num_inference_steps - 1) / 2 of independent draws, without their noise."""
    drawn = random.Random(seed)
    while True:
        for stop in drawn.sample(range(settings.num_inference_steps), settings.num_inference_steps):
            yield drawn.randrange(SEEDS), stop
