"""How far the images in an evaluation's grid moved at equal seeds, and how well they fit their prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from esd_core.evaluation.clip_space import load_clip
from esd_core.evaluation.intervals import mean_interval
from esd_core.evaluation.metric_refs import QualityRef
from esd_core.evaluation.metrics.clip_score import clip_score
from esd_core.evaluation.metrics.features import load_features
from esd_core.evaluation.metrics.perceptual import perceptual_distance
from esd_core.evaluation.pictures import GridRow
from esd_core.evaluation.results import Mean, QualityFigures


def quality_of(
    rows: Sequence[GridRow], prompts: Mapping[str, Sequence[str]], ref: QualityRef, device: str
) -> QualityFigures:
    """Of the erased rows, and of all others; prompts[LABEL] are those of a row's images. `ref` is located."""
    features = load_features(ref.features, device)

    def moved(erased: bool) -> Mean:
        chosen = [row for row in rows if row.erased is erased]
        before, after = (np.concatenate([getattr(row, when) for row in chosen]) for when in ("before", "after"))
        return _mean(perceptual_distance(features(before), features(after)))

    figures = QualityFigures(erased_moved=moved(erased=True), others_moved=moved(erased=False))
    if ref.clip is None:
        return figures
    space, others = load_clip(ref.clip, device), [row for row in rows if not row.erased]

    def fit(when: str) -> Mean:
        scores = [clip_score(images := getattr(row, when), prompts[row.label][: len(images)], space) for row in others]
        return _mean(np.concatenate(scores))

    return figures.model_copy(update={"others_fit_before": fit("before"), "others_fit_after": fit("after")})


def _mean(values: np.ndarray) -> Mean:
    interval = mean_interval(values)
    lower, upper = (interval.lower, interval.upper) if interval else (None, None)
    return Mean(value=float(values.mean()), lower=lower, upper=upper, images=len(values))
