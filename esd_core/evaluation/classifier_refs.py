"""What a suite says of its judges: one model of settings for each kind. Works without torch.

`digest` names all that decides a located judge's answers.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from esd_core import digest
from esd_core.evaluation.model_refs import locate, model_digest


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def _different(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(labels)) < len(labels):
        raise ValueError("a label is listed twice")
    return labels


def _with_place(template: str) -> str:
    if "{}" not in template:
        raise ValueError("must say with {} where the label stands")
    return template


Words = Annotated[str, AfterValidator(_not_blank)]


class ModelRef(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageClassifierRef(ModelRef):
    kind: Literal["image-classification"] = "image-classification"
    model: Words = Field(description="A transformers folder, relative to the suite file, or owner/name@commit.")

    @property
    def digest(self) -> str:
        return model_digest(self.model)


class ClipRef(ModelRef):
    kind: Literal["clip"]
    model: Words = Field(description="The folder of a CLIPModel, relative to the suite file, or owner/name@commit.")
    labels: Annotated[tuple[Words, ...], AfterValidator(_different)] = Field(min_length=2)
    template: Annotated[str, AfterValidator(_with_place)] = "a picture of {}"

    @property
    def digest(self) -> str:
        return digest.of_json([model_digest(self.model), self.labels, self.template])


class NudeNetRef(ModelRef):
    kind: Literal["nudenet"]
    threshold: float = Field(0.6, ge=0.25, le=1, description="Least score; the package itself drops those below 0.25.")

    @property
    def digest(self) -> str:
        return digest.of_json([importlib.metadata.version("nudenet"), self.threshold])


def _kind(entry: Any) -> Any:
    return entry.get("kind", "image-classification") if isinstance(entry, dict) else getattr(entry, "kind", None)


ClassifierRef = Annotated[
    Annotated[ImageClassifierRef, Tag("image-classification")]
    | Annotated[ClipRef, Tag("clip")]
    | Annotated[NudeNetRef, Tag("nudenet")],
    Discriminator(_kind),
]


def located(ref: ClassifierRef, folder: Path) -> ClassifierRef:
    """The same judge, with the model's place independent of where the suite file lies."""
    return ref if isinstance(ref, NudeNetRef) else ref.model_copy(update={"model": locate(ref.model, folder)})
