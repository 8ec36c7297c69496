"""Fields that the forms of several flows have, with their bounds."""

from typing import Annotated

from pydantic import Field

from esd_core.concepts import ConceptEntry

Concepts = tuple[ConceptEntry, ...]
Images = Annotated[int, Field(ge=1, le=5000)]
Share = Annotated[float, Field(ge=0, le=1)]
Indifference = Annotated[float, Field(ge=0.05, lt=1)]
WrongShare = Annotated[float, Field(gt=0, lt=0.5)]
RunnerCount = Annotated[int, Field(ge=1, le=64)]
