"""A pipeline of exactly the sizes of Stable Diffusion 1.4 with random weights: same work, no meaning, no download."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from esd_core.miniature.text import build_tokenizer

PARAMETERS = {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863}  # of the published model


@contextmanager
def _made_in(dtype: torch.dtype) -> Iterator[None]:
    """Modules made within this block have weights of this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def save_random(folder: Path) -> None:
    """Save the pipeline in bfloat16: 2.1 GB. Its tokenizer is another, of the same length."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["a picture in the style of Van Gogh"], length=77)
    with _made_in(torch.bfloat16):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # the class's defaults are SD 1's
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=512,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                projection_dim=768,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for name, count in PARAMETERS.items():
        assert sum(p.numel() for p in getattr(pipeline, name).parameters()) == count, name
    pipeline.save_pretrained(folder)
