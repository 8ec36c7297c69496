"""What cheaper training points cost in quality, at equal optimizer steps, on the bundled miniature:

    python -m benchmarks.quality run --results FILE [--processes N] [--concepts car sun] [--seeds 0 1 2]
    python -m benchmarks.quality table --results FILE

rollout_from x points_per_rollout x reuse, for a style, an object and an implied attribute. Each erasure appends one
JSON line to FILE; settings that stand there already are skipped, so a stopped run goes on where it was. Erasures that
are expected to be cheap come first, and all settings with the first seed before any with the second.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.quality_table import Rate, Row, Setting, read_rows, settings, table
from esd_core import digest
from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.concepts import MINIATURE, Concept, ConceptEntry, ConceptKind, ErasureJob
from esd_core.erasure import erase
from esd_core.evaluation.classifiers import load_classifier
from esd_core.evaluation.suite import Probe, Suite, load_suite
from esd_core.generation import generate
from esd_core.machine import Machine
from esd_core.weights import apply_weights, original_weights, read_weights

ERASED_IMAGES, OTHER_IMAGES = 16, 4  # for each probe that measures the erasure, and for each of the others
SAMPLER_STEPS = 10  # the base is as good at 10 as at the suite's 20: `table` prints its rates
BATCH_SIZE = 48
# Weaker than an erasure should be: where every setting ends at nothing, none can be told from another.
CONCEPTS: dict[str, dict[str, Any]] = {
    "Van Gogh": {"kind": ConceptKind.STYLE, "negative_guidance": 1.0, "learning_rate": 1e-4, "iterations": 200},
    "car": {"kind": ConceptKind.OBJECT, "negative_guidance": 3.0, "learning_rate": 2e-4, "iterations": 200},
    "sun": {"kind": ConceptKind.GLOBAL, "negative_guidance": 2.0, "learning_rate": 2e-4, "iterations": 150},
}


@dataclass(frozen=True)
class Run:
    """One erasure, or with no setting the base as it is."""

    concept: str
    setting: Setting | None
    seed: int

    def job(self, base: ResolvedBase) -> ErasureJob:
        varied = self.setting.model_dump() if self.setting else {}
        entry = ConceptEntry(name=self.concept, batch_size=1, seed=self.seed, **CONCEPTS[self.concept], **varied)
        return ErasureJob(base=base.id, base_digest=base.digest, erasures=(entry.erasure,))

    def key(self, base: ResolvedBase, suite: Suite) -> str:
        looked_at = [suite.digest, ERASED_IMAGES, OTHER_IMAGES, SAMPLER_STEPS]
        return digest.of_json([self.setting is not None, self.job(base).digest, *looked_at])[:16]

    @property
    def order(self) -> tuple[int, int, int]:
        """Seeds in turn, the base first, then the fewest rollouts first."""
        if self.setting is None:
            return -1, 0, 0
        iterations = int(CONCEPTS[self.concept]["iterations"])
        return self.seed, iterations // (self.setting.points_per_rollout * self.setting.reuse), iterations


def runs(concepts: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    erasures = [Run(*chosen) for chosen in itertools.product(concepts, settings(), seeds)]
    return sorted([*(Run(concept, None, 0) for concept in concepts), *erasures], key=lambda run: run.order)


class Bench:
    """What a worker process keeps loaded: the base's pipeline and the judges."""

    def __init__(self) -> None:
        self.base, self.suite = resolve_base(MINIATURE), load_suite(MINIATURE)
        self.pipeline = load_pipeline(self.base, "cpu")
        self.judges = {name: load_classifier(self.suite.locate(name)) for name in self.suite.classifiers}

    def row(self, run: Run) -> Row:
        seconds, evaluations = 0.0, 0
        original: dict[str, torch.Tensor] = {}
        if run.setting:
            with tempfile.TemporaryDirectory() as folder:
                started = time.process_time()
                outcome = erase(run.job(self.base), self.base, Path(folder), Machine("cpu"), progress=False)
                seconds, evaluations = time.process_time() - started, outcome.unet_evaluations
                edited = read_weights(outcome.weights)
            original = original_weights(self.pipeline.unet, edited.tensors)
            apply_weights(self.pipeline.unet, edited, self.base.digest)
        rates = self.look(run.job(self.base).concepts[0])
        self.pipeline.unet.load_state_dict(original, strict=False)
        return Row(
            key=run.key(self.base, self.suite),
            concept=run.concept,
            setting=run.setting,
            seed=run.seed,
            cpu_seconds=round(seconds, 2),
            unet_evaluations=evaluations,
            rates=rates,
        )

    def look(self, concept: Concept) -> dict[str, Rate]:
        """Draw and judge every probe; one call draws all, in batches across probes."""
        measuring = {probe.name: probe.measures(concept) for probe in self.suite.probes}
        counts = [ERASED_IMAGES if measuring[probe.name] else OTHER_IMAGES for probe in self.suite.probes]
        cases = [self.suite.cases(probe, count) for probe, count in zip(self.suite.probes, counts, strict=True)]
        prompts, seeds = zip(*itertools.chain.from_iterable(cases), strict=True)
        images = generate(
            self.pipeline,
            prompts,
            seeds,
            steps=SAMPLER_STEPS,
            guidance_scale=self.suite.guidance_scale,
            batch_size=BATCH_SIZE,
            progress=False,
        )
        drawn = np.split(images, np.cumsum(counts)[:-1])
        return {
            probe.name: Rate(hits=self.hits(probe, own), images=len(own), erased=measuring[probe.name])
            for probe, own in zip(self.suite.probes, drawn, strict=True)
        }

    def hits(self, probe: Probe, images: np.ndarray) -> int:
        judge = self.judges[probe.classifier]
        seen = judge.shows(images, probe.label)
        return int((seen != probe.negated).sum())


