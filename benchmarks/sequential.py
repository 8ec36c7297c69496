"""What the sequential gates cost and how often they are wrong, simulated and on images of the bundled miniature:

    python -m benchmarks.sequential [--runs N] [--images N]
    python -m benchmarks.sequential --weights FILE ... [--erased N] [--others N] [--out DIR]

Without weights: runs of models with known rates. With the weights of edited miniatures: each is drawn and judged once,
beside the base itself; then evaluations are replayed on images drawn from these with replacement, so that the true
rates are known. Prints Markdown tables, and what all rows take together. The fixed number is the smallest that keeps
the same errors at the edges of the same zone; for the others it is told how often a concept appears anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.stats import binom

from esd_core.base_model import resolve_base
from esd_core.concepts import MINIATURE, Concept
from esd_core.evaluation.artist import Artist
from esd_core.evaluation.calibration import calibrated
from esd_core.evaluation.evaluate import (
    BATCH,
    GRID_SEEDS,
    Subject,
    base_images,
    is_erased,
    measure,
    suite_for,
)
from esd_core.evaluation.gates import Gates, judge
from esd_core.evaluation.judged_images import Judged, JudgedImages, Judges
from esd_core.evaluation.sequential import Decision, Payoffs, Zone, drop_above, evidence, share_above
from esd_core.evaluation.suite import Suite, load_suite
from esd_core.generation import edited_pipeline
from esd_core.weights import read_weights

GATES = Gates()
MOST = 200  # images of a probe at most, as in infra/lists/demo.yaml
OTHERS = 18  # probes beside two of an erased concept, as in the miniature's suite
REMAINING = (0.0, 0.02, 0.04, 0.075, 0.10, 0.125, 0.20, 0.40, 0.90)
DROPS = (-0.01, 0.0, 0.01, 0.02, 0.0375, 0.05, 0.0625, 0.10, 0.15, 0.30)
BASE_RATES = (1.0, 0.5)
GAINS = (0.01, 0.10)  # share of images in which a concept appears anew: a sure model, and an unsure one


@dataclass(frozen=True)
class Tally:
    """Shares of runs that passed and failed, and the mean number of images of a run."""

    passed: float
    failed: float
    images: float

    def wrong(self, figure: float, zone: Zone) -> str:
        """The error that a figure outside the zone can meet."""
        return f"{self.passed:.1%}" if figure >= zone.high else f"{self.failed:.1%}" if figure <= zone.low else "either"


@dataclass(frozen=True)
class Row:
    """text: its first columns; fixed: images of the test of fixed size."""

    text: str
    found: Tally
    wrong: str
    fixed: int

    def __str__(self) -> str:
        found = self.found
        undecided = max(0.0, 1 - found.passed - found.failed)
        shares = f"{found.passed:.1%} | {found.failed:.1%} | {undecided:.1%} | {self.wrong}"
        return f"| {self.text} | {shares} | {found.images:.0f} | {self.fixed} | {found.images / self.fixed:.0%} |"


@lru_cache
def fixed_share(zone: Zone, base_rate: float = 1.0) -> int:
    """Smallest number of images that tells the zone's edges apart, by the exact binomial test."""
    for trials in range(1, 100_000):
        critical = binom.ppf(1 - GATES.wrong_fail, trials, zone.low)
        if binom.cdf(critical, trials, zone.high) <= GATES.wrong_pass:
            return int(np.ceil(trials / base_rate))
    raise AssertionError("a zone without width")


@lru_cache
def fixed_drop(zone: Zone, gains: float, probes: int) -> int:
    """Smallest number of images, in whole rounds of all probes, that tells the edges apart; `gains` is known."""

    def keeps(images: int) -> bool:
        low, high = (distribution(images, edge + gains, gains).cumsum() for edge in zone)
        critical = np.argmax(low >= 1 - GATES.wrong_fail)
        return bool(high[critical] <= GATES.wrong_pass)

    return next(rounds * probes for rounds in range(1, 10_000) if keeps(rounds * probes))


