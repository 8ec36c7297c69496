"""Images of probes with a judge's answers, drawn once, kept on disk, and added to when more are asked for.

A folder of judged images holds, for each run of images of a probe drawn together, two files named after the probe's
digest and the numbers of the first image and the one after the last: `.npy` the images (N, H, W, 3) uint8, and,
written after it, `.json` the answers with the SHA-256 of the images and of themselves. Runs whose files are whole are
not drawn again, so an interrupted evaluation continues; damaged ones are made again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

from esd_core import digest
from esd_core.evaluation.artist import Artist
from esd_core.evaluation.classifiers import Classifier, load_classifier
from esd_core.evaluation.coherence_judge import CoherenceJudge
from esd_core.evaluation.suite import Probe, Suite


class Answers(BaseModel):
    """What the judge saw in a run of a probe's images: `seen[i]` are the labels that image i shows.

    coherent[i]: whether image i is a picture at all, where the suite asks for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    probe: str
    label: str
    negated: bool
    images_digest: str
    seen: tuple[tuple[str, ...], ...]
    coherent: tuple[bool, ...] | None = None
    own_digest: str = ""

    @property
    def checksum(self) -> str:
        """What `own_digest` must be."""
        return digest.of_json(self.model_dump(mode="json", exclude={"own_digest"}))

    @property
    def hits(self) -> tuple[bool, ...]:
        """For each image, whether it shows what the probe asks for; of a negated probe, whether it does not."""
        return tuple((self.label in names) != self.negated for names in self.seen)


class Judged(NamedTuple):
    """Of each image, whether it shows what its probe asks for, and whether it is a picture at all: (N,) bool."""

    hits: np.ndarray
    coherent: np.ndarray | None = None  # where the suite asks for it


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


