"""What `benchmarks.cost` measures, in processes of its own: pieces of the plain loop and of the engine.

A piece is something that an optimizer step needs some number of times: an evaluation of a rollout, the student's step,
a checkpoint. FLOPs are those of convolutions, matrix products and attention, as torch counts them. CPU seconds are
the process's, of user and system. Memory is the highest resident set (VmHWM), imports included.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from benchmarks.plain_loop import PlainLoop, PlainSettings, draws
from esd_core.backbones.base import repeat
from esd_core.base_model import resolve_base
from esd_core.concepts import ConceptEntry, ConceptKind, ErasureJob
from esd_core.erasure import erase
from esd_core.machine import Machine
from esd_core.point_source import Bank
from esd_core.recipe import Keep, ParameterSubset, Precision, RolloutFrom
from esd_core.student import Batch
from esd_core.tensor_file import write_sealed
from esd_core.training import Training

CONCEPT, ETA, LEARNING_RATE = "Van Gogh", 1.0, 5e-5
SEED = 4  # of which a bank that keeps one point keeps that of the first rollout step
DTYPES = {Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16}
METHODS = {ParameterSubset.ESD_X: "esd-x", ParameterSubset.ESD_U: "esd-u"}  # as the plain loop calls them


class Piece(StrEnum):
    ITERATION = "iteration"  # of the plain loop, whole
    EVALUATION = "evaluation"  # of one sample in the plain loop's rollouts
    TEACHER = "teacher"  # the plain loop's calls for the target
    LEARN = "learn"  # the student's optimizer step
    CHECKPOINT = "checkpoint"


def bank_piece(rollouts: int) -> str:
    """An evaluation of one sample in a bank of so many trajectories, which are made together as far as they may."""
    return f"evaluation in a bank of {rollouts}"


@dataclass(frozen=True)
class Sum:
    total: float = 0.0
    count: int = 0

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> float:
        return self.total / self.count


@dataclass(frozen=True)
class Subject:
    """What is measured, and how much of it.

    base: folder of a pipeline, or the miniature's name. iterations: whole ones of the plain loop in a round; 0 where
    only its pieces are affordable. banks: numbers of trajectories. points: kept of each. steps: timed in a round.
    """

    base: str
    precision: Precision
    subset: ParameterSubset
    scratch: Path
    iterations: int
    rollout_steps: int
    banks: tuple[int, ...]
    points: int
    steps: int

    @property
    def job(self) -> ErasureJob:
        entry = ConceptEntry(
            name=CONCEPT,
            kind=ConceptKind.STYLE,
            subset=self.subset,
            negative_guidance=ETA,
            learning_rate=LEARNING_RATE,
            iterations=self.steps + 1,
            batch_size=1,
            rollout_steps=self.rollout_steps,
            points_per_rollout=self.points,
            reuse=1,
            rollout_from=RolloutFrom.FROZEN,
            contexts=0,
            keep=Keep.NOTHING,
            precision=self.precision,
            seed=SEED,
        )
        return ErasureJob(base=self.base, base_digest=resolve_base(self.base).digest, erasures=(entry.erasure,))


# On a CPU attention is an operator that torch's counter does not know; it takes the arguments of the others.
def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


OPERATOR = "_scaled_dot_product_flash_attention_for_cpu"
ATTENTION = {
    getattr(torch.ops.aten, OPERATOR): _attention,
    getattr(torch.ops.aten, f"{OPERATOR}_backward"): _attention_backward,
}


@dataclass
class Meter:
    """Adds up what pieces cost. Counting FLOPs takes a tenth of a second for each evaluation, and some memory."""

    counting: bool
    cpu: dict[str, Sum] = field(default_factory=dict)
    flops: dict[str, Sum] = field(default_factory=dict)

    @contextmanager
    def measure(self, piece: str, count: Callable[[], int] = lambda: 1, *, timed: bool = True) -> Iterator[None]:
        """What happens in this block is `count()` pieces, asked afterwards."""
        counter = FlopCounterMode(display=False, custom_mapping=ATTENTION) if self.counting else None
        started = time.process_time()
        with counter or nullcontext():
            yield
        spent = time.process_time() - started
        if timed:
            self.cpu[piece] = self.cpu.get(piece, Sum()) + Sum(spent, count())
        if counter:
            self.flops[piece] = self.flops.get(piece, Sum()) + Sum(counter.get_total_flops(), count())


class Plain:
    """The plain loop: whole iterations, or one rollout step, the teacher's calls and the optimizer step."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        settings = PlainSettings(CONCEPT, METHODS[subject.subset], lr=LEARNING_RATE)
        self.loop = PlainLoop(resolve_base(subject.base).folder, settings, DTYPES[subject.precision])
        self.draws = draws(settings, SEED)

    def round(self, meter: Meter) -> None:
        if meter.counting or not self.subject.iterations:
            self.pieces(meter)
            return
        for seed, stop in itertools.islice(self.draws, self.subject.iterations):
            with meter.measure(Piece.ITERATION):
                self.loop.iteration(seed, stop)

    def pieces(self, meter: Meter) -> None:
        """The optimizer step twice: the first finds its memory new."""
        self.loop.optimizer.zero_grad()
        with meter.measure(Piece.EVALUATION, lambda: 2):
            latents, timestep = self.loop.rollout(seed=0, stop=1)
        with meter.measure(Piece.TEACHER):
            target = self.loop.target(latents, timestep)
        with meter.measure(Piece.LEARN, timed=False):
            self.loop.learn(latents, timestep, target)
        meter.counting = False
        self.loop.optimizer.zero_grad()
        with meter.measure(Piece.LEARN):
            self.loop.learn(latents, timestep, target)

    def finish(self) -> None:
        self.loop.save(self.subject.scratch / "plain.safetensors")


