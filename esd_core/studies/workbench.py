"""What all studies share: erasures done once and found by their digest, and judged images of any model at equal seeds.

Everything lies where the nightly run keeps it, so that studies, nights and single erasures serve each other; a study
that was interrupted continues with what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from esd_core import digest
from esd_core.backbones.loading import backbone_of, choose_device, load_pipeline
from esd_core.base_model import ResolvedBase
from esd_core.concepts import Concept, ConceptEntry, ConceptKind, ErasureJob
from esd_core.erasure import ErasureOutcome, erase
from esd_core.errors import InvalidInput
from esd_core.evaluation.artist import Artist
from esd_core.evaluation.classifiers import Classifier
from esd_core.evaluation.evaluate import base_images, paired
from esd_core.evaluation.judged_images import JudgedImages, Judges
from esd_core.evaluation.results import ProbeResult
from esd_core.evaluation.suite import Probe, Suite
from esd_core.evaluation.witness import judge_of
from esd_core.guidance import PLAIN, Guidance, GuidanceMethod
from esd_core.machine import Machine, give_back_freed_memory
from esd_core.steering import check_support
from esd_core.weights import apply_weights, check_weights, original_weights, read_weights

SHOWN = 6  # images of each probe that stay on disk for pictures


@dataclass(frozen=True)
class Model:
    """Something that draws: a base as it is, with edited weights, or steered by guidance."""

    name: str
    base: ResolvedBase
    weights: Path | None = None
    guidance: Guidance = PLAIN
    without: str = ""  # the concept that it is to be rid of

    @property
    def is_plain(self) -> bool:
        return self.weights is None and self.guidance == PLAIN

    @property
    def digest(self) -> str:
        weights = digest.of_file(self.weights) if self.weights else None
        return digest.of_json([self.base.digest, weights, self.guidance.method, self.guidance.concept])


@dataclass(frozen=True)
class Folders:
    """Where jobs, score banks and the images that many share are kept."""

    jobs: Path
    banks: Path
    cache: Path


class Easel:
    """One loaded pipeline that draws for many models: their weights take turns in it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.put_away()

    def put_away(self) -> None:
        """Let the pipeline leave memory."""
        self.pipeline: Any = None
        self.base_digest = ""
        self.worn: Path | None = None
        self.originals: dict[str, Any] = {}
        give_back_freed_memory()

    def pipeline_of(self, model: Model) -> Any:
        """The model's base with the model's weights in it."""
        if self.base_digest != model.base.digest:
            self.put_away()
            self.pipeline, self.base_digest = load_pipeline(model.base, self.device), model.base.digest
        if self.worn != model.weights:
            denoiser = getattr(self.pipeline, model.base.family.denoiser)
            denoiser.load_state_dict(self.originals, strict=False)
            self.originals, self.worn = {}, None
            if model.weights:
                edited = read_weights(model.weights)
                self.originals = original_weights(denoiser, edited.tensors)
                apply_weights(denoiser, edited, model.base.digest)
                self.worn = model.weights
        return self.pipeline


class Sharing(Artist):
    """An artist whose pipeline is asked for before each drawing, since others draw with it in between."""

    @property
    def pipeline(self) -> Any:
        return self.make()


@dataclass(frozen=True)
class Seen:
    """A model's probes, paired with the base's at the same seeds, and the model's judged images."""

    results: dict[str, ProbeResult]
    judged: JudgedImages

    def images(self, probe: Probe, count: int = 1) -> tuple[np.ndarray, ...]:
        """The first images of a probe, of those that were measured, each (H, W, 3) uint8; SHOWN at most."""
        most = min(count, SHOWN, self.results[probe.name].images)
        return tuple(np.asarray(image) for image in self.judged.images(probe.name, most))


