"""Where a lesson's points come from: a bank of frozen rollouts kept on disk, or rollouts of the student as it is."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from esd_core import digest
from esd_core.backbones.base import Backbone
from esd_core.lessons import Lesson
from esd_core.recipe import Recipe
from esd_core.rollout import Predict
from esd_core.schedule import shuffled
from esd_core.score_bank import Points, Prompts, accompanied, collect, start_noise
from esd_core.student import EditedModel, Student
from esd_core.tensor_file import Stored

log = logging.getLogger(__name__)
SMALL_LATENTS = 4096  # numbers in one sample's latents
ROLLOUTS_AT_ONCE, LARGE_ROLLOUTS_AT_ONCE = 8, 2
HELD_OUT = range(500, 1000)  # numbers of a seed's frozen trajectories that no bank holds: held_out's are among them
# What decides the points of a rollout; everything else in a recipe can change without making a bank again.
ROLLOUT_SETTINGS = {"sampler", "rollout_steps", "start_guidance", "points_per_rollout", "timestep_choice", "precision"}


def kept_of_each(recipe: Recipe) -> int:
    """Points kept of one trajectory."""
    return min(recipe.points_per_rollout, recipe.rollout_steps)


def rollouts_needed(recipe: Recipe, rows: int) -> int:
    """How many trajectories serve so many rows."""
    return math.ceil(rows / recipe.reuse / kept_of_each(recipe))


class PointSource(ABC):
    """The points of one lesson, in the order they are taught."""

    def __init__(self, lesson: Lesson, student: Student) -> None:
        self.lesson, self.student = lesson, student

    @abstractmethod
    def rows(self, indices: Sequence[int]) -> Points:
        """The points drawn as these numbers of the lesson."""

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold so that the same points are drawn after it."""
        return {}

    def restore(self, tensors: Mapping[str, Stored]) -> None:  # noqa: B027 - a bank has nothing to restore
        """Continue from `state()`, or from the beginning where `tensors` holds none of it.

        Raises KeyError or TypeError when part of it is missing or unknown.
        """

    def _roll_out(self, seeds: Sequence[int], predict: Predict | None = None) -> Points:
        lesson, teach = self.lesson, self.student.predict_frozen
        points = roll_out(self.student, lesson.prompts, lesson.recipe, seeds, predict)
        if not lesson.companions:
            return points
        return accompanied(points, lesson.companions, teach, 2 * rollouts_at_once(self.student.backbone))


def roll_out(
    student: EditedModel, prompts: Prompts, recipe: Recipe, seeds: Sequence[int], predict: Predict | None = None
) -> Points:
    """Points of one trajectory for each seed, sampled with the frozen model unless `predict` samples them."""
    backbone = student.backbone
    return collect(
        backbone.sampler(recipe.sampler, recipe.rollout_steps),
        predict or student.predict_frozen,
        student.predict_frozen,
        start_noise(backbone.latent_shape, seeds, backbone.working_dtype).to(backbone.device),
        prompts,
        recipe,
        torch.Generator().manual_seed(seeds[0]),
    )


def rollouts_at_once(backbone: Backbone) -> int:
    """Trajectories in one batch: large ones would take more memory than training does, and gain nothing."""
    return ROLLOUTS_AT_ONCE if math.prod(backbone.latent_shape) <= SMALL_LATENTS else LARGE_ROLLOUTS_AT_ONCE


def past_held_out(first: int, count: int) -> int:
    """Number of the first of `count` trajectories, moved on where they would reach those held out or lie beyond."""
    return first if first + count <= HELD_OUT.start else first + len(HELD_OUT)