@functools.cache
def bench() -> Bench:
    torch.set_num_threads(1)
    return Bench()


def measured(run: Run) -> Row:
    return bench().row(run)


def measure(results: Path, todo: Sequence[Run], processes: int) -> None:
    """Append a row for every run, in the order in which they end."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for the workers: a thread pool each would fight over the cores
    results.parent.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn) as pool, tqdm(total=len(todo), desc="quality", unit="erasure") as bar:
        try:
            for future in as_completed([pool.submit(measured, run) for run in todo]):
                with results.open("a", encoding="utf-8") as f:
                    f.write(future.result().model_dump_json() + "\n")
                bar.update()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after a failure the rest is not begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("run", "table"))
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, appended to")
    parser.add_argument("--processes", type=int, default=1, help="one thread each")
    parser.add_argument("--concepts", nargs="+", choices=tuple(CONCEPTS), default=list(CONCEPTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    base, suite = resolve_base(MINIATURE), load_suite(MINIATURE)
    chosen = {run.key(base, suite): run for run in runs(arguments.concepts, arguments.seeds)}
    if arguments.mode == "run":
        known = {row.key for row in read_rows(arguments.results)}
        todo = [run for key, run in chosen.items() if key not in known]
        measure(arguments.results, todo, arguments.processes)
    rows = [row for row in read_rows(arguments.results) if row.key in chosen]  # not those of other settings
    shown = [name for name in arguments.concepts if any(row.concept == name and not row.setting for row in rows)]
    sys.stdout.write("\n\n".join(_titled(concept, rows) for concept in shown) + "\n")


def _titled(concept: str, rows: list[Row]) -> str:
    fixed = CONCEPTS[concept]
    title = (
        f"**{concept}**: {fixed['iterations']} steps of batch 1, eta {fixed['negative_guidance']:g}, "
        f"lr {fixed['learning_rate']:g}; {ERASED_IMAGES} images a probe, {OTHER_IMAGES} of each other, "
        f"{SAMPLER_STEPS} sampler steps"
    )
    return f"{title}\n\n{table([row for row in rows if row.concept == concept])}"


if __name__ == "__main__":
    main()
