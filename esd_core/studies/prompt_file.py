"""Prompts with seeds and guidance of their own, in the format of I2P as the paper's code ships it.

A CSV file with the columns case_number, prompt, evaluation_seed, and, if it likes, evaluation_guidance. I2P itself is
not shipped: it is a data set on the hub (AIML-TUDA/i2p), and its prompts lead to explicit pictures.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from esd_core.errors import InvalidInput
from esd_core.evaluation.suite import Probe, Suite
from esd_core.generation import Case, read_cases

GUIDANCE = "evaluation_guidance"
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
    rows = list(zip(read_cases(path), _guidance(path, suite.guidance_scale), strict=True))
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


def _guidance(path: Path, otherwise: float) -> Iterator[float]:
    """Each row's guidance scale; `otherwise` where the file gives none."""
    with path.open(encoding="utf-8-sig", newline="") as f:
        reader = csv.DictReader(f)
        for row in reader:
            given = (row.get(GUIDANCE) or "").strip()
            try:
                scale = float(given) if given else otherwise
            except ValueError:
                scale = 0.0
            if not GUIDANCE_RANGE[0] <= scale <= GUIDANCE_RANGE[1]:
                raise InvalidInput(f"{path} line {reader.line_num}: {GUIDANCE} {given!r} must be a number from 1 to 30")
            yield scale
