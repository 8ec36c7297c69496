"""Training on a job's lessons, step by step: whose turn it is, what is taught, when it stops; resumable to the bit."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from esd_core import tuning
from esd_core.backbones.base import concatenate, repeat
from esd_core.backbones.loading import load_backbone
from esd_core.base_model import ResolvedBase
from esd_core.checkpoint import CHECKPOINT, Checkpoint, Progress
from esd_core.concepts import ErasureJob
from esd_core.errors import ErasureFailed
from esd_core.held_out import RESPONSE_POINTS, HeldOut, gap, measured_learning_rate, watched_prompts
from esd_core.lessons import Lesson, lessons_of
from esd_core.machine import Machine, give_back_freed_memory
from esd_core.point_source import Bank, OnPolicy, PointSource
from esd_core.quick_look import QuickLook, Witness
from esd_core.recipe import RolloutFrom
from esd_core.schedule import Row, next_in_turn, rows_needed, rows_of_step
from esd_core.score_bank import Prompts
from esd_core.student import Batch, Student
from esd_core.tuning import Action, Check, Tuned

log = logging.getLogger(__name__)
CHECKPOINTS = 10  # per erasure, at most
SPARING = 10.0  # times what writing the last one took, until the next: they cost a tenth of the time at most
EXPLODED = 1000.0  # times the mean of the first losses; single points differ a hundredfold
FIRST_LOSSES = 10


class Training:
    """One process's work on a job: the denoiser, the student, its lessons, and the files in the job's folder."""

    def __init__(
        self,
        job: ErasureJob,
        base: ResolvedBase,
        folder: Path,
        banks: Path,
        machine: Machine,
        *,
        witnesses: Sequence[Witness | None] = (),
        progress: bool,
    ) -> None:
        """witnesses: for each concept what looks at its images; none where nothing does."""
        self.started = self.next_checkpoint = time.monotonic()
        self.job, self.progress = job, progress
        self.recipes = [erasure.recipe for erasure in job.erasures]
        witnesses = witnesses or [None] * len(job.erasures)
        self.plans = [
            tuning.plan_of(job.erasures, part, judged=witness is not None) for part, witness in enumerate(witnesses)
        ]
        self.limits = [tuning.most_steps(r, plan) for r, plan in zip(self.recipes, self.plans, strict=True)]
        self.backbone = load_backbone(base, machine.device, self.recipes[0].precision)
        for recipe in self.recipes:
            self.backbone.scheduler_of(recipe.sampler)  # one that the family does not take is refused before any work
        self.lessons = lessons_of(job, self.backbone)
        watched = [
            watched_prompts(job, part, self.backbone) if recipe.is_tuned else []
            for part, recipe in enumerate(self.recipes)
        ]
        self.quick_looks = [w and QuickLook(self.backbone, base, w) for w in witnesses]
        self.backbone.release()
        give_back_freed_memory()
        machine.prepare(self.backbone.denoiser)
        on_policy = any(recipe.rollout_from is RolloutFrom.STUDENT for recipe in self.recipes)
        self.student = Student(self.backbone, job.subsets, self.recipes[0].updates, keeps_originals=on_policy)
        self.sources = [self._source(number, lesson, banks, base) for number, lesson in enumerate(self.lessons)]
        self.checkpoint = Checkpoint(folder / CHECKPOINT, job.digest, self.student, self.sources)
        self._fill_banks()
        give_back_freed_memory()
        self.held_out = [self._held_out(part, watched[part]) for part in range(len(self.recipes))]

    def _source(self, number: int, lesson: Lesson, banks: Path, base: ResolvedBase) -> PointSource:
        if lesson.recipe.rollout_from is RolloutFrom.STUDENT:
            return OnPolicy(lesson, self.student, number)
        group = self._group(lesson.part, lesson.keeps)
        rows = rows_needed(self.limits[lesson.part], lesson.recipe.batch_size, group, group.index(number))
        return Bank(lesson, self.student, rows, banks, base.digest)

    def _group(self, part: int, keeps: bool) -> list[int]:
        """Numbers of a concept's lessons: those that erase, or those that keep."""
        return [i for i, lesson in enumerate(self.lessons) if lesson.part == part and lesson.keeps is keeps]

    def _fill_banks(self) -> None:
        banks = [source for source in self.sources if isinstance(source, Bank)]
        total = sum(bank.rollouts for bank in banks)
        with tqdm(total=total, desc="score bank", unit="rollout", disable=not self.progress, leave=False) as bar:
            for bank in banks:
                bank.fill(bar)

    def _held_out(self, part: int, watched: list[Prompts]) -> HeldOut | None:
        if not self.recipes[part].is_tuned:
            return None
        return HeldOut(self.student, [self.lessons[i] for i in self._group(part, keeps=False)], watched)

    def run(self) -> Progress:
        """Train until every concept is at its end."""
        state = self.checkpoint.restore() or Progress(rates=self._rates(), checks=[[] for _ in self.recipes])
        if state.losses:
            log.info("continuing %s from step %d", self.job.name, len(state.losses))
        earlier = (state.forwards, state.equivalents, state.seconds)
        every = max(1, sum(self.limits) // CHECKPOINTS)
        bar = tqdm(
            total=sum(self.limits),
            initial=len(state.losses),
            desc=f"erase {self.job.name}",
            unit="step",
            disable=not self.progress,
        )
        with bar:
            while (part := self._next(state)) is not None:
                self._step(state, part)
                bar.update()
                bar.set_postfix(loss=f"{state.losses[-1]:.4f}", **_last_look(state.checks[part]), refresh=False)
                state.forwards = earlier[0] + self.backbone.evaluations
                state.equivalents = earlier[1] + self.backbone.evaluations + self.student.backward_cost
                state.seconds = earlier[2] + time.monotonic() - self.started
                if len(state.losses) % every == 0 and time.monotonic() >= self.next_checkpoint:
                    self._keep(state)
        return state

    def _keep(self, state: Progress) -> None:
        began = time.monotonic()
        self.checkpoint.write(state)
        ended = time.monotonic()
        self.next_checkpoint = ended + SPARING * (ended - began)

    def tuned(self, state: Progress) -> tuple[Tuned, ...]:
        """What was chosen for the concepts whose recipe left something open, and why."""
        every = zip(self.job.concepts, self.recipes, self.plans, state.rates, state.checks, strict=True)
        return tuple(
            Tuned(
                concept=concept.name,
                learning_rate=rate,
                negative_guidance=checks[-1].eta if checks else tuning.first_eta(recipe, plan),
                iterations=state.steps_of(part),
                reason=tuning.decide(checks, recipe, plan).reason if checks else "as many steps as were asked for",
                checks=tuple(checks),
                pushed=tuning.was_pushed(checks, plan),
            )
            for part, (concept, recipe, plan, rate, checks) in enumerate(every)
            if recipe.is_tuned
        )

    def _rates(self) -> list[float]:
        """Each concept's learning rate: given, or measured on the untrained student."""
        return [recipe.learning_rate or self._measured_rate(part) for part, recipe in enumerate(self.recipes)]

    def _measured_rate(self, part: int) -> float:
        plan, first = self.plans[part], self._group(part, keeps=False)[0]
        rows = [Row(first, index) for index in range(RESPONSE_POINTS)]
        gap_norm = float(gap(self.sources[first].rows(range(RESPONSE_POINTS))).norm())
        batch = self._erasing(first, rows, tuning.first_eta(self.recipes[part], plan))
        return measured_learning_rate(self.student, batch, gap_norm, self.lessons[first], plan.move)

    def _next(self, state: Progress) -> int | None:
        """Whose step is next. Before the end, concepts of a joint job that rest are looked at once more."""
        done = [state.steps_of(part) for part in range(len(self.recipes))]
        chosen = next_in_turn(done, self.limits, self._resting(state))
        if chosen is None and len(self.recipes) > 1:
            stale = [p for p, checks in enumerate(state.checks) if checks and checks[-1].total != len(state.losses)]
            for part in stale:
                self._look(state, part, state.checks[part][-1].eta, settled=True)
            chosen = next_in_turn(done, self.limits, self._resting(state))
        return chosen

    def _resting(self, state: Progress) -> list[bool]:
        every = zip(state.checks, self.recipes, self.plans, strict=True)
        return [bool(checks) and tuning.decide(checks, r, plan).action is Action.STOP for checks, r, plan in every]

    def _step(self, state: Progress, part: int) -> None:
        recipe, plan = self.recipes[part], self.plans[part]
        eta = tuning.eta_after(state.checks[part], recipe, plan)
        step = state.steps_of(part)
        share = tuning.learning_rate_share(state.checks[part], step + 1, recipe, plan)
        rows = rows_of_step(step, recipe.batch_size, self._group(part, keeps=False), self._group(part, keeps=True))
        state.losses.append(self.student.step(self._batch(rows, eta), recipe.subset, share * state.rates[part]))
        state.parts.append(part)
        _check_explosion([loss for loss, whose in zip(state.losses, state.parts, strict=True) if whose == part])
        if tuning.is_due(state.checks[part], step + 1, recipe, plan):
            settled = share < 1
            self._look(state, part, eta, settled)

    def _look(self, state: Progress, part: int, eta: float, settled: bool) -> None:
        """Record what the held-out points say, and where a settling ended, what images show."""
        held_out, quick_look = self.held_out[part], self.quick_looks[part]
        assert held_out is not None
        check = Check(
            step=state.steps_of(part),
            total=len(state.losses),
            eta=eta,
            remainder=held_out.remainder(),
            interference=held_out.interference(),
            settled=settled,
            shown=quick_look.shown() if quick_look and settled else None,
        )
        state.checks[part].append(check)
        decision = tuning.decide(state.checks[part], self.recipes[part], self.plans[part])
        if decision.action is not Action.CONTINUE:
            log.info("%s: %s, %s", self.job.concepts[part].name, decision.action.value, decision.reason)

    def _batch(self, rows: list[Row], negative_guidance: float) -> Batch:
        """What a step is taught: points of a concept's lessons, with what must be predicted there."""
        parts = []
        for number in dict.fromkeys(row.lesson for row in rows):
            own = [row for row in rows if row.lesson == number]
            parts += [self._erasing(number, own, negative_guidance), *self._kept(number, own)]
        return parts[0] if len(parts) == 1 else Batch.concatenate(parts)

    def _erasing(self, number: int, rows: list[Row], negative_guidance: float) -> Batch:
        lesson = self.lessons[number]
        points = self.sources[number].rows([row.index for row in rows]).to(self.backbone.device)
        told = repeat(lesson.prompts.prompt, len(points))
        weight = torch.full((len(points),), lesson.recipe.keep_weight) if lesson.keeps else None
        target = lesson.target(points, negative_guidance)
        return Batch(points.latents, points.timesteps, told, target, weight).to(self.backbone.device)

    def _kept(self, number: int, rows: list[Row]) -> list[Batch]:
        """The companions at the same points, if the recipe keeps any."""
        lesson = self.lessons[number]
        if not lesson.companions:
            return []
        points = self.sources[number].rows([row.index for row in rows])
        assert points.companion is not None
        assert points.eps_kept is not None
        told = concatenate([lesson.companions[int(companion)] for companion in points.companion])
        weight = torch.full((len(points),), lesson.recipe.keep_weight)
        batch = Batch(points.latents, points.timesteps, told, points.eps_kept, weight)
        return [batch.to(self.backbone.device)]


def _last_look(checks: list[Check]) -> dict[str, str]:
    return {"remainder": f"{checks[-1].remainder:.2f}"} if checks else {}


def _check_explosion(losses: list[float]) -> None:
    """Raises ErasureFailed when the loss has left all that it was; a good checkpoint must not be overwritten then."""
    first = losses[:FIRST_LOSSES]
    if len(losses) > FIRST_LOSSES and losses[-1] > EXPLODED * sum(first) / len(first):
        raise ErasureFailed(
            f"the loss exploded, from {sum(first) / len(first):.3g} to {losses[-1]:.3g} in step {len(losses)}: lower "
            "learning_rate or negative_guidance; the last checkpoint is kept"
        )
