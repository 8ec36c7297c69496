"""Curves of a report in SVG units: the loss of every step, and what held-out points said on the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from esd_core.errors import EvaluationError
from esd_core.tuning import IMAGES, Tuned

POINTS = 400  # drawn at most
BINS = 40  # of the smoothed line


@dataclass(frozen=True)
class Frame:
    """A picture's size, and the corner of its axes."""

    width: int = 640
    height: int = 180
    left: int = 52
    bottom: int = 24
    pad: int = 8

    @property
    def base(self) -> int:
        return self.height - self.bottom

    def across(self, share: np.ndarray) -> np.ndarray:
        """x of shares of the horizontal axis."""
        return np.asarray(self.left + share * (self.width - self.left - self.pad))

    def up(self, share: np.ndarray) -> np.ndarray:
        """y of shares of the vertical axis, cut to it."""
        return np.asarray(self.base - np.clip(share, 0, 1) * (self.base - self.pad))


FRAME = Frame()


@dataclass(frozen=True)
class LossCurve:
    """The raw line, the mean over bins of steps, and what to write at the axes."""

    raw: str
    smooth: str
    last_step: int
    ticks: tuple[tuple[float, str], ...]  # (y, text)
    first: float  # mean of the first bin
    last: float  # mean of the last bin


@dataclass(frozen=True)
class Look:
    """A place where a settling ended; `text`: how many images showed the concept, where they were looked at."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class LookCurve:
    """Remainder and interference by step; `looks` lie on the remainder."""

    remainder: str
    interference: str
    looks: tuple[Look, ...]
    first_step: int
    last_step: int
    ticks: tuple[tuple[float, str], ...]  # (y, text)


def read_history(path: Path) -> list[tuple[int, float]]:
    """(step, loss) of every line of a loss history."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [(int(line["step"]), float(line["loss"])) for line in lines]
    except OSError as e:
        raise EvaluationError(f"cannot read the loss history {path}: {e.strerror}") from e
    except (ValueError, KeyError, TypeError) as e:
        raise EvaluationError(f"{path} is not a loss history: expected JSON lines with step and loss") from e


def smoothed(history: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses, each the mean of neighbouring steps, at most BINS of them."""
    bins = [np.array(rows) for rows in np.array_split(np.array(history), min(BINS, len(history)))]
    middle, mean = np.array([rows.mean(0) for rows in bins]).T
    return middle, mean


def loss_curve(path: Path, frame: Frame = FRAME) -> LossCurve | None:
    """The curve of a history, or None when it has fewer than two steps."""
    history = read_history(path)
    if len(history) < 2:
        return None
    steps, losses = np.array(history).T
    top = float(np.percentile(losses, 99)) * 1.1 or 1.0

    def line(x: np.ndarray, y: np.ndarray) -> str:
        return _line(frame.across((x - steps[0]) / (steps[-1] - steps[0])), frame.up(y / top))

    every = max(1, len(steps) // POINTS)
    middle, mean = smoothed(history)
    shares = np.array([0.0, 0.5, 1.0])
    return LossCurve(
        raw=line(steps[::every], losses[::every]),
        smooth=line(middle, mean),
        last_step=int(steps[-1]),
        ticks=tuple((float(y), f"{share * top:.2g}") for y, share in zip(frame.up(shares), shares, strict=True)),
        first=float(mean[0]),
        last=float(mean[-1]),
    )


def look_curve(tuned: Tuned, frame: Frame = FRAME) -> LookCurve | None:
    """What held-out points said on the way to the end of an erasure; None when they were asked less than twice."""
    checks = tuned.checks
    if len(checks) < 2:
        return None
    steps = np.array([check.step for check in checks])
    remainder, interference = (np.array([getattr(c, name) for c in checks]) for name in ("remainder", "interference"))
    low = min(0.0, float(np.floor(10 * remainder.min()) / 10))
    high = max(1.0, float(np.ceil(10 * max(remainder.max(), interference.max())) / 10))
    across = frame.across((steps - steps[0]) / (steps[-1] - steps[0]))

    def up(values: Sequence[float] | np.ndarray) -> np.ndarray:
        return frame.up((np.asarray(values) - low) / (high - low))

    looks = [
        Look(float(x), float(y), "" if check.shown is None else f"{round(check.shown * IMAGES)} of {IMAGES}")
        for x, y, check in zip(across, up(remainder), checks, strict=True)
        if check.settled
    ]
    marks = sorted({low, 0.0, 1.0, high} if high > 1.2 else {low, 0.0, high})
    return LookCurve(
        remainder=_line(across, up(remainder)),
        interference=_line(across, up(interference)),
        looks=tuple(looks),
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
        ticks=tuple((float(y), f"{mark:g}") for y, mark in zip(up(marks), marks, strict=True)),
    )


def _line(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
