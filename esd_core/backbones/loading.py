"""From a resolved base to a pipeline, and to the backbone that the engine trains."""

from __future__ import annotations

import copy
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from esd_core.backbones.base import Backbone
from esd_core.backbones.families import FAMILIES
from esd_core.base_folder import numbers_in
from esd_core.base_model import ResolvedBase, weights_of
from esd_core.errors import BaseModelError
from esd_core.kept_models import at_work, is_keeping, kept
from esd_core.recipe import Precision

CACHE_LINE = 64  # bytes


def choose_device(device: str) -> torch.device:
    """`auto` is the GPU when there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as e:
        raise BaseModelError(f"device {device!r} is not known to torch: use auto, cpu, cuda or cuda:N") from e
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise BaseModelError(f"device {device!r} asked for, but torch sees no GPU: use --device cpu")
    return chosen


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU."""
    if precision is Precision.AUTO:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if precision is Precision.BFLOAT16 else torch.float32


def load_pipeline(base: ResolvedBase, device: str = "auto", dtype: torch.dtype | None = None) -> Any:
    """The diffusers pipeline of a resolved base, from safetensors only. dtype: by default as `choose_dtype` says.

    Its denoiser is the caller's own, to be trained and edited; where models are kept (kept_models.py), a copy.
    """
    chosen = choose_device(device)
    dtype = dtype or choose_dtype(Precision.AUTO, chosen)
    pipeline = kept((base.family, base.digest, dtype), lambda: _from_files(base, dtype))
    return (_copy(pipeline, base.family.denoiser, chosen) if is_keeping() else pipeline).to(chosen)


def _copy(pipeline: Any, denoiser: str, device: torch.device) -> Any:
    """A pipeline that shares nothing which is changed: its denoiser, and all that moves to another device, is new."""
    copied = copy.copy(pipeline)
    for name, part in pipeline.components.items():
        if name == denoiser or (isinstance(part, torch.nn.Module) and device.type != "cpu"):
            own: dict[int, Any] = {
                id(p): torch.nn.Parameter(placed_alike(p), p.requires_grad) for p in part.parameters()
            }
            setattr(copied, name, copy.deepcopy(part, own))
    return copied


@torch.no_grad()
def placed_alike(tensor: torch.Tensor) -> torch.Tensor:
    """A copy whose address leaves the same remainder: kernels add up in another order where vectors begin elsewhere,
    and tensors that are read from a file begin anywhere."""
    room = torch.empty(tensor.nbytes + CACHE_LINE, dtype=torch.uint8)
    start = (tensor.data_ptr() - room.data_ptr()) % CACHE_LINE
    copied = room[start : start + tensor.nbytes].view(tensor.dtype).as_strided(tensor.shape, tensor.stride())
    return copied.copy_(tensor)


def _from_files(base: ResolvedBase, dtype: torch.dtype) -> Any:
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    pipeline_class = _pipeline_class(base.family.pipeline)
    missing = [component for component in base.family.optional if not (base.folder / component).is_dir()]
    left_out: dict[str, Any] = dict.fromkeys([*base.family.unused, *missing])
    if "safety_checker" in left_out:
        left_out["requires_safety_checker"] = False
    try:
        pipeline = pipeline_class.from_pretrained(
            Path(base.folder),
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            **left_out,
        )
    except Exception as e:  # diffusers and transformers raise whatever a bad file makes their own lines raise
        raise BaseModelError(f"cannot load base model {base.id!r}: {(str(e).splitlines() or [''])[0]}") from e
    _check_loaded(pipeline, base)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _check_loaded(pipeline: Any, base: ResolvedBase) -> None:
    """Raise BaseModelError where numbers are not finite, or where a part was filled up with random ones.

    The latter is what transformers does, and only reports, when a file lacks tensors.
    """
    for component in base.family.components:
        module = getattr(pipeline, component, None)
        if not isinstance(module, torch.nn.Module):
            continue
        folder = base.folder / component
        needed = sum(parameter.numel() for parameter in module.parameters())
        given = sum(numbers_in(file) for file in weights_of(folder))
        if given < needed or any(parameter.is_meta for parameter in module.parameters()):
            raise BaseModelError(
                f"{folder} does not hold what its configuration needs ({needed} numbers, {given} are there): "
                "fetch it again"
            )
        bad = [name for name, parameter in module.named_parameters() if not torch.isfinite(parameter).all()]
        if bad:
            raise BaseModelError(f"{folder} holds numbers that are not finite, in {bad[0]}: fetch it again")


def _pipeline_class(name: str) -> Any:
    """A pipeline class of diffusers. Importing one says that torchvision is missing, which nothing here needs."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        return getattr(diffusers, name)
    finally:
        transformers_logging.set_verbosity(verbosity)


def load_backbone(base: ResolvedBase, device: str = "auto", precision: Precision = Precision.AUTO) -> Backbone:
    """The base, ready to be rolled out and trained. No dropout: the target is a function of the point."""
    backbone = backbone_of(load_pipeline(base, device, choose_dtype(precision, choose_device(device))))
    backbone.denoiser.eval()
    return backbone


def load_autoencoder(base: ResolvedBase, device: torch.device) -> Any:
    """The base's autoencoder alone, from safetensors only; in float32, as half precision overflows in some."""

    def load() -> Any:
        place = str(base.folder / "vae")
        loaded = diffusers.AutoModel.from_pretrained(
            place, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        return loaded.eval()

    return at_work(kept(("autoencoder", base.digest), load), device)


def backbone_of(pipeline: Any) -> Backbone:
    """A loaded pipeline as its family's backbone."""
    module, _, name = FAMILIES[type(pipeline).__name__].backbone.partition(".")
    backbone: Backbone = getattr(import_module(f"esd_core.backbones.{module}"), name)(pipeline)
    return backbone
