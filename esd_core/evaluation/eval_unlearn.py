"""A technique of the eval-unlearn benchmark that serves edited weights; the benchmark finds it by its entry point.

eval-unlearn (REAL Lab, Imperial College; PyPI, read at 1.1.2) makes a technique from the keys of its configuration and
asks it for images: `generate(prompts, seed)`, a list of PIL images. As its own techniques do, image i of a call has
the seed `seed` + i. Nothing here imports the benchmark, and it need not be installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.errors import InvalidInput
from esd_core.exports.export import base_of
from esd_core.faults import describe_faults
from esd_core.generation import edited_pipeline, generate
from esd_core.weights import EditedWeights, read_weights


class TechniqueSettings(BaseModel):
    """The keys of `technique.config`. The defaults of sampling are those of the benchmark's own techniques."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Path | None = None  # None: the base as it is, for the column to compare with
    base: str | None = None  # None: the one that the weights name
    erase_concept: str | None = None  # read by the benchmark, for its reports and to choose prompts
    device: str = "auto"
    num_inference_steps: int = Field(50, ge=1)
    guidance_scale: float = Field(7.5, ge=0)
    batch_size: int = Field(4, ge=1)
    seed: int = Field(0, ge=0)  # of the first image, when the benchmark names none, as its command does


class EditedWeightsTechnique:
    """Images by a base model with edited weights. Raises InvalidInput for keys that are not known or do not fit."""

    def __init__(self, **config: Any) -> None:
        try:
            self.settings = TechniqueSettings.model_validate(config)
        except ValidationError as e:
            raise InvalidInput(f"technique.config: {describe_faults(e)}") from e
        weights = read_weights(self.settings.weights) if self.settings.weights else None
        base = _base(self.settings, weights)
        if weights:
            _check_concept(self.settings.erase_concept, weights)
        self.pipeline = edited_pipeline(base, weights, self.settings.device)
        self.drawn_without_seed = 0

    def generate(
        self,
        prompts: Sequence[str],
        seed: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> list[Image.Image]:
        """One image for each prompt. Without a seed, each call goes on where the last one stopped."""
        if not prompts:
            return []
        if seed is None:
            seed = self.settings.seed + self.drawn_without_seed
            self.drawn_without_seed += len(prompts)
        images = generate(
            self.pipeline,
            prompts,
            range(seed, seed + len(prompts)),
            steps=num_inference_steps or self.settings.num_inference_steps,
            guidance_scale=self.settings.guidance_scale if guidance_scale is None else guidance_scale,
            batch_size=self.settings.batch_size,
            progress=False,
        )
        return [Image.fromarray(image) for image in images]


def _base(settings: TechniqueSettings, weights: EditedWeights | None) -> ResolvedBase:
    if weights:
        return base_of(weights, settings.base)
    if settings.base is None:
        raise InvalidInput("technique.config names neither weights nor a base: give `weights`, `base`, or both")
    return resolve_base(settings.base)


def _check_concept(named: str | None, weights: EditedWeights) -> None:
    erased = weights.provenance.concepts
    if named and not any(concept.is_called(named) for concept in erased):
        raise InvalidInput(
            f"technique.config says that {named!r} is erased, but these weights erase {weights.provenance.name!r}: "
            f"correct `erase_concept`, or `weights`"
        )
