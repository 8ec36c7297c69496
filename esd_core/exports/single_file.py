"""One checkpoint in the original key naming, as A1111, ComfyUI and diffusers' `from_single_file` load it.

Stable Diffusion 1, 2, SDXL and 3: the whole model. FLUX: the transformer alone, as its makers publish it; its text
encoders and autoencoder are files of their own, which no erasure changes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from esd_core.base_model import ResolvedBase
from esd_core.errors import BaseModelError
from esd_core.exports.component import component_tensors, denoiser_folder, edited_denoiser, read_json
from esd_core.exports.original_names import (
    Naming,
    Place,
    clip_naming,
    open_clip_naming,
    to_original,
    unet_naming,
    vae_naming,
)
from esd_core.exports.original_transformers import flux_naming, sd3_naming
from esd_core.tensor_file import PROVENANCE_KEY, Stored, in_memory, write_tensors
from esd_core.weights import EditedWeights

DENOISER = "model.diffusion_model."
AUTOENCODER = "first_stage_model."
Tensors = dict[str, Stored]


def export_single_file(base: ResolvedBase, weights: EditedWeights, out: Path, *, progress: bool = True) -> str:
    """Write the edited model to `out`; returns the file's SHA-256.

    Raises BaseModelError for families and blocks that the original naming does not know.
    """
    build = FAMILIES.get(base.family.pipeline)
    if build is None:
        raise BaseModelError(
            f"no single-file format is known for a {base.family.pipeline}; it is for {', '.join(FAMILIES)}: "
            f"export as diffusers, lora or authors"
        )
    tensors = build(base, edited_denoiser(base, weights))
    return write_tensors(out, tensors, {PROVENANCE_KEY: weights.provenance.model_dump_json()}, progress=progress)


def _component(base: ResolvedBase, name: str, naming: Naming) -> Tensors:
    return to_original(component_tensors(base.folder / name), naming)


def _autoencoder(base: ResolvedBase) -> Tensors:
    return _component(base, "vae", vae_naming(read_json(base.folder / "vae" / "config.json"), AUTOENCODER))


def _unet(base: ResolvedBase, tensors: Tensors) -> Tensors:
    naming = unet_naming(read_json(denoiser_folder(base) / "config.json"))
    return to_original(tensors, lambda name: Place(DENOISER + naming(name)))


def _stable_diffusion(base: ResolvedBase, unet: Tensors) -> Tensors:
    """Version 2 has OpenCLIP's text encoder, which is told from OpenAI's by its activation: exact GELU."""
    config = read_json(base.folder / "text_encoder" / "config.json")
    is_open_clip = config.get("hidden_act") == "gelu"
    prefix = "cond_stage_model."
    naming = open_clip_naming(f"{prefix}model.") if is_open_clip else clip_naming(f"{prefix}transformer.")
    return {**_unet(base, unet), **_autoencoder(base), **_component(base, "text_encoder", naming)}


def _stable_diffusion_xl(base: ResolvedBase, unet: Tensors) -> Tensors:
    return {
        **_unet(base, unet),
        **_autoencoder(base),
        **_component(base, "text_encoder", clip_naming("conditioner.embedders.0.transformer.")),
        **_component(base, "text_encoder_2", open_clip_naming("conditioner.embedders.1.model.")),
        **_prediction_marks(base),
    }


def _prediction_marks(base: ResolvedBase) -> Tensors:
    """Empty tensors by whose names ComfyUI and A1111 know an SDXL model that predicts v, and its noise schedule."""
    scheduler = read_json(base.folder / "scheduler" / "scheduler_config.json")
    predicts_v = scheduler.get("prediction_type") == "v_prediction"
    marks = {"v_pred": predicts_v, "ztsnr": predicts_v and bool(scheduler.get("rescale_betas_zero_snr"))}
    return {name: in_memory(torch.empty(0)) for name, is_set in marks.items() if is_set}


def _stable_diffusion_3(base: ResolvedBase, transformer: Tensors) -> Tensors:
    layers = int(read_json(denoiser_folder(base) / "config.json")["num_layers"])
    tensors = {**to_original(transformer, sd3_naming(layers, DENOISER)), **_autoencoder(base)}
    for component, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        tensors |= _component(base, component, clip_naming(f"text_encoders.{name}.transformer."))
    _check_identity(tensors["text_encoders.clip_l.transformer.text_projection.weight"])
    if (base.folder / "text_encoder_3").is_dir():
        prefix = "text_encoders.t5xxl.transformer."
        third = _component(base, "text_encoder_3", lambda name: Place(prefix + name))
        # the same tensor twice: diffusers does not tie them when it reads them from one file
        third.setdefault(f"{prefix}encoder.embed_tokens.weight", third[f"{prefix}shared.weight"])
        tensors |= third
    return tensors


def _check_identity(projection: Stored) -> None:
    """diffusers and ComfyUI take the first text encoder's projection to be the identity, whatever the file says."""
    matrix = projection.read().float()
    if not torch.equal(matrix, torch.eye(*matrix.shape)):
        raise BaseModelError(
            "programs that load Stable Diffusion 3 from one file ignore the first text encoder's projection, and "
            "this base has one: export as diffusers"
        )


def _flux(_: ResolvedBase, transformer: Tensors) -> Tensors:
    return to_original(transformer, flux_naming())


FAMILIES: dict[str, Callable[[ResolvedBase, Tensors], Tensors]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _stable_diffusion_xl,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "FluxPipeline": _flux,
}