@dataclass
class Workbench:
    """A base, a suite, and where to keep what is made. images: of a probe of an erased concept; others: of another."""

    base: ResolvedBase
    suite: Suite
    images: int
    others: int
    folders: Folders
    machine: Machine = field(default_factory=Machine)
    progress: bool = True
    outcomes: dict[str, ErasureOutcome] = field(default_factory=dict)  # by job digest, in the order of asking
    results: dict[tuple[str, str], dict[str, ProbeResult]] = field(default_factory=dict)  # of (model, without): probes
    loaded: dict[str, Classifier] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.easel = Easel(self.machine.device)

    def concepts(self, given: tuple[str, ...], *kinds: ConceptKind) -> tuple[str, ...]:
        """The concepts given, as the suite writes them, or those that it lists under these kinds; each once.

        Raises InvalidInput when there are none.
        """
        named = given or tuple(name for kind in kinds for name in self.suite.kinds.get(kind, ()))
        if not named:
            raise InvalidInput("the suite lists no concepts for this study under 'kinds': name some with --concepts")
        written = {probe.concept.casefold(): probe.concept for probe in self.suite.probes}
        return tuple(dict.fromkeys(written.get(name.casefold(), name) for name in named))

    def kind_of(self, name: str, given: ConceptKind | None) -> ConceptKind:
        """As given, or as the suite lists it; raises InvalidInput when neither says it."""
        kind = given or self.suite.kind_of(name)
        if kind is None:
            raise InvalidInput(f"the suite does not say what {name!r} is: give --kind style, object or global")
        return kind

    def probes_of(self, name: str) -> tuple[Probe, ...]:
        """The probes that measure a concept; raises EvaluationError without one."""
        return self.suite.probes_of(Concept(name=name, kind=ConceptKind.OBJECT))  # found by name, whatever the kind

    def others_of(self, name: str) -> tuple[Probe, ...]:
        """The probes of all else; raises InvalidInput when the suite has none."""
        own = self.probes_of(name)
        others = tuple(probe for probe in self.suite.probes if probe not in own)
        if not others:
            raise InvalidInput(f"all probes of the suite measure {name!r}: add probes of what must stay")
        return others

    def counts_for(self, name: str) -> dict[Probe, int]:
        """How many images of each probe of the suite, where this concept is erased; in the suite's order."""
        others = self.others_of(name)
        return {probe: self.others if probe in others else self.images for probe in self.suite.probes}

    def erase(self, entry: ConceptEntry) -> ErasureOutcome:
        """The erasure, judged as at night; done once: found by its digest when any run has done it."""
        erasures = (entry.erasure,)
        judge = judge_of(self.suite, erasures)
        job = ErasureJob(base=self.base.id, base_digest=self.base.digest, erasures=erasures, judge=judge)
        if job.digest not in self.outcomes:
            self.easel.put_away()
            folder = self.folders.jobs / job.digest[:16]
            self.outcomes[job.digest] = erase(
                job,
                self.base,
                folder,
                self.machine,
                banks=self.folders.banks,
                suite=self.suite,
                progress=self.progress,
            )
        return self.outcomes[job.digest]

    def without(self, entry: ConceptEntry, name: str = "") -> Model:
        """The base with the concept erased."""
        outcome = self.erase(entry)
        name = name or f"{outcome.job.method}, without {entry.name}"
        return Model(name, self.base, outcome.weights, without=entry.name)

    def original(self) -> Model:
        return Model("base", self.base)

    def check(self, weights: Path) -> None:
        """Raises WeightsError, or BaseModelMismatch, for a file that the base cannot wear."""
        denoiser = getattr(self.easel.pipeline_of(self.original()), self.base.family.denoiser)
        check_weights(denoiser, read_weights(weights), self.base.digest)

    def unsupported(self, method: GuidanceMethod) -> str:
        """Why the base cannot be steered by this method; empty when it can."""
        try:
            backbone = backbone_of(self.easel.pipeline_of(self.original()))
            check_support(backbone, method, self.suite.guidance_scale)
        except InvalidInput as e:
            return str(e)
        return ""

    def see(self, model: Model, counts: Mapping[Probe, int], suite: Suite | None = None) -> Seen:
        """Draw the model's and the base's first counts[PROBE] images of each probe, and judge them."""
        suite = (suite or self.suite).model_copy(update={"probes": tuple(counts)})
        numbers = {probe.name: count for probe, count in counts.items()}
        judges = Judges(suite, str(choose_device(self.machine.device)), self.loaded)
        judges.check()
        before = self._judged(self.original(), judges).judged(numbers)
        judged = self._judged(model, judges)
        after = judged.judged(numbers)
        results = {probe.name: paired(probe, before[probe.name], after[probe.name]) for probe in counts}
        self.results.setdefault((model.name, model.without), {}).update(results)
        return Seen(results, judged)

    def _judged(self, model: Model, judges: Judges) -> JudgedImages:
        plain = Sharing(lambda: self.easel.pipeline_of(Model("", model.base)))
        own = base_images(model.base, judges, self.folders.cache, self.machine.device, self.progress, plain)
        if model.is_plain:
            return replace(own, description=model.name)
        named = digest.of_json([model.digest, judges.suite.sampling_digest])[:16]
        artist = Sharing(lambda: self.easel.pipeline_of(model), model.guidance)
        folder = self.folders.cache / "study-images" / named
        return JudgedImages(folder, artist, judges, model.name, SHOWN, self.progress, own.coherence)
