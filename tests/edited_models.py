"""Bases with weights that edit them, and what to compare them by: their tensors and their images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import ResolvedBase
from esd_core.concepts import Concept, ConceptKind
from esd_core.exports.component import component_tensors, denoiser_folder, skeleton
from esd_core.exports.export import Exported, export
from esd_core.generation import generate
from esd_core.parameters import select
from esd_core.recipe import ParameterSubset
from esd_core.weights import EditedWeights, Provenance, apply_weights, read_weights, save_weights

PROMPTS, SEEDS = ["a house", "a tree on the beach"], [3, 4]
CONCEPT = Concept(name="house", kind=ConceptKind.OBJECT)


@dataclass(frozen=True)
class Model:
    """A base and a weights file that edits it."""

    base: ResolvedBase
    file: Path

    @property
    def weights(self) -> EditedWeights:
        return read_weights(self.file)

    @property
    def pipeline_class(self) -> Any:
        return getattr(diffusers, self.base.family.pipeline)

    def denoiser(self, pipeline: Any) -> torch.nn.Module:
        module: torch.nn.Module = getattr(pipeline, self.base.family.denoiser)
        return module

    def edited_pipeline(self) -> Any:
        """What our own loader makes of base and weights."""
        pipeline = load_pipeline(self.base, "cpu")
        apply_weights(self.denoiser(pipeline), self.weights, self.base.digest)
        return pipeline

    def plain_pipeline(self) -> Any:
        return self.pipeline_class.from_pretrained(self.base.folder, dtype=torch.float32)


def edit(base: ResolvedBase, file: Path, subset: ParameterSubset = ParameterSubset.ESD_X, size: float = 0.3) -> Model:
    """Weights that move every parameter of the subset: the shape of an erasure, without its meaning."""
    generator = torch.Generator().manual_seed(2)
    stored = component_tensors(denoiser_folder(base))
    tensors = {
        name: stored[name].read().float() + size * torch.randn(parameter.shape, generator=generator)
        for name, parameter in select(skeleton(denoiser_folder(base)), subset).items()
    }
    provenance = Provenance(
        base=base.id, base_digest=base.digest, concepts=(CONCEPT,), subsets=(subset,), code_version="test"
    )
    save_weights(file, tensors, provenance)
    return Model(base, file)


def draw(pipeline: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    return generate(pipeline, PROMPTS, SEEDS, steps=2, guidance_scale=3.0, progress=False).astype(int)


def write(model: Model, name: str, out: Path, **options: Any) -> Exported:
    return export(model.file, name, out, base=str(model.base.folder), progress=False, **options)


def assert_same_pipeline(ours: Any, theirs: Any) -> None:
    """Every tensor of every component, and the images."""
    for name, component in ours.components.items():
        if isinstance(component, torch.nn.Module):
            expected, found = component.state_dict(), getattr(theirs, name).state_dict()
            assert expected.keys() == found.keys()
            differing = [key for key in expected if not torch.equal(expected[key], found[key].float())]
            assert not differing, f"{name}: {differing[:3]}"
    assert (draw(ours) == draw(theirs)).all()
