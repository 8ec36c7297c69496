"""A study that is ready to be shown: its trials, and which of them a participant sees in which order.

The paper asks its participants one question, on a five-point scale: how confident they are that an image was made by
the same artist as five real works shown beside it. Which image that is answers three questions (`Question`). All
wording on the page is the same for every image, so that nobody can tell which of the three is being asked.
"""

from __future__ import annotations

import random
from enum import StrEnum
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esd_core import digest
from esd_core.errors import InvalidInput
from esd_core.faults import describe_faults

STUDY_FILE, IMAGES, ANSWERS = "study.json", "images", "answers.jsonl"
REAL, SIMILAR, ORIGINAL = "real works", "similar artist", "original model"


class Question(StrEnum):
    RESEMBLANCE = "resemblance"  # does the original model paint as the artist does, and do people know the artist?
    REMOVAL = "removal"  # is the artist's style gone where the artist was erased?
    INTERFERENCE = "interference"  # are other artists' styles still there where an artist was erased?


class Trial(BaseModel):
    """One image to rate, beside works of its artist. Images are named by their files in the study's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1)  # all that the page learns of a trial besides its images
    question: Question
    method: str
    artist: str  # whose works stand beside it
    erased: str | None = None  # the artist erased in the image's model
    image: str
    references: tuple[str, ...]


class Study(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(default=1, ge=1, le=1)
    title: str
    trials_per_participant: int = Field(ge=1)
    trials: tuple[Trial, ...] = Field(min_length=1)

    @cached_property
    def digest(self) -> str:
        """Names the study, its images included: these are named by their contents."""
        return digest.of_json(self.model_dump(mode="json"))

    @property
    def groups(self) -> list[tuple[Question, str]]:
        """Every method under every question, in the order in which results list them."""
        methods = list(dict.fromkeys((REAL, SIMILAR, ORIGINAL, *(trial.method for trial in self.trials))))
        there = {(trial.question, trial.method) for trial in self.trials}
        return [(q, method) for q in Question for method in methods if (q, method) in there]

    def order_for(self, participant: str) -> list[Trial]:
        """The trials that this participant sees, in their order: always the same for the same name.

        Where a participant sees only some of the trials, every method under every question gets an equal share.
        """
        rng = random.Random(f"{self.digest} {participant}")
        groups: dict[tuple[Question, str], list[Trial]] = {group: [] for group in self.groups}
        for trial in self.trials:
            groups[trial.question, trial.method].append(trial)
        for group in groups.values():
            rng.shuffle(group)
        in_turn = [trial for trial in chain.from_iterable(zip_longest(*groups.values())) if trial]
        chosen = in_turn[: self.trials_per_participant]
        rng.shuffle(chosen)
        return chosen


def read_study(folder: Path) -> Study:
    """The study of a folder that `esd human-study make` wrote; raises InvalidInput."""
    path = folder / STUDY_FILE
    try:
        study = Study.model_validate_json(path.read_bytes())
    except OSError as e:
        raise InvalidInput(f"{folder} holds no study ({e.strerror}): make one with `esd human-study make`") from e
    except ValidationError as e:
        raise InvalidInput(f"{path} is damaged ({describe_faults(e)}): make the study again") from e
    return study