class Bank(PointSource):
    """Frozen points, made once and kept on disk in batches of rollouts, for every job that asks for the same ones."""

    def __init__(self, lesson: Lesson, student: Student, rows: int, folder: Path, base_digest: str) -> None:
        super().__init__(lesson, student)
        self.folder, self.base_digest = folder, base_digest
        self.rollouts = rollouts_needed(lesson.recipe, rows)
        self.points: Points | None = None

    def fill(self, bar: tqdm[Any]) -> None:
        """Make what is not on disk yet; `bar` counts rollouts."""
        parts = []
        at_once = rollouts_at_once(self.student.backbone)
        for first in range(0, self.rollouts, at_once):
            count = min(at_once, self.rollouts - first)
            parts.append(self._batch(past_held_out(first, count), count))
            bar.update(count)
        self.points = Points.concatenate(parts)

    def rows(self, indices: Sequence[int]) -> Points:
        assert self.points is not None, "filled before training"
        seed, size = self.lesson.recipe.seed, len(self.points)
        return self.points[torch.tensor([shuffled(index, size, seed) for index in indices])]

    def _batch(self, first: int, count: int) -> Points:
        """Rollouts number first to first + count - 1."""
        path = self.folder / f"bank-{self._identity(first, count)}.safetensors"
        points = load_points(path)
        if points is None:
            start = self.lesson.recipe.seed * 100_003 + first
            points = self._roll_out(range(start, start + count))
            save_points(path, points)
        return points

    def _identity(self, first: int, count: int) -> str:
        """Names the content of a batch of rollouts: same name, same points."""
        lesson, dtype = self.lesson, str(self.student.backbone.dtype)
        settings = lesson.recipe.model_dump(mode="json", include=ROLLOUT_SETTINGS)
        rolled_out = [self.base_digest, lesson.texts, lesson.companion_texts, dtype, settings, lesson.recipe.seed]
        return digest.of_json([*rolled_out, first, count])[:20]


class OnPolicy(PointSource):
    """Points sampled with the edited weights, taught by the frozen ones; sampled anew when all have had their turns."""

    def __init__(self, lesson: Lesson, student: Student, number: int) -> None:
        super().__init__(lesson, student)
        self.number = number  # of the lesson in its job
        self.restore({})

    def rows(self, indices: Sequence[int]) -> Points:
        recipe = self.lesson.recipe
        size = recipe.batch_size * kept_of_each(recipe)
        parts = []
        for index in indices:
            segment, place = divmod(index, size * recipe.reuse)
            if segment != self.segment:
                self._sample(segment)
            seed = self._seed(segment)
            parts.append(self.points[torch.tensor([shuffled(place, size, seed)])])
        return Points.concatenate(parts)

    def _seed(self, segment: int) -> int:
        return (self.lesson.recipe.seed * 1009 + self.lesson.turn) * 1_000_003 + segment

    def _sample(self, segment: int) -> None:
        generator = torch.Generator().manual_seed(self._seed(segment))
        seeds = torch.randint(2**31, (self.lesson.recipe.batch_size,), generator=generator).tolist()
        self.points = self._roll_out(seeds, self.student.predict)
        self.segment = segment

    def state(self) -> dict[str, torch.Tensor]:
        if self.segment < 0:
            return {}
        own = {**self.points.tensors(), "segment": torch.tensor(self.segment)}
        return {f"points/{self.number}/{name}": tensor for name, tensor in own.items()}

    def restore(self, tensors: Mapping[str, Stored]) -> None:
        prefix = f"points/{self.number}/"
        own = {name.removeprefix(prefix): part.read() for name, part in tensors.items() if name.startswith(prefix)}
        self.segment = int(own.pop("segment")) if own else -1
        self.points = Points(**own) if own else Points(*[torch.empty(0)] * 4)


def save_points(path: Path, points: Points) -> None:
    """Write points to a safetensors file, whole or not at all, with a digest beside it."""
    with digest.whole_file(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in points.tensors().items()}, partial)
        checksum = digest.of_file(partial)
    digest.write_text(path.with_suffix(".sha256"), checksum)


def load_points(path: Path) -> Points | None:
    """Read points; None when there are none or they are damaged, so that they are made again."""
    if not path.is_file():
        return None
    try:
        if digest.of_file(path) == path.with_suffix(".sha256").read_text().strip():
            return Points(**load_file(path))
    except (OSError, UnicodeDecodeError, SafetensorError, TypeError):
        pass
    log.warning("bank %s is damaged: it is made again", path)
    return None
