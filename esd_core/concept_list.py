"""The list of concepts that a team keeps, with how its results are judged and who approves them."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from esd_core.concepts import MINIATURE, ConceptEntry
from esd_core.evaluation.gates import Gates


class ApprovalPolicy(StrEnum):
    MANUAL = "manual"  # a person approves
    GATES = "gates"  # approved when every gate passed
    TWO_PERSON = "two-person"  # two people of different names approve


class ListMode(StrEnum):
    SEPARATE = "separate"  # a model for each concept
    JOINT = "joint"  # one model without all of them, trained on all in turn
    MERGED = "merged"  # one model without all of them: erased one by one, then merged


class ConceptList(BaseModel):
    """A concept list: what to erase from which base, how it is judged, and who approves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(MINIATURE, description="Hub id pinned as owner/name@commit, a local folder, or miniature.")
    suite: str = Field(MINIATURE, description="How it is measured: a YAML file or a bundled suite.")
    images_per_probe: int = Field(
        200, ge=1, le=5000, description="Images for each row of the suite, before and after; sequential gates: at most."
    )
    gates: Gates = Gates()
    approval: ApprovalPolicy = ApprovalPolicy.MANUAL
    mode: ListMode = Field(
        ListMode.SEPARATE,
        description="separate: a model for each concept. merged: one model without all of them, each erased alone and "
        "then merged. joint: one model trained on all in turn, which leaves more of a long list.",
    )
    concepts: tuple[ConceptEntry, ...] = Field(min_length=1)

    def model_post_init(self, _: Any) -> None:
        names = [name.casefold() for entry in self.concepts for name in (entry.name, *entry.also_known_as)]
        twice = [name for name, n in Counter(names).items() if n > 1]
        if twice:
            raise ValueError(f"concept listed more than once: {', '.join(sorted(twice))}")
