"""Where a pretrained model is loaded from, and what names its content. Works without torch."""

from __future__ import annotations

import re
from pathlib import Path

from esd_core import digest
from esd_core.errors import EvaluationError

PINNED = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@(?P<commit>[0-9a-f]{40})")


def locate(model: str, folder: Path) -> str:
    """An absolute folder when `model` is one relative to `folder`, or the pinned hub id that it is."""
    here = folder / model
    return str(here.resolve()) if here.is_dir() or not PINNED.fullmatch(model) else model


def model_digest(located: str) -> str:
    """The digest of a folder's files, or of a pinned hub id; raises EvaluationError for anything else."""
    folder = Path(located)
    if folder.is_dir():
        return digest.of_files(folder, sorted(path for path in folder.rglob("*") if path.is_file()))
    if PINNED.fullmatch(located):
        return digest.of_bytes(located.encode())
    raise EvaluationError(
        f"model {located} is neither a folder nor pinned: give the path of a transformers folder, "
        "or owner/name@ followed by the 40 hex digits of a commit"
    )
