"""Lists of concepts on the miniature: one model for all of them, made in three ways, and what `retain` keeps.

    python -m benchmarks.lists joint     # 1 to 6 concepts in one model, made in three ways
    python -m benchmarks.lists retain    # near neighbours, with and without retaining them

Prints a Markdown table; everything made is kept in --out, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.concepts import Concept, ConceptEntry, ConceptKind
from esd_core.erasure import erase
from esd_core.evaluation.evaluate import evaluate
from esd_core.evaluation.results import EvaluationReport, ProbeResult
from esd_core.evaluation.suite import load_suite
from esd_core.machine import Machine
from esd_core.recipe import ParameterSubset
from esd_core.weights import Provenance, apply_weights, code_version, read_weights, save_weights
from tasks.nights.jobs import job_of

SIX = (
    ("Van Gogh", ConceptKind.STYLE),
    ("car", ConceptKind.OBJECT),
    ("sun", ConceptKind.GLOBAL),
    ("Mondrian", ConceptKind.STYLE),
    ("fish", ConceptKind.OBJECT),
    ("heart", ConceptKind.OBJECT),
)
NEIGHBOURS = {"house": ("church", "tree", "boat"), "tree": ("mushroom", "flower", "house")}


@dataclass(frozen=True)
class Row:
    """One erased model: which concepts, in which way, and what was measured against the original base."""

    concepts: str
    way: str
    report: EvaluationReport
    near: tuple[ProbeResult, ...] = ()


@dataclass(frozen=True)
class Bench:
    """Erases and measures; finished work is found in the folder `out`."""

    out: Path
    images: int

    def erase(self, base: ResolvedBase, entries: Sequence[ConceptEntry], *, merged: bool = False) -> Path:
        """A merged model is looked at in images; what is trained in turn would suffer from it (docs/lists.md)."""
        suite = load_suite("miniature") if merged else None
        job, jobs = job_of(entries, base, suite, merged=merged), self.out / "jobs"
        folder = jobs / job.digest[:16]
        return erase(job, base, folder, Machine("cpu"), banks=self.out / "banks", alone=jobs, suite=suite).weights

    def measure(self, base: ResolvedBase, weights: Path, concepts: Sequence[Concept]) -> EvaluationReport:
        return evaluate(
            base,
            weights,
            concepts,
            load_suite("miniature"),
            images_per_probe=self.images,
            cache=self.out / "cache",
            out=weights.parent,
            device="cpu",
        )


def joint(bench: Bench) -> list[Row]:
    """1 to 6 concepts: trained in turn, merged, and one after another."""
    original = edited = resolve_base("miniature")
    rows = []
    for count in range(1, len(SIX) + 1):
        entries = [ConceptEntry(name=name, kind=kind) for name, kind in SIX[:count]]
        concepts = [entry.erasure.concept for entry in entries]
        names = ", ".join(concept.name for concept in concepts)
        rows.append(Row(names, "joint", bench.measure(original, bench.erase(original, entries), concepts)))
        if count > 1:
            merged = bench.erase(original, entries, merged=True)
            rows.append(Row(names, "merged", bench.measure(original, merged, concepts)))
        edited = edited_base(edited, bench.erase(edited, entries[-1:]), bench.out / "naive" / str(count))
        weights = as_weights(original, edited, concepts, bench.out / "naive" / f"{count}-weights")
        rows.append(Row(names, "one after another", bench.measure(original, weights, concepts)))
    return rows


def edited_base(base: ResolvedBase, weights: Path, folder: Path) -> ResolvedBase:
    """The edited model as a base of its own: what one-after-another erasure starts from, and this system never does."""
    if not (folder / "model_index.json").exists():
        pipeline = load_pipeline(base, "cpu", torch.float32)
        apply_weights(pipeline.unet, read_weights(weights), base.digest)
        pipeline.save_pretrained(folder)
    return resolve_base(str(folder))


def as_weights(base: ResolvedBase, edited: ResolvedBase, concepts: Sequence[Concept], folder: Path) -> Path:
    """The edited model's whole denoiser as weights that edit the original base."""
    unet = load_pipeline(edited, "cpu", torch.float32).unet
    provenance = Provenance(
        base=base.id,
        base_digest=base.digest,
        concepts=tuple(concepts),
        subsets=(ParameterSubset.ESD_ALL,),
        imported_from=edited.digest,
        code_version=code_version(),
    )
    save_weights(folder / "weights.safetensors", dict(unet.named_parameters()), provenance)
    return folder / "weights.safetensors"


def retain(bench: Bench) -> list[Row]:
    """Concepts with near neighbours, without and with retaining them."""
    base = resolve_base("miniature")
    rows = []
    for name, neighbours in NEIGHBOURS.items():
        for kept in ((), neighbours):
            entry = ConceptEntry(name=name, kind=ConceptKind.OBJECT, retain=kept)
            report = bench.measure(base, bench.erase(base, [entry]), [entry.erasure.concept])
            near = tuple(probe for probe in report.others if probe.concept in neighbours)
            rows.append(Row(name, ", ".join(kept) or "nothing", report, near))
    return rows


def table(rows: Sequence[Row], way: str) -> str:
    """Markdown: what remains of the erased concepts, and how far the others and the neighbours fall, in points."""
    lines = [f"| erased | {way} | remains, of the base rate | others fall by | neighbours |", "|---|---|---|---:|---|"]
    for row in rows:
        left = ", ".join(f"{probe.probe} {probe.remaining:.0%}" for probe in row.report.erased)
        near = ", ".join(f"{probe.probe} {probe.before:.0%} → {probe.after:.0%}" for probe in row.near)
        lines.append(f"| {row.concepts} | {row.way} | {left} | {100 * row.report.mean_drop_of_others:.1f} | {near} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("joint", "retain"))
    parser.add_argument("--out", type=Path, default=Path("var/benchmarks/lists"), help="default: %(default)s")
    parser.add_argument("--images", type=int, default=12, help="for each probe (default: %(default)s)")
    arguments = parser.parse_args()
    bench = Bench(arguments.out, arguments.images)
    if arguments.table == "joint":
        print(table(joint(bench), "way"))
    else:
        print(table(retain(bench), "retained"))


if __name__ == "__main__":
    main()
