"""What a student is taught: one lesson for each name that is erased, and for each prompt that is retained."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from esd_core.backbones.base import Backbone, Conditioning
from esd_core.concepts import Erasure, ErasureJob
from esd_core.recipe import Anchor, Keep, Recipe
from esd_core.score_bank import Points, Prompts

WORD_PROMPTS = 32  # of random words, kept at the points of a concept


@dataclass(frozen=True)
class Lesson:
    """One prompt. A kept one is held to the frozen model's prediction: the target with eta 0, anchored on itself.

    companions: other prompts that are kept at the same points, the empty one first.
    """

    part: int  # number of the concept in its job
    text: str
    prompts: Prompts
    keeps: bool
    recipe: Recipe
    erase_from: str | None = None
    companions: tuple[Conditioning, ...] = ()
    companion_texts: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, str]:
        """What rollouts are made of, and what is erased or kept."""
        return self.erase_from or self.text, self.text

    def target(self, points: Points, negative_guidance: float) -> torch.Tensor:
        """(N, ...): what the student must predict at these points of the lesson."""
        if self.keeps:
            return points.target(Anchor.CONCEPT, 0.0)
        return points.target(self.recipe.anchor, negative_guidance)


def word_pairs(vocabulary: Sequence[str], names: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` prompts of two random words of a vocabulary, none of them in the concept's names."""
    own = {word for name in names for word in name.lower().split()}
    words = [word for word in vocabulary if word not in own]
    drawn = random.Random(seed)
    return [f"{drawn.choice(words)} {drawn.choice(words)}" for _ in range(count)] if words else []


def lessons_of(job: ErasureJob, backbone: Backbone) -> list[Lesson]:
    """The job's lessons, concept by concept: its names, then what it retains."""
    null = backbone.encode("")
    lessons: list[Lesson] = []
    for part, erasure in enumerate(job.erasures):
        texts = companion_texts(erasure, backbone.vocabulary())
        companions = tuple(null if text == "" else backbone.encode(text) for text in texts)
        source = erasure.concept.erase_from
        for name in erasure.concept.names:
            prompts = Prompts(backbone.encode(name), null, backbone.encode(source) if source else None)
            lessons.append(Lesson(part, name, prompts, False, erasure.recipe, source, companions, texts))
        lessons += [
            Lesson(part, text, Prompts(backbone.encode(text), null), True, erasure.recipe)
            for text in erasure.concept.retain
        ]
    return lessons


def companion_texts(erasure: Erasure, vocabulary: Sequence[str]) -> tuple[str, ...]:
    """The prompts that the recipe keeps at the concept's points, the empty one first."""
    match erasure.recipe.keep:
        case Keep.NOTHING:
            return ()
        case Keep.EMPTY:
            return ("",)
        case Keep.EMPTY_AND_WORDS:
            return ("", *word_pairs(vocabulary, erasure.concept.names, WORD_PROMPTS, erasure.recipe.seed + 1))
