"""Quality: how good, and how much changed, are the pictures that had nothing to do with the erased concept.

Gandikota et al., ICCV 2023, table 3: FID and CLIP score on 30,000 prompts of COCO. The style protocol's distance stands
beside them: at equal seeds the erased concept's images should move, all others should not.
"""

from __future__ import annotations

from tqdm import tqdm

from esd_core.cases import prompts_file, read_cases
from esd_core.concepts import ConceptKind
from esd_core.errors import InvalidInput
from esd_core.evaluation.metrics.frechet import frechet_distance
from esd_core.evaluation.metrics.kernel import kernel_distance
from esd_core.evaluation.metrics.perceptual import perceptual_distance
from esd_core.guidance import GuidanceMethod
from esd_core.studies.contenders import contenders
from esd_core.studies.eta import one_concept
from esd_core.studies.figures import Figure, mean
from esd_core.studies.gallery import Case, Gallery, Looks, meter_of, of_pictures, pictures_in
from esd_core.studies.request import StudyRequest
from esd_core.studies.study import Cell, Findings, Sheet, Table
from esd_core.studies.workbench import Workbench

STEERED = (GuidanceMethod.NEGATIVE_PROMPT, GuidanceMethod.SLD_MEDIUM, GuidanceMethod.SLD_MAX)
OTHER_SEEDS = 1 << 30  # further than any probe's


def quality(bench: Workbench, request: StudyRequest) -> Findings:
    meter = meter_of(bench.suite, bench.machine.device)
    name = one_concept(bench, request, ConceptKind.STYLE, ConceptKind.OBJECT, ConceptKind.GLOBAL)
    own = [case for probe in bench.probes_of(name) for case in bench.suite.cases(probe, bench.images)]
    others = _others(bench, request, name)
    real = request.real and pictures_in(request.real)
    ways = contenders(bench, name, bench.kind_of(name, request.kind), STEERED)
    gallery = Gallery(bench, meter)
    base = gallery.looks(bench.original(), own), gallery.looks(bench.original(), others)
    if real:
        reference = of_pictures(real, base[1].shown[0].shape, meter)
    else:
        reference = gallery.looks(bench.original(), [(prompt, seed + OTHER_SEEDS) for prompt, seed in others])
    bar = tqdm(ways.models, desc=f"{name}: measuring", unit="model", disable=not bench.progress)
    seen = {model.name: (gallery.looks(model, own), gallery.looks(model, others)) for model in bar}
    rows = tuple((model, *_row(base, reference, looks, not request.real)) for model, looks in seen.items())
    fits = ("CLIP score",) if meter.clip else ()
    columns = ("", "FID", "KID", *fits, "others moved by", f"{name} moved by")
    return Findings(
        title=f"Quality without {name}",
        asks="Are the pictures of everything else as good as before, and still the same?",
        tables=(Table(name="quality", title=f"{len(others)} images of other prompts", columns=columns, rows=rows),),
        sheets=(_sheet({model: looks for model, (_, looks) in seen.items()}),),
        notes=(*_notes(bench, request, name, len(own)), *ways.left_out),
    )


def _notes(bench: Workbench, request: StudyRequest, name: str, own: int) -> tuple[str, ...]:
    """own: how many images of the concept's prompts there are."""
    features = bench.suite.quality.features if bench.suite.quality else ""
    against = f"the images in {request.real}" if request.real else "the base's own at other seeds"
    return (
        (
            f"FID and KID: distance from {against}, on features of {features}; they compare only with figures of "
            "the same features, and FIDs with those of the same number of images. A KID whose interval holds 0 "
            "tells nothing apart."
        ),
        (
            "Moved by: mean of 1 minus the cosine of the features of two images at one seed, from the base's; "
            f"{name}: {own} images of its own prompts."
        ),
        (
            "The paper's figures, FID and CLIP on 30,000 prompts of COCO: SD 14.50 and .1592, SLD-Medium 16.90 and "
            ".1594, SLD-Max 18.76 and .1583, ESD-u 13.68 and .1585."
        ),
    )


def _others(bench: Workbench, request: StudyRequest, name: str) -> list[Case]:
    """The prompts of the file with their seeds, or those of all probes that do not measure the concept."""
    if request.prompts:
        return [(case.prompt, case.seed) for case in read_cases(prompts_file(request.prompts))]
    cases = [case for probe in bench.others_of(name) for case in bench.suite.cases(probe, bench.others)]
    if len(cases) < 2:
        raise InvalidInput("one image of other prompts has no distance to others: raise --others, or give --prompts")
    return cases


def _row(
    base: tuple[Looks, Looks], reference: Looks, looks: tuple[Looks, Looks], same_prompts: bool
) -> tuple[Cell, ...]:
    (own_before, others_before), (own, others) = base, looks
    kid, interval = kernel_distance(reference.vectors, others.vectors, same_prompts=same_prompts)
    moved = [
        mean(perceptual_distance(before.vectors, after.vectors))
        for before, after in ((others_before, others), (own_before, own))
    ]
    return (
        Figure(value=frechet_distance(reference.vectors, others.vectors)),
        Figure(value=kid, **(dict(interval) if interval else {}), images=len(others.vectors)),
        *(() if others.fits is None else (mean(others.fits),)),
        *moved,
    )


def _sheet(looks: dict[str, Looks]) -> Sheet:
    images = tuple(tuple(one.shown) for one in looks.values())
    columns = tuple(f"prompt {i + 1}" for i in range(len(images[0])))
    title = "Other prompts: one seed for each column"
    return Sheet(name="quality-images", title=title, rows=tuple(looks), columns=columns, images=images)
