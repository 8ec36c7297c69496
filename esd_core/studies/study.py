"""What a study found: tables, charts as data, pictures. Written as study.json; screen and page are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esd_core.errors import EvaluationError
from esd_core.evaluation.results import Sampling
from esd_core.studies.figures import Figure
from esd_core.studies.request import StudyRequest

STUDY_FILE = "study.json"
Cell = Figure | str


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Table(_Part):
    """Rows of cells under named columns; the first cell of a row is its name. `total` rows sum up the others."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: bool = False  # the last row sums up the others


class Series(_Part):
    name: str
    figures: tuple[Figure, ...]


class Bars(_Part):
    """Grouped bars: for each label one bar of every series."""

    kind: Literal["bars"] = "bars"
    name: str
    title: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]


class HeatMap(_Part):
    """Shares in [0, 1], or distances of the same range, (rows, columns)."""

    kind: Literal["heat-map"] = "heat-map"
    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    figures: tuple[tuple[Figure, ...], ...]
    outlined: tuple[tuple[int, int], ...] = ()  # (row, column) of what was erased


class Point(_Part):
    label: str
    x: Figure
    y: Figure


class Curve(_Part):
    """Points in order, joined by a line."""

    kind: Literal["curve"] = "curve"
    name: str
    title: str
    x_axis: str
    y_axis: str
    points: tuple[Point, ...]


class Line(_Part):
    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


class Lines(_Part):
    """Numbers by step, a line for each erasure."""

    kind: Literal["lines"] = "lines"
    name: str
    title: str
    x_axis: str
    y_axis: str
    logarithmic: bool = False  # the y axis
    lines: tuple[Line, ...]


Chart = Annotated[Bars | HeatMap | Curve, Field(discriminator="kind")]


@dataclass(frozen=True)
class Sheet:
    """Images, one seed for each column: images[r][c] is (H, W, 3) uint8."""

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    images: tuple[tuple[np.ndarray, ...], ...]


class Picture(_Part):
    """A sheet's file beside the study: NAME.png."""

    name: str
    title: str


@dataclass(frozen=True)
class Findings:
    """What a protocol hands back. asks: the question it answers; notes: what one must know to read the tables."""

    title: str
    asks: str
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    notes: tuple[str, ...] = ()


class Study(_Part):
    """A finished protocol: its findings, of what, and how to run it again."""

    schema_version: Literal[1, 2] = 2  # 1 has neither `course` nor `sampling`
    request: StudyRequest
    title: str
    asks: str
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...] = ()
    course: tuple[Lines, ...] = ()  # how the erasures went
    notes: tuple[str, ...] = ()
    sampling: Sampling | None = None
    base: str
    base_digest: str
    suite_digest: str
    code_version: str
    command: str
    pictures: tuple[Picture, ...] = ()


def read_study(path: Path) -> Study:
    """A study.json; raises EvaluationError when it is none."""
    try:
        return Study.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise EvaluationError(f"cannot read {path}: {e.strerror}; make it with `esd study`") from e
    except (ValidationError, UnicodeDecodeError) as e:
        raise EvaluationError(f"{path} is not a study of this version: make it again with `esd study`") from e
