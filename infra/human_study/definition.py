"""The study file that people write: which folders hold whose images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from esd_core.errors import InvalidInput
from esd_core.faults import describe_faults
from infra.human_study.study import ORIGINAL, REAL, SIMILAR

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]


class Method(BaseModel):
    """Images of the prompts, made in such a way that one artist is erased."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    erased: Name  # the artist
    images: Path


class Definition(BaseModel):
    """Folders are relative to the study file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: Name
    prompts: Path  # CSV with case_number and artist
    works: Path  # a folder for each artist with real works
    similar: Path | None = None  # a folder for each artist with real works of a similar artist
    original: Path  # images by the original model
    methods: tuple[Method, ...] = Field(min_length=1)
    references: int = Field(default=5, ge=1, le=9)  # works beside each image; the paper's are five
    trials_per_participant: int | None = Field(default=None, ge=1)  # None: all of them; in the paper about 170
    seed: int = 0

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> Definition:
        pairs = [(method.name, method.erased) for method in self.methods]
        if len(set(pairs)) < len(pairs):
            raise ValueError("a method stands there twice for the same erased artist: give each its own name")
        taken = {REAL, SIMILAR, ORIGINAL} & {method.name for method in self.methods}
        if taken:
            raise ValueError(f"a method is named {taken.pop()!r}, which means something else here: choose another name")
        return self


def read_definition(path: Path) -> Definition:
    """Read a study file and make its folders absolute; raises InvalidInput naming every bad field in one line."""
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        definition = Definition.model_validate(raw)
    except OSError as e:
        raise InvalidInput(f"cannot read study file {path}: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise InvalidInput(f"{path} is not YAML: {' '.join(str(e).split())}") from e
    except ValidationError as e:
        raise InvalidInput(f"{path}: {describe_faults(e)}") from e
    here = path.resolve().parent
    return definition.model_copy(
        update={
            "prompts": here / definition.prompts,
            "works": here / definition.works,
            "similar": here / definition.similar if definition.similar else None,
            "original": here / definition.original,
            "methods": tuple(m.model_copy(update={"images": here / m.images}) for m in definition.methods),
        }
    )
