"""What benchmarks of images share: the bundled base, the bundled suite, its judges, one thread."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import resolve_base
from esd_core.concepts import MINIATURE
from esd_core.evaluation.classifiers import load_classifier
from esd_core.evaluation.suite import Probe, load_suite
from esd_core.generation import generate
from esd_core.weights import EditedWeights, apply_weights, original_weights

BATCH_SIZE = 48


@dataclass(frozen=True)
class Drawn:
    """images[i]: those of probe i, (N, H, W, 3) uint8. cpu_seconds: of drawing all."""

    images: list[np.ndarray]
    cpu_seconds: float


class Studio:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.base, self.suite = resolve_base(MINIATURE), load_suite(MINIATURE)
        self.pipeline = load_pipeline(self.base, "cpu")
        self.judges = {name: load_classifier(self.suite.locate(name)) for name in self.suite.classifiers}

    @contextmanager
    def edited(self, weights: EditedWeights) -> Iterator[None]:
        """While open, what is drawn is drawn with these weights."""
        unet = self.pipeline.unet
        original = original_weights(unet, weights.tensors)
        apply_weights(unet, weights, self.base.digest)
        yield
        unet.load_state_dict(original, strict=False)

    def draw(self, probes: Sequence[Probe], counts: Sequence[int], steps: int, **options: Any) -> Drawn:
        """The suite's own prompts, seeds and guidance scale, counts[i] images of probe i, in batches across probes."""
        cases = [self.suite.cases(probe, count) for probe, count in zip(probes, counts, strict=True)]
        prompts, seeds = zip(*itertools.chain.from_iterable(cases), strict=True)
        settings = {"guidance_scale": self.suite.guidance_scale, "batch_size": BATCH_SIZE, **options}
        started = time.process_time()
        images = generate(self.pipeline, prompts, seeds, steps=steps, **settings)
        return Drawn(np.split(images, np.cumsum(counts)[:-1]), time.process_time() - started)

    def hits(self, probe: Probe, images: np.ndarray) -> int:
        """How many images show what the probe asks for; of a negated probe, how many do not."""
        return int((self.judges[probe.classifier].shows(images, probe.label) != probe.negated).sum())
