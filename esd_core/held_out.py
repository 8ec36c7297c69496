"""What the tuning looks at: points never trained on, of the concept, of what is retained and of random words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from esd_core.backbones.base import Backbone, concatenate, repeat
from esd_core.concepts import ErasureJob
from esd_core.lessons import Lesson, other_words, word_pairs
from esd_core.objective import guided
from esd_core.point_source import roll_out
from esd_core.score_bank import Points, Prompts
from esd_core.student import Batch, EditedModel, Student
from esd_core.tuning import learning_rate_from_response

JUDGED_GUIDANCE = 4.0  # classifier-free guidance at which the prediction is judged
TRAJECTORIES, STEPS, POINTS = 2, 10, 12  # of each name of the concept, shared among its contexts
OTHER_STEPS, OTHER_POINTS = 6, 2  # of each prompt that must not change
RESPONSE_POINTS = 8
SEED_OFFSET = 500  # held-out trajectories start from seeds that no bank uses
WATCHED_WORDS = 4  # random prompts whose prediction is watched
PROBE_STEP = 1e-5  # small enough to be linear; made larger until the change can be told from rounding
MEASURABLE = {torch.float64: 0.01, torch.float32: 0.01, torch.bfloat16: 0.3}  # change, as a share of the gap


def projection(change: torch.Tensor, gap: torch.Tensor) -> float:
    """<change, gap> / <gap, gap> over all elements."""
    return float((change * gap).sum() / (gap * gap).sum())


@dataclass(frozen=True)
class Look:
    """Held-out points of one prompt, and the frozen model's guided prediction there, (N, ...)."""

    prompts: Prompts
    points: Points
    guided: torch.Tensor


class HeldOut:
    """Points of one concept that are never trained on. A look costs two evaluations a point."""

    def __init__(self, student: EditedModel, lessons: Sequence[Lesson], others: Sequence[Prompts]) -> None:
        """lessons: those that erase the concept; others: prompts that must not change."""
        self.student = student
        self.recipe = lessons[0].recipe
        first = self.recipe.seed * 100_003 + SEED_OFFSET
        in_contexts = [lesson for lesson in lessons if lesson.context]
        of_names = itertools.groupby(in_contexts or lessons, key=lambda lesson: lesson.name)
        self.named = [self._spread(list(own), first) for _, own in of_names]
        self.others = [
            self._look(prompts, [first + 10 + i], OTHER_STEPS, torch.tensor([1, 3][:OTHER_POINTS]) + i % 2)
            for i, prompts in enumerate(others)
        ]

    def _spread(self, lessons: Sequence[Lesson], first: int) -> list[Look]:
        count = max(1, TRAJECTORIES // len(lessons))
        rows = torch.linspace(0, count * STEPS - 1, POINTS // len(lessons)).round().long()
        return [self._look(lesson.prompts, range(first, first + count), STEPS, rows) for lesson in lessons]

    def _look(self, prompts: Prompts, seeds: Sequence[int], steps: int, rows: torch.Tensor) -> Look:
        every = {"rollout_steps": steps, "points_per_rollout": 1000}
        points = roll_out(self.student, prompts, self.recipe.model_copy(update=every), seeds)[rows]
        points = points.to(self.student.backbone.device)
        eps_prompt = points.eps_concept if points.eps_anchor is None else points.eps_anchor
        return Look(prompts, points, guided(points.eps_null, eps_prompt, JUDGED_GUIDANCE))

    def remainder(self) -> float:
        """1 for the frozen model, at most 0 when guidance has lost the concept; of several names the largest.

        Of a name that has contexts, among those: evaluations are about prompts, not about bare names.
        """
        return max(self._remainder_of(looks) for looks in self.named)

    def _remainder_of(self, looks: Sequence[Look]) -> float:
        change = torch.cat([self._guided_now(look) - look.guided for look in looks])
        return 1 + projection(change, JUDGED_GUIDANCE * torch.cat([gap(look.points) for look in looks]))

    def interference(self) -> float:
        """Change of the guided prediction of the other prompts, as a share of their guidance (root mean square)."""
        moved = sum(float((self._guided_now(look) - look.guided).square().sum()) for look in self.others)
        guidance = sum(float((JUDGED_GUIDANCE * gap(look.points)).square().sum()) for look in self.others)
        return float((moved / guidance) ** 0.5) if guidance else 0.0

    def _guided_now(self, look: Look) -> torch.Tensor:
        points, count = look.points, len(look.points)
        told = concatenate([repeat(look.prompts.null, count), repeat(look.prompts.prompt, count)])
        latents, timesteps = torch.cat([points.latents] * 2), torch.cat([points.timesteps] * 2)
        eps_null, eps_prompt = self.student.predict(latents, timesteps, told).chunk(2)
        return guided(eps_null, eps_prompt, JUDGED_GUIDANCE)


def watched_prompts(job: ErasureJob, part: int, backbone: Backbone) -> list[Prompts]:
    """Prompts that must not change while a concept is erased: what it retains, and random words."""
    null, erasure = backbone.encode(""), job.erasures[part]
    pairs = word_pairs(other_words(job, backbone), WATCHED_WORDS, erasure.recipe.seed)
    return [Prompts(backbone.encode(text), null) for text in (*erasure.concept.retain, *pairs)]


def gap(points: Points) -> torch.Tensor:
    """eps*(x, c) - eps*(x, null), the guidance that is to vanish: (N, ...)."""
    return points.eps_concept - points.eps_null


def measured_learning_rate(student: Student, batch: Batch, gap_norm: float, lesson: Lesson, fraction: float) -> float:
    """Adam's learning rate whose first step on this batch moves the prediction by `fraction` of the gap.

    gap_norm: of the batch's points. The weights come back to the bit.
    """
    subset = lesson.recipe.subset
    before = student.predict(batch.latents, batch.timesteps, batch.conditioning)
    student.gradients(batch, subset)
    enough = MEASURABLE[student.backbone.dtype] * gap_norm
    step, moved = PROBE_STEP / 4, 0.0
    while moved < enough and step < 1.0:
        step *= 4
        with student.moved_against_gradients(step):
            after = student.predict(batch.latents, batch.timesteps, batch.conditioning)
        moved = float((after - before).norm())
    return learning_rate_from_response(step, moved, gap_norm, fraction)
