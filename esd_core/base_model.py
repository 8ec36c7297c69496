"""Where a base model lies and what exactly it is: a pinned hub id, a local folder, or the bundled miniature."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from esd_core import digest
from esd_core.backbones.families import FAMILIES, Family
from esd_core.base_folder import check_folder, read_config
from esd_core.concepts import MINIATURE
from esd_core.errors import BaseModelError, InvalidInput
from esd_core.yaml_text import parse, printable, read_text

INDEX, CARD = "model_index.json", "README.md"
MINIATURE_FOLDER = Path(__file__).parent / "miniature" / "model"
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")  # nothing pickled, no code
VARIANTS = ("*.*.safetensors", "*.index.*.json")  # the same weights once more, such as model.fp16.safetensors
WITHOUT_WEIGHTS = ("tokenizer", "scheduler")  # components; all others have them
LIBRARIES = ("diffusers", "transformers")  # where components may come from
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>\S+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ResolvedBase:
    """A base model on disk. `digest` is over names and contents of every component file that is loaded.

    id: as a person gave it; of a hub model with the commit that its branch or tag named.
    """

    id: str
    folder: Path
    digest: str
    family: Family


def resolve_base(base: str) -> ResolvedBase:
    """Find the base model, fetching it from the hub when it is a pinned hub id; loads no weights.

    A branch or tag of a hub repository is resolved to its commit, which the result's id names. Raises BaseModelError
    when the folder is not a diffusers pipeline of a supported family, or the hub id names no revision.
    """
    if base == MINIATURE:
        return _in_folder(base, MINIATURE_FOLDER)
    folder = Path(base)
    if folder.is_dir():
        return _in_folder(base, folder)
    match = HUB_ID.fullmatch(base)
    if match is None or base.startswith((".", "/")):
        raise BaseModelError(f"base model {base!r} is neither a folder, nor owner/name@commit, nor {MINIATURE!r}")
    repo, revision = match["repo"], match["revision"]
    if not revision:
        raise BaseModelError(
            f"base model {base!r} is not a folder here, and as a hub id it is not pinned: "
            f"write {repo}@ and the 40-digit commit, or a branch, whose commit is recorded"
        )
    commit = revision if COMMIT.fullmatch(revision) else _commit_of(repo, revision)
    return _in_folder(f"{repo}@{commit}", _fetch(repo, commit))


def licence_of(base: ResolvedBase) -> str | None:
    """The licence that a base's own model card names in its front matter, in one line; None when it names none."""
    try:
        _, front, _ = read_text(base.folder / CARD, "model card").split("---\n", 2)
        _, told = parse(front, CARD)
    except (InvalidInput, ValueError):  # no card, or one without front matter
        return None
    named = told if isinstance(told, dict) else {}
    fields = ("license_name", "license_link") if named.get("license_name") else ("license", "license_link")
    return printable(", ".join(str(named[field]) for field in fields if named.get(field)))[:200] or None


def _commit_of(repo: str, branch: str) -> str:
    """The commit that a branch or tag of a hub repository names now."""
    from huggingface_hub import HfApi

    with _hub_errors(repo, branch):
        return str(HfApi().model_info(repo, revision=branch).sha)


def _fetch(repo: str, commit: str) -> Path:
    """Download what the model's family loads, and nothing else."""
    from huggingface_hub import hf_hub_download, snapshot_download

    with _hub_errors(repo, commit):
        family = _family_of(Path(hf_hub_download(repo, INDEX, revision=commit)))
        patterns = [INDEX, CARD, *(f"{component}/{pattern}" for component in family.components for pattern in PATTERNS)]
        allowed: dict[str, Any] = {"allow_patterns": patterns, "ignore_patterns": list(VARIANTS)}
        return Path(snapshot_download(repo, revision=commit, **allowed))


@contextmanager
def _hub_errors(repo: str, revision: str) -> Iterator[None]:
    try:
        yield
    except BaseModelError:
        raise
    except Exception as e:  # the hub client raises a dozen unrelated types: network, auth, missing, disk
        first_line = (str(e).splitlines() or [""])[0]
        raise BaseModelError(f"cannot fetch {repo}@{revision} from the hub: {type(e).__name__}: {first_line}") from e


def _family_of(index: Path) -> Family:
    """The family that model_index.json names; raises BaseModelError for pipelines that are not supported."""
    named = read_config(index)
    pipeline_class = named.get("_class_name")
    family = FAMILIES.get(str(pipeline_class))
    if family is None:
        supported = ", ".join(f"{known} ({family.name})" for known, family in FAMILIES.items())
        raise BaseModelError(f"{index.parent} holds a {pipeline_class}; supported: {supported}")
    for component in family.components:
        source = named.get(component) or [None]
        if not isinstance(source, list):
            raise BaseModelError(f"{index}: {component} is {str(source)[:100]!r}, not a library and a class")
        library, *_ = source
        if library is not None and library not in LIBRARIES:
            raise BaseModelError(
                f"{index.parent}: its {component} is code of {library!r}, which is not run; "
                f"supported are components of {' and '.join(LIBRARIES)}"
            )
    return family


def _in_folder(base: str, folder: Path) -> ResolvedBase:
    index = folder / INDEX
    if not index.is_file():
        raise BaseModelError(f"{folder} is not a diffusers pipeline folder: it has no {INDEX}")
    family = _family_of(index)
    found = {f for component in family.components for pattern in PATTERNS for f in (folder / component).glob(pattern)}
    files = [f for f in found if not _is_variant(f)]
    for component in family.components:
        if not component.startswith(WITHOUT_WEIGHTS) and (folder / component).is_dir():
            _check_weights(folder / component, files)
    check_folder(folder, family, [index, *files])
    return ResolvedBase(base, folder, digest.of_files(folder, sorted([index, *files])), family)


def weights_of(component: Path) -> list[Path]:
    """A component's weights, as they are loaded."""
    return sorted(file for file in component.glob("*.safetensors") if not _is_variant(file))


def _is_variant(file: Path) -> bool:
    return any(fnmatch(file.name, pattern) for pattern in VARIANTS)


def _check_weights(component: Path, files: list[Path]) -> None:
    """Raises BaseModelError when a component's weights are not among the files, saying what lies there instead."""
    if any(f.suffix == ".safetensors" and f.parent == component for f in files):
        return
    variants = sorted(f.name for f in component.glob("*.safetensors"))
    if variants:
        raise BaseModelError(
            f"{component} has its weights only as a variant ({variants[0]}), which is not loaded: load the pipeline in "
            "diffusers with variant=..., and save it to another folder without"
        )
    raise BaseModelError(f"{component} has no .safetensors weights; pickled weights are not loaded")
