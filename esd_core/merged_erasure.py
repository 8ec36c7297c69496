"""Several concepts in one model: erased one by one from the original weights, then merged in closed form (merging.py).

One concept is merged with the original alone, which gives back what its erasure took along. How much each counts is
measured on the merged model: a concept that is still there gets more weight, as long as the rest stays as it was.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from esd_core import tuning
from esd_core.backbones.base import Conditioning, concatenate
from esd_core.backbones.loading import load_backbone
from esd_core.base_model import ResolvedBase
from esd_core.concepts import ConceptKind, ErasureJob
from esd_core.errors import ErasureFailed
from esd_core.held_out import JUDGED_GUIDANCE, HeldOut, watched_prompts
from esd_core.lessons import lessons_of, other_words
from esd_core.machine import give_back_freed_memory
from esd_core.merge_rounds import Round, Search, best, next_weights
from esd_core.merging import (
    AT_ONCE,
    Layer,
    concept_prompts,
    gram_matrices,
    mergeable,
    merged_edit,
    passes,
    word_prompts,
)
from esd_core.point_source import rollouts_at_once
from esd_core.quick_look import QuickLook, Witness
from esd_core.recipe import RolloutSampler
from esd_core.rollout import end_of, guided_rollout
from esd_core.score_bank import start_noise
from esd_core.student import EditedModel
from esd_core.tensor_file import Stored, stored_tensors

log = logging.getLogger(__name__)


class Effort(NamedTuple):
    """What the layers are shown, and what is made of it.

    prompts: of each concept; others: prompts of random words; steps: sampler steps of each. slack: by which a remainder
    may be larger than what the concept reached alone; of several concepts only where nobody looks at images.
    """

    prompts: int
    others: int
    steps: int
    slack: float
    search: Search


# Of six concepts a sixth of it: others fall by 10.9 points, not by 3.8. One is held down first by as little as keeps
# most of the rest, then by what keeps it away; it can disturb no more than its erasure did.
OF_SEVERAL = Effort(48, 96, 10, 0.15, Search(first=1.0, heavier=3.0, rounds=4, disturbed=1.2))
OF_ONE = Effort(8, 16, 4, 0.08, Search(first=1.0, heavier=30.0, rounds=2, disturbed=math.inf))


class Merging:
    """The model in memory, each concept's edit of it, and what the edits become when they are merged."""

    def __init__(
        self,
        job: ErasureJob,
        base: ResolvedBase,
        weights: Sequence[Path],
        device: str,
        *,
        witnesses: Sequence[Witness | None],
        progress: bool,
    ) -> None:
        """weights: of each concept erased alone. witnesses: for each concept what looks at its images, if anything."""
        self.progress = progress
        self.backbone = load_backbone(base, device, job.erasures[0].recipe.precision)
        words, seed = other_words(job, self.backbone), job.erasures[0].recipe.seed
        self.effort = OF_SEVERAL if len(weights) > 1 else OF_ONE
        asked = [concept_prompts(c.names, words, self.effort.prompts, seed + i) for i, c in enumerate(job.concepts)]
        self.told = [[self.backbone.encode(prompt) for prompt in prompts] for prompts in asked]
        self.others = [self.backbone.encode(prompt) for prompt in word_prompts(words, self.effort.others, seed)]
        self.null = self.backbone.encode("")
        lessons = [lesson for lesson in lessons_of(job, self.backbone) if not lesson.keeps]
        watched = [watched_prompts(job, part, self.backbone) for part in range(len(weights))]
        self.quick_looks = [QuickLook(self.backbone, base, w) if w else None for w in witnesses]
        self.backbone.release()
        give_back_freed_memory()
        self.model = EditedModel(self.backbone, job.subsets, keeps_originals=True)
        self.edits = [stored_tensors(path) for path in weights]
        self.unasked = [concept.kind is ConceptKind.GLOBAL for concept in job.concepts]
        self.held_out = [
            HeldOut(self.model, [lesson for lesson in lessons if lesson.part == part], watched[part])
            for part in range(len(weights))
        ]
        self.goals = [self._goal(part, concept.kind) for part, concept in enumerate(job.concepts)]
        self._layers = mergeable(self.backbone.denoiser, list(self.model.parameters))
        self._seen: list[dict[str, torch.Tensor]] = []

    def run(self) -> tuple[dict[str, torch.Tensor], tuple[Round, ...]]:
        """The merged tensors by name, in float32 or wider, and every round that led to them."""
        rounds: list[Round] = []
        weights: tuple[float, ...] | None = (self.effort.search.first,) * len(self.edits)
        while weights is not None:
            tensors = self.merged(weights)
            self._use(tensors)
            rounds.append(self._look(weights))
            log.info("merged: %s", rounds[-1].sentence)
            weights = next_weights(rounds, self.goals, self.effort.search)
        chosen = self.best(rounds)
        tensors = tensors if chosen is rounds[-1] else self.merged(chosen.weights)
        broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise ErasureFailed(f"{len(broken)} merged tensors are not finite, first {broken[0]}: use mode: separate")
        return tensors, tuple(rounds)

    def merged(self, weights: Sequence[float]) -> dict[str, torch.Tensor]:
        """Every tensor of the trained subsets: the original, and in the layers that are merged what is added to it.

        Gram matrices that do not fit into memory all at once are summed anew each time.
        """
        tensors = {name: _wide(original) for name, original in self.model.originals.items()}
        groups = passes(self._layers, AT_ONCE // (len(self.edits) + 1))
        for group in groups:
            *seen, others = grams = self._seen or self._grams(group)
            if len(groups) == 1:
                self._seen = grams
            for name in group:
                edits = [self._edit(part, name) for part in range(len(self.edits))]
                weighted = [weight * own[name] for weight, own in zip(weights, seen, strict=True)]
                added = merged_edit(edits, weighted, others[name], self.unasked)
                weight = tensors[f"{name}.weight"]
                tensors[f"{name}.weight"] = weight + added[:, :-1].reshape(weight.shape)
                if f"{name}.bias" in tensors:
                    tensors[f"{name}.bias"] = tensors[f"{name}.bias"] + added[:, -1]
        return tensors

    def best(self, rounds: Sequence[Round]) -> Round:
        return best(rounds, self.goals, self.effort.search)

    def _look(self, weights: tuple[float, ...]) -> Round:
        """Images are looked at only of what is gone by its remainder."""
        remainders = tuple(held_out.remainder() for held_out in self.held_out)
        near = [remainder <= goal for remainder, goal in zip(remainders, self.goals, strict=True)]
        return Round(
            weights=weights,
            remainders=remainders,
            interference=max(held_out.interference() for held_out in self.held_out),
            shown=tuple(look.shown() if look and n else None for look, n in zip(self.quick_looks, near, strict=True)),
        )

    def _goal(self, part: int, kind: ConceptKind) -> float:
        """A little more than the remainder that the concept reached alone, or than what is enough."""
        if len(self.edits) > 1 and self.quick_looks[part]:
            return math.inf
        self._use_edit(part)
        return max(tuning.PLANS[kind].enough, self.held_out[part].remainder()) + self.effort.slack

    def _use(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            self.model.parameters[name].data = tensor.to(self.model.originals[name])

    def _use_edit(self, part: int | None) -> None:
        """Put the weights of one concept erased alone into the denoiser; None: the original ones."""
        edit: dict[str, Stored] = {} if part is None else self.edits[part]
        for name, original in self.model.originals.items():
            self.model.parameters[name].data = edit[name].read().to(original) if name in edit else original

    def _grams(self, layers: dict[str, Layer]) -> list[dict[str, torch.Tensor]]:
        """Of every concept's prompts in its own edited model, then of random words in the frozen one."""
        total = len(self.others) + sum(len(told) for told in self.told)
        with tqdm(total=total, desc="merging", unit="rollout", disable=not self.progress, leave=False) as bar:
            return [self._grams_of(layers, part, bar) for part in (*range(len(self.edits)), None)]

    def _grams_of(self, layers: dict[str, Layer], part: int | None, bar: tqdm[None]) -> dict[str, torch.Tensor]:
        """Mean Gram matrices of a concept's prompts; None: of random words, and of the unconditional predictions too,
        which are what must not change."""
        self._use_edit(part)
        told = self.others if part is None else self.told[part]
        generator = torch.Generator().manual_seed(0 if part is None else part + 1)
        at_once = rollouts_at_once(self.backbone)
        with gram_matrices(layers, generator, of_prompts_only=part is not None) as sums:
            for first in range(0, len(told), at_once):
                batch = told[first : first + at_once]
                self._roll_out(batch, [1 + first + i + 1000 * (part or 0) for i in range(len(batch))])
                bar.update(len(batch))
        samples = len(told) * self.effort.steps * (2 if part is None else 1)
        return {name: gram / samples for name, gram in sums.items()}

    def _roll_out(self, told: list[Conditioning], seeds: list[int]) -> None:
        backbone = self.backbone
        noise = start_noise(backbone.latent_shape, seeds, backbone.working_dtype).to(backbone.device)
        scheduler = backbone.sampler(RolloutSampler.AUTO, self.effort.steps)
        end_of(guided_rollout(self.model.predict, scheduler, noise, concatenate(told), self.null, JUDGED_GUIDANCE))

    def _edit(self, part: int, name: str) -> torch.Tensor | None:
        """D_i of a layer, (out, d + 1) with the bias's at the end; None where the concept left the layer alone."""
        if f"{name}.weight" not in self.edits[part]:
            return None
        weight = self._change(part, f"{name}.weight").flatten(1)
        bias = f"{name}.bias"
        own = self._change(part, bias) if bias in self.edits[part] else weight.new_zeros(len(weight))
        return torch.cat([weight, own[:, None]], dim=1)

    def _change(self, part: int, name: str) -> torch.Tensor:
        original = self.model.originals[name]
        edited = self.edits[part][name].read().to(original.device)
        return _wide(edited) - _wide(original)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
