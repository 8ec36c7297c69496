"""How a LoRA names a denoiser's layers, so that diffusers, ComfyUI and kohya's scripts find them.

- Stable Diffusion 1 and 2: kohya's names, made of diffusers' (lora_unet_down_blocks_0_...), which all three read.
- SDXL: kohya's names, made of the original's (lora_unet_input_blocks_4_1_...), since kohya trains SDXL in the
  original code; all three read them.
- FLUX: kohya's names (lora_unet_double_blocks_0_img_attn_qkv), which all three read, for layers inside the blocks of a
  model of FLUX's own width; diffusers loses others silently (_convert_kohya_flux_lora_to_diffusers in
  diffusers/loaders/lora_conversion_utils.py). Everything else takes the next.
- Stable Diffusion 3: PEFT's names (transformer.transformer_blocks.0.attn.to_q.lora_A), which diffusers and ComfyUI
  read; no names are read by all three.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from esd_core.errors import BaseModelError
from esd_core.exports.original_names import Place, unet_naming
from esd_core.exports.original_transformers import flux_naming

FLUX_WIDTH = 3072  # written into diffusers' converter
FLUX_BLOCKS = ("transformer_blocks.", "single_transformer_blocks.")


@dataclass(frozen=True)
class LoraNaming:
    """up, down, alpha: names of a layer's tensors. place: the layer that a parameter's name belongs to, and which part
    of that layer's rows it is when the original joins several. readers: the programs that load it."""

    place: Callable[[str], Place]
    down: str
    up: str
    alpha: str | None
    readers: tuple[str, ...]

    def joined(self, changes: dict[str, torch.Tensor], denoiser: nn.Module) -> dict[str, torch.Tensor]:
        """Each layer's change, (out, in...); parts of a joined layer that did not change are zeros."""
        touched = {self.place(name).key for name in changes}
        parts: dict[str, dict[int, torch.Tensor]] = {}
        for name, parameter in denoiser.named_parameters():
            place = self.place(name) if name.endswith(".weight") else None
            if place is not None and place.key in touched:
                change = changes[name] if name in changes else torch.zeros(parameter.shape)
                parts.setdefault(place.key, {})[place.part] = change
        return {layer: torch.cat([rows[part] for part in sorted(rows)]) for layer, rows in parts.items()}


def lora_naming(pipeline: str, config: Mapping[str, Any], names: list[str]) -> LoraNaming:
    """The naming for a pipeline's denoiser and the parameters that changed; raises BaseModelError for others."""
    match pipeline:
        case "StableDiffusionPipeline":
            return _kohya(Place)
        case "StableDiffusionXLPipeline":
            original = unet_naming(config)
            return _kohya(lambda name: Place(original(name)))
        case "FluxPipeline":
            width = config["num_attention_heads"] * config["attention_head_dim"]
            if width == FLUX_WIDTH and all(name.startswith(FLUX_BLOCKS) for name in names):
                return _kohya(flux_naming())
            return _peft("transformer")
        case "StableDiffusion3Pipeline":
            return _peft("transformer")
    raise BaseModelError(f"no LoRA naming is known for a {pipeline}: export as diffusers or authors")


def _kohya(original: Callable[[str], Place | None]) -> LoraNaming:
    def place(name: str) -> Place:
        found = original(name)
        if found is None:
            raise BaseModelError(f"a LoRA has no name for {name}: export as diffusers or authors")
        layer = found.key.removesuffix(".weight").replace(".", "_")
        return Place(f"lora_unet_{layer}", found.part)

    readers = ("diffusers", "ComfyUI", "kohya")
    return LoraNaming(place, "{}.lora_down.weight", "{}.lora_up.weight", "{}.alpha", readers)


def _peft(component: str) -> LoraNaming:
    def place(name: str) -> Place:
        return Place(f"{component}.{name.removesuffix('.weight')}")

    return LoraNaming(place, "{}.lora_A.weight", "{}.lora_B.weight", None, ("diffusers", "ComfyUI"))
