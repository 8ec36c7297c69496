"""The components of a base model as its folder stores them, and its denoiser with the edits put in."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from esd_core.base_model import ResolvedBase
from esd_core.errors import BaseModelError
from esd_core.tensor_file import Stored, in_memory, stored_tensors
from esd_core.weights import EditedWeights, check_weights

STEMS = ("diffusion_pytorch_model", "model")  # as diffusers and transformers name their weights files


def weights_files(folder: Path) -> list[Path]:
    """The files that a plain `from_pretrained` of a component reads: one, or the shards that its index names.

    Variants (fp16, non_ema) are not among them. Raises BaseModelError when there are none.
    """
    for stem in STEMS:
        index, whole = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
        if index.is_file():
            shards = sorted(set(read_json(index)["weight_map"].values()))
            return [folder / shard for shard in shards]
        if whole.is_file():
            return [whole]
    raise BaseModelError(f"{folder} has no safetensors weights under their plain name; pickled weights are not read")


def component_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a component, by the name it is stored under."""
    return {name: tensor for path in weights_files(folder) for name, tensor in stored_tensors(path).items()}


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as e:
        raise BaseModelError(f"cannot read {path}: {e}") from e
    if not isinstance(content, dict):
        raise BaseModelError(f"{path} is not a JSON object")
    return content


def denoiser_folder(base: ResolvedBase) -> Path:
    return base.folder / base.family.denoiser


@cache
def skeleton(folder: Path) -> nn.Module:
    """The denoiser that a component's config describes, on the meta device: names, shapes and layers, no numbers."""
    config = read_json(folder / "config.json")
    kind: Any = getattr(diffusers, str(config.get("_class_name")), None)
    is_model = isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin)
    if not is_model:
        raise BaseModelError(f"{folder} holds a {config.get('_class_name')}, no model that this diffusers knows")
    with torch.device("meta"):
        model: nn.Module = kind.from_config(config)
    return model


def check_fit(base: ResolvedBase, weights: EditedWeights) -> None:
    """Raises BaseModelMismatch or WeightsError unless the weights edit this base and fit it."""
    check_weights(skeleton(denoiser_folder(base)), weights, base.digest)


def edited(tensors: dict[str, Stored], edits: dict[str, torch.Tensor]) -> dict[str, Stored]:
    """`tensors` with those of the same name replaced by `edits`, in the precision they were stored in."""
    return {name: in_memory(edits[name], stored.dtype) if name in edits else stored for name, stored in tensors.items()}


def edited_denoiser(base: ResolvedBase, weights: EditedWeights) -> dict[str, Stored]:
    """Every tensor of the base's denoiser, the edited ones in the base's precision."""
    check_fit(base, weights)
    tensors = component_tensors(denoiser_folder(base))
    absent = sorted(weights.tensors.keys() - tensors.keys())
    if absent:
        raise BaseModelError(f"{denoiser_folder(base)} stores no {absent[0]}, which the weights edit")
    return edited(tensors, weights.tensors)
