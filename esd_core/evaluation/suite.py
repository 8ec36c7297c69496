"""An evaluation suite: which prompts show a concept, and which classifier says whether it is there.

A suite is a YAML file: see esd_core/miniature/suite.yaml, and suites/ for real models. Everything here works without
torch, so that a plan can check a suite before anything is loaded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esd_core import digest
from esd_core.concepts import MINIATURE, Concept, ConceptKind
from esd_core.errors import EvaluationError, InvalidInput
from esd_core.evaluation.classifier_refs import ClassifierRef, Words, located
from esd_core.evaluation.metric_refs import CoherenceRef, QualityRef
from esd_core.evaluation.model_refs import locate
from esd_core.faults import describe_faults
from esd_core.recipe import RolloutSampler
from esd_core.yaml_text import parse, read_text

BUNDLED = {
    MINIATURE: Path(__file__).parents[1] / "miniature" / "suite.yaml",
    **{name: Path(__file__).parent / "suites" / f"{name}.yaml" for name in ("imagenette", "artists", "nudity")},
}
NAMES_SHOWN = 40


class Probe(BaseModel):
    """Prompts that should show `concept`, and the classifier's label that says it is seen.

    A negated probe counts the images where the label is *not* seen: what must not appear unasked. It never measures
    an erasure; it is one of the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Words
    concept: Words
    classifier: Words
    label: Words
    prompts: tuple[str, ...] = Field(min_length=1)
    implied: bool = False  # the prompts do not name the concept
    negated: bool = False

    def measures(self, concept: Concept) -> bool:
        return not self.negated and concept.is_called(self.concept)

    def called(self, name: str) -> Probe | None:
        """The prompts that name the concept, calling it by another name; None where none of them names it."""
        word = re.compile(rf"(?<!\w){re.escape(self.concept)}(?!\w)", re.IGNORECASE)
        prompts = tuple(word.sub(lambda _: name, prompt) for prompt in self.prompts if word.search(prompt))
        if not prompts:
            return None
        return self.model_copy(update={"name": f"{self.name}, as {name}", "concept": name, "prompts": prompts})