def drawing_order(suite: Suite, probe: Probe, count: int) -> list[tuple[str, int]]:
    """The probe's first `count` cases, each round of its prompts shuffled: a part of them is no biased choice."""
    prompts, shuffled = len(probe.prompts), random.Random(f"{suite.seed}:{probe.name}")
    rounds = -(-count // prompts)
    cases = suite.cases(probe, rounds * prompts)
    return [cases[r * prompts + i] for r in range(rounds) for i in shuffled.sample(range(prompts), prompts)][:count]


@dataclass
class JudgedImages:
    """The judged images of one model: what `folder` holds, and what is drawn when more are asked for.

    The first `keep` images of a probe stay on disk; all, if None.
    """

    folder: Path
    artist: Artist
    judges: Judges
    description: str
    keep: int | None = None
    progress: bool = True
    coherence: CoherenceJudge | None = None
    _runs: dict[str, list[tuple[Answers, np.ndarray]]] = field(default_factory=dict)

    def judged(self, counts: Mapping[str, int]) -> dict[str, Judged]:
        """What is said of the first counts[NAME] images of the probe NAME.

        Images that are missing are drawn, in batches across probes.
        """
        missing: list[tuple[Probe, int]] = []  # image `number` of a probe
        for probe in self.judges.suite.probes:
            wanted = counts.get(probe.name, 0)
            missing += [(probe, number) for number in range(self._held(probe, wanted), wanted)]
        shown = self.progress and bool(missing)
        with tqdm(total=len(missing), desc=self.description, unit="image", disable=not shown, leave=False) as bar:
            while missing:
                batch, missing = missing[: self.artist.at_once], missing[self.artist.at_once :]
                self._draw(batch, counts)
                bar.update(len(batch))
        return {name: self._judged(name, count) for name, count in counts.items()}

    def images(self, name: str, count: int) -> np.ndarray:
        """The first images of a probe that are drawn and kept, `count` at most: (K, H, W, 3) uint8."""
        return np.concatenate([images[:count] for _, images in self._runs[name]])[:count]

    def seen(self, name: str, count: int) -> list[tuple[str, ...]]:
        """The labels that each of the first images of a probe shows, of those that are drawn; `count` at most."""
        return [labels for answers, _ in self._runs[name] for labels in answers.seen][:count]

    def _judged(self, name: str, count: int) -> Judged:
        runs = [answers for answers, _ in self._runs[name]]
        hits = np.array([hit for answers in runs for hit in answers.hits][:count])
        if self.coherence is None:
            return Judged(hits)
        return Judged(hits, np.array([told for answers in runs for told in answers.coherent or ()][:count]))

    def _held(self, probe: Probe, wanted: int) -> int:
        """How many images there are; looks on disk for as many as are wanted."""
        runs = self._runs.setdefault(probe.name, [])
        held = sum(len(answers.seen) for answers, _ in runs)
        while held < wanted and (run := self._read(probe, held)):
            runs.append(run)
            held += len(run[0].seen)
        return held

    def _draw(self, batch: list[tuple[Probe, int]], counts: Mapping[str, int]) -> None:
        """Draw, judge and keep; images of one probe stand together in `batch`. Each judge sees all of its at once."""
        suite = self.judges.suite
        cases = {probe.name: drawing_order(suite, probe, counts[probe.name]) for probe, _ in batch}
        images = self.artist.draw(suite, [cases[probe.name][number] for probe, number in batch])
        coherent = self.coherence.coherent(images).tolist() if self.coherence else None
        for name in dict.fromkeys(probe.classifier for probe, _ in batch):
            judged = [i for i, (probe, _) in enumerate(batch) if probe.classifier == name]
            seen = dict(zip(judged, self.judges[name].sees(images[judged]), strict=True))
            for probe in dict.fromkeys(batch[i][0] for i in judged):
                rows = [i for i in judged if batch[i][0] == probe]
                told = None if coherent is None else tuple(coherent[i] for i in rows)
                run = self._write(probe, batch[rows[0]][1], images[rows], [seen[i] for i in rows], told)
                self._runs[probe.name].append(run)

    def _write(
        self,
        probe: Probe,
        start: int,
        images: np.ndarray,
        seen: Sequence[np.ndarray],
        coherent: tuple[bool, ...] | None,
    ) -> tuple[Answers, np.ndarray]:
        """Keep a run of a probe's images with what was said of them: seen, for each the labels it shows."""
        classifier, stem = self.judges[probe.classifier], f"{_stem(probe, start)}-{start + len(images)}"
        path = self.folder / f"{stem}.npy"
        kept = images if self.keep is None else images[: max(0, self.keep - start)]
        with digest.whole_file(path, flush=False) as partial, partial.open("wb") as f:
            np.save(f, kept)
        answers = Answers(
            probe=probe.name,
            label=classifier.labels[classifier.index_of(probe.label)],
            negated=probe.negated,
            images_digest=digest.of_file(path),
            seen=tuple(tuple(compress(classifier.labels, shown)) for shown in seen),
            coherent=coherent,
        )
        sealed = answers.model_copy(update={"own_digest": answers.checksum})
        digest.write_text(path.with_suffix(".json"), json.dumps(sealed.model_dump(), ensure_ascii=False), flush=False)
        return answers, np.load(path, mmap_mode="r", allow_pickle=False)

    def _read(self, probe: Probe, start: int) -> tuple[Answers, np.ndarray] | None:
        """A whole run that begins with image `start`, if there is one."""
        for path in sorted(self.folder.glob(f"{_stem(probe, start)}-*.json")):
            images = path.with_suffix(".npy")
            try:
                answers = Answers.model_validate_json(path.read_text(encoding="utf-8"))
                intact = answers.own_digest == answers.checksum and digest.of_file(images) == answers.images_digest
                if intact:
                    return answers, np.load(images, mmap_mode="r", allow_pickle=False)
            except (OSError, ValidationError, UnicodeDecodeError):
                continue
        return None


def _stem(probe: Probe, start: int) -> str:
    return f"{digest.of_json(probe.model_dump(mode='json'))[:16]}-{start}"
