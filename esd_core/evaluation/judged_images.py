"""Images of a probe with a classifier's answers, drawn once and kept on disk.

A folder of judged images holds two files for each probe, named after its digest: `.npy` the images (N, H, W, 3)
uint8, and, written after it, `.json` the answers and the images' own SHA-256. A probe whose files are whole is not
drawn again, so an interrupted evaluation continues; damaged files are made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

from esd_core import digest
from esd_core.evaluation.classifiers import Classifier, load_classifier
from esd_core.evaluation.suite import Probe, Suite
from esd_core.generation import generate

MOST_AT_ONCE = 48  # small models draw faster in large batches
CELLS_AT_ONCE = 32_768  # of latents: 8 pictures of Stable Diffusion 1, 2 of 1024 x 1024 pixels


class Answers(BaseModel):
    """What the judge saw in a probe's images: `seen[i]` are the labels that image i shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probe: str
    label: str
    negated: bool
    images_digest: str
    seen: tuple[tuple[str, ...], ...]

    @property
    def hits(self) -> int:
        return sum((self.label in names) != self.negated for names in self.seen)


@dataclass(frozen=True)
class Judged:
    """A probe's answers and its kept images, (K, H, W, 3) with K at most the number judged."""

    answers: Answers
    images: np.ndarray


@dataclass
class Judges:
    """The suite's classifiers, each loaded when it is first asked."""

    suite: Suite
    device: str
    loaded: dict[str, Classifier] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Classifier:
        if name not in self.loaded:
            self.loaded[name] = load_classifier(self.suite.locate(name), self.device)
        return self.loaded[name]

    def check(self) -> None:
        """Every probe's label must be known before the first image is drawn; raises EvaluationError."""
        for probe in self.suite.probes:
            self[probe.classifier].index_of(probe.label)


def cells_across(pipeline: Any) -> int:
    """Width of the latents that a pipeline draws when asked for no size."""
    own = getattr(pipeline, "default_sample_size", None)
    size = pipeline.unet.config.sample_size if own is None else own
    return int(size if isinstance(size, int) else size[-1])


@dataclass(frozen=True)
class Artist:
    """Draws with a pipeline that is made only when something has to be drawn."""

    make: Callable[[], Any]

    @cached_property
    def pipeline(self) -> Any:
        return self.make()

    def draw(self, suite: Suite, probe: Probe, count: int, progress: bool) -> np.ndarray:
        prompts, seeds = zip(*suite.cases(probe, count), strict=True)
        return generate(
            self.pipeline,
            prompts,
            seeds,
            steps=suite.steps,
            guidance_scale=suite.guidance_scale,
            batch_size=max(1, min(MOST_AT_ONCE, CELLS_AT_ONCE // cells_across(self.pipeline) ** 2)),
            description=probe.name,
            progress=progress,
        )


def judged_images(
    folder: Path, artist: Artist, judges: Judges, count: int, keep: int, description: str, progress: bool
) -> dict[str, Judged]:
    """Each probe's `count` images, judged, by the probe's name; the first `keep` of them stay on disk."""
    found: dict[str, Judged] = {}
    with tqdm(judges.suite.probes, desc=description, unit="probe", disable=not progress) as bar:
        for probe in bar:
            stem = digest.of_json([probe.model_dump(mode="json"), count])[:16]
            kept = _read(folder / stem, count)
            found[probe.name] = kept or _make(folder / stem, artist, judges, probe, count, keep, progress)
    return found


def _make(stem: Path, artist: Artist, judges: Judges, probe: Probe, count: int, keep: int, progress: bool) -> Judged:
    classifier = judges[probe.classifier]
    images = artist.draw(judges.suite, probe, count, progress)
    seen = classifier.sees(images)
    with digest.whole_file(stem.with_suffix(".npy")) as partial, partial.open("wb") as f:
        np.save(f, images[:keep])
    answers = Answers(
        probe=probe.name,
        label=classifier.labels[classifier.index_of(probe.label)],
        negated=probe.negated,
        images_digest=digest.of_file(stem.with_suffix(".npy")),
        seen=tuple(tuple(compress(classifier.labels, shown)) for shown in seen),
    )
    digest.write_text(stem.with_suffix(".json"), json.dumps(answers.model_dump(), ensure_ascii=False))
    return Judged(answers, images[:keep])


def _read(stem: Path, count: int) -> Judged | None:
    """What was kept, or None when it is not there, damaged or of another size."""
    images, answers_file = stem.with_suffix(".npy"), stem.with_suffix(".json")
    try:
        answers = Answers.model_validate_json(answers_file.read_text(encoding="utf-8"))
        whole = digest.of_file(images) == answers.images_digest and len(answers.seen) == count
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
    return Judged(answers, np.load(images, mmap_mode="r", allow_pickle=False)) if whole else None
