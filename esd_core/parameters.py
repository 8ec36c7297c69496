"""Which parameters of a denoiser an erasure trains.

A U-Net reads the prompt in its cross-attention `attn2` and nowhere else. The transformers of Stable Diffusion 3 and
FLUX have none: their attention `attn` is joint, from text and picture together to text and picture together. There

- esd-x is every Linear of the joint attention, and esd-x-strict its `to_k` and `to_v`: the picture's keys and values,
  and in FLUX's single-stream blocks those of text and picture, which share them (the authors' code for FLUX,
  FluxESDAdapter in utils/esd_trainer.py of rohitgandikota/erasing, commit 46599b3; a fork applies the first to Stable
  Diffusion 3.5, esd_sd35.py of CookedMorsel/erasing, commit d1f5368);
- esd-x-text is `add_k_proj` and `add_v_proj`, the keys and values made of the text alone: what esd-x-strict is in a
  U-Net. Double-stream blocks have them. Sources: the layers' definition in diffusers (JointTransformerBlock,
  FluxAttention); the authors' adapter for FLUX.2 klein trains them beside `to_k` and `to_v`;
- esd-u is everything but the joint attention, the embedding of timestep and pooled text, and the output layer, as the
  paper's code has it for U-Nets; esd-u-authors every Linear and Conv2d outside it (esd_sd35.py; the authors give none
  for FLUX);
- self-attention is what attends from the picture to the picture only: `attn2` in blocks of Stable Diffusion 3.5
  medium. Stable Diffusion 3 and FLUX have none, and the subset is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from torch import nn

from esd_core.errors import ErasureFailed
from esd_core.recipe import ParameterSubset


@dataclass(frozen=True)
class Names:
    """How a kind of denoiser names its layers.

    reads_text: the attention that the prompt enters by. text_alone: its keys and values that are made of the text
    alone. self_attention: of the picture to itself. ends: time embedding and output layer.
    """

    reads_text: str
    text_alone: tuple[str, str]
    self_attention: str
    ends: tuple[str, ...]


UNET = Names(
    reads_text=".attn2.",
    text_alone=(".to_k.", ".to_v."),
    self_attention=".attn1.",
    ends=("time_embedding.", "conv_norm_out.", "conv_out."),
)
JOINT = Names(
    reads_text=".attn.",
    text_alone=(".add_k_proj.", ".add_v_proj."),
    self_attention=".attn2.",
    ends=("time_text_embed.", "norm_out.", "proj_out."),
)


def _names(denoiser: nn.Module) -> Names:
    return JOINT if isinstance(denoiser, FluxTransformer2DModel | SD3Transformer2DModel) else UNET


def _is_xl(denoiser: nn.Module) -> bool:
    """Whether this U-Net takes pooled text and picture sizes, as Stable Diffusion XL's does."""
    return getattr(getattr(denoiser, "config", None), "addition_embed_type", None) == "text_time"


def _is_trained(name: str, module: nn.Module, subset: ParameterSubset, names: Names) -> bool:
    """Whether the parameter `name`, owned by `module`, belongs to `subset`."""
    reads_text, linear = names.reads_text in name, isinstance(module, nn.Linear)
    belongs = {
        ParameterSubset.ESD_X: reads_text and linear,
        ParameterSubset.ESD_X_STRICT: reads_text and (".to_k." in name or ".to_v." in name),
        ParameterSubset.ESD_X_TEXT: reads_text and any(part in name for part in names.text_alone),
        ParameterSubset.ESD_U: not reads_text and not name.startswith(names.ends),
        ParameterSubset.ESD_U_AUTHORS: not reads_text and (linear or isinstance(module, nn.Conv2d)),
        ParameterSubset.SELF_ATTENTION: names.self_attention in name and linear,
        ParameterSubset.ESD_ALL: True,
    }
    return belongs[subset]


def _is_left_out_of_xl(name: str) -> bool:
    """What the authors' esd-u for Stable Diffusion XL leaves out besides attn2: embeddings, first and last layers."""
    return "emb" in name or "block" not in name


def select(denoiser: nn.Module, subset: ParameterSubset) -> dict[str, nn.Parameter]:
    """The parameters of `subset` by name, in the module's own order.

    Raises ErasureFailed when the subset is empty in this model: training nothing must not look like an erasure.
    """
    names = _names(denoiser)
    chosen = {
        f"{prefix}.{leaf}" if prefix else leaf: parameter
        for prefix, module in denoiser.named_modules()
        for leaf, parameter in module.named_parameters(recurse=False)
        if _is_trained(f"{prefix}.{leaf}" if prefix else leaf, module, subset, names)
    }
    if subset is ParameterSubset.ESD_U_AUTHORS and _is_xl(denoiser):
        chosen = {name: parameter for name, parameter in chosen.items() if not _is_left_out_of_xl(name)}
    if not chosen:
        raise ErasureFailed(
            f"subset {subset.value!r} selects no parameter of {type(denoiser).__name__}: "
            f"this model has no such layers; choose one of {', '.join(s for s in ParameterSubset if s is not subset)}"
        )
    return chosen
