"""What a student is taught: one lesson for each name that is erased, and for each prompt that is retained."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from esd_core.backbones.base import Backbone, Conditioning
from esd_core.concepts import Erasure, ErasureJob
from esd_core.recipe import Anchor, Keep, Recipe
from esd_core.score_bank import Points, Prompts

WORD_PROMPTS = 32  # of random words, kept at the points of a concept


@dataclass(frozen=True)
class Lesson:
    """One prompt. A kept one is held to the frozen model's prediction: the target with eta 0, anchored on itself.

    turn: its number among the concept's lessons; seeds its trajectories, in a joint job as in one of its own.
    context: random words beside the name; they take the empty prompt's place in target and guidance.
    companions: other prompts that are kept at the same points, the first of them the one that guidance starts from.
    """

    part: int  # number of the concept in its job
    text: str
    prompts: Prompts
    keeps: bool
    recipe: Recipe
    turn: int = 0
    erase_from: str | None = None
    context: str = ""
    companions: tuple[Conditioning, ...] = ()
    companion_texts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.text.removeprefix(self.context).strip()

    @property
    def texts(self) -> tuple[str, str, str]:
        """What rollouts are made of, what is erased or kept, and what guidance starts from."""
        return self.erase_from or self.text, self.text, self.context

    def target(self, points: Points, negative_guidance: float) -> torch.Tensor:
        """(N, ...): what the student must predict at these points of the lesson."""
        if self.keeps:
            return points.target(Anchor.CONCEPT, 0.0)
        return points.target(self.recipe.anchor, negative_guidance)


def other_words(job: ErasureJob, backbone: Backbone) -> list[str]:
    """The words of the model's vocabulary that stand in no name of what the job erases."""
    erased = {word for concept in job.concepts for name in concept.names for word in name.lower().split()}
    return [word for word in backbone.vocabulary() if word not in erased]


def word_pairs(words: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` prompts of two random words."""
    drawn = random.Random(seed)
    return [f"{drawn.choice(words)} {drawn.choice(words)}" for _ in range(count)] if words else []


def lessons_of(job: ErasureJob, backbone: Backbone) -> list[Lesson]:
    """The job's lessons, concept by concept: its names, each bare and in its contexts, then what it retains."""
    return [
        replace(lesson, turn=turn)
        for part, erasure in enumerate(job.erasures)
        for turn, lesson in enumerate([*_erasing(part, job, backbone), *_keeping(part, erasure, backbone)])
    ]


def _erasing(part: int, job: ErasureJob, backbone: Backbone) -> list[Lesson]:
    concept, recipe = job.erasures[part].concept, job.erasures[part].recipe
    vocabulary = other_words(job, backbone)
    source = backbone.encode(concept.erase_from) if concept.erase_from else None
    contexts = () if source else word_pairs(vocabulary, recipe.contexts, recipe.seed + 2)
    kept = companion_texts(recipe, vocabulary)
    lessons = []
    for name, context in itertools.product(concept.names, ("", *contexts)):
        text = f"{context} {name}".strip()
        texts = (context, *kept[1:]) if kept else ()
        lessons.append(
            Lesson(
                part=part,
                text=text,
                prompts=Prompts(backbone.encode(text), backbone.encode(context), source),
                keeps=False,
                recipe=recipe,
                erase_from=concept.erase_from,
                context=context,
                companions=tuple(backbone.encode(companion) for companion in texts),
                companion_texts=texts,
            )
        )
    return lessons


def _keeping(part: int, erasure: Erasure, backbone: Backbone) -> list[Lesson]:
    null = backbone.encode("")
    return [
        Lesson(part, text, Prompts(backbone.encode(text), null), True, erasure.recipe)
        for text in erasure.concept.retain
    ]


def companion_texts(recipe: Recipe, vocabulary: Sequence[str]) -> tuple[str, ...]:
    """The prompts that the recipe keeps at the concept's points, the empty one first."""
    match recipe.keep:
        case Keep.NOTHING:
            return ()
        case Keep.EMPTY:
            return ("",)
        case Keep.EMPTY_AND_WORDS:
            return ("", *word_pairs(vocabulary, WORD_PROMPTS, recipe.seed + 1))
