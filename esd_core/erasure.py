"""The erasure of a job's concepts: score banks -> student -> edited weights, resumable to the bit.

bank-*.safetensors      frozen points, shared by all jobs that need the same ones
checkpoint.safetensors  trained tensors, Adam's moments, losses so far
history.jsonl           step, loss, and the concept it is of
weights.safetensors     the result
outcome.json            written last: what was made and what it cost
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from esd_core import digest
from esd_core.backbones.loading import choose_device
from esd_core.base_model import ResolvedBase
from esd_core.checkpoint import CHECKPOINT
from esd_core.concepts import ErasureJob
from esd_core.errors import ErasureFailed
from esd_core.evaluation.suite import Suite
from esd_core.evaluation.witness import witnesses_of
from esd_core.machine import Machine
from esd_core.memory import peak_memory, start_peak_memory
from esd_core.training import Training
from esd_core.tuning import Tuned
from esd_core.weights import Provenance, save_weights


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


def erase(
    job: ErasureJob,
    base: ResolvedBase,
    folder: Path,
    machine: Machine | None = None,
    *,
    banks: Path | None = None,
    suite: Suite | None = None,
    progress: bool = True,
) -> ErasureOutcome:
    """Erase the job's concepts from the base; everything is kept in `folder`, score banks in `banks` (or `folder`).

    suite: whose classifiers look at images before an erasure stops by itself; the one that the job names as its judge.
    A finished job is returned as it is; an interrupted one continues from its last checkpoint and ends with the same
    bits as one never interrupted. Raises ErasureFailed when training cannot go on, EvaluationError when the
    suite is not the job's judge.
    """
    finished = _finished(job, folder)
    if finished is not None:
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    machine = machine or Machine()
    device = choose_device(machine.device)
    start_peak_memory(device)
    with _memory_errors():
        witnesses = witnesses_of(suite, job, machine.device)
        training = Training(job, base, folder, banks or folder, machine, witnesses=witnesses, progress=progress)
        done = training.run()
    weights = folder / "weights.safetensors"
    weights_digest = save_weights(weights, training.student.edited(), Provenance.of(job))
    history = folder / "history.jsonl"
    names = [concept.name for concept in job.concepts]
    rows = (
        json.dumps({"step": i, "loss": loss, "concept": names[part]}, ensure_ascii=False)
        for i, (loss, part) in enumerate(zip(done.losses, done.parts, strict=True), start=1)
    )
    digest.write_text(history, "\n".join(rows) + "\n")
    outcome = ErasureOutcome(
        job=job,
        weights=weights,
        weights_digest=weights_digest,
        history=history,
        final_loss=sum(done.losses[-20:]) / len(done.losses[-20:]),
        unet_evaluations=done.forwards,
        forward_equivalents=round(done.equivalents, 1),
        seconds=round(done.seconds, 2),
        peak_memory=peak_memory(device),
        tuned=training.tuned(done),
    )
    digest.write_text(folder / "outcome.json", outcome.model_dump_json(indent=1))
    (folder / CHECKPOINT).unlink(missing_ok=True)
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
