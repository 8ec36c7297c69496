"""The rows that `benchmarks.quality` writes, and the Markdown table made of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from pydantic import BaseModel, ConfigDict

from esd_core.recipe import RolloutFrom

POINTS, REUSE = (1, 5, 10, 25, 50), (1, 2, 4)
HEADER = """\
| rollout_from | points | reuse | still shown, % | others fell by | most, one probe | CPU s | evaluations | seeds |
|---|---|---|---|---|---|---|---|---|"""


class Setting(BaseModel):
    """What the table varies."""

    model_config = ConfigDict(frozen=True)

    rollout_from: RolloutFrom
    points_per_rollout: int
    reuse: int


class Rate(BaseModel):
    """Images of a probe that show what they should; for a negated probe, that do not show what they must not."""

    model_config = ConfigDict(frozen=True)

    hits: int
    images: int
    erased: bool  # the probe measures the erasure

    @property
    def percent(self) -> float:
        return 100 * self.hits / self.images


class Row(BaseModel):
    """A line of the results file. `key` is the digest of all that decides it; the base's own row has no setting."""

    model_config = ConfigDict(frozen=True)

    key: str
    concept: str
    setting: Setting | None
    seed: int
    cpu_seconds: float  # of one thread; loading the base is part of it
    unet_evaluations: int  # samples
    rates: dict[str, Rate]  # by probe


def settings() -> list[Setting]:
    """All cells of the table, in its order."""
    return [
        Setting(rollout_from=source, points_per_rollout=points, reuse=reuse)
        for source, points, reuse in itertools.product(RolloutFrom, POINTS, REUSE)
    ]


def read_rows(results: Path) -> list[Row]:
    if not results.is_file():
        return []
    return [Row.model_validate_json(line) for line in results.read_text(encoding="utf-8").splitlines()]


def erased_rate(row: Row) -> float:
    """Percent of images that still show the concept: the worst of its probes."""
    return max(rate.percent for rate in row.rates.values() if rate.erased)


def drops(row: Row, base: Row) -> dict[str, float]:
    """By how many points each other probe fell; negative where it rose."""
    return {name: base.rates[name].percent - rate.percent for name, rate in row.rates.items() if not rate.erased}


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Mean and range."""
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), mean(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def table(rows: Sequence[Row]) -> str:
    """Markdown: the base's rates, and a line over the seeds of each setting that was measured, for one concept."""
    base = next(row for row in rows if row.setting is None)
    others = mean(rate.percent for rate in base.rates.values() if not rate.erased)
    lines = [f"Base: {erased_rate(base):.0f} % shown, others {others:.1f} %.", "", HEADER]
    for setting in settings():
        same = [row for row in rows if row.setting == setting]
        if same:
            cells = (setting.rollout_from.value, setting.points_per_rollout, setting.reuse, *_figures(same, base))
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _figures(same: Sequence[Row], base: Row) -> tuple[str, ...]:
    """The measured columns, over rows that differ in their seed only."""
    fell = [drops(row, base) for row in same]
    by_probe = {name: mean(each[name] for each in fell) for name in fell[0]}
    worst = max(by_probe, key=lambda name: by_probe[name])
    return (
        spread([erased_rate(row) for row in same]),
        spread([mean(each.values()) for each in fell], 1),
        f"{by_probe[worst]:.0f} {worst}" if by_probe[worst] > 0 else "0",
        spread([row.cpu_seconds for row in same], 1),
        spread([row.unet_evaluations for row in same]),
        str(len(same)),
    )
