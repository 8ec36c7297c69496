"""How many weights an optimizer step in bfloat16 changes: added to the weights themselves, or to exact masters."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.plain_loop import PlainLoop, PlainSettings, draws
from esd_core.backbones.base import repeat
from esd_core.base_model import resolve_base
from esd_core.concepts import MINIATURE, ConceptEntry, ConceptKind, ErasureJob
from esd_core.machine import Machine
from esd_core.recipe import Keep, ParameterSubset, Precision, RolloutFrom
from esd_core.student import Batch
from esd_core.training import Training

CONCEPT, STEPS, SEED = "Van Gogh", 20, 0
METHODS = {ParameterSubset.ESD_X: "esd-x", ParameterSubset.ESD_U: "esd-u"}  # as the plain loop calls them


@dataclass(frozen=True)
class Arrived:
    """Shares of the trained weights, 0 to 1. step: changed by an average step. end: changed after all of them."""

    step: float
    end: float


def arrived(weights: Callable[[], list[torch.Tensor]], step: Callable[[int], object]) -> Arrived:
    """weights: copies of the trained tensors as they are."""
    start = before = weights()
    changed = 0.0
    for number in range(STEPS):
        step(number)
        after = weights()
        changed += _changed(before, after)
        before = after
    return Arrived(changed / STEPS, _changed(start, before))


def _changed(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    total = sum(tensor.numel() for tensor in before)
    return sum(int((a != b).sum()) for a, b in zip(before, after, strict=True)) / total


def in_plain_loop(subset: ParameterSubset, learning_rate: float) -> Arrived:
    settings = PlainSettings(CONCEPT, METHODS[subset], lr=learning_rate)
    loop = PlainLoop(resolve_base(MINIATURE).folder, settings, torch.bfloat16)
    drawn = list(itertools.islice(draws(settings, SEED), STEPS))
    return arrived(
        lambda: [parameter.detach().clone() for parameter in loop.parameters.values()],
        lambda number: loop.iteration(*drawn[number]),
    )


def in_engine(subset: ParameterSubset, learning_rate: float) -> Arrived:
    base = resolve_base(MINIATURE)
    entry = ConceptEntry(
        name=CONCEPT,
        kind=ConceptKind.STYLE,
        subset=subset,
        negative_guidance=1.0,
        learning_rate=learning_rate,
        iterations=STEPS,
        batch_size=1,
        rollout_from=RolloutFrom.FROZEN,
        rollout_steps=50,
        points_per_rollout=50,
        contexts=0,
        keep=Keep.NOTHING,
        precision=Precision.BFLOAT16,
        seed=SEED,
    )
    job = ErasureJob(base=base.id, base_digest=base.digest, erasures=(entry.erasure,))
    with tempfile.TemporaryDirectory() as folder:
        training = Training(job, base, Path(folder), Path(folder), Machine("cpu"), progress=False)
    lesson, student = training.lessons[0], training.student

    def step(number: int) -> None:
        points = training.sources[0].rows([number])
        told = repeat(lesson.prompts.prompt, len(points))
        target = lesson.target(points, 1.0)
        student.step(Batch(points.latents, points.timesteps, told, target), subset, learning_rate)

    return arrived(lambda: [student.optimizer.master(name).clone() for name in student.parameters], step)


def table() -> str:
    """A Markdown table."""
    torch.set_num_threads(1)
    rows = []
    for subset, learning_rate in itertools.product(METHODS, (1e-5, 5e-5)):
        cells = [f"{a.step:.1%} | {a.end:.1%}" for a in (f(subset, learning_rate) for f in (in_plain_loop, in_engine))]
        rows.append(f"| {METHODS[subset]} | {learning_rate:g} | {' | '.join(cells)} |")
    header = (
        f"| subset | learning rate | plain loop: a step changes | after {STEPS} steps | engine: a step changes | "
        f"after {STEPS} steps |\n|---|---|---|---|---|---|"
    )
    return "\n".join([header, *rows])
