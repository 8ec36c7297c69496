"""Implied concepts: prompts that never name the concept, and how many pictures show it all the same, by category.

Gandikota et al., ICCV 2023, section 5.2: the 4,703 prompts of I2P, exposed body parts counted by NudeNet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

from esd_core.cases import prompts_file
from esd_core.concepts import ConceptKind, slug_of
from esd_core.errors import InvalidInput
from esd_core.evaluation.classifiers.nudenet import EXPOSED, NUDITY
from esd_core.evaluation.results import ProbeResult
from esd_core.evaluation.suite import Probe
from esd_core.guidance import GuidanceMethod
from esd_core.studies.contenders import contenders
from esd_core.studies.figures import Figure, change, rate_after, share, together
from esd_core.studies.prompt_file import PromptSet, read_prompt_sets
from esd_core.studies.request import StudyRequest
from esd_core.studies.study import Bars, Findings, Series, Sheet, Table
from esd_core.studies.workbench import Seen, Workbench

STEERED = (GuidanceMethod.NEGATIVE_PROMPT, GuidanceMethod.SLD_MEDIUM, GuidanceMethod.SLD_MAX)
SHOWN = 6  # images of each model in the picture

Found = dict[str, list[Seen]]  # of each model, one for each prompt set


def implied(bench: Workbench, request: StudyRequest) -> Findings:
    names = bench.concepts(request.concepts, ConceptKind.GLOBAL)
    tables, charts, sheets = [], [], []
    notes: list[str] = []
    for name in names:
        sets = _prompt_sets(bench, request, name)
        ways = contenders(bench, name, request.kind or bench.suite.kind_of(name) or ConceptKind.GLOBAL, STEERED)
        bar = tqdm(ways.models, desc=f"{name}: measuring", unit="model", disable=not bench.progress)
        found = {model.name: [bench.see(model, {s.probe: s.count}, s.suite) for s in sets] for model in bar}
        categories = _categories(bench, sets[0].probe)
        tables.append(_table(name, found))
        if len(categories) > 1:
            tables.append(_category_table(name, found, categories))
        charts.append(_bars(name, found, categories))
        sheets.append(_sheet(name, sets, found))
        notes += ways.left_out
    return Findings(
        title=f"Implied: {', '.join(names)}",
        asks="Does a concept come back in pictures whose prompts never name it?",
        tables=tuple(tables),
        charts=tuple(charts),
        sheets=tuple(sheets),
        notes=(
            (
                "In the paper, of I2P's 4,703 prompts Stable Diffusion 1.4 answers 796 with exposed parts, version 2.0 "
                "(filtered data) 417, ESD-u 134."
            ),
            *(("Seeds, and guidance where it is given, are those of the file's rows.",) if request.prompts else ()),
            *notes,
        ),
    )


def _prompt_sets(bench: Workbench, request: StudyRequest, name: str) -> tuple[PromptSet, ...]:
    """The prompts of the file, or of the suite's implied probes; raises InvalidInput when there are none."""
    probes = bench.probes_of(name)
    if request.prompts:
        return read_prompt_sets(prompts_file(request.prompts), bench.suite, probes[0], request.images)
    sets = tuple(PromptSet(bench.suite, probe, bench.images) for probe in probes if probe.implied)
    if not sets:
        raise InvalidInput(f"no probe of the suite implies {name!r} without naming it: give prompts with --prompts")
    return sets


def _categories(bench: Workbench, probe: Probe) -> tuple[str, ...]:
    """What is counted: the exposed parts of a detector of nudity, else the concept's own label."""
    if bench.suite.locate(probe.classifier).kind == "nudenet" and probe.label == NUDITY:
        return (NUDITY, *EXPOSED)
    return (probe.label,)


def _together(name: str, seen: Sequence[Seen]) -> ProbeResult:
    return together(name, [result for one in seen for result in one.results.values()])


def _table(name: str, found: Found) -> Table:
    rows = []
    for model, seen in found.items():
        result = _together(name, seen)
        rows.append((model, f"{result.hits_after} of {result.images}", rate_after(result), change(result)))
    columns = ("", "images that show it", "share", "against the base")
    title = f"{name}: prompts that never name it"
    return Table(name=f"implied-{slug_of(name)}", title=title, columns=columns, rows=tuple(rows))


def _shares(seen: Sequence[Seen], categories: Sequence[str]) -> dict[str, Figure]:
    """Share of a model's images that show each category."""
    labels = [shown for one in seen for probe, r in one.results.items() for shown in one.judged.seen(probe, r.images)]
    counts = Counter(label for shown in labels for label in set(shown))
    return {category: share(counts[category], len(labels)) for category in categories}


def _category_table(name: str, found: Found, categories: Sequence[str]) -> Table:
    shares = {model: _shares(seen, categories) for model, seen in found.items()}
    rows = tuple((readable(category), *(shares[model][category] for model in found)) for category in categories)
    title = f"{name}: by category"
    return Table(name=f"implied-{slug_of(name)}-categories", title=title, columns=("", *found), rows=rows)


def _bars(name: str, found: Found, categories: Sequence[str]) -> Bars:
    """By category one bar of each model; of a single category, the models side by side."""
    shares = {model: tuple(_shares(seen, categories).values()) for model, seen in found.items()}
    if len(categories) > 1:
        labels = tuple(readable(category) for category in categories)
        series = [Series(name=model, figures=figures) for model, figures in shares.items()]
    else:
        labels = tuple(found)
        series = [Series(name=categories[0], figures=tuple(figures[0] for figures in shares.values()))]
    title = f"Images that show {name} though no prompt names it"
    return Bars(name=f"implied-{slug_of(name)}", title=title, labels=labels, series=tuple(series))


def readable(category: str) -> str:
    """FEMALE_BREAST_EXPOSED -> female breast exposed; other labels stay."""
    return category.replace("_", " ").lower() if category.isupper() else category


def _sheet(name: str, sets: Sequence[PromptSet], found: Found) -> Sheet:
    rows = tuple(seen[0].images(sets[0].probe, SHOWN) for seen in found.values())
    columns = tuple(f"seed {i + 1}" for i in range(len(rows[0])))
    title = f"{name}: the same prompts and seeds"
    return Sheet(name=f"implied-{slug_of(name)}-images", title=title, rows=tuple(found), columns=columns, images=rows)
