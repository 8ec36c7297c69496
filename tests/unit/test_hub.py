"""Base models of the hub: what is asked of its client, recorded and refused. A folder stands in for the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from esd_core.base_model import resolve_base
from esd_core.errors import BaseModelError
from tests import tiny_pipelines

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with everything twice: variants, pickles, other formats, code."""
    folder = tiny_pipelines.save(tiny_pipelines.stable_diffusion_xl, tmp_path_factory.mktemp("hub") / "repository")
    unet = folder / "unet"
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin", "model.onnx", "run.py"):
        (unet / name).write_bytes(b"x")
    (unet / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text("{}")
    (folder / "image_encoder").mkdir()
    (folder / "image_encoder" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def hub(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The hub's client, copying what it is asked for; returns the (repository, revision) of its calls."""
    asked: list[tuple[str, str]] = []

    def model_info(_: Any, repo: str, revision: str) -> SimpleNamespace:
        asked.append((repo, revision))
        return SimpleNamespace(sha=COMMIT)

    def hf_hub_download(repo: str, filename: str, revision: str) -> str:
        asked.append((repo, revision))
        return str(repository / filename)

    def snapshot_download(repo: str, revision: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((repo, revision))
        for file in (f for f in repository.rglob("*") if f.is_file()):
            path = file.relative_to(repository).as_posix()
            if any(fnmatch(path, p) for p in allow_patterns) and not any(fnmatch(path, p) for p in ignore_patterns):
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, tmp_path / path)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_a_branch_becomes_the_commit_that_it_names(hub: list[tuple[str, str]]) -> None:
    base = resolve_base("owner/name@main")
    assert base.id == f"owner/name@{COMMIT}"
    assert hub == [("owner/name", "main"), ("owner/name", COMMIT), ("owner/name", COMMIT)]


def test_a_commit_is_taken_as_it_is(hub: list[tuple[str, str]]) -> None:
    commit = "f" * 40
    assert resolve_base(f"owner/name@{commit}").id == f"owner/name@{commit}"
    assert {revision for _, revision in hub} == {commit}


def test_a_hub_id_without_a_revision_is_refused_before_the_hub_is_asked(hub: list[tuple[str, str]]) -> None:
    with pytest.raises(BaseModelError, match="as a hub id it is not pinned: write owner/name@"):
        resolve_base("owner/name")
    assert not hub


@pytest.mark.usefixtures("hub")
def test_only_what_the_family_loads_is_fetched(repository: Path, tmp_path: Path) -> None:
    """No variants, pickles, other formats, code or unused components; and the digest is over what is loaded."""
    fetched = resolve_base(f"owner/name@{COMMIT}")
    names = {file.name for file in (tmp_path / "unet").iterdir()}
    assert names == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert {f.name for f in tmp_path.iterdir()} == {"model_index.json", *fetched.family.components}
    assert (tmp_path / "tokenizer_2" / "tokenizer.json").is_file()
    (repository / "unet" / "run.py").unlink()  # for which a folder is refused
    assert resolve_base(str(repository)).digest == fetched.digest


@pytest.mark.usefixtures("hub")
def test_a_hub_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(BaseModelError, match=f"cannot fetch owner/name@{COMMIT} from the hub: .*: no route$"):
        resolve_base(f"owner/name@{COMMIT}")


def edited_index(folder: Path, **changes: Any) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **changes}))


def only_a_variant(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


REFUSED: dict[str, Callable[[Path], None]] = {
    r"holds a \['run', 'Pipeline'\]; supported: .*StableDiffusionXLPipeline \(Stable Diffusion XL\).*FluxPipeline":
        lambda folder: edited_index(folder, _class_name=["run", "Pipeline"]),
    r"its unet is code of 'run', which is not run; supported are components of diffusers and transformers":
        lambda folder: edited_index(folder, unet=["run", "UNet"]),
    r"only as a variant \(diffusion_pytorch_model\.fp16\.safetensors\), .* save it to another folder": only_a_variant,
}  # fmt: skip


@pytest.mark.parametrize("complaint", list(REFUSED))
def test_what_a_folder_must_not_be(complaint: str, repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    REFUSED[complaint](copy)
    with pytest.raises(BaseModelError, match=complaint):
        resolve_base(str(copy))