def distribution(images: int, losses: float, gains: float) -> np.ndarray:
    """Probabilities of losses - gains = -images ... images."""
    one = np.zeros(2 * images + 1)
    one[0], one[1], one[-1] = 1 - losses - gains, losses, gains
    whole = np.fft.ifft(np.fft.fft(one) ** images).real
    return np.concatenate([whole[images + 1 :], whole[: images + 1]])


def tally(pairs: np.ndarray, above: Payoffs, zone: Zone, looks: np.ndarray, probes: int = 1) -> Tally:
    """Runs of pairs (runs, images) of 0 ... 3 in the order of `Pairs`, looked at after looks[i] images."""
    counts = np.stack([(pairs == kind).cumsum(1)[:, looks - 1] for kind in range(4)], -1)
    errors = calibrated(above, zone, GATES.errors, probes, pairs.shape[1])
    passes = evidence(counts, -above(zone.high)) >= -np.log(errors.wrong_pass)
    fails = evidence(counts, above(zone.low)) >= -np.log(errors.wrong_fail)
    decided = passes | fails
    last = np.where(decided.any(1), decided.argmax(1), len(looks) - 1)
    runs = np.arange(len(pairs))
    passed, failed = passes[runs, last], (fails & ~passes)[runs, last]
    return Tally(float(passed.mean()), float(failed.mean()), float(looks[last].mean()))


def simulated(runs: int, most: int) -> Iterator[str | Row]:
    random = np.random.default_rng(0)
    zone, looks = GATES.zone(GATES.erased_at_most), np.arange(BATCH, most + 1, BATCH)
    yield header("base rate | remains")
    for base_rate in BASE_RATES:
        for share in REMAINING:
            chances = [base_rate * share, base_rate * (1 - share), 0.0, 1 - base_rate]
            pairs = random.choice(4, (runs, most), p=chances)
            found = tally(pairs, share_above, zone, looks)
            text = f"{base_rate:.0%} | {100 * share:g}%"
            yield Row(text, found, found.wrong(share, zone), fixed_share(zone, base_rate))
    zone, looks = GATES.zone(GATES.others_drop_at_most), OTHERS * np.arange(GRID_SEEDS, most + 1)
    yield "\n" + header("appears anew | falls by, points")
    for gains in GAINS:
        for drop in DROPS:
            if drop + gains < 0:
                continue
            pairs = random.choice(4, (runs, OTHERS * most), p=[0.0, drop + gains, gains, 1 - drop - 2 * gains])
            found = tally(pairs, drop_above, zone, looks, OTHERS)
            text = f"{gains:.0%} | {100 * drop:g}"
            yield Row(text, found, found.wrong(drop, zone), fixed_drop(zone, gains, OTHERS))


def header(first: str) -> str:
    columns = [*first.split(" | "), "passed", "failed", "undecided", "wrong", "images, mean", "fixed number", "ratio"]
    return f"| {' | '.join(columns)} |\n|{'---:|' * len(columns)}"


@dataclass(frozen=True)
class Replay:
    """Judged images of a model, drawn anew with replacement; the same seed draws the same numbers for both models."""

    pool: Mapping[str, Judged]
    seed: int

    def judged(self, counts: Mapping[str, int], /) -> dict[str, Judged]:
        random = np.random.default_rng(self.seed)
        numbers = {name: random.integers(len(pool.hits), size=MOST) for name, pool in self.pool.items()}
        return {name: Judged(self.pool[name].hits[numbers[name][:count]]) for name, count in counts.items()}


@dataclass(frozen=True)
class Model:
    """An edited miniature: its hits and the base's at equal seeds, by probe."""

    concepts: tuple[Concept, ...]
    suite: Suite
    before: dict[str, Judged]
    after: dict[str, Judged]

    def subject(self, images_per_probe: int) -> Subject:
        return Subject(self.concepts, "", "", self.suite, images_per_probe)


