"""What a study is asked to do: flat, so that a form can ask for it. Works without torch."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from esd_core import digest
from esd_core.concepts import MINIATURE, ConceptKind, Text
from esd_core.errors import InvalidInput
from esd_core.faults import describe_faults


class Protocol(StrEnum):
    OBJECTS = "objects"  # each class erased in turn; the erased class and the others
    STYLES = "styles"  # the interference matrix: rows erased, columns prompted
    IMPLIED = "implied"  # prompts that never name the concept
    ETA = "eta"  # efficacy against interference
    GENERALITY = "generality"  # synonyms, paraphrases, near neighbours
    BASELINES = "baselines"  # guidance without training, another checkpoint, ESD-x and ESD-u
    QUALITY = "quality"  # FID, KID, CLIP score and distance at equal seeds, of what had nothing to do with the concept


OF_ALL = frozenset({"protocol", "base", "suite", "images", "concepts"})
OWN_SETTINGS: dict[Protocol, frozenset[str]] = {
    Protocol.OBJECTS: frozenset({"others"}),
    Protocol.STYLES: frozenset({"others"}),
    Protocol.IMPLIED: frozenset({"kind", "prompts"}),
    Protocol.ETA: frozenset({"others", "kind", "etas", "iterations", "learning_rate"}),
    Protocol.GENERALITY: frozenset({"others", "kind", "also_known_as", "neighbours"}),
    Protocol.BASELINES: frozenset({"others", "kind", "against"}),
    Protocol.QUALITY: frozenset({"others", "kind", "prompts", "real"}),
}


class StudyRequest(BaseModel):
    """A protocol and its settings. What is None or empty follows from the suite and the protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Protocol
    base: str = MINIATURE
    suite: str = MINIATURE
    images: int | None = Field(None, ge=1, le=100_000, description="Images of each probe of an erased concept.")
    others: int = Field(12, ge=1, le=100_000, description="Images of each other probe.")
    concepts: tuple[Text, ...] = Field((), description="Concepts to erase; by default those the suite lists by kind.")
    kind: ConceptKind | None = Field(None, description="Their kind, where neither suite nor protocol says it.")
    etas: tuple[Annotated[float, Field(gt=0, le=20)], ...] = Field(
        (1.0, 3.0, 10.0), min_length=1, description="eta: values of negative guidance."
    )
    iterations: int | None = Field(None, ge=1, le=10_000, description="eta: steps; by default of the tuned erasure.")
    learning_rate: float | None = Field(None, gt=0, le=1, description="eta: by default of the tuned erasure.")
    also_known_as: tuple[Text, ...] = Field((), description="generality: other names of the concept.")
    neighbours: tuple[Text, ...] = Field((), description="generality: by default the nearest in the text encoder.")
    prompts: str | None = Field(
        None, description="implied, quality: CSV file of prompts, or owner/name@commit/FILE.csv."
    )
    real: Path | None = Field(None, description="quality: folder of real images to compare with.")
    against: str | None = Field(None, description="baselines: another base model, or a weights file.")

    @model_validator(mode="after")
    def _only_what_the_protocol_reads(self) -> Self:
        """A setting that changes nothing would be believed to have been followed."""
        given = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        unread = sorted(given - OF_ALL - OWN_SETTINGS[self.protocol])
        if unread:
            raise ValueError(f"{self.protocol.value} does not read {', '.join(unread)}: leave them out")
        return self

    @property
    def images_per_probe(self) -> int:
        return self.images or 24

    @property
    def digest(self) -> str:
        """Names a study's folder."""
        return digest.of_json(self.model_dump(mode="json"))

    @property
    def command(self) -> str:
        """The command line that asks for the same again."""
        given = self.model_dump(mode="json", exclude={"protocol"}, exclude_defaults=True)
        words = ["esd", "study", self.protocol.value]
        for name, value in given.items():
            values = value if isinstance(value, list) else [value]
            option = "--lr" if name == "learning_rate" else f"--{name.replace('_', '-')}"
            words += [option, *(f"{one:g}" if isinstance(one, float) else str(one) for one in values)]
        return shlex.join([*words, "--out", "DIR"])


def checked_request(raw: dict[str, Any]) -> StudyRequest:
    """A request from plain values; raises InvalidInput naming every bad one in one line."""
    try:
        return StudyRequest.model_validate(raw)
    except ValidationError as e:
        raise InvalidInput(f"study: {describe_faults(e)}") from e
