"""What a study's erasures cost, and how they went: the loss of their steps, and what was left of the concept."""

from __future__ import annotations

from esd_core.erasure import ErasureOutcome
from esd_core.evaluation.curves import read_history, smoothed
from esd_core.studies.figures import Figure
from esd_core.studies.study import Line, Lines, Table
from esd_core.studies.workbench import Workbench

GIB = 2**30


def erasures(bench: Workbench) -> Table:
    """What was erased for the study, how, and at what cost when it was made."""
    rows = []
    for outcome in bench.outcomes.values():
        (erasure,) = outcome.job.erasures
        chosen = outcome.tuned[0] if outcome.tuned else erasure.recipe
        memory = outcome.peak_memory and round(outcome.peak_memory / GIB, 2)
        settings = (chosen.negative_guidance, chosen.learning_rate, chosen.iterations)
        costs = (outcome.unet_evaluations, round(outcome.seconds), memory)
        cells = ("" if value is None else Figure(value=value) for value in (*settings, *costs))
        rows.append((outcome.job.name, outcome.job.method, *cells, outcome.job.digest[:16]))
    columns = ("erased", "with", "η", "learning rate", "steps", "U-Net evaluations", "seconds", "GiB at most", "job")
    return Table(name="erasures", title="The erasures", columns=columns, rows=tuple(rows))


def course(bench: Workbench) -> tuple[Lines, ...]:
    """Loss by step of every erasure; of those that measured when to stop, what was left of the concept."""
    losses = Lines(
        name="losses",
        title="Loss of the erasures",
        x_axis="step",
        y_axis="mean over neighbouring steps",
        logarithmic=True,
        lines=tuple(_loss(outcome) for outcome in bench.outcomes.values() if outcome.history.is_file()),
    )
    remainders = Lines(
        name="remainders",
        title="When the erasures stopped",
        x_axis="step",
        y_axis="remainder on held-out points",
        lines=tuple(line for outcome in bench.outcomes.values() if (line := _remainder(outcome))),
    )
    return tuple(chart for chart in (losses, remainders) if chart.lines)


def _label(outcome: ErasureOutcome) -> str:
    (erasure,) = outcome.job.erasures
    eta = outcome.tuned[0].negative_guidance if outcome.tuned else erasure.recipe.negative_guidance
    return f"{outcome.job.name}, {outcome.job.method}, η {eta:g}"


def _loss(outcome: ErasureOutcome) -> Line:
    steps, losses = smoothed(read_history(outcome.history))
    return Line(name=_label(outcome), x=tuple(map(float, steps)), y=tuple(map(float, losses)))


def _remainder(outcome: ErasureOutcome) -> Line | None:
    """Of an erasure that looked more than once on its way."""
    checks = outcome.tuned[0].checks if outcome.tuned else ()
    if len(checks) < 2:
        return None
    x, y = tuple(float(check.step) for check in checks), tuple(check.remainder for check in checks)
    return Line(name=_label(outcome), x=x, y=y)
