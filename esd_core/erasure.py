"""The erasure of a job's concepts: score banks -> student -> edited weights, resumable to the bit.

bank-*.safetensors      frozen points, shared by all jobs that need the same ones
checkpoint.safetensors  trained tensors, Adam's moments, losses so far
history.jsonl           step, loss, and the concept it is of
weights.safetensors     the result
outcome.json            written last: what was made and what it cost
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from esd_core import digest
from esd_core.backbones.base import concatenate, repeat
from esd_core.backbones.loading import load_backbone
from esd_core.base_model import ResolvedBase
from esd_core.concepts import ErasureJob
from esd_core.errors import ErasureFailed
from esd_core.lessons import Lesson, lessons_of
from esd_core.machine import Machine
from esd_core.point_source import Bank, OnPolicy, PointSource
from esd_core.recipe import RolloutFrom
from esd_core.schedule import Row, interleaved, rows_needed, rows_of_step
from esd_core.student import Batch, Student
from esd_core.weights import Provenance, save_weights

log = logging.getLogger(__name__)
CHECKPOINTS = 10  # per erasure
EXPLODED = 100.0  # times the mean of the first losses
FIRST_LOSSES = 10


class ErasureOutcome(BaseModel):
    """What an erasure made and what it cost. unet_evaluations counts samples; a training step counts three."""

    model_config = ConfigDict(frozen=True)

    job: ErasureJob
    weights: Path
    weights_digest: str
    history: Path
    final_loss: float
    unet_evaluations: int
    seconds: float


@dataclass
class Progress:
    """Where the erasure stands, over all its sessions; losses[i] is the loss before step i."""

    losses: list[float] = field(default_factory=list)
    evaluations: int = 0
    seconds: float = 0.0


def erase(
    job: ErasureJob,
    base: ResolvedBase,
    folder: Path,
    machine: Machine | None = None,
    *,
    banks: Path | None = None,
    progress: bool = True,
) -> ErasureOutcome:
    """Erase the job's concepts from the base; everything is kept in `folder`, score banks in `banks` (or `folder`).

    A finished job is returned as it is; an interrupted one continues from its last checkpoint and ends with the same
    bits as one never interrupted. Raises ErasureFailed when training cannot go on.
    """
    finished = _finished(job, folder)
    if finished is not None:
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    with _memory_errors():
        session = _Session(job, base, folder, banks or folder, machine or Machine(), progress)
        done = session.train()
    weights = folder / "weights.safetensors"
    weights_digest = save_weights(weights, session.student.edited(), Provenance.of(job))
    history = folder / "history.jsonl"
    names = [concept.name for concept in job.concepts]
    rows = (
        json.dumps({"step": i, "loss": loss, "concept": names[part]}, ensure_ascii=False)
        for i, (loss, part) in enumerate(zip(done.losses, session.order, strict=True), start=1)
    )
    digest.write_text(history, "\n".join(rows) + "\n")
    outcome = ErasureOutcome(
        job=job,
        weights=weights,
        weights_digest=weights_digest,
        history=history,
        final_loss=sum(done.losses[-20:]) / len(done.losses[-20:]),
        unet_evaluations=done.evaluations,
        seconds=round(done.seconds, 2),
    )
    digest.write_text(folder / "outcome.json", outcome.model_dump_json(indent=1))
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return outcome


def _finished(job: ErasureJob, folder: Path) -> ErasureOutcome | None:
    """The outcome in `folder`, if it is of this job and its weights are whole."""
    try:
        outcome = ErasureOutcome.model_validate_json((folder / "outcome.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
    weights = folder / "weights.safetensors"
    whole = weights.is_file() and digest.of_file(weights) == outcome.weights_digest
    if outcome.job.digest != job.digest or not whole:
        return None
    return outcome.model_copy(update={"weights": weights, "history": folder / "history.jsonl"})


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Running out of memory becomes a refusal that says what to turn."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:  # torch raises RuntimeError on a CPU, a subclass of it on a GPU
        exhausted = isinstance(e, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(e)
        if not exhausted:
            raise
        raise ErasureFailed(
            "out of memory: turn on gradient checkpointing, lower batch_size, or train a smaller subset "
            "(esd-x-strict); what was done is kept, the same command continues"
        ) from e


class _Session:
    """One process's work on a job: the denoiser, the student, its lessons, and the files in the job's folder."""

    def __init__(
        self, job: ErasureJob, base: ResolvedBase, folder: Path, banks: Path, machine: Machine, progress: bool
    ) -> None:
        self.started = time.monotonic()
        self.job, self.folder, self.progress = job, folder, progress
        recipes = [erasure.recipe for erasure in job.erasures]
        backbone = load_backbone(base, machine.device, recipes[0].precision)
        self.lessons = lessons_of(job, backbone)
        backbone.release()
        machine.prepare(backbone.denoiser)
        self.backbone = backbone
        on_policy = any(recipe.rollout_from is RolloutFrom.STUDENT for recipe in recipes)
        self.student = Student(backbone, job.subsets, recipes[0].updates, keeps_originals=on_policy)
        self.order = interleaved([recipe.iterations or 0 for recipe in recipes])
        self.sources = [self._source(number, lesson, banks, base) for number, lesson in enumerate(self.lessons)]

    def _source(self, number: int, lesson: Lesson, banks: Path, base: ResolvedBase) -> PointSource:
        if lesson.recipe.rollout_from is RolloutFrom.STUDENT:
            return OnPolicy(lesson, self.student, number)
        group = self._group(lesson.part, lesson.keeps)
        rows = rows_needed(lesson.recipe.iterations or 0, lesson.recipe.batch_size, group, group.index(number))
        return Bank(lesson, self.student, rows, banks, base.digest)

    def _group(self, part: int, keeps: bool) -> list[int]:
        """Numbers of a concept's lessons: those that erase, or those that keep."""
        return [i for i, lesson in enumerate(self.lessons) if lesson.part == part and lesson.keeps is keeps]

    def train(self) -> Progress:
        self._fill_banks()
        state = self._resume()
        every = max(1, len(self.order) // CHECKPOINTS)
        earlier, before = state.seconds, -state.evaluations
        bar = tqdm(
            total=len(self.order),
            initial=len(state.losses),
            desc=f"erase {self.job.name}",
            unit="step",
            disable=not self.progress,
        )
        with bar:
            for step in range(len(state.losses), len(self.order)):
                recipe = self.job.erasures[self.order[step]].recipe
                state.losses.append(self.student.step(self._batch(step), recipe.subset, recipe.learning_rate or 0))
                _check_explosion(state.losses)
                bar.update()
                bar.set_postfix(loss=f"{state.losses[-1]:.4f}", refresh=False)
                state.evaluations = self.backbone.evaluations - before
                state.seconds = earlier + time.monotonic() - self.started
                if len(state.losses) % every == 0:
                    self._checkpoint(state)
        return state

    def _fill_banks(self) -> None:
        banks = [source for source in self.sources if isinstance(source, Bank)]
        total = sum(bank.rollouts for bank in banks)
        with tqdm(total=total, desc="score bank", unit="rollout", disable=not self.progress, leave=False) as bar:
            for bank in banks:
                bank.fill(bar)

    def _batch(self, step: int) -> Batch:
        """What step number `step` is taught: points of its concept's lessons, and what must be predicted there."""
        part = self.order[step]
        done = self.order[:step].count(part)
        recipe = self.job.erasures[part].recipe
        rows = rows_of_step(done, recipe.batch_size, self._group(part, False), self._group(part, True))
        return self._taught(rows, recipe.negative_guidance or 0)

    def _taught(self, rows: list[Row], negative_guidance: float) -> Batch:
        device = self.backbone.device
        parts = []
        for number in dict.fromkeys(row.lesson for row in rows):
            lesson = self.lessons[number]
            points = self.sources[number].rows([row.index for row in rows if row.lesson == number]).to(device)
            told = repeat(lesson.prompts.prompt, len(points))
            parts.append(Batch(points.latents, points.timesteps, told, lesson.target(points, negative_guidance)))
        return Batch(
            torch.cat([part.latents for part in parts]),
            torch.cat([part.timesteps for part in parts]),
            concatenate([part.conditioning for part in parts]),
            torch.cat([part.target for part in parts]),
        )

    def _checkpoint(self, state: Progress) -> None:
        about = {"job": self.job.digest, "evaluations": str(state.evaluations), "seconds": f"{state.seconds:.2f}"}
        tensors = {**self.student.state(), "losses": torch.tensor(state.losses, dtype=torch.float64)}
        for source in self.sources:
            tensors |= source.state()
        with digest.whole_file(self.folder / "checkpoint.safetensors") as partial:
            save_file({name: t.contiguous() for name, t in tensors.items()}, partial, metadata=about)

    def _resume(self) -> Progress:
        """Progress of the last checkpoint, or a fresh start when there is none that fits."""
        path = self.folder / "checkpoint.safetensors"
        if not path.is_file():
            return Progress()
        try:
            with safe_open(path, framework="pt") as f:
                about = f.metadata() or {}
                tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a mapping
            if about.get("job") != self.job.digest:
                return Progress()
            self.student.restore(tensors)
        except (SafetensorError, OSError, KeyError) as e:
            log.warning("checkpoint %s is damaged (%s): training starts over", path, e)
            return Progress()
        for source in self.sources:
            source.restore(tensors)
        losses = tensors["losses"].tolist()
        log.info("continuing %s from step %d", self.job.name, len(losses))
        return Progress(losses, int(about["evaluations"]), float(about["seconds"]))


def _check_explosion(losses: list[float]) -> None:
    """Raises ErasureFailed when the loss has left all that it was; a good checkpoint must not be overwritten then."""
    first = losses[:FIRST_LOSSES]
    if len(losses) > FIRST_LOSSES and losses[-1] > EXPLODED * sum(first) / len(first):
        raise ErasureFailed(
            f"the loss exploded, from {sum(first) / len(first):.3g} to {losses[-1]:.3g} in step {len(losses)}: lower "
            "learning_rate or negative_guidance; the last checkpoint is kept"
        )
