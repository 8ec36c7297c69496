"""What guidance takes away without training, against edited weights, on the bundled miniature:

    python -m benchmarks.baselines [--concepts NAME ...] [--steps N] [--images N] [--others N] [--weights FILE ...]

The base, a negative prompt and Safe Latent Diffusion, steered away from a style, an object and an implied attribute by
name; each of the weights with the probes of its own concept. All from the same noise. Prints
Markdown tables: images that still show the concept, by probe; images of all other probes that show what they should;
CPU seconds an image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.studio import Studio
from esd_core.concepts import Concept, ConceptKind
from esd_core.guidance import Guidance, GuidanceMethod
from esd_core.weights import read_weights

CONCEPTS = (
    Concept(name="Van Gogh", kind=ConceptKind.STYLE),
    Concept(name="car", kind=ConceptKind.OBJECT),
    Concept(name="sun", kind=ConceptKind.GLOBAL),
)


def row(studio: Studio, concept: Concept, name: str, guidance: Guidance, steps: int, images: int, others: int) -> str:
    measuring = studio.suite.probes_of(concept)
    rest = tuple(probe for probe in studio.suite.probes if probe not in measuring)
    probes, counts = (*measuring, *rest), [images] * len(measuring) + [others] * len(rest)
    drawn = studio.draw(probes, counts, steps, guidance=guidance, description=f"{concept.name}, {name}")
    hits = [studio.hits(probe, own) for probe, own in zip(probes, drawn.images, strict=True)]
    shown = [f"{100 * hit / images:.0f}" for hit in hits[: len(measuring)]]
    kept = 100 * sum(hits[len(measuring) :]) / (others * len(rest))
    return f"| {' | '.join([name, *shown, f'{kept:.1f}', f'{drawn.cpu_seconds / sum(counts):.2f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [concept.name for concept in CONCEPTS]
    parser.add_argument("--concepts", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--steps", type=int, default=50, help="of the sampler (50, as Safe Latent Diffusion was tuned)")
    parser.add_argument("--images", type=int, default=24, help="of each probe of the concept (24)")
    parser.add_argument("--others", type=int, default=4, help="of each other probe (4)")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], metavar="FILE", help="of these concepts")
    arguments = parser.parse_args()
    settings = arguments.steps, arguments.images, arguments.others
    studio, files = Studio(), [read_weights(path) for path in arguments.weights]
    for concept in (concept for concept in CONCEPTS if concept.name in arguments.concepts):
        columns = [*(f"{probe.name}, %" for probe in studio.suite.probes_of(concept)), "others, %", "CPU s"]
        print(f"\n**{concept.name}**\n\n| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
        for method in GuidanceMethod:
            guidance = Guidance(method, "" if method is GuidanceMethod.NONE else concept.name)
            name = "base" if method is GuidanceMethod.NONE else method.value
            print(row(studio, concept, name, guidance, *settings), flush=True)
        for weights in files:
            if weights.provenance.name == concept.name:
                with studio.edited(weights):
                    name = " + ".join(weights.provenance.subsets)
                    print(row(studio, concept, name, Guidance(), *settings), flush=True)


if __name__ == "__main__":
    main()
