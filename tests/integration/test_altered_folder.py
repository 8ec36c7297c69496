"""A downloaded release with something altered: `esd verify` names it, whatever it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esd_core import digest
from tasks.releases.verifying import verify
from tests.integration.conftest import read_json


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("release") / "kept"


@pytest.fixture
def folder(kept: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A downloaded release to tamper with: downloaded once, copied for each test."""
    if not kept.exists():
        shutil.copytree(request.getfixturevalue("downloaded"), kept)
    return Path(shutil.copytree(kept, tmp_path / "folder"))


def _edit_manifest(folder: Path, edit: Callable[[Any], object]) -> None:
    path = folder / "manifest.json"
    content = read_json(path.read_bytes())
    edit(content)
    path.write_text(json.dumps(content))


def _files(content: dict[str, object]) -> dict[str, object]:
    files = content["files"]
    assert isinstance(files, dict)
    return files


def _rename_in_manifest(name: str) -> Callable[[Path], object]:
    return lambda folder: _edit_manifest(folder, lambda c: _files(c).update({name: _files(c).pop("grid.png")}))


def _altered(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def _link(folder: Path) -> None:
    (folder / "grid.png").rename(folder.parent / "elsewhere.png")
    (folder / "grid.png").symlink_to(folder.parent / "elsewhere.png")


def _not_safetensors(folder: Path) -> None:
    """A manifest that agrees with a weights file which is none."""
    content = b"\x80\x04pickle"
    (folder / "weights.safetensors").write_bytes(content)
    sha256 = digest.of_bytes(content)

    def edit(manifest: Any) -> None:
        key = f"weights/{sha256}.safetensors"
        manifest["files"]["weights.safetensors"] = {"sha256": sha256, "size": len(content), "key": key}
        manifest["weights_digest"] = manifest["approvals"][0]["weights_digest"] = sha256

    _edit_manifest(folder, edit)


@pytest.mark.parametrize(
    ("tamper", "fault"),
    [
        (_altered, "weights.safetensors was altered"),
        (lambda f: (f / "grid.png").unlink(), "grid.png is missing"),
        (lambda f: (f / "extra.bin").write_bytes(b"x"), "'extra.bin' is not in the manifest"),
        (lambda f: (f / "folder").mkdir(), "'folder' is not in the manifest"),
        (lambda f: (f / "weights.safetensors").write_bytes(b""), "weights.safetensors is truncated: 0 bytes"),
        (lambda f: (f / "report.html").write_bytes(b"x" * 9999), "report.html is too long"),
        (_rename_in_manifest("../grid.png"), "names files outside the release: '../grid.png'"),
        (_rename_in_manifest("/etc/passwd"), "names files outside the release"),
        (_rename_in_manifest("a\\b.png"), "names files outside the release"),
        (_rename_in_manifest("manifest.json"), "names files outside the release"),
        (_link, "grid.png is a link"),
        (_not_safetensors, "weights.safetensors is not safetensors"),
        (lambda f: (f / "manifest.json").unlink(), "this is not a finished release"),
        (lambda f: (f / "manifest.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "manifest.json").write_text('{"a": 1, "a": 2}'), "a name stands in it twice"),
        (lambda f: (f / "manifest.json").write_text("[" * 100_000), "is not JSON"),
        (lambda f: (f / "manifest.json").write_text("{}"), "is not a release manifest"),
        (lambda f: _edit_manifest(f, lambda c: c.update(version=2)), "holds no approval of this version"),
        (lambda f: _edit_manifest(f, lambda c: c.update(job_digest="0" * 64)), "not the one of job_digest"),
        (lambda f: _edit_manifest(f, lambda c: c.update(weights_digest="0" * 64)), "two digests of the weights"),
    ],
)
def test_no_alteration_goes_unseen(folder: Path, tamper: Callable[[Path], object], fault: str) -> None:
    tamper(folder)
    faults = verify(str(folder))
    assert any(fault in found for found in faults), faults
    assert not any("\n" in found for found in faults)