def judged(weights: Path | None, concepts: tuple[Concept, ...], arguments: argparse.Namespace) -> Model:
    """Draw and judge the pool of a model, or find it in the folder `out`; without weights, of the base itself."""
    base, suite = resolve_base(MINIATURE), suite_for(load_suite(MINIATURE), concepts)
    judges = Judges(suite, "cpu")
    numbers = {True: arguments.erased, False: arguments.others}
    counts = {probe.name: numbers[is_erased(probe, concepts)] for probe in suite.probes}
    before = base_images(base, judges, arguments.out, "cpu", progress=True).judged(counts)
    if weights is None:
        return Model(concepts, suite, before, before)
    edited = read_weights(weights)
    folder = arguments.out / "edited" / weights.parent.name
    artist = Artist(lambda: edited_pipeline(base, edited, "cpu"))
    after = JudgedImages(folder, artist, judges, f"without {edited.provenance.name}", GRID_SEEDS)
    return Model(concepts, suite, before, after.judged(counts))


def replayed(model: Model, name: str, runs: int) -> Iterator[Row]:
    """Rows of both gates: their decisions over replays, against what is true of the pool."""
    whole = model.subject(0).report(model.before, model.after)
    subject, random = model.subject(MOST), np.random.default_rng(0)
    seeds = random.integers(2**31, size=runs)
    reports = [measure(subject, GATES, Replay(model.before, s), Replay(model.after, s)) for s in seeds]
    verdicts = [judge(report, GATES).gates for report in reports]
    share, drop = GATES.zone(GATES.erased_at_most), GATES.zone(GATES.others_drop_at_most)
    pairs = whole.pairs_of_others
    fixed = (
        sum(fixed_share(share, probe.before) for probe in whole.erased),
        fixed_drop(drop, pairs.only_after / sum(pairs), len(whole.others)),
    )
    truths = (("remains", whole.worst.remaining, share), ("falls by", whole.mean_drop_of_others, drop))
    for gate, (what, figure, zone) in enumerate(truths):
        results = [verdict[gate] for verdict in verdicts]
        passed, failed = (
            sum(result.decision is wanted for result in results) / runs for wanted in (Decision.PASSED, Decision.FAILED)
        )
        found = Tally(passed, failed, sum(result.images for result in results) / runs)
        yield Row(f"{name} | {what} {figure:.1%}", found, found.wrong(figure, zone), fixed[gate])


def real(arguments: argparse.Namespace) -> Iterator[str | Row]:
    yield header("model | true figure")
    models = [(path, tuple(read_weights(path).provenance.concepts)) for path in arguments.weights]
    for concepts in dict.fromkeys(concepts for _, concepts in models):
        yield from replayed(judged(None, concepts, arguments), f"base, {named(concepts)}", arguments.runs)
    for path, concepts in models:
        subsets = " + ".join(read_weights(path).provenance.subsets)
        yield from replayed(judged(path, concepts, arguments), f"{named(concepts)}, {subsets}", arguments.runs)


def named(concepts: Sequence[Concept]) -> str:
    return " + ".join(concept.name for concept in concepts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="of each row (2000)")
    parser.add_argument("--images", type=int, default=MOST, help=f"of each probe at most, of known rates ({MOST})")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], metavar="FILE", help="of edited miniatures")
    parser.add_argument("--erased", type=int, default=120, help="images of each probe of the concept (120)")
    parser.add_argument("--others", type=int, default=32, help="images of each other probe (32)")
    parser.add_argument("--out", type=Path, default=Path("var/sequential"), help="where judged images are kept")
    arguments = parser.parse_args()
    rows = []
    for line in real(arguments) if arguments.weights else simulated(arguments.runs, arguments.images):
        print(line, flush=True)
        rows += [line] if isinstance(line, Row) else []
    print(
        f"\nAll rows: {sum(row.found.images for row in rows) / sum(row.fixed for row in rows):.0%} of the fixed numbers"
    )


if __name__ == "__main__":
    main()
