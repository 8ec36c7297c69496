"""What a sampler with fewer steps saves and changes, on the bundled miniature, against 50 steps of DDIM:

    python -m benchmarks.samplers [--images N] [--weights FILE]

Every image of every probe of the bundled suite, from the same noise. Images per CPU second of one thread; the share of
images to which all the bundled classifiers give the same labels; the share that shows what the probe asks for; the
mean absolute difference of pixels. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from benchmarks.studio import Drawn, Studio
from esd_core.recipe import RolloutSampler
from esd_core.weights import read_weights

SAMPLERS = (RolloutSampler.DDIM, RolloutSampler.DPM, RolloutSampler.EULER, RolloutSampler.PNDM)
STEPS = (5, 10, 15, 20)
REFERENCE = (RolloutSampler.DDIM, 50)
HEADER = """\
| sampler | steps | images per CPU second | same labels, % | shows what is asked, % | pixels differ by, of 255 |
|---|---|---|---|---|---|"""


def labels(studio: Studio, drawn: Drawn) -> np.ndarray:
    """What all the judges see in each image: (N, labels of all) bool."""
    images = np.concatenate(drawn.images)
    return np.concatenate([judge.sees(images) for judge in studio.judges.values()], axis=1)


def table(studio: Studio, count: int) -> None:
    probes = studio.suite.probes
    counts = [count] * len(probes)

    def draw(sampler: RolloutSampler, steps: int) -> Drawn:
        return studio.draw(probes, counts, steps, sampler=sampler, description=f"{sampler.value}, {steps} steps")

    reference = draw(*REFERENCE)
    seen = labels(studio, reference)
    print(f"{sum(counts)} images, {count} of each probe\n\n{HEADER}")
    for sampler, steps in [REFERENCE, *itertools.product(SAMPLERS, STEPS)]:
        drawn = reference if (sampler, steps) == REFERENCE else draw(sampler, steps)
        shown = sum(studio.hits(probe, images) for probe, images in zip(probes, drawn.images, strict=True))
        same = (labels(studio, drawn) == seen).all(axis=1).mean()
        apart = np.abs(np.concatenate(drawn.images).astype(int) - np.concatenate(reference.images)).mean()
        print(
            f"| {sampler.value} | {steps} | {sum(counts) / drawn.cpu_seconds:.1f} | {100 * same:.1f} "
            f"| {100 * shown / sum(counts):.1f} | {apart:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6, help="of each probe (6)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="edited weights to draw with")
    arguments = parser.parse_args()
    studio = Studio()
    with studio.edited(read_weights(arguments.weights)) if arguments.weights else nullcontext():
        table(studio, arguments.images)


if __name__ == "__main__":
    main()
