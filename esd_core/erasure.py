"""The erasure of a job's concepts: score banks -> student -> edited weights, resumable to the bit.

A merged job's concepts are erased alone first, as jobs of their own.

bank-*.safetensors      frozen points, shared by all jobs that need the same ones
checkpoint.safetensors  trained tensors, Adam's moments, losses so far
history.jsonl           step, loss, and the concept it is of
trained.safetensors     what training ended with, where what it took along is given back afterwards
weights.safetensors     the result
outcome.json            written last: what was made and what it cost
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from esd_core import digest
from esd_core.backbones.loading import choose_device
from esd_core.base_model import ResolvedBase
from esd_core.checkpoint import CHECKPOINT
from esd_core.concepts import ErasureJob
from esd_core.evaluation.suite import Suite
from esd_core.evaluation.witness import witnesses_of
from esd_core.machine import Machine, give_back_freed_memory
from esd_core.memory import memory_errors, peak_memory, start_peak_memory
from esd_core.merge_rounds import Round
from esd_core.merged_erasure import Merging
from esd_core.quick_look import Witness
from esd_core.tensor_file import Stored, stored_tensors
from esd_core.training import Training
from esd_core.tuning import Tuned
from esd_core.weights import Provenance, save_weights

TRAINED = "trained.safetensors"


class ErasureOutcome(BaseModel):
    """What an erasure made and what it cost.

    unet_evaluations: samples that the denoiser evaluated. forward_equivalents: the same with backward passes, in
    forward passes of one sample. peak_memory: bytes, in the session that ended it. tuned: what was chosen by
    measuring, and why it stopped.
    """

    model_config = ConfigDict(frozen=True)

    job: ErasureJob
    weights: Path
    weights_digest: str
    history: Path
    final_loss: float
    unet_evaluations: int
    forward_equivalents: float
    seconds: float
    peak_memory: int | None = None
    tuned: tuple[Tuned, ...] = ()
    merging: tuple[Round, ...] = ()


@dataclass(frozen=True)
class Made:
    """The edited tensors by name, and how they came about. losses: of each step, with the concept's name."""

    tensors: Mapping[str, torch.Tensor | Stored]
    losses: Sequence[tuple[float, str]]
    unet_evaluations: int
    forward_equivalents: float
    seconds: float
    tuned: tuple[Tuned, ...]
    merging: tuple[Round, ...] = ()


