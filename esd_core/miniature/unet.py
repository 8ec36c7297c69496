"""Latents and captions -> UNet2DConditionModel, predicting noise under Stable Diffusion's schedule of betas."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from transformers import CLIPTextModel, CLIPTokenizer

from esd_core.miniature import text
from esd_core.miniature.autoencoder import LATENT_CHANNELS
from esd_core.miniature.renders import scenes
from esd_core.miniature.workers import average_gradients
from esd_core.miniature.world import caption

CAPTIONS_PER_SCENE = 4
BATCH = 32  # per process
CAPTION_DROPOUT = 0.12
SNR_GAMMA = 5.0
EMA_DECAY = 0.998
PEAK_LR = 1.2e-3


def build() -> UNet2DConditionModel:
    """Kaiming convolutions without bias, small closing layers, zero output: random defaults learn slowly here."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=text.WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        if name.endswith(("conv2", "proj_out", "to_out.0", "ff.net.2")):
            with torch.no_grad():
                module.get_parameter("weight").mul_(0.3)
    torch.nn.init.zeros_(unet.conv_out.weight)
    return unet


def scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.x."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


@torch.inference_mode()
def embed_captions(folder: Path, seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of distinct captions, the empty one first: (K, LENGTH, WIDTH) float16; and their index per scene:
    (count, CAPTIONS_PER_SCENE) int64."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    rng = random.Random(seed)
    number: dict[str, int] = {"": 0}
    index = [
        [number.setdefault(caption(scene, rng)[0], len(number)) for _ in range(CAPTIONS_PER_SCENE)]
        for scene in scenes(seed, count)
    ]
    distinct = list(number)
    hidden = [
        encoder(text.tokenize(tokenizer, distinct[i : i + 256])).last_hidden_state.half()
        for i in range(0, len(distinct), 256)
    ]
    return torch.cat(hidden), torch.tensor(index)


def learning_rate(step: int, steps: int, peak: float) -> float:
    return peak * min(1.0, (step + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * step / steps)) + 1e-6


def train(
    rank: int,
    world_size: int,
    latents: torch.Tensor,
    embeddings: torch.Tensor,
    index: torch.Tensor,
    out: Path,
    steps: int,
    seed: int,
    peak_lr: float = PEAK_LR,
    start_from: Path | None = None,
    save_every: int = 1500,
) -> None:
    """Min-SNR weighted noise prediction with caption dropout; the exponential moving average is what is saved.

    latents: scaled, (N, 8, 8, 8). embeddings, index: see `embed_captions`. `start_from` continues from saved weights
    with a fresh optimizer (a warm restart).
    """
    torch.manual_seed(seed)
    unet = UNet2DConditionModel.from_pretrained(start_from) if start_from else build()
    unet.train()
    generator = torch.Generator().manual_seed(seed * 1000 + rank)
    noise_scheduler = scheduler()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=peak_lr, betas=(0.9, 0.98), weight_decay=1e-3, foreach=True)
    ema = EMAModel(unet.parameters(), decay=EMA_DECAY, foreach=True)
    predict = torch.compile(unet)
    started, recent = time.monotonic(), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak_lr)
        rows = torch.randint(len(latents), (BATCH,), generator=generator)
        column = torch.randint(index.shape[1], (BATCH,), generator=generator)
        dropped = torch.rand(BATCH, generator=generator) < CAPTION_DROPOUT
        condition = embeddings[torch.where(dropped, 0, index[rows, column])].float()
        noise = torch.randn((BATCH, *latents.shape[1:]), generator=generator)
        timesteps = torch.randint(1000, (BATCH,), generator=generator)
        noisy = noise_scheduler.add_noise(latents[rows], noise, timesteps)
        prediction = predict(noisy, timesteps, condition, return_dict=False)[0]
        snr = compute_snr(noise_scheduler, timesteps)
        weight = snr.clamp(max=SNR_GAMMA) / snr
        loss = (weight * F.mse_loss(prediction, noise, reduction="none").mean((1, 2, 3))).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(unet.parameters(), world_size)
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        if rank == 0:
            ema.step(unet.parameters())
            recent.append(loss.item())
            if (step + 1) % 100 == 0:
                pace = (time.monotonic() - started) / (step + 1)
                mean = float(np.mean(recent[-100:]))
                print(f"unet {step + 1}/{steps} loss {mean:.4f} {BATCH * world_size / pace:.0f} images/s", flush=True)
            if (step + 1) % save_every == 0 or step + 1 == steps:
                ema.store(unet.parameters())
                ema.copy_to(unet.parameters())
                unet.save_pretrained(out)
                ema.restore(unet.parameters())
