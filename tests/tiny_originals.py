"""Tiny random pipelines with the layout of the published models: their levels, layers and kinds of blocks, so that
every name of the original checkpoints occurs, with a few channels each."""

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
from tests import tiny_pipelines

TEXTS = ["a house in the style of Van Gogh", "a tree on the beach", "the sun by Monet"]
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
CLIP_L, CLIP_G, PROJECTED = 16, 24, 20  # widths of the text encoders, and of what the second projects to


def tokenizer() -> CLIPTokenizer:
    return build_tokenizer(TEXTS)


def text_encoder(width: int = CLIP_L, kind: type = CLIPTextModel, **settings: Any) -> Any:
    words = tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=words.model_max_length,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        **settings,
    )
    return kind(config)


def autoencoder(channels: int = 4, **settings: Any) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8),
        layers_per_block=2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        **settings,
    )


def unet(down: tuple[str, ...], up: tuple[str, ...], width: int, **settings: Any) -> UNet2DConditionModel:
    """width: of the text embeddings."""
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=(4, 8, 12, 12)[: len(down)],
        layers_per_block=2,
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=4,
        **settings,
    )


FOUR_DOWN = (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
FOUR_UP = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
XL_DOWN = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
XL_UP = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")


def stable_diffusion_1() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(),
        unet=unet(FOUR_DOWN, FOUR_UP, CLIP_L),
        scheduler=PNDMScheduler(**NOISE, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_2() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(hidden_act="gelu"),
        tokenizer=tokenizer(),
        unet=unet(FOUR_DOWN, FOUR_UP, CLIP_L, use_linear_projection=True),
        scheduler=DDIMScheduler(**NOISE, clip_sample=False, prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(**scheduler: Any) -> StableDiffusionXLPipeline:
    second = text_encoder(CLIP_G, CLIPTextModelWithProjection, hidden_act="gelu", projection_dim=PROJECTED)
    sizes = 8
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(),
        text_encoder_2=second,
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(
            XL_DOWN,
            XL_UP,
            CLIP_L + CLIP_G,
            use_linear_projection=True,
            transformer_layers_per_block=(1, 2, 3),
            addition_embed_type="text_time",
            addition_time_embed_dim=sizes,
            projection_class_embeddings_input_dim=PROJECTED + 6 * sizes,
        ),
        scheduler=EulerDiscreteScheduler(**NOISE, **{"timestep_spacing": "leading", **scheduler}),
        add_watermarker=False,
    )


def stable_diffusion_3() -> StableDiffusion3Pipeline:
    """The first block also has the attention of the picture to itself, as in 3.5 medium. The first text encoder's
    projection is the identity, as in the published models."""
    letters = T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((c, -2.0) for c in "aehostu")],
        extra_ids=0,
        model_max_length=16,
    )
    width = CLIP_L + CLIP_G
    first = text_encoder(CLIP_L, CLIPTextModelWithProjection, projection_dim=CLIP_L)
    torch.nn.init.eye_(first.text_projection.weight)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=width,
        caption_projection_dim=16,
        pooled_projection_dim=width,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        vae=autoencoder(8, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06),
        text_encoder=first,
        text_encoder_2=text_encoder(CLIP_G, CLIPTextModelWithProjection, projection_dim=CLIP_G, hidden_act="gelu"),
        text_encoder_3=T5EncoderModel(
            T5Config(vocab_size=len(letters), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        tokenizer_3=letters,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux_of_its_own_width() -> FluxPipeline:
    """One block of each kind, 3072 wide: half a billion parameters, in bfloat16."""
    pipeline = tiny_pipelines.flux()
    with torch.device("meta"):
        wide = FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            joint_attention_dim=tiny_pipelines.WIDTH,
            pooled_projection_dim=tiny_pipelines.WIDTH,
            guidance_embeds=True,
        )
    wide = wide.to(torch.bfloat16).to_empty(device="cpu")
    for parameter in wide.parameters():
        torch.nn.init.uniform_(parameter, -0.05, 0.05)
    pipeline.register_modules(transformer=wide)
    return pipeline


ORIGINALS: dict[str, Callable[[], Any]] = {
    "SD 1": stable_diffusion_1,
    "SD 2": stable_diffusion_2,
    "SDXL": stable_diffusion_xl,
    "SD 3": stable_diffusion_3,
}


def save(build: Callable[[], Any], folder: Path, **options: Any) -> Path:
    """A random pipeline of a fixed seed, as a folder; norms and biases are random too: none passes for another."""
    torch.manual_seed(0)
    pipeline = build()
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            for name, parameter in component.named_parameters():
                if parameter.ndim == 1:
                    torch.nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.1)
    pipeline.save_pretrained(folder, **options)
    return folder
