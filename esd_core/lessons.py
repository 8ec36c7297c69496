"""What a student is taught: one lesson for each name that is erased, and for each prompt that is retained."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from esd_core.backbones.base import Backbone, Conditioning
from esd_core.concepts import Erasure, ErasureJob
from esd_core.recipe import Anchor, Recipe
from esd_core.score_bank import Points, Prompts


@dataclass(frozen=True)
class Lesson:
    """One prompt. A kept one is held to the frozen model's prediction: the target with eta 0, anchored on itself."""

    part: int  # number of the concept in its job
    text: str
    prompts: Prompts
    keeps: bool
    recipe: Recipe
    erase_from: str | None = None

    @property
    def texts(self) -> tuple[str, str]:
        """What rollouts are made of, and what is erased or kept."""
        return self.erase_from or self.text, self.text

    def target(self, points: Points, negative_guidance: float) -> torch.Tensor:
        """(N, ...): what the student must predict at these points of the lesson."""
        if self.keeps:
            return points.target(Anchor.CONCEPT, 0.0)
        return points.target(self.recipe.anchor, negative_guidance)


def lessons_of(job: ErasureJob, backbone: Backbone) -> list[Lesson]:
    """The job's lessons, concept by concept: its names, then what it retains."""
    null = backbone.encode("")
    lessons: list[Lesson] = []
    for part, erasure in enumerate(job.erasures):
        lessons += [_erasing(part, erasure, name, backbone, null) for name in erasure.concept.names]
        lessons += [
            Lesson(part, text, Prompts(backbone.encode(text), null), True, erasure.recipe)
            for text in erasure.concept.retain
        ]
    return lessons


def _erasing(part: int, erasure: Erasure, name: str, backbone: Backbone, null: Conditioning) -> Lesson:
    source = erasure.concept.erase_from
    prompts = Prompts(backbone.encode(name), null, backbone.encode(source) if source else None)
    return Lesson(part, name, prompts, False, erasure.recipe, source)
