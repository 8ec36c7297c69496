"""A tiny random pipeline of each family in diffusers' format, of the family's real classes: a few thousand parameters.

Sizes: 4x8x8 latents and 16x16 pixels for U-Nets, 8x8x8 for Stable Diffusion 3. FLUX draws 128x128 cells whatever its
configuration says, so its tiny one costs most.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from esd_core.miniature.text import build_tokenizer

TEXTS = ["a house in the style of Van Gogh", "a tree on the beach", "the sun by Monet"]
WIDTH = 16  # of every text encoder
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def clip_tokenizer() -> CLIPTokenizer:
    return build_tokenizer(TEXTS, length=16)


def clip(tokenizer: CLIPTokenizer, kind: type = CLIPTextModel) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=32,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def t5_tokenizer() -> T5Tokenizer:
    """A unigram model of single letters and whole words."""
    words = sorted({f"▁{word}" for text in TEXTS for word in text.split()})
    letters = sorted({letter for word in words for letter in word})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -2.0) for word in words)]
    pieces += [(letter, -5.0) for letter in letters if letter not in words]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=32)


def t5(tokenizer: T5Tokenizer) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )


def autoencoder(channels: int, blocks: int = 2, **settings: Any) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(8,) * blocks,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        **settings,
    )


def unet(width: int, **settings: Any) -> UNet2DConditionModel:
    """width: of the text embeddings."""
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=4,
        **settings,
    )


def stable_diffusion(scheduler: Any, **settings: Any) -> StableDiffusionPipeline:
    """settings: of the U-Net."""
    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        vae=autoencoder(4),
        text_encoder=clip(tokenizer),
        tokenizer=tokenizer,
        unet=unet(WIDTH, **settings),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_1() -> StableDiffusionPipeline:
    return stable_diffusion(PNDMScheduler(**NOISE, skip_prk_steps=True, set_alpha_to_one=False))


def stable_diffusion_2() -> StableDiffusionPipeline:
    """v-prediction and linear projections, as Stable Diffusion 2.1 has them."""
    scheduler = DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction")
    return stable_diffusion(scheduler, use_linear_projection=True)


def stable_diffusion_xl() -> StableDiffusionXLPipeline:
    tokenizer = clip_tokenizer()
    embedded_size = 8
    return StableDiffusionXLPipeline(
        vae=autoencoder(4),
        text_encoder=clip(tokenizer),
        text_encoder_2=clip(tokenizer, CLIPTextModelWithProjection),
        tokenizer=tokenizer,
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            2 * WIDTH,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=embedded_size,
            projection_class_embeddings_input_dim=WIDTH + 6 * embedded_size,
        ),
        scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def stable_diffusion_3(**scheduler: Any) -> StableDiffusion3Pipeline:
    """Two blocks, of which the first also has the attention of the picture to itself, as in 3.5 medium."""
    tokenizer, letters = clip_tokenizer(), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    third = T5EncoderModel(
        T5Config(vocab_size=len(letters), d_model=2 * WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )
    return StableDiffusion3Pipeline(
        vae=autoencoder(8, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06),
        text_encoder=clip(tokenizer, CLIPTextModelWithProjection),
        text_encoder_2=clip(tokenizer, CLIPTextModelWithProjection),
        text_encoder_3=third,
        tokenizer=tokenizer,
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=letters,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
    )


def flux(guidance: bool = True) -> FluxPipeline:
    """guidance: as the dev model, with guidance and shifted timesteps; else as schnell, with neither."""
    tokenizer, letters = clip_tokenizer(), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=1,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guidance,
    )
    return FluxPipeline(
        vae=autoencoder(
            4,
            blocks=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.12,
            mid_block_add_attention=False,
        ),
        text_encoder=clip(tokenizer),
        text_encoder_2=t5(letters),
        tokenizer=tokenizer,
        tokenizer_2=letters,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if guidance else 1.0, use_dynamic_shifting=guidance, base_shift=0.5, max_shift=1.15
        ),
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "SD 1": stable_diffusion_1,
    "SD 2": stable_diffusion_2,
    "SDXL": stable_diffusion_xl,
    "SD 3": stable_diffusion_3,
    "FLUX": flux,
}


def save(build: Callable[[], Any], folder: Path) -> Path:
    """A random pipeline of a fixed seed, as a folder."""
    torch.manual_seed(0)
    build().save_pretrained(folder)
    return folder
