"""Releases to spoil: a good one, made without servers, and its manifest."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from esd_core import digest
from esd_core.concept_list import ApprovalPolicy
from esd_core.concepts import Concept, ConceptKind, Erasure, ErasureJob
from esd_core.recipe import ParameterSubset, Recipe
from tasks.approvals.approval_log import ApprovalRecord, Decision
from tasks.releases.layout import file_key
from tasks.releases.manifest import Manifest, ReleasedFile

WEIGHTS = save({"conv_in.weight": np.ones((2, 3), np.float32)})
MODEL = "esd-miniature-sun"


def manifest_of(files: dict[str, bytes], base: str = "elsewhere") -> bytes:
    """The manifest of a release of these files, approved as it must be."""
    concept = Concept(name="sun", kind=ConceptKind.GLOBAL)
    job = ErasureJob(
        base=base,
        base_digest="0" * 64,
        erasures=(Erasure(concept=concept, recipe=Recipe(subset=ParameterSubset.ESD_U)),),
    )
    sha256 = digest.of_bytes(files["weights.safetensors"])
    approval = ApprovalRecord(
        model=MODEL,
        version=1,
        decision=Decision.APPROVED,
        by="Ada",
        reason="fine",
        policy=ApprovalPolicy.MANUAL,
        weights_digest=sha256,
        gates_passed=True,
        entry=1,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        previous="0" * 64,
    )
    digests = {name: digest.of_bytes(content) for name, content in files.items()}
    return Manifest(
        model=MODEL,
        version=1,
        job=job,
        job_digest=job.digest,
        weights_digest=sha256,
        evaluation={"erased_after": 0.05},
        policy=ApprovalPolicy.MANUAL,
        approvals=(approval,),
        files={
            name: ReleasedFile(sha256=digests[name], size=len(content), key=file_key(MODEL, 1, name, digests[name]))
            for name, content in files.items()
        },
    ).to_bytes()


def write_release(folder: Path, files: dict[str, bytes], base: str = "elsewhere") -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_bytes(manifest_of(files, base))
    return folder


GOOD = {"weights.safetensors": WEIGHTS, "README.md": b"# card\n"}
MANIFEST = manifest_of(GOOD)
