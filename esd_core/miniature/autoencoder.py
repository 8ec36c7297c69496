"""Renders -> AutoencoderKL: 64x64 pixels to 8x8 latents of 8 channels."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from esd_core.miniature.renders import to_tensor
from esd_core.miniature.workers import average_gradients

LATENT_CHANNELS = 8
CROP = 32  # pixels; a multiple of every texture's period
KL_WEIGHT = 1e-3
BATCH = 16  # per process
PEAK_LR = 2e-3
WHOLE_FROM = 0.92  # share of the steps trained on crops before whole pictures, four times as dear


def build() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=64,
        mid_block_add_attention=False,
    )


def random_crops(images: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    top, left = rng.integers(0, (64 - size) // 8 + 1, size=2) * 8
    return images[:, top : top + size, left : left + size]


def train(rank: int, world_size: int, images: np.ndarray, out: Path, steps: int, seed: int) -> None:
    """L1 reconstruction with a small KL term; the scaling factor makes latents of unit variance."""
    torch.manual_seed(seed)
    model = build()
    torch.manual_seed(seed + 1 + rank)
    rng = np.random.default_rng(seed + 1 + rank)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=1e-4)
    started = time.monotonic()
    for step in range(steps):
        progress = step / steps
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * min(1, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * progress)) + 1e-6
        batch = images[np.sort(rng.choice(len(images), BATCH, replace=False))]
        pixels = to_tensor(random_crops(batch, rng, CROP) if progress < WHOLE_FROM else batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = model.encode(pixels).latent_dist
            decoded = model.decode(posterior.sample()).sample
        l1 = F.l1_loss(decoded.float(), pixels)
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        optimizer.zero_grad(set_to_none=True)
        (l1 + KL_WEIGHT * kl).backward()
        average_gradients(model.parameters(), world_size)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if rank == 0 and step % 100 == 0:
            pace = (time.monotonic() - started) / (step + 1)
            print(f"autoencoder {step}/{steps} L1 {l1.item():.4f} KL {kl.item():.3f} {pace:.3f} s/step", flush=True)
    if rank == 0:
        latents = encode(model, images[:2000])
        model.register_to_config(scaling_factor=float(1 / latents.std()))
        model.save_pretrained(out)


@torch.inference_mode()
def encode(model: AutoencoderKL, images: np.ndarray, batch: int = 64) -> torch.Tensor:
    """Unscaled posterior means: (N, 8, 8, 8) float32."""
    means = [model.encode(to_tensor(images[i : i + batch])).latent_dist.mean for i in range(0, len(images), batch)]
    return torch.cat(means)


@torch.inference_mode()
def decode(model: AutoencoderKL, latents: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """Pixels (N, 3, 64, 64) in about [-1, 1] from unscaled latents."""
    return torch.cat([model.decode(latents[i : i + batch]).sample for i in range(0, len(latents), batch)])
