"""What an optimizer step costs: the engine against a plain loop that does what the authors' code does.

    python -m benchmarks.cost            # the miniature, and a random U-Net of Stable Diffusion 1.4's sizes
    python -m benchmarks.cost --quick    # the miniature only

Same model, same number of optimizer steps, batch 1, one thread; both sides take turns. FLOPs are counted. CPU seconds
are measured in whole on the miniature; at the size of Stable Diffusion 1.4 each piece of a step is measured and the
step extrapolated from them. Memory is the peak of a process that does nothing else. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import arrivals
from benchmarks.cost_workers import Engine, Piece, Plain, Subject, Sum, Whole, bank_piece, serve
from benchmarks.random_sd14 import save_random
from esd_core.concepts import MINIATURE
from esd_core.point_source import rollouts_needed
from esd_core.recipe import ParameterSubset, Precision, Recipe
from esd_core.training import CHECKPOINTS

STEPS, ROLLOUT = 200, 50  # optimizer steps of an erasure, sampler steps of a rollout
SETTINGS = ((25, 1), (50, 1), (25, 4), (50, 2), (50, 4))  # points_per_rollout, reuse
SUBSETS = (ParameterSubset.ESD_X, ParameterSubset.ESD_U)
PLAIN_EVALUATIONS = (ROLLOUT - 1) / 2 * 2  # of an average rollout up to a random step, two for each step of it
GIB = 2**30

SMALL = Subject(
    base=MINIATURE,
    precision=Precision.FLOAT32,
    subset=ParameterSubset.ESD_X,
    scratch=Path(),
    iterations=10,
    rollout_steps=ROLLOUT,
    banks=(1, 2, 4, 8),
    points=50,
    steps=40,
)
LARGE = replace(SMALL, precision=Precision.BFLOAT16, iterations=0, rollout_steps=2, banks=(2,), points=1, steps=1)


@dataclass
class Measured:
    """Means of all rounds. peak, imported: bytes; of the engine the peak is that of a whole erasure."""

    cpu: dict[str, Sum] = field(default_factory=dict)
    flops: dict[str, Sum] = field(default_factory=dict)
    peak: float = 0.0
    imported: float = 0.0

    def add(self, cpu: dict[str, Sum], flops: dict[str, Sum]) -> None:
        for own, new in ((self.cpu, cpu), (self.flops, flops)):
            for piece, amount in new.items():
                own[piece] = own.get(piece, Sum()) + amount


class Process:
    """A process that measures one side."""

    def __init__(self, kind: type[Plain | Engine], subject: Subject) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(theirs, kind, subject))
        self.process.start()
        theirs.close()
        self.counted = False

    def round(self, into: Measured, *, counting: bool, timed: bool = True) -> None:
        self.counted |= counting
        self.connection.send(counting)
        meter = self.connection.recv()
        into.add(meter.cpu if timed else {}, meter.flops)

    def end(self, into: Measured, *, with_memory: bool) -> None:
        self.connection.send(None)
        into.imported, peak = self.connection.recv()
        self.process.join()
        if with_memory:
            assert not self.counted, "counting takes memory"
            into.peak = max(into.peak, peak)


def measure_small(subject: Subject) -> tuple[Measured, Measured]:
    """Both sides side by side, round by round."""
    plain, engine = Measured(), Measured()
    sides = [(Process(Plain, subject), plain), (Process(Engine, subject), engine)]
    for side, into in sides:
        side.round(into, counting=True, timed=False)
    for _ in range(ROLLOUT // subject.iterations):
        for side, into in sides:
            side.round(into, counting=False)
    for side, into in sides:
        side.end(into, with_memory=False)
    for kind, into in ((Plain, plain), (Whole, engine)):
        side = Process(kind, replace(subject, iterations=2))
        side.round(into, counting=False, timed=False)
        side.end(into, with_memory=True)
    return plain, engine


def measure_large(subject: Subject) -> tuple[Measured, Measured]:
    """One process at a time, since two would not fit; FLOPs are counted in the first of two turns."""
    plain, engine = Measured(), Measured()
    side = Process(Whole, subject)
    side.round(engine, counting=False, timed=False)
    side.end(engine, with_memory=True)
    for counting in (True, False):
        for kind, into in ((Plain, plain), (Engine, engine)):
            side = Process(kind, subject)
            side.round(into, counting=counting)
            side.end(into, with_memory=kind is Plain and not counting)
    return plain, engine


@dataclass(frozen=True)
class Step:
    """An average optimizer step. evaluations: samples that the frozen or the trained U-Net evaluates forwards."""

    evaluations: float
    flops: float
    cpu: float


def plain_step(measured: Measured) -> Step:
    def sum_of(pieces: dict[str, Sum]) -> float:
        return PLAIN_EVALUATIONS * pieces[Piece.EVALUATION].mean + pieces[Piece.TEACHER].mean + pieces[Piece.LEARN].mean

    whole = measured.cpu.get(Piece.ITERATION)
    return Step(PLAIN_EVALUATIONS + 3, sum_of(measured.flops), whole.mean if whole else sum_of(measured.cpu))


def engine_step(measured: Measured, points: int, reuse: int) -> Step:
    """With banks of so many points of each rollout, each used `reuse` times, in an erasure of STEPS steps."""
    recipe = Recipe(subset=ParameterSubset.ESD_X, points_per_rollout=points, reuse=reuse, rollout_steps=ROLLOUT)
    rollouts = rollouts_needed(recipe, STEPS)
    evaluations = 2 * ROLLOUT * rollouts / STEPS
    banks = [piece for piece in measured.cpu if piece.startswith(bank_piece(0)[:-1])]
    bank = bank_piece(rollouts) if bank_piece(rollouts) in banks else banks[0]
    (counted,) = [amount for piece, amount in measured.flops.items() if piece in banks]
    floor = floor_step(measured)
    checkpoints = CHECKPOINTS / STEPS * measured.cpu[Piece.CHECKPOINT].mean
    return Step(
        evaluations + 1,
        evaluations * counted.mean + floor.flops,
        evaluations * measured.cpu[bank].mean + floor.cpu + checkpoints,
    )


def floor_step(measured: Measured) -> Step:
    """The student's step alone: what no choice of points can go below."""
    return Step(1, measured.flops[Piece.LEARN].mean, measured.cpu[Piece.LEARN].mean)


