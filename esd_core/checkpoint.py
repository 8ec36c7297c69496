"""Where an erasure stands, kept in one sealed file: continued from to the bit, or not at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors import safe_open

from esd_core.point_source import PointSource
from esd_core.student import Student
from esd_core.tensor_file import in_memory, is_sealed, stored_tensors, write_sealed
from esd_core.tuning import Check

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Progress:
    """Where the erasure stands, over all its sessions. losses[i] is the loss before step i, parts[i] its concept."""

    losses: list[float] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)  # learning rate of each concept
    checks: list[list[Check]] = field(default_factory=list)  # of each concept
    forwards: int = 0  # samples evaluated
    equivalents: float = 0.0  # the same with backward passes, in forward passes
    seconds: float = 0.0

    def steps_of(self, part: int) -> int:
        return self.parts.count(part)


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of one job's student and of the points it is taught."""

    path: Path
    job_digest: str
    student: Student
    sources: Sequence[PointSource]

    def write(self, progress: Progress) -> None:
        """Replace the checkpoint; raises ErasureFailed, and keeps it, when the trained tensors are not finite."""
        about: dict[str, Any] = asdict(progress) | {
            "checks": [[check.model_dump() for check in checks] for checks in progress.checks]
        }
        tensors = self.student.state()
        for source in self.sources:
            tensors |= {name: in_memory(tensor) for name, tensor in source.state().items()}
        write_sealed(self.path, tensors, {"job": self.job_digest, "progress": json.dumps(about)})

    def restore(self) -> Progress | None:
        """Continue from the checkpoint; None, with student and sources untouched, when there is none that fits."""
        if not self.path.is_file():
            return None
        try:
            return self._restored()
        except (KeyError, TypeError, ValueError) as e:
            log.warning("checkpoint %s is damaged (%s): training starts over", self.path, e)
        for source in self.sources:
            source.restore({})
        return None

    def _restored(self) -> Progress | None:
        """The student comes last: it refuses before anything is changed, and does not know its originals any more."""
        if not is_sealed(self.path):
            raise ValueError("its checksum is wrong")
        with safe_open(self.path, framework="pt") as f:
            about = f.metadata()
        if about["job"] != self.job_digest:
            return None
        progress = TypeAdapter(Progress).validate_json(about["progress"])
        tensors = stored_tensors(self.path)
        for source in self.sources:
            source.restore(tensors)
        self.student.restore(tensors)
        return progress
