"""Names of the original code for the transformers of Stable Diffusion 3 (Stability-AI/sd3.5) and FLUX
(black-forest-labs/flux). Both join query, key and value of a stream; FLUX's single blocks join the MLP's input too."""

from __future__ import annotations

import re

from esd_core.errors import BaseModelError
from esd_core.exports.original_names import Change, Naming, Place, renamed

STREAM_PARTS = {
    **{f"to_{letter}": ("sample", part) for part, letter in enumerate("qkv")},
    **{f"add_{letter}_proj": ("context", part) for part, letter in enumerate("qkv")},
}

SD3_ENDS = (
    ("pos_embed.proj", "x_embedder.proj"),
    ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
    ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    ("norm_out.linear", "final_layer.adaLN_modulation.1"),
    ("proj_out", "final_layer.linear"),
)
SD3_BLOCK = (
    ("norm1.linear", "x_block.adaLN_modulation.1"),
    ("norm1_context.linear", "context_block.adaLN_modulation.1"),
    ("ff.net.0.proj", "x_block.mlp.fc1"),
    ("ff.net.2", "x_block.mlp.fc2"),
    ("ff_context.net.0.proj", "context_block.mlp.fc1"),
    ("ff_context.net.2", "context_block.mlp.fc2"),
    *((f"{attn}.to_out.0", f"x_block.{attn}.proj") for attn in ("attn", "attn2")),
    *((f"{attn}.norm_q", f"x_block.{attn}.ln_q") for attn in ("attn", "attn2")),
    *((f"{attn}.norm_k", f"x_block.{attn}.ln_k") for attn in ("attn", "attn2")),
    ("attn.to_add_out", "context_block.attn.proj"),
    ("attn.norm_added_q", "context_block.attn.ln_q"),
    ("attn.norm_added_k", "context_block.attn.ln_k"),
)


def sd3_naming(layers: int, prefix: str = "") -> Naming:
    """Names of an SD3Transformer2DModel with `layers` blocks, whose last one only reads the text: its norm there, and
    the final one, have scale and shift the other way round."""

    def original(name: str) -> Place:
        if name == "pos_embed.pos_embed":
            return Place(f"{prefix}pos_embed")
        block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", name)
        if not block:
            change = Change.SWAP_HALVES if name.startswith("norm_out.") else Change.NONE
            return Place(prefix + renamed(name, SD3_ENDS), change=change)
        home, rest = f"{prefix}joint_blocks.{block[1]}", block[2]
        joined = re.fullmatch(r"(attn2?)\.(\w+)\.(weight|bias)", rest)
        if joined and joined[2] in STREAM_PARTS:
            stream, part = STREAM_PARTS[joined[2]]
            side = "x_block" if stream == "sample" else "context_block"
            return Place(f"{home}.{side}.{joined[1]}.qkv.{joined[3]}", part)
        last = int(block[1]) == layers - 1 and rest.startswith("norm1_context.")
        return Place(f"{home}.{_known(rest, SD3_BLOCK)}", change=Change.SWAP_HALVES if last else Change.NONE)

    return original


FLUX_ENDS = (
    ("x_embedder", "img_in"),
    ("context_embedder", "txt_in"),
    ("time_text_embed.timestep_embedder.linear_1", "time_in.in_layer"),
    ("time_text_embed.timestep_embedder.linear_2", "time_in.out_layer"),
    ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer"),
    ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
    ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
    ("time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer"),
    ("norm_out.linear", "final_layer.adaLN_modulation.1"),
    ("proj_out", "final_layer.linear"),
)
FLUX_DOUBLE = (
    ("norm1.linear", "img_mod.lin"),
    ("norm1_context.linear", "txt_mod.lin"),
    ("attn.to_out.0", "img_attn.proj"),
    ("attn.to_add_out", "txt_attn.proj"),
    ("ff.net.0.proj", "img_mlp.0"),
    ("ff.net.2", "img_mlp.2"),
    ("ff_context.net.0.proj", "txt_mlp.0"),
    ("ff_context.net.2", "txt_mlp.2"),
)
FLUX_SINGLE = (("norm.linear", "modulation.lin"), ("proj_out", "linear2"))
FLUX_NORMS = {
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
}


def flux_naming(prefix: str = "") -> Naming:
    """Names of a FluxTransformer2DModel."""

    def original(name: str) -> Place:
        block = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", name)
        if not block:
            change = Change.SWAP_HALVES if name.startswith("norm_out.") else Change.NONE
            return Place(prefix + renamed(name, FLUX_ENDS), change=change)
        single, number, rest = block.groups()
        if single:
            return _flux_single(f"{prefix}single_blocks.{number}", rest)
        home = f"{prefix}double_blocks.{number}"
        if rest in FLUX_NORMS:
            return Place(f"{home}.{FLUX_NORMS[rest]}")
        joined = re.fullmatch(r"attn\.(\w+)\.(weight|bias)", rest)
        if joined and joined[1] in STREAM_PARTS:
            stream, part = STREAM_PARTS[joined[1]]
            return Place(f"{home}.{'img' if stream == 'sample' else 'txt'}_attn.qkv.{joined[2]}", part)
        return Place(f"{home}.{_known(rest, FLUX_DOUBLE)}")

    return original


def _flux_single(home: str, rest: str) -> Place:
    if rest in FLUX_NORMS:
        return Place(f"{home}.{FLUX_NORMS[rest].removeprefix('img_attn.')}")
    joined = re.fullmatch(r"(attn\.to_q|attn\.to_k|attn\.to_v|proj_mlp)\.(weight|bias)", rest)
    if joined:
        part = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp").index(joined[1])
        return Place(f"{home}.linear1.{joined[2]}", part)
    return Place(f"{home}.{_known(rest, FLUX_SINGLE)}")


def _known(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    """`name` in the original naming; raises BaseModelError when no rule knows it."""
    found = renamed(name, rules)
    if found == name:
        raise BaseModelError(f"the original naming has no place for {name}: export as diffusers, lora or authors")
    return found
