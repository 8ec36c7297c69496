"""Names of the original Stable Diffusion code for the parameters of diffusers' and transformers' models.

Original naming: CompVis/stable-diffusion and Stability-AI/generative-models (U-Net and autoencoder), mlfoundations/
open_clip (the text encoders of Stable Diffusion 2 and SDXL's second). Derived from a model's config, not from a table
of one model; the inverse of what diffusers' `from_single_file` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from esd_core.errors import BaseModelError
from esd_core.tensor_file import Stored, derived


class Change(Enum):
    """What a tensor becomes besides its name."""

    NONE = "none"
    TRANSPOSE = "transpose"  # open_clip multiplies by its text projection from the right
    CONVOLUTION = "convolution"  # a linear layer that the original has as a 1x1 convolution
    SWAP_HALVES = "swap-halves"  # (scale, shift) of diffusers' adaptive norms is (shift, scale) in the original


@dataclass(frozen=True)
class Place:
    """Where a tensor goes: the original's key, and which part of that tensor when the original joins several."""

    key: str
    part: int = 0
    change: Change = Change.NONE


Naming = Callable[[str], Place | None]  # None: the original has no such tensor


def _changed(tensor: torch.Tensor, change: Change) -> torch.Tensor:
    match change:
        case Change.NONE:
            return tensor
        case Change.TRANSPOSE:
            return tensor.T
        case Change.CONVOLUTION:
            return tensor if tensor.ndim == 4 else tensor[:, :, None, None]
        case Change.SWAP_HALVES:
            return torch.cat(tensor.chunk(2)[::-1])


def to_original(tensors: Mapping[str, Stored], naming: Naming) -> dict[str, Stored]:
    """`tensors` under the original's keys; those that the original joins are joined along their rows."""
    parts: dict[str, list[tuple[Place, Stored]]] = {}
    for name, stored in tensors.items():
        place = naming(name)
        if place is not None:
            parts.setdefault(place.key, []).append((place, stored))
    return {key: _joined(found) for key, found in parts.items()}


def _joined(parts: list[tuple[Place, Stored]]) -> Stored:
    ordered = sorted(parts, key=lambda found: found[0].part)
    changes = [place.change for place, _ in ordered]
    if len(ordered) == 1 and changes[0] is Change.NONE:
        return ordered[0][1]
    return derived(
        [stored for _, stored in ordered],
        lambda read: torch.cat([_changed(part, change) for part, change in zip(read, changes, strict=True)]),
    )


def renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    """`name` with the first rule applied whose first half is a whole dotted prefix of it."""
    for old, new in rules:
        if name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


UNET_BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UNetMidBlock2DCrossAttn"}
RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
UNET_ENDS = (
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)


def unet_naming(config: Mapping[str, Any]) -> Callable[[str], str]:
    """The original's name of a U-Net's parameter (without the checkpoint's prefix), for any number of blocks.

    The original counts blocks through: input_blocks.0 is conv_in, then each level has its layers and a downsampler.
    Raises BaseModelError when the config has blocks that the original does not.
    """
    layers = config["layers_per_block"]
    kinds = (*config["down_block_types"], config.get("mid_block_type"), *config["up_block_types"])
    strange = [str(kind) for kind in kinds if kind not in UNET_BLOCKS]
    if strange or not isinstance(layers, int):
        fault = f"blocks of type {strange[0]}" if strange else "another number of layers in each block"
        raise BaseModelError(f"the original naming knows no U-Net with {fault}: export as diffusers, lora or authors")
    stride = layers + 1
    rules = [*UNET_ENDS]
    for level in range(len(config["down_block_types"])):
        for layer in range(layers):
            block = f"input_blocks.{1 + level * stride + layer}"
            rules.append((f"down_blocks.{level}.resnets.{layer}", f"{block}.0"))
            rules.append((f"down_blocks.{level}.attentions.{layer}", f"{block}.1"))
        rules.append((f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{(level + 1) * stride}.0.op"))
    rules += [("mid_block.resnets.0", "middle_block.0"), ("mid_block.attentions.0", "middle_block.1")]
    rules.append(("mid_block.resnets.1", "middle_block.2"))
    for level, kind in enumerate(config["up_block_types"]):
        for layer in range(stride):
            block = f"output_blocks.{level * stride + layer}"
            rules.append((f"up_blocks.{level}.resnets.{layer}", f"{block}.0"))
            rules.append((f"up_blocks.{level}.attentions.{layer}", f"{block}.1"))
        after = (
            2 if kind.startswith("CrossAttn") else 1
        )  # the upsampler stands behind the attention, where there is one
        rules.append((f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{level * stride + layers}.{after}.conv"))

    def original(name: str) -> str:
        match = re.fullmatch(r"(.*\.resnets\.\d+)\.(.*)", name)
        if match:
            name = f"{match[1]}.{renamed(match[2], RESNET)}"
        return renamed(name, rules)

    return original


VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    # as diffusers stored them before 0.14
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}
VAE_ENDS = (
    ("encoder.conv_norm_out", "encoder.norm_out"),
    ("decoder.conv_norm_out", "decoder.norm_out"),
)


def vae_naming(config: Mapping[str, Any], prefix: str) -> Naming:
    """The autoencoder's names. The original counts the decoder's levels from the image, diffusers from the latents."""
    top = len(config["up_block_types"]) - 1

    def original(name: str) -> Place:
        attention = re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name)
        if attention:
            half, layer, leaf = attention.groups()
            if layer not in VAE_ATTENTION:
                raise BaseModelError(f"the original autoencoder has no place for {name}: export as diffusers")
            change = Change.CONVOLUTION if leaf == "weight" and layer != "group_norm" else Change.NONE
            return Place(f"{prefix}{half}.mid.attn_1.{VAE_ATTENTION[layer]}.{leaf}", change=change)
        name = renamed(name, VAE_ENDS).replace(".conv_shortcut.", ".nin_shortcut.")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{top - int(m[1])}", name).replace("down_blocks.", "down.")
        name = name.replace(".resnets.", ".block.").replace("samplers.0.conv.", "sample.conv.")
        return Place(prefix + name)

    return original


def clip_naming(prefix: str) -> Naming:
    """OpenAI's CLIP keeps transformers' names; newer transformers leave `text_model.` out of the stored ones."""

    def original(name: str) -> Place:
        outside = name.startswith("text_projection.")
        return Place(prefix + ("" if outside else "text_model.") + name.removeprefix("text_model."))

    return original


OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
OPEN_CLIP_LAYER = (
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
)


def open_clip_naming(prefix: str) -> Naming:
    """OpenCLIP joins query, key and value of a layer into one tensor, and transposes its text projection."""

    def original(name: str) -> Place | None:
        name = name.removeprefix("text_model.")
        if name == "text_projection.weight":
            return Place(f"{prefix}text_projection", change=Change.TRANSPOSE)
        if name.endswith("position_ids"):
            return None  # a count from 0, which transformers used to store
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name)
        if not layer:
            if name not in OPEN_CLIP_ENDS:
                raise BaseModelError(f"OpenCLIP has no place for the text encoder's {name}: export as diffusers")
            return Place(prefix + OPEN_CLIP_ENDS[name])
        block = f"{prefix}transformer.resblocks.{layer[1]}"
        joined = re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", layer[2])
        if joined:
            return Place(f"{block}.attn.in_proj_{joined[2]}", part="qkv".index(joined[1]))
        return Place(f"{block}.{renamed(layer[2], OPEN_CLIP_LAYER)}")

    return original
