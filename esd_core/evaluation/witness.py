"""From a suite to the witnesses of a job: a few images of each concept's probes, judged by the probes' classifiers.

Their seeds are none of the evaluation's. What names them works without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from esd_core import digest
from esd_core.concepts import Concept, Erasure, ErasureJob
from esd_core.errors import EvaluationError
from esd_core.evaluation.suite import Probe, Suite
from esd_core.tuning import IMAGES

if TYPE_CHECKING:
    import numpy as np

    from esd_core.quick_look import Witness

IMAGES_OF_MERGED = 2 * IMAGES  # nothing is taught after it that could make up for a wrong look
FIRST_SEED = 1 << 29  # those of an evaluation begin below 1 << 28


def judge_of(suite: Suite | None, erasures: Sequence[Erasure], merged: bool = False) -> str | None:
    """Names all of the suite that decides when these erasures stop; None when nothing of it does.

    In a joint job nothing does, unless it is merged: pushing on while training costs the rest of the model more than it
    gains (docs/lists.md).
    """
    looked_at = [erasure.concept for erasure in erasures if erasure.recipe.stops_by_itself]
    if suite is None or not looked_at or (len(erasures) > 1 and not merged):
        return None
    probes = [probe for concept in looked_at for probe in _probes(suite, concept)]
    judges = {probe.classifier: suite.locate(probe.classifier).digest for probe in probes}
    told = [probe.model_dump(mode="json") for probe in probes]
    return digest.of_json([told, judges, suite.guidance_scale, suite.seed])


def witnesses_of(suite: Suite | None, job: ErasureJob, device: str) -> list[Witness | None]:
    """For each of the job's concepts what looks at its images, None where its number of steps is fixed.

    Raises EvaluationError when the suite is not the one that the job was planned with, or knows a wrong label.
    """
    if judge_of(suite, job.erasures, job.merged) != job.judge:
        raise EvaluationError(
            f"the suite's probes of {job.name}, or their classifiers, are not those that its erasure was planned with: "
            "plan it again"
        )
    if suite is None or job.judge is None:
        return [None for _ in job.erasures]
    images = IMAGES_OF_MERGED if job.merged else IMAGES
    return [_witness(suite, e.concept, images, device) if e.recipe.stops_by_itself else None for e in job.erasures]


def _probes(suite: Suite, concept: Concept) -> tuple[Probe, ...]:
    return suite.with_synonyms([concept]).probes_of(concept)


def _witness(suite: Suite, concept: Concept, images: int, device: str) -> Witness:
    import numpy as np

    from esd_core.backbones.loading import choose_device
    from esd_core.evaluation.classifiers import load_classifier
    from esd_core.quick_look import Witness

    probes, on = _probes(suite, concept), str(choose_device(device))
    turns = [probes[i % len(probes)] for i in range(images)]
    rounds = [i // len(probes) for i in range(images)]

    def shows(images: np.ndarray) -> np.ndarray:
        """Judges are loaded for each look: they would lie in memory all through the training."""
        seen = np.zeros(len(images), bool)
        for probe in dict.fromkeys(turns):
            rows = [i for i, turn in enumerate(turns) if turn == probe]
            seen[rows] = load_classifier(suite.locate(probe.classifier), on).shows(images[rows], probe.label)
        return seen

    for probe in probes:
        load_classifier(suite.locate(probe.classifier), on).index_of(probe.label)
    first = FIRST_SEED + int(digest.of_bytes(f"{suite.seed}:{concept.name}".encode())[:7], 16)
    return Witness(
        prompts=tuple(probe.prompts[n % len(probe.prompts)] for probe, n in zip(turns, rounds, strict=True)),
        seeds=tuple(range(first, first + images)),
        guidance_scale=suite.guidance_scale,
        shows=shows,
    )