class Engine:
    """The engine's own banks, steps and checkpoints, without the files of a job."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.job, self.base = subject, subject.job, resolve_base(subject.base)

    def round(self, meter: Meter) -> None:
        scratch = self.subject.scratch
        training = Training(self.job, self.base, scratch / "job", scratch / "banks", Machine("cpu"), progress=False)
        for rollouts in self.subject.banks[:1] if meter.counting else self.subject.banks:
            self.bank(training, rollouts, meter)
        self.learn(training, 0, meter, timed=False)
        meter.counting = False
        for index in range(1, self.subject.steps + 1):
            self.learn(training, index, meter)
        with meter.measure(Piece.CHECKPOINT):
            write_sealed(scratch / "checkpoint.safetensors", training.student.state(), {})

    def bank(self, training: Training, rollouts: int, meter: Meter) -> None:
        before = training.backbone.evaluations
        with tempfile.TemporaryDirectory(dir=self.subject.scratch) as folder, tqdm(disable=True) as bar:
            rows = rollouts * self.subject.points
            bank = Bank(training.lessons[0], training.student, rows, Path(folder), self.base.digest)
            with meter.measure(bank_piece(rollouts), lambda: training.backbone.evaluations - before):
                bank.fill(bar)

    def learn(self, training: Training, index: int, meter: Meter, *, timed: bool = True) -> None:
        lesson = training.lessons[0]
        with meter.measure(Piece.LEARN, timed=timed):
            points = training.sources[0].rows([index])
            told = repeat(lesson.prompts.prompt, len(points))
            batch = Batch(points.latents, points.timesteps, told, lesson.target(points, ETA))
            training.student.step(batch, self.subject.subset, LEARNING_RATE)

    def finish(self) -> None:
        """Nothing is left to do."""


class Whole(Engine):
    """A whole erasure with its checkpoints and files, for the memory that it takes."""

    def round(self, meter: Meter) -> None:
        assert not meter.counting, "counting takes memory"
        scratch = self.subject.scratch
        erase(self.job, self.base, scratch / "whole", Machine("cpu"), banks=scratch / "banks", progress=False)


def peak_memory() -> float:
    """Highest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024.0 * int(line.split()[1])


def serve(connection: Connection, kind: type[Plain | Engine], subject: Subject) -> None:
    """A process: a round for every flag received, counting FLOPs or not; after None the peaks of its memory."""
    torch.set_num_threads(1)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    imported = peak_memory()
    measured = kind(subject)
    for counting in iter(connection.recv, None):
        meter = Meter(counting)
        measured.round(meter)
        connection.send(meter)
    measured.finish()
    connection.send((imported, peak_memory()))
