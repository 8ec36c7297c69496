"""Which images are pictures at all, by a range that the base's own images span; learned once for a base and a suite."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from tqdm import tqdm

from esd_core.evaluation.artist import Artist
from esd_core.evaluation.metrics.coherence import CoherentRange, coherent_range, incoherent
from esd_core.evaluation.metrics.features import Features, load_features
from esd_core.evaluation.suite import Suite
from esd_core.tensor_file import in_memory, is_sealed, stored_tensors, write_sealed

RANGE_FILE = "coherence.safetensors"


@dataclass(frozen=True)
class CoherenceJudge:
    """Draws images of the base and learns from them when first asked; what it learned is kept in `file`.

    They have seeds of their own, so that the base's judged images are as new to it as those of the edited weights.
    """

    suite: Suite
    model: str  # of the features: a folder or a pinned hub id
    false_alarms: float
    file: Path
    base: Artist
    device: str
    progress: bool

    @classmethod
    def of(cls, suite: Suite, folder: Path, base: Artist, device: str, progress: bool) -> Self | None:
        """The judge that a suite asks for, if it does; the range is kept in `folder`."""
        ref = suite.coherence_reference
        return cls(suite, ref.model, ref.false_alarms, folder / RANGE_FILE, base, device, progress) if ref else None

    @cached_property
    def features(self) -> Features:
        return load_features(self.model, self.device)

    @cached_property
    def allowed(self) -> CoherentRange:
        return self._read() or self._learned()

    def coherent(self, images: np.ndarray) -> np.ndarray:
        """Which of (N, H, W, 3) uint8 images are pictures: (N,) bool."""
        return ~incoherent(images, self.features, self.allowed)

    def _read(self) -> CoherentRange | None:
        """What was learned before; None where it is not there or damaged."""
        if not self.file.is_file() or not is_sealed(self.file):
            return None
        stored = stored_tensors(self.file)
        flattest, roughest, farthest = stored["bounds"].read().tolist()
        return CoherentRange(flattest, roughest, farthest, stored["known"].read().to(self.device))

    def _learned(self) -> CoherentRange:
        features, cases = self.features, self.suite.reference_cases()
        starts = range(0, len(cases), self.base.at_once)
        bar = tqdm(starts, desc="what pictures look like", unit="batch", disable=not self.progress, leave=False)
        drawn = [self.base.draw(self.suite, cases[start : start + self.base.at_once]) for start in bar]
        allowed = coherent_range(np.concatenate(drawn), features, self.false_alarms)
        bounds = torch.tensor([allowed.flattest, allowed.roughest, allowed.farthest], dtype=torch.float64)
        write_sealed(self.file, {"bounds": in_memory(bounds), "known": in_memory(allowed.known)}, {})
        return allowed
