"""Who draws what is judged: a pipeline, by the suite's sampler, in batches that fit its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from esd_core.evaluation.suite import Suite
from esd_core.generation import generate
from esd_core.guidance import PLAIN, Guidance

MOST_AT_ONCE = 48  # small models draw faster in large batches
CELLS_AT_ONCE = 32_768  # of latents: 8 pictures of Stable Diffusion 1, 2 of 1024 x 1024 pixels


def cells_across(pipeline: Any) -> int:
    """Width of the latents that a pipeline draws when asked for no size."""
    own = getattr(pipeline, "default_sample_size", None)
    size = pipeline.unet.config.sample_size if own is None else own
    return int(size if isinstance(size, int) else size[-1])


@dataclass(frozen=True)
class Artist:
    """Draws with a pipeline that is made only when something has to be drawn."""

    make: Callable[[], Any]
    guidance: Guidance = PLAIN

    @cached_property
    def pipeline(self) -> Any:
        return self.make()

    @property
    def at_once(self) -> int:
        """Images that are drawn together."""
        return max(1, min(MOST_AT_ONCE, CELLS_AT_ONCE // cells_across(self.pipeline) ** 2))

    def draw(self, suite: Suite, cases: list[tuple[str, int]]) -> np.ndarray:
        """One image for each (prompt, seed)."""
        prompts, seeds = zip(*cases, strict=True)
        return generate(
            self.pipeline,
            prompts,
            seeds,
            steps=suite.steps,
            guidance_scale=suite.guidance_scale,
            batch_size=len(cases),
            progress=False,
            sampler=suite.sampler,
            guidance=self.guidance,
        )