class Suite(BaseModel):
    """Probes and how their images are sampled. `folder` is where the suite file lies; `ref` how it was asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classifiers: dict[str, ClassifierRef] = Field(min_length=1)
    probes: tuple[Probe, ...] = Field(min_length=2)
    sampler: RolloutSampler = Field(RolloutSampler.AUTO, description="Of all images that are judged, of any model.")
    steps: int = Field(20, ge=1, le=1000, description="Sampler steps.")
    guidance_scale: float = Field(4.0, ge=1, le=30, description="Classifier-free guidance.")
    seed: int = Field(0, ge=0, lt=2**31)
    coherence: CoherenceRef | None = Field(None, description="Whether images are pictures at all, and by what.")
    kinds: dict[ConceptKind, tuple[Words, ...]] = Field({}, exclude=True, description="What studies erase by default.")
    quality: QualityRef | None = Field(None, exclude=True, description="By what studies of quality measure images.")
    folder: Path = Field(exclude=True)
    ref: str = Field("", exclude=True)

    def model_post_init(self, _: Any) -> None:
        twice = [name for name, n in Counter(probe.name for probe in self.probes).items() if n > 1]
        if twice:
            raise ValueError(f"probe listed more than once: {', '.join(twice)}")
        unknown = sorted({probe.classifier for probe in self.probes} - self.classifiers.keys())
        if unknown:
            raise ValueError(f"probes name classifiers that are not listed under 'classifiers': {', '.join(unknown)}")
        probed = {probe.concept for probe in self.probes if not probe.negated}
        unprobed = [name for names in self.kinds.values() for name in names if name not in probed]
        if unprobed:
            raise ValueError(f"concepts listed under 'kinds' without a probe: {', '.join(unprobed)}")

    def locate(self, classifier: str) -> ClassifierRef:
        """A judge's settings, with its model as an absolute folder or a pinned hub id."""
        return located(self.classifiers[classifier], self.folder)

    @property
    def coherence_reference(self) -> CoherenceRef | None:
        """What says which images are pictures, with its model as an absolute folder or a pinned hub id."""
        ref = self.coherence
        return ref and ref.model_copy(update={"model": locate(ref.model, self.folder)})

    @property
    def quality_reference(self) -> QualityRef | None:
        """The models of the study of quality, each an absolute folder or a pinned hub id."""
        ref = self.quality
        if ref is None:
            return None
        places = {"features": ref.features, **({"clip": ref.clip} if ref.clip else {})}
        return ref.model_copy(update={name: locate(model, self.folder) for name, model in places.items()})

    def kind_of(self, name: str) -> ConceptKind | None:
        """The kind under which a concept is listed, if it is."""
        return next((kind for kind, names in self.kinds.items() if name in names), None)

    @property
    def digest(self) -> str:
        """Names all that decides the figures of given weights: prompts, seeds, sampling and the judges."""
        classifiers = {name: self.locate(name).digest for name in self.classifiers}
        models = {"classifiers": classifiers, "coherence": self.coherence_reference and self.coherence_reference.digest}
        return digest.of_json({**self.model_dump(mode="json", exclude=set(models)), **models})

    @property
    def sampling_digest(self) -> str:
        """Names all that decides a probe's images and answers, but the probe itself."""
        return self.model_copy(update={"probes": ()}).digest

    def with_synonyms(self, concepts: Sequence[Concept]) -> Suite:
        """The suite, and each concept's named probes once more for every other name that no probe knows.

        Prompts that describe it without its name are not asked again: nothing in them could be called otherwise.
        """
        known = {probe.concept.casefold() for probe in self.probes}
        more = [
            called
            for concept in concepts
            for name in concept.also_known_as
            if name.casefold() not in known
            for probe in self.probes
            if probe.concept.casefold() == concept.name.casefold() and not (probe.implied or probe.negated)
            if (called := probe.called(name))
        ]
        return self.model_copy(update={"probes": (*self.probes, *more)})

    def probes_of(self, concept: Concept) -> tuple[Probe, ...]:
        """The probes that measure an erasure of `concept`; raises EvaluationError when there is none."""
        found = tuple(probe for probe in self.probes if probe.measures(concept))
        if not found:
            known = list(dict.fromkeys(probe.concept for probe in self.probes if not probe.negated))
            shown = ", ".join(known[:NAMES_SHOWN]) + (", …" if len(known) > NAMES_SHOWN else "")
            raise EvaluationError(
                f"no probe of the suite measures {concept.name!r}: it knows {shown}; add a probe for it to the suite"
            )
        return found

    def cases(self, probe: Probe, count: int) -> list[tuple[str, int]]:
        """(prompt, seed) of the probe's first `count` images: prompts in turn, seeds of the probe's own."""
        return self._in_turn(probe.name, probe.prompts, count)

    def reference_cases(self) -> list[tuple[str, int]]:
        """(prompt, seed) of the base's images that say what pictures look like; no probe's."""
        ref = self.coherence
        return self._in_turn("", ref.prompts, ref.images) if ref else []

    def _in_turn(self, name: str, prompts: Sequence[str], count: int) -> list[tuple[str, int]]:
        first = int(digest.of_bytes(f"{self.seed}:{name}".encode())[:7], 16)
        return [(prompts[i % len(prompts)], first + i) for i in range(count)]

    def with_reference_prompts(self) -> Suite:
        """The suite, whose prompts are those of the coherence reference where it names none."""
        if self.coherence is None or self.coherence.prompts:
            return self
        prompts = tuple(dict.fromkeys(prompt for probe in self.probes for prompt in probe.prompts))
        return self.model_copy(update={"coherence": self.coherence.model_copy(update={"prompts": prompts})})


def load_suite(ref: str) -> Suite:
    """Read a suite: one that is BUNDLED or the path of a YAML file; all faults of the file in one line."""
    path = BUNDLED.get(ref) or Path(ref)
    try:
        text = read_text(path, "evaluation suite")
    except InvalidInput as e:
        raise InvalidInput(f"{e}; give a file, or {', '.join(BUNDLED)}") from e
    _, raw = parse(text, str(path))
    if not isinstance(raw, dict) or {"folder", "ref"} & raw.keys():
        raise InvalidInput(f"{path} is not an evaluation suite: expected a mapping with 'classifiers' and 'probes'")
    try:
        return Suite.model_validate({**raw, "folder": path.resolve().parent, "ref": ref}).with_reference_prompts()
    except ValidationError as e:
        raise InvalidInput(f"{path}: {describe_faults(e)}") from e
