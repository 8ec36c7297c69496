"""The answers: one JSON line for each, appended and flushed to disk before the page goes on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

# Written small, so that who comes back as "Ada" continues what "ada" began.
Participant = Annotated[
    str, StringConstraints(strip_whitespace=True, to_lower=True, pattern=r"^\P{C}+$", min_length=1, max_length=60)
]


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str  # digest
    participant: Participant
    trial: int = Field(ge=1)
    rating: int = Field(ge=1, le=5)
    seconds: float = Field(ge=0, allow_inf_nan=False)  # from when the images were seen
    answered_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


def append(path: Path, answer: Answer) -> None:
    """Add a line. What a crash left of a line before it stays, and ends there."""
    with path.open("a+b") as f:
        f.seek(max(0, f.seek(0, os.SEEK_END) - 1))
        torn = f.read(1) not in (b"", b"\n")
        f.write((b"\n" if torn else b"") + answer.model_dump_json().encode() + b"\n")
        f.flush()
        os.fsync(f.fileno())


def read(path: Path, study: str) -> list[Answer]:
    """Every answer to the study with this digest, in the order they were given; torn lines are left out."""
    if not path.exists():
        return []
    answers = []
    for line in path.read_bytes().splitlines():
        try:
            answer = Answer.model_validate_json(line)
        except ValidationError:
            continue
        if answer.study == study:
            answers.append(answer)
    return answers


def last_of_each(answers: Iterable[Answer]) -> list[Answer]:
    """The answers that count: who goes back and answers again means the last one."""
    return list({(answer.participant, answer.trial): answer for answer in answers}.values())