def table(subset: ParameterSubset, plain: Measured, engine: Measured, mark: str) -> str:
    """mark: behind every CPU figure."""
    theirs, floor = plain_step(plain), floor_step(engine)
    rows = [("plain loop", theirs)]
    rows += [
        (f"engine, {points} points, used {reuse}x", engine_step(engine, points, reuse)) for points, reuse in SETTINGS
    ]
    rows.append(("the student's step alone", floor))
    lines = [
        f"| {subset.value} | evaluations | GFLOPs | fewer | of the floor | CPU s | less | of the floor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, step in rows:
        flops = f"{_number(step.flops / 1e9)} | {theirs.flops / step.flops:.1f}x | {step.flops / floor.flops:.2f}"
        cpu = f"{_number(step.cpu)}{mark} | {theirs.cpu / step.cpu:.1f}x | {step.cpu / floor.cpu:.2f}"
        lines.append(f"| {name} | {step.evaluations:g} | {flops} | {cpu} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    """With four digits or more."""
    return f"{value:.4f}" if value < 10 else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def memory_table(measured: dict[ParameterSubset, tuple[Measured, Measured]]) -> str:
    lines = [
        "| peak memory, GiB | plain loop | engine | engine/plain | of which imports |",
        "|---|---|---|---|---|",
    ]
    for subset, (plain, engine) in measured.items():
        peaks = f"{plain.peak / GIB:.2f} | {engine.peak / GIB:.2f} | {engine.peak / plain.peak:.2f}"
        lines.append(f"| {subset.value} | {peaks} | {engine.imported / GIB:.2f} |")
    return "\n".join(lines)


def report(title: str, subject: Subject, measure: Callable[[Subject], tuple[Measured, Measured]], mark: str) -> None:
    """Measure both subsets and print their tables."""
    measured = {}
    print(f"### {title}\n", flush=True)
    for subset in SUBSETS:
        measured[subset] = measure(replace(subject, subset=subset))
        print(f"{table(subset, *measured[subset], mark)}\n", flush=True)
    print(f"{memory_table(measured)}\n", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the miniature only, three minutes")
    parser.add_argument("--scratch", type=Path, help="where files go meanwhile, 16 GB (default: the system's folder)")
    chosen = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
    with tempfile.TemporaryDirectory(dir=chosen.scratch) as scratch:
        folder = Path(scratch)
        (folder / "small").mkdir()
        report("The miniature (float32)", replace(SMALL, scratch=folder / "small"), measure_small, "")
        print(f"### Updates that arrive (the miniature in bfloat16)\n\n{arrivals.table()}\n", flush=True)
        if not chosen.quick:
            save_random(folder / "large")
            large = replace(LARGE, base=str(folder / "large"), scratch=folder)
            report("Sizes of Stable Diffusion 1.4 (bfloat16); CPU seconds extrapolated (*)", large, measure_large, "*")


if __name__ == "__main__":
    main()
