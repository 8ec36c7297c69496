"""Prompts with seeds and guidance of their own, as sets that a suite draws.

I2P itself is not shipped: it is a data set on the hub (AIML-TUDA/i2p), and its prompts lead to explicit pictures.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from esd_core.cases import GUIDANCE, Case, read_cases
from esd_core.errors import InvalidInput
from esd_core.evaluation.suite import Probe, Suite

GUIDANCE_RANGE = (1.0, 30.0)


class CaseSuite(Suite):
    """A suite whose one probe has a seed for each prompt: seeds[i] is that of prompt i, plus one in each round."""

    seeds: tuple[int, ...]

    def cases(self, probe: Probe, count: int) -> list[tuple[str, int]]:
        rounds = (divmod(i, len(probe.prompts)) for i in range(count))
        return [(probe.prompts[place], self.seeds[place] + turn) for turn, place in rounds]


@dataclass(frozen=True)
class PromptSet:
    """One probe's prompts, the suite they are drawn by, and how many images."""

    suite: Suite
    probe: Probe
    count: int


def read_prompt_sets(path: Path, suite: Suite, probe: Probe, most: int | None) -> tuple[PromptSet, ...]:
    """A prompt set for each guidance scale in the file, judged as `probe` is; `most` rows at random, or all.

    Raises InvalidInput with the line of the first fault.
    """
    rows = [(case, _guidance(case, suite.guidance_scale)) for case in read_cases(path)]
    if most is not None and most < len(rows):
        rows = random.Random(suite.seed).sample(rows, most)
    scales = sorted({scale for _, scale in rows})
    return tuple(_set(suite, probe, scale, [case for case, own in rows if own == scale]) for scale in scales)


def _set(suite: Suite, probe: Probe, scale: float, cases: list[Case]) -> PromptSet:
    prompts = tuple(case.prompt for case in cases)
    own = probe.model_copy(update={"name": f"{probe.concept}, implied, guidance {scale:g}", "prompts": prompts})
    settings = {**dict(suite), "guidance_scale": scale, "probes": (own,), "kinds": {}}
    seeds = tuple(case.seed for case in cases)
    return PromptSet(CaseSuite.model_construct(**settings, seeds=seeds), own, len(cases))


def _guidance(case: Case, otherwise: float) -> float:
    """A row's guidance scale; `otherwise` where the file gives none."""
    try:
        scale = float(case.guidance) if case.guidance else otherwise
    except ValueError:
        scale = 0.0
    if not GUIDANCE_RANGE[0] <= scale <= GUIDANCE_RANGE[1]:
        raise InvalidInput(f"{case.where}: {GUIDANCE} {case.guidance!r} must be a number from 1 to 30")
    return scale
