"""Several concepts in one model: erased one by one from the original weights, then merged in closed form (merging.py).

How far each goes is measured on the merged model: the strength of a concept that is still there rises, as long as the
rest of the model stays as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
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
from esd_core.merging import AT_ONCE, Layer, concept_prompts, directions, gram_matrices, mergeable, passes, word_prompts
from esd_core.point_source import rollouts_at_once
from esd_core.quick_look import QuickLook, Witness
from esd_core.recipe import RolloutSampler
from esd_core.rollout import end_of, guided_rollout
from esd_core.score_bank import start_noise
from esd_core.student import EditedModel
from esd_core.tensor_file import Stored, stored_tensors

log = logging.getLogger(__name__)
PROMPTS, OTHER_PROMPTS = 24, 96  # rolled out for each concept, and of random words
STEPS = 10
FIRST_STRENGTH, STRONGER = 1.15, 1.15  # what appears unasked starts at 1: merging takes nothing of its edit
MOST_ROUNDS = 8
DISTURBED = 1.3  # interference, in those of the first round, that no stronger merging may reach
SLACK = 0.15  # of a remainder: a merged model is judged by what each concept reached alone


class Round(BaseModel):
    """What was seen of the merged model at these strengths; one entry for each concept.

    remainders, interference: as in tuning.Check. shown: share of images that show the concept; None: nobody looked.
    """

    model_config = ConfigDict(frozen=True)

    strengths: tuple[float, ...]
    remainders: tuple[float, ...]
    interference: float
    shown: tuple[float | None, ...]

    def excess(self, goals: Sequence[float]) -> list[float]:
        """How far each concept is from being gone: in images where they were looked at, else in its remainder."""
        return [
            max(0.0, remainder - goal if shown is None else shown - tuning.SHOWN_AT_MOST)
            for remainder, goal, shown in zip(self.remainders, goals, self.shown, strict=True)
        ]

    @property
    def sentence(self) -> str:
        told = ", ".join(f"{strength:.2f}" for strength in self.strengths)
        return f"strengths {told}: remainders {', '.join(f'{r:.2f}' for r in self.remainders)}, interference " + (
            f"{self.interference:.2f}" + "".join(f", {shown:.0%}" for shown in self.shown if shown is not None)
        )


def first_strengths(unasked: Sequence[bool]) -> tuple[float, ...]:
    """unasked: whether each concept appears without being named."""
    return tuple(1.0 if is_unasked else FIRST_STRENGTH for is_unasked in unasked)


def next_strengths(rounds: Sequence[Round], goals: Sequence[float]) -> tuple[float, ...] | None:
    """The strengths to try next; None when every concept is gone, others would suffer, or enough was tried.

    goals: the remainder at which each concept counts as gone where nobody looks at images.
    """
    last = rounds[-1]
    excess = last.excess(goals)
    if not any(excess) or disturbs(last, rounds) or len(rounds) >= MOST_ROUNDS:
        return None
    return tuple(
        strength * (STRONGER if too_much else 1.0) for strength, too_much in zip(last.strengths, excess, strict=True)
    )


def disturbs(round_: Round, rounds: Sequence[Round]) -> bool:
    """Whether the rest of the model changes much more than the first merging changed it."""
    return round_.interference > DISTURBED * rounds[0].interference


def best(rounds: Sequence[Round], goals: Sequence[float]) -> Round:
    """Of the rounds that do not disturb, the one that leaves least of the concepts, and the first of equals."""
    return min((r for r in rounds if not disturbs(r, rounds)), key=lambda r: sum(r.excess(goals)))


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
        asked = [concept_prompts(c.names, words, PROMPTS, seed + i) for i, c in enumerate(job.concepts)]
        self.told = [[self.backbone.encode(prompt) for prompt in prompts] for prompts in asked]
        self.others = [self.backbone.encode(prompt) for prompt in word_prompts(words, OTHER_PROMPTS, seed)]
        self.null = self.backbone.encode("")
        lessons = [lesson for lesson in lessons_of(job, self.backbone) if not lesson.keeps]
        watched = [watched_prompts(job, part, self.backbone) for part in range(len(weights))]
        self.quick_looks = [w and QuickLook(self.backbone, base, w) for w in witnesses]
        self.backbone.release()
        give_back_freed_memory()
        self.model = EditedModel(self.backbone, job.subsets, keeps_originals=True)
        self.edits = [stored_tensors(path) for path in weights]
        self.unasked = [concept.kind is ConceptKind.GLOBAL for concept in job.concepts]
        self.held_out = [
            HeldOut(self.model, [lesson for lesson in lessons if lesson.part == part], watched[part])
            for part in range(len(weights))
        ]
        plans = [tuning.PLANS[concept.kind] for concept in job.concepts]
        self.goals = [max(plan.enough, self._alone(part)) + SLACK for part, plan in enumerate(plans)]
        self.directions = self._directions()

    def run(self) -> tuple[dict[str, torch.Tensor], tuple[Round, ...]]:
        """The merged tensors by name, in float32 or wider, and every round that led to them."""
        rounds: list[Round] = []
        strengths: tuple[float, ...] | None = first_strengths(self.unasked)
        while strengths is not None:
            self._use(self.merged(strengths))
            rounds.append(self._look(strengths))
            log.info("merged at %s", rounds[-1].sentence)
            strengths = next_strengths(rounds, self.goals)
        chosen = self.merged(best(rounds, self.goals).strengths)
        broken = [name for name, tensor in chosen.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise ErasureFailed(f"{len(broken)} merged tensors are not finite, first {broken[0]}: use mode: separate")
        return chosen, tuple(rounds)

    def merged(self, strengths: Sequence[float]) -> dict[str, torch.Tensor]:
        """Every tensor of the trained subsets: the original and what each concept adds to it."""
        tensors = {name: _wide(original) for name, original in self.model.originals.items()}
        for strength, added in zip(strengths, self.directions, strict=True):
            for name, direction in added.items():
                tensors[name] = tensors[name] + strength * direction
        return tensors

    def _look(self, strengths: tuple[float, ...]) -> Round:
        return Round(
            strengths=strengths,
            remainders=tuple(held_out.remainder() for held_out in self.held_out),
            interference=max(held_out.interference() for held_out in self.held_out),
            shown=tuple(look.shown() if look else None for look in self.quick_looks),
        )

    def _alone(self, part: int) -> float:
        """The remainder that the concept reached alone."""
        self._use_edit(part)
        return self.held_out[part].remainder()

    def _use(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            self.model.parameters[name].data = tensor.to(self.model.originals[name])

    def _use_edit(self, part: int | None) -> None:
        """Put the weights of one concept erased alone into the denoiser; None: the original ones."""
        edit: dict[str, Stored] = {} if part is None else self.edits[part]
        for name, original in self.model.originals.items():
            self.model.parameters[name].data = edit[name].read().to(original) if name in edit else original

    def _directions(self) -> list[dict[str, torch.Tensor]]:
        """E_i of every concept, in the shapes of the tensors that they are added to."""
        found: list[dict[str, torch.Tensor]] = [{} for _ in self.edits]
        layers = mergeable(self.backbone.denoiser, list(self.model.parameters))
        groups = passes(layers, AT_ONCE // (len(self.edits) + 1))
        total = len(groups) * (len(self.others) + sum(len(told) for told in self.told))
        with tqdm(total=total, desc="merging", unit="rollout", disable=not self.progress, leave=False) as bar:
            for group in groups:
                seen = [self._grams(group, part, bar) for part in range(len(self.edits))]
                others = self._grams(group, None, bar)
                for name, layer in group.items():
                    edits = [self._edit(part, name) for part in range(len(self.edits))]
                    solved = directions(edits, [grams[name] for grams in seen], others[name], self.unasked)
                    for part, direction in enumerate(solved):
                        if direction is not None:
                            found[part] |= self._as_tensors(name, layer, direction)
        return found

    def _grams(self, layers: dict[str, Layer], part: int | None, bar: tqdm[None]) -> dict[str, torch.Tensor]:
        """Mean Gram matrices of a concept's prompts in its own edited model; None: of random words in the frozen one.

        Of random words the unconditional prediction belongs to what must not change.
        """
        self._use_edit(part)
        told = self.others if part is None else self.told[part]
        generator = torch.Generator().manual_seed(0 if part is None else part + 1)
        at_once = rollouts_at_once(self.backbone)
        with gram_matrices(layers, generator, of_prompts_only=part is not None) as sums:
            for first in range(0, len(told), at_once):
                batch = told[first : first + at_once]
                self._roll_out(batch, [1 + first + i + 1000 * (part or 0) for i in range(len(batch))])
                bar.update(len(batch))
        samples = len(told) * STEPS * (2 if part is None else 1)
        return {name: gram / samples for name, gram in sums.items()}

    def _roll_out(self, told: list[Conditioning], seeds: list[int]) -> None:
        backbone = self.backbone
        noise = start_noise(backbone.latent_shape, seeds, backbone.working_dtype).to(backbone.device)
        scheduler = backbone.sampler(RolloutSampler.AUTO, STEPS)
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

    def _as_tensors(self, name: str, layer: Layer, direction: torch.Tensor) -> dict[str, torch.Tensor]:
        tensors = {f"{name}.weight": direction[:, :-1].reshape(layer.weight.shape)}
        if f"{name}.bias" in self.model.parameters:
            tensors[f"{name}.bias"] = direction[:, -1]
        return tensors


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
