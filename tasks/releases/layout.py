"""Where things lie in the release bucket.

weights/SHA256.safetensors         by content: uploaded once, whatever releases name it
releases/MODEL/VERSION/            by version: config.json, README.md, report.html, ..., manifest.sig;
                  manifest.json    last, SHA-256 and size of each file
releases/MODEL/latest.json         the pointer: which version to use
approvals/000001.json, ...         the approval log
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

RELEASES = "releases/"
WEIGHTS_FOLDER = "weights/"
MANIFEST, SIGNATURE, WEIGHTS, CONFIG, CARD = (
    "manifest.json",
    "manifest.sig",
    "weights.safetensors",
    "config.json",
    "README.md",
)
POINTER = "latest.json"
_PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
_MODEL = re.compile(r"[a-z0-9][a-z0-9-]{0,199}")
_FOLDER = re.compile(r"releases/(?P<model>[a-z0-9][a-z0-9-]{0,199})/(?P<version>[1-9][0-9]{0,8})/")

PlainName = Annotated[str, Field(pattern=_PLAIN_NAME)]


def release_folder(model: str, version: int) -> str:
    return f"{RELEASES}{model}/{version}/"


def pointer_key(model: str) -> str:
    return f"{RELEASES}{model}/{POINTER}"


def weights_key(sha256: str) -> str:
    return f"{WEIGHTS_FOLDER}{sha256}.safetensors"


def file_key(model: str, version: int, name: str, sha256: str) -> str:
    """Key of one file of a release: weights by content, all else in the release's folder."""
    return weights_key(sha256) if name == WEIGHTS else f"{release_folder(model, version)}{name}"


def is_model_name(name: str) -> bool:
    return _MODEL.fullmatch(name) is not None


def release_at(prefix: str) -> tuple[str, int] | None:
    """Model and version of a folder releases/MODEL/VERSION/; None for any other folder."""
    match = _FOLDER.fullmatch(prefix)
    return (match["model"], int(match["version"])) if match else None


def is_plain_name(name: str) -> bool:
    """Whether a file name stays in its folder on every system: no slash, no "..", no drive, nothing hidden."""
    return re.fullmatch(_PLAIN_NAME, name) is not None
