"""Names of the original checkpoints for models of the published sizes, without their numbers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    infer_diffusers_model_type,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from esd_core.errors import BaseModelError
from esd_core.exports.original_names import Place, clip_naming, open_clip_naming, to_original, unet_naming
from esd_core.exports.original_transformers import flux_naming
from esd_core.tensor_file import Stored, in_memory

DOWN, UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
SD_1 = {
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": (DOWN, DOWN, DOWN, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", UP, UP, UP),
    "block_out_channels": (320, 640, 1280, 1280),
}
SD_2 = {**SD_1, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
SDXL = {
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", DOWN, DOWN),
    "up_block_types": (UP, UP, "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
# Keys of the published checkpoints, and the shapes of their tensors.
KNOWN: dict[str, dict[str, tuple[int, ...]]] = {
    "v1": {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "model.diffusion_model.input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.11.1.proj_out.weight": (320, 320, 1, 1),
        "model.diffusion_model.out.2.weight": (4, 320, 3, 3),
        "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc1.weight": (3072, 768),
    },
    "v2": {
        "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
        "model.diffusion_model.output_blocks.11.1.proj_out.weight": (320, 320),
        "cond_stage_model.model.transformer.resblocks.22.attn.in_proj_weight": (3072, 1024),
        "cond_stage_model.model.positional_embedding": (77, 1024),
        "cond_stage_model.model.ln_final.weight": (1024,),
    },
    "xl_base": {
        "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
        "model.diffusion_model.input_blocks.7.1.transformer_blocks.9.attn2.to_v.weight": (1280, 2048),
        "model.diffusion_model.output_blocks.2.2.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.8.0.in_layers.2.weight": (320, 640, 3, 3),
        "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,),
        "conditioner.embedders.1.model.text_projection": (1280, 1280),
    },
}


def described(module: torch.nn.Module) -> dict[str, Stored]:
    return {name: in_memory(tensor) for name, tensor in module.state_dict().items()}


def text_model(width: int, layers: int, kind: type = CLIPTextModel, **settings: Any) -> dict[str, Stored]:
    config = CLIPTextConfig(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, **settings)
    return described(kind(config))


def checkpoint(name: str) -> dict[str, Stored]:
    """Everything but the autoencoder."""
    config: dict[str, Any] = {"v1": SD_1, "v2": SD_2, "xl_base": SDXL}[name]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        match name:
            case "v1":
                texts = to_original(text_model(768, 12), clip_naming("cond_stage_model.transformer."))
            case "v2":
                texts = to_original(text_model(1024, 23), open_clip_naming("cond_stage_model.model."))
            case _:
                second = text_model(1280, 32, CLIPTextModelWithProjection, projection_dim=1280)
                texts = to_original(second, open_clip_naming("conditioner.embedders.1.model."))
        naming = unet_naming(unet.config)
        tensors = to_original(described(unet), lambda key: Place(f"model.diffusion_model.{naming(key)}"))
        assert len(tensors) == len(unet.state_dict())  # no two names fall together
    return {**tensors, **texts}


@pytest.mark.parametrize("name", KNOWN)
def test_a_published_model_gets_the_keys_of_its_original(name: str) -> None:
    tensors = checkpoint(name)
    assert infer_diffusers_model_type(tensors) == name
    assert {key: tensors[key].shape for key in KNOWN[name]} == KNOWN[name]
    assert not [
        key for key in tensors if re.search(r"resnets|attentions|samplers|down_blocks|up_blocks|mid_block", key)
    ]


def test_blocks_that_the_original_lacks_are_refused_by_name() -> None:
    config = {**SD_1, "layers_per_block": 2, "mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}
    with pytest.raises(BaseModelError, match=r"UNetMidBlock2DSimpleCrossAttn: export as diffusers, lora or authors"):
        unet_naming(config)
    with pytest.raises(BaseModelError, match="another number of layers in each block"):
        unet_naming({**config, "mid_block_type": "UNetMidBlock2DCrossAttn", "layers_per_block": (1, 2, 2, 2)})
    with pytest.raises(BaseModelError, match="OpenCLIP has no place"):
        open_clip_naming("")("text_model.pooler.weight")
    with pytest.raises(BaseModelError, match=r"no place for attn\.to_gate"):
        flux_naming()("transformer_blocks.0.attn.to_gate.weight")


@pytest.mark.parametrize("guidance", [True, False])
def test_flux_comes_back_from_its_original_names(guidance: bool) -> None:
    """FLUX's own rows, which diffusers' converter splits by, with one column each."""
    with torch.device("meta"):
        flux = FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=guidance)
    generator = torch.Generator().manual_seed(8)
    tensors = {
        name: torch.randn(tensor.shape[:1] + (1,) * (tensor.ndim - 1), generator=generator)
        for name, tensor in flux.state_dict().items()
    }
    original = to_original({name: in_memory(tensor) for name, tensor in tensors.items()}, flux_naming())
    assert {"double_blocks.1.txt_attn.qkv.weight", "single_blocks.1.linear1.bias", "img_in.weight"} <= original.keys()
    back = convert_flux_transformer_checkpoint_to_diffusers({key: stored.read() for key, stored in original.items()})
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
