"""The erasure of one concept: score bank -> student -> edited weights, resumable to the bit.

bank.safetensors        frozen points, made once (rollout_from=frozen)
checkpoint.safetensors  trained tensors, Adam's moments, losses so far
history.jsonl           step and loss
weights.safetensors     the result
outcome.json            written last: what was made and what it cost
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from esd_core import digest, score_bank
from esd_core.backbones import stable_diffusion as sd
from esd_core.base_model import ResolvedBase
from esd_core.concepts import ErasureJob
from esd_core.recipe import Recipe, RolloutFrom
from esd_core.score_bank import Embeddings, Points
from esd_core.student import Student
from esd_core.weights import Provenance, save_weights

log = logging.getLogger(__name__)
CHECKPOINTS = 10  # per erasure
# What decides a bank; everything else in a recipe can change without making it again.
BANK_SETTINGS = {
    "iterations",
    "batch_size",
    "reuse",
    "rollout_steps",
    "start_guidance",
    "points_per_rollout",
    "timestep_choice",
    "seed",
}


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

    losses: list[float]
    evaluations: int = 0
    seconds: float = 0.0


def erase(
    job: ErasureJob, base: ResolvedBase, folder: Path, device: str = "auto", progress: bool = True
) -> ErasureOutcome:
    """Erase the job's concept from the base; everything is kept in `folder`.

    A finished job is returned as it is; an interrupted one continues from its last checkpoint and ends with the same
    bits as one never interrupted. Raises ErasureFailed when training cannot go on.
    """
    finished = _finished(job, folder)
    if finished is not None:
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    session = _Session(job, base, folder, device, progress)
    done = session.train()
    tensors = session.student.edited()
    weights = folder / "weights.safetensors"
    weights_digest = save_weights(weights, tensors, Provenance.of(job))
    history = folder / "history.jsonl"
    rows = (json.dumps({"step": i, "loss": loss}) for i, loss in enumerate(done.losses, start=1))
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


class _Session:
    """One process's work on a job: the U-Net, the student, and the files in the job's folder."""

    def __init__(self, job: ErasureJob, base: ResolvedBase, folder: Path, device: str, progress: bool) -> None:
        self.started = time.monotonic()
        self.job, self.recipe, self.folder, self.progress = job, job.recipe, folder, progress
        pipeline = sd.load_pipeline(base, device)
        erase_from = job.concept.erase_from
        self.embeds = Embeddings(
            concept=sd.encode_prompt(pipeline, job.concept.name),
            null=sd.encode_prompt(pipeline, ""),
            erase_from=None if erase_from is None else sd.encode_prompt(pipeline, erase_from),
        )
        self.shape = sd.latent_shape(pipeline.unet)
        self.sampler = sd.rollout_sampler(pipeline.scheduler)
        self.device = pipeline.device
        unet = pipeline.unet
        del pipeline  # text encoder and autoencoder leave memory before training
        unet.eval()  # no dropout: the target is a deterministic function of the point
        self.student = Student(unet, self.recipe, self.embeds.prompt)

    def train(self) -> Progress:
        state = self._resume()
        every = max(1, self.recipe.iterations // CHECKPOINTS)
        earlier = state.seconds
        before = self.student.predict.evaluations - state.evaluations
        bank = None if self._on_policy else self._bank()
        bar = tqdm(
            total=self.recipe.iterations,
            initial=len(state.losses),
            desc=f"erase {self.job.concept.name}",
            unit="step",
            disable=not self.progress,
        )
        with bar:
            for segment_start, batches in self._segments(bank, len(state.losses)):
                if segment_start and len(state.losses) == segment_start and self._on_policy:
                    self._checkpoint(state)
                for batch in batches:
                    state.losses.append(self.student.step(batch.to(self.device)))
                    self.student.predict.evaluations += 2 * len(batch)  # a backward pass costs two forward passes
                    bar.update()
                    bar.set_postfix(loss=f"{state.losses[-1]:.4f}", refresh=False)
                    state.evaluations = self.student.predict.evaluations - before
                    state.seconds = earlier + time.monotonic() - self.started
                    if not self._on_policy and len(state.losses) % every == 0:
                        self._checkpoint(state)
        return state

    @property
    def _on_policy(self) -> bool:
        return self.recipe.rollout_from is RolloutFrom.STUDENT

    def _segments(self, bank: Points | None, done: int) -> Iterator[tuple[int, Iterator[Points]]]:
        """(first step, batches): one segment from the bank, or one for each on-policy refresh."""
        if bank is not None:
            yield done, draw(bank, self.recipe, self.recipe.seed, done, self.recipe.iterations)
            return
        length = min(self.recipe.points_per_rollout, self.recipe.rollout_steps) * self.recipe.reuse
        for first in range(done, self.recipe.iterations, length):
            points = self._on_policy_points(first)
            yield first, draw(points, self.recipe, first, 0, min(length, self.recipe.iterations - first))

    def _bank(self) -> Points:
        """The frozen points of this job; made again when missing, damaged, or made under other settings."""
        chosen = self.recipe.model_dump(mode="json", include=BANK_SETTINGS)
        made_from = [self.job.base_digest, self.job.concept.model_dump(mode="json"), chosen]
        path = self.folder / f"bank-{digest.of_json(made_from)[:16]}.safetensors"
        points = score_bank.load(path)
        if points is None:
            points = score_bank.fill(
                self.student.predict_frozen, self.sampler, self.shape, self.embeds, self.recipe, self.progress
            )
            score_bank.save(path, points)
        return points

    def _on_policy_points(self, first_step: int) -> Points:
        """Points sampled with the edited weights as they are now, judged by the frozen ones."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + first_step)
        seeds = torch.randint(2**31, (self.recipe.batch_size,), generator=generator).tolist()
        noise = score_bank.start_noise(self.shape, seeds, self.embeds.concept.dtype).to(self.device)
        student, teacher = self.student.predict, self.student.predict_frozen
        return score_bank.collect(student, teacher, self.sampler, noise, self.embeds, self.recipe, generator)

    def _checkpoint(self, state: Progress) -> None:
        about = {"job": self.job.digest, "evaluations": str(state.evaluations), "seconds": f"{state.seconds:.2f}"}
        tensors = {**self.student.state(), "losses": torch.tensor(state.losses, dtype=torch.float64)}
        with digest.whole_file(self.folder / "checkpoint.safetensors") as partial:
            save_file({name: t.contiguous() for name, t in tensors.items()}, partial, metadata=about)

    def _resume(self) -> Progress:
        """Progress of the last checkpoint, or a fresh start when there is none that fits."""
        path = self.folder / "checkpoint.safetensors"
        if not path.is_file():
            return Progress([])
        try:
            with safe_open(path, framework="pt") as f:
                about = f.metadata() or {}
                tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a mapping
            if about.get("job") != self.job.digest:
                return Progress([])
            self.student.restore(tensors)
        except (SafetensorError, OSError, KeyError) as e:
            log.warning("checkpoint %s is damaged (%s): training starts over", path, e)
            return Progress([])
        losses = tensors["losses"].tolist()
        log.info("continuing %s from step %d", self.job.concept.name, len(losses))
        return Progress(losses, int(about["evaluations"]), float(about["seconds"]))


def draw(points: Points, recipe: Recipe, seed: int, start: int, stop: int) -> Iterator[Points]:
    """Batches number start to stop - 1 of a shuffled pass over the points, `recipe.reuse` times over.

    The order depends on the seed alone, so that training can continue at any batch.
    """
    generator = torch.Generator().manual_seed(seed)
    needed = stop * recipe.batch_size
    passes = -(-needed // len(points))
    order = torch.cat([torch.randperm(len(points), generator=generator) for _ in range(passes)])
    for batch in range(start, stop):
        yield points[order[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]]
