"""Where a base model lies and what exactly it is: a pinned hub id, a local folder, or the bundled miniature."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from esd_core import digest
from esd_core.concepts import MINIATURE
from esd_core.errors import BaseModelError

MINIATURE_FOLDER = Path(__file__).parent / "miniature" / "model"
COMPONENTS = ("unet", "text_encoder", "tokenizer", "vae", "scheduler")
PATTERNS = ("*.json", "*.safetensors", "*.txt")  # nothing pickled, no code
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>\S+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ResolvedBase:
    """A base model on disk. `digest` is over names and contents of every component file that is loaded."""

    id: str
    folder: Path
    digest: str


def resolve_base(base: str) -> ResolvedBase:
    """Find the base model, fetching it from the hub when it is a pinned hub id; loads no weights.

    Raises BaseModelError when the folder is not a diffusers pipeline, or the hub id is not pinned to a commit.
    """
    if base == MINIATURE:
        return _in_folder(base, MINIATURE_FOLDER)
    folder = Path(base)
    if folder.is_dir():
        return _in_folder(base, folder)
    match = HUB_ID.fullmatch(base)
    if match is None or base.startswith((".", "/")):
        raise BaseModelError(f"base model {base!r} is neither a folder, nor owner/name@commit, nor {MINIATURE!r}")
    revision = match["revision"] or ""
    if not COMMIT.fullmatch(revision):
        raise BaseModelError(
            f"base model {base!r} is not a folder here, and as a hub id it is not pinned: "
            f"write {match['repo']}@ and the 40-digit commit"
        )
    return _in_folder(base, _fetch(match["repo"], revision))


def _fetch(repo: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["model_index.json", *(f"{component}/{pattern}" for component in COMPONENTS for pattern in PATTERNS)]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except Exception as e:  # the hub client raises a dozen unrelated types: network, auth, missing, disk
        first_line = (str(e).splitlines() or [""])[0]
        raise BaseModelError(f"cannot fetch {repo}@{revision} from the hub: {type(e).__name__}: {first_line}") from e


def _in_folder(base: str, folder: Path) -> ResolvedBase:
    index = folder / "model_index.json"
    if not index.is_file():
        raise BaseModelError(f"{folder} is not a diffusers pipeline folder: it has no model_index.json")
    try:
        pipeline_class = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as e:
        raise BaseModelError(f"{index} is not a pipeline's index: {e}") from e
    if pipeline_class != "StableDiffusionPipeline":
        raise BaseModelError(f"{folder} holds a {pipeline_class}; supported: StableDiffusionPipeline")
    files = [index, *(f for c in COMPONENTS for p in PATTERNS for f in (folder / c).glob(p))]
    if not any(f.suffix == ".safetensors" and f.parent.name == "unet" for f in files):
        raise BaseModelError(f"{folder}/unet has no .safetensors weights; pickled weights are not loaded")
    return ResolvedBase(id=base, folder=folder, digest=digest.of_files(folder, sorted(set(files))))