def erase(
    job: ErasureJob,
    base: ResolvedBase,
    folder: Path,
    machine: Machine | None = None,
    *,
    banks: Path | None = None,
    alone: Path | None = None,
    suite: Suite | None = None,
    progress: bool = True,
) -> ErasureOutcome:
    """Erase the job's concepts from the base; everything is kept in `folder`, score banks in `banks` (or `folder`).

    alone: where the concepts of a merged job, each erased alone, are kept and found, in folders named by their jobs'
    digests (default: in `folder`). suite: whose classifiers look at images before an erasure stops by itself; the one
    that the job names as its judge. A finished job is returned as it is; an interrupted one continues from its last
    checkpoint and ends with the same bits as one never interrupted. Raises ErasureFailed when training cannot go on,
    OutOfMemory when it does not fit, EvaluationError when the suite is not the job's judge.
    """
    finished = _finished(job, folder)
    if finished is not None:
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    machine = machine or Machine()
    device = choose_device(machine.device)
    give_back_freed_memory()  # of the concept before, whose parts still name each other
    start_peak_memory(device)
    with memory_errors():
        witnesses = witnesses_of(suite, job, machine.device)
        if job.merged:
            parts = [
                erase(one, base, (alone or folder) / one.digest[:16], machine, banks=banks, progress=progress)
                for one in job.trainings
            ]
            made = _merge(job, base, machine, parts, witnesses, progress)
        else:
            made = _train(Training(job, base, folder, banks or folder, machine, witnesses=witnesses, progress=progress))
            if _gives_back(job, made.tuned):
                made = _give_back(made, job, base, machine, folder / TRAINED, witnesses, progress)
    weights, history = folder / "weights.safetensors", folder / "history.jsonl"
    weights_digest = save_weights(weights, made.tensors, Provenance.of(job))
    rows = [{"step": i, "loss": loss, "concept": name} for i, (loss, name) in enumerate(made.losses, start=1)]
    digest.write_text(history, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    last = [loss for loss, _ in made.losses[-20:]]
    outcome = ErasureOutcome(
        job=job,
        weights=weights,
        weights_digest=weights_digest,
        history=history,
        final_loss=sum(last) / len(last),
        unet_evaluations=made.unet_evaluations,
        forward_equivalents=round(made.forward_equivalents, 1),
        seconds=round(made.seconds, 2),
        peak_memory=peak_memory(device),
        tuned=made.tuned,
        merging=made.merging,
    )
    digest.write_text(folder / "outcome.json", outcome.model_dump_json(indent=1))
    for done_with in (CHECKPOINT, TRAINED):
        (folder / done_with).unlink(missing_ok=True)
    return outcome


def _train(training: Training) -> Made:
    done = training.run()
    names = [concept.name for concept in training.job.concepts]
    return Made(
        tensors=training.student.edited(),
        losses=[(loss, names[part]) for loss, part in zip(done.losses, done.parts, strict=True)],
        unet_evaluations=done.forwards,
        forward_equivalents=done.equivalents,
        seconds=done.seconds,
        tuned=training.tuned(done),
    )


def _gives_back(job: ErasureJob, tuned: Sequence[Tuned]) -> bool:
    """Whether the one concept had to be pushed so far that it took other prompts along, which its recipe gives back."""
    return len(job.erasures) == 1 and job.erasures[0].recipe.gives_back and any(t.pushed for t in tuned)


def _give_back(
    made: Made,
    job: ErasureJob,
    base: ResolvedBase,
    machine: Machine,
    trained: Path,
    witnesses: Sequence[Witness | None],
    progress: bool,
) -> Made:
    """The trained edit merged with the original weights (merging.py), if the concept is no more there than before."""
    started = time.monotonic()
    save_weights(trained, made.tensors, Provenance.of(job))
    made = replace(made, tensors={})
    give_back_freed_memory()
    merging = Merging(job, base, [trained], machine.device, witnesses=witnesses, progress=progress)
    tensors, rounds = merging.run()
    gone = not any(merging.best(rounds).excess(merging.goals))
    return replace(
        made,
        tensors=tensors if gone else stored_tensors(trained),
        unet_evaluations=made.unet_evaluations + merging.backbone.evaluations,
        forward_equivalents=made.forward_equivalents + merging.backbone.evaluations,
        seconds=made.seconds + time.monotonic() - started,
        merging=rounds if gone else (),
    )


def _merge(
    job: ErasureJob,
    base: ResolvedBase,
    machine: Machine,
    parts: Sequence[ErasureOutcome],
    witnesses: Sequence[Witness | None],
    progress: bool,
) -> Made:
    """parts: of each concept erased alone. What they cost counts."""
    started = time.monotonic()
    weights = [part.weights for part in parts]
    merging = Merging(job, base, weights, machine.device, witnesses=witnesses, progress=progress)
    tensors, rounds = merging.run()
    rows = [json.loads(line) for part in parts for line in part.history.read_text(encoding="utf-8").splitlines()]
    evaluations = merging.backbone.evaluations
    return Made(
        tensors=tensors,
        losses=[(row["loss"], row["concept"]) for row in rows],
        unet_evaluations=sum(part.unet_evaluations for part in parts) + evaluations,
        forward_equivalents=sum(part.forward_equivalents for part in parts) + evaluations,
        seconds=sum(part.seconds for part in parts) + time.monotonic() - started,
        tuned=tuple(tuned for part in parts for tuned in part.tuned),
        merging=rounds,
    )


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
