"""Erasures with nothing set by hand, on any base: what is left, what else it took, and what it cost.

    python -m benchmarks.tuned "Van Gogh:style" car:object sun:global             # the bundled model
    python -m benchmarks.tuned --base BASE --suite SUITE [--judged] NAME:KIND...

Prints the rows of docs/tuning.md. `benchmarks.other_world.train` makes another base to try. Everything made is kept in
--out, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from esd_core.base_model import ResolvedBase, resolve_base
from esd_core.concepts import MINIATURE, ConceptEntry, ConceptKind
from esd_core.erasure import ErasureOutcome, erase
from esd_core.evaluation.evaluate import evaluate
from esd_core.evaluation.results import EvaluationReport
from esd_core.evaluation.suite import Suite, load_suite
from esd_core.machine import Machine
from tasks.nights.jobs import job_of

HEADER = """| concept | kind | lr | η | steps | still seen, of the base rate | others fall by | forward passes |
|---|---|---|---|---|---|---:|---:|"""


def entry_of(told: str, seed: int) -> ConceptEntry:
    name, _, kind = told.rpartition(":")
    return ConceptEntry(name=name, kind=ConceptKind(kind), seed=seed)


def erased(entry: ConceptEntry, base: ResolvedBase, suite: Suite | None, out: Path) -> ErasureOutcome:
    job = job_of([entry], base, suite)
    return erase(job, base, out / "jobs" / job.digest[:16], Machine("cpu"), banks=out / "banks", suite=suite)


def row_of(entry: ConceptEntry, made: ErasureOutcome, report: EvaluationReport) -> str:
    tuned = made.tuned[0]
    fields = [
        entry.name,
        entry.kind.value,
        f"{tuned.learning_rate:.2g}",
        f"{tuned.negative_guidance:g}",
        str(tuned.iterations),
        " / ".join(f"{probe.remaining:.0%}" for probe in report.erased),
        f"{100 * report.mean_drop_of_others:.1f}",
        f"{made.forward_equivalents:.0f}",
    ]
    return f"| {' | '.join(fields)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("concepts", nargs="+", metavar="NAME:KIND", help="style, object or global")
    parser.add_argument("--base", default=MINIATURE, help="miniature, a folder or a hub id at a commit")
    parser.add_argument("--suite", default=MINIATURE, help="what measures it")
    parser.add_argument("--judged", action="store_true", help="the suite also looks on while it is erased")
    parser.add_argument("--images", type=int, default=24, help="for each row of the suite, before and after")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("var/tuned"))
    arguments = parser.parse_args()
    base, suite = resolve_base(arguments.base), load_suite(arguments.suite)
    print(HEADER)
    for told in arguments.concepts:
        entry = entry_of(told, arguments.seed)
        made = erased(entry, base, suite if arguments.judged else None, arguments.out)
        report = evaluate(
            base,
            made.weights,
            [entry.erasure.concept],
            suite,
            images_per_probe=arguments.images,
            cache=arguments.out / "cache",
            out=made.weights.parent,
            device="cpu",
        )
        print(row_of(entry, made, report), flush=True)


if __name__ == "__main__":
    main()
