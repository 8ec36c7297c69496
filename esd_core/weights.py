"""Edited weights: a safetensors file with only the trained tensors, and where they come from in its header.

The file loads with `pipe.unet.load_state_dict(load_file(path), strict=False)`. Our own way in is strict: unknown
names, wrong shapes and another base model are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import nn

from esd_core.concepts import Concept, ErasureJob
from esd_core.errors import BaseModelMismatch, WeightsError
from esd_core.recipe import ParameterSubset, Recipe
from esd_core.tensor_file import Stored, in_memory, write_tensors

HEADER_KEY = "esd"  # one JSON value: safetensors metadata is a map of strings


def code_version() -> str:
    """Version of the installed package."""
    try:
        return version("esd-pipeline")
    except PackageNotFoundError:
        return "not installed"


class Provenance(BaseModel):
    """Where edited weights come from; written into the file's header.

    Imported weights, made by other code, have no recipes and no job, but the digest of the file they were read from.
    """

    model_config = ConfigDict(frozen=True)

    base: str
    base_digest: str
    concepts: tuple[Concept, ...]
    subsets: tuple[ParameterSubset, ...]
    recipes: tuple[Recipe, ...] = ()  # of each concept
    job_digest: str | None = None
    imported_from: str | None = None
    code_version: str

    @property
    def name(self) -> str:
        return " + ".join(concept.name for concept in self.concepts)

    @classmethod
    def of(cls, job: ErasureJob) -> Provenance:
        return cls(
            base=job.base,
            base_digest=job.base_digest,
            concepts=job.concepts,
            subsets=job.subsets,
            recipes=tuple(erasure.recipe for erasure in job.erasures),
            job_digest=job.digest,
            code_version=code_version(),
        )


@dataclass(frozen=True)
class EditedWeights:
    """Trained tensors under the denoiser's parameter names, and their provenance."""

    tensors: dict[str, torch.Tensor]
    provenance: Provenance


def save_weights(path: Path, tensors: Mapping[str, torch.Tensor | Stored], provenance: Provenance) -> str:
    """Write the file whole or not at all; returns its SHA-256."""
    stored = {name: part if isinstance(part, Stored) else in_memory(part) for name, part in tensors.items()}
    return write_tensors(path, stored, {HEADER_KEY: provenance.model_dump_json()}, progress=False)


def read_weights(path: Path) -> EditedWeights:
    """Read a weights file; raises WeightsError when it is missing, truncated, foreign or without provenance."""
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}: check the path, or make one with `esd erase`")
    try:
        with safe_open(path, framework="pt") as f:
            header = f.metadata() or {}
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as e:
        raise WeightsError(f"{path} is not a whole safetensors file ({e}): fetch or erase again") from e
    if HEADER_KEY not in header:
        raise WeightsError(f"{path} does not say what it edits: its header has no {HEADER_KEY!r} entry")
    try:
        provenance = Provenance.model_validate_json(header[HEADER_KEY])
    except ValidationError as e:
        raise WeightsError(f"{path}: the header's {HEADER_KEY!r} entry cannot be read: {e.error_count()} faults") from e
    return EditedWeights(tensors, provenance)


def apply_weights(denoiser: nn.Module, weights: EditedWeights, base_digest: str) -> None:
    """Put edited weights into the denoiser they were trained in, strictly; raises as `check_weights` does."""
    check_weights(denoiser, weights, base_digest)
    denoiser.load_state_dict(weights.tensors, strict=False)


def check_weights(denoiser: nn.Module, weights: EditedWeights, base_digest: str) -> None:
    """Whether edited weights fit a denoiser, which may be on the meta device.

    Raises BaseModelMismatch when they edit another base; WeightsError when a name or shape does not fit, or when the
    file lacks a tensor of the subsets that it says were trained.
    """
    from esd_core.parameters import select

    source = weights.provenance
    if source.base_digest != base_digest:
        raise BaseModelMismatch(
            f"these weights edit {source.base!r} (digest {source.base_digest[:12]}) but the base loaded has digest "
            f"{base_digest[:12]}: load {source.base!r}, or erase {source.name!r} again from this base"
        )
    chosen = {name: p for subset in source.subsets for name, p in select(denoiser, subset).items()}
    expected = {name: parameter.shape for name, parameter in chosen.items()}
    given = {name: tensor.shape for name, tensor in weights.tensors.items()}
    alien, missing = sorted(given.keys() - expected.keys()), sorted(expected.keys() - given.keys())
    misshapen = sorted(name for name in given.keys() & expected.keys() if given[name] != expected[name])
    for fault, names in (("does not belong there", alien), ("is missing", missing), ("has another shape", misshapen)):
        if names:
            raise WeightsError(
                f"weights for {source.name!r} do not fit {' + '.join(source.subsets)}: {names[0]} {fault} "
                f"({len(names)} of {len(expected)} tensors): the file was altered, or is of another model"
            )


def original_weights(denoiser: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Copies of the named parameters, to put back what `apply_weights` replaces."""
    parameters = dict(denoiser.named_parameters())
    return {name: parameters[name].detach().clone() for name in names}
