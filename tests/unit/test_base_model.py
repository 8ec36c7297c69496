"""Finding a base model: what is accepted, what is refused and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import MINIATURE_FOLDER, licence_of, resolve_base
from esd_core.errors import BaseModelError


def test_the_digest_follows_content_not_place(tiny_base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_base, copy)
    assert resolve_base(str(copy)).digest == resolve_base(str(tiny_base)).digest
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "beta_end": 0.5}))
    assert resolve_base(str(copy)).digest != resolve_base(str(tiny_base)).digest


@pytest.mark.parametrize(
    ("base", "complaint"),
    [
        ("no/such-model", "not pinned: write no/such-model@"),
        ("owner/name", "a branch, whose commit is recorded"),
        ("./owner/name@main", "neither a folder"),
        ("/no/such/folder", "neither a folder"),
        ("what is this", "neither a folder"),
    ],
)
def test_what_is_not_a_pinned_base_is_refused(base: str, complaint: str) -> None:
    with pytest.raises(BaseModelError, match=complaint):
        resolve_base(base)


def test_other_pipelines_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    with pytest.raises(BaseModelError, match="holds a KandinskyPipeline; supported: StableDiffusionPipeline"):
        resolve_base(str(tmp_path))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"no model_index\.json"):
        resolve_base(str(tmp_path))


def test_pickled_weights_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pickled"
    shutil.copytree(tiny_base, copy)
    weights = next((copy / "unet").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(BaseModelError, match="pickled weights are not loaded"):
        resolve_base(str(copy))


def test_a_truncated_base_is_one_line(tiny_base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "truncated"
    shutil.copytree(tiny_base, copy)
    weights = next((copy / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BaseModelError, match="is not whole safetensors") as refusal:
        load_pipeline(resolve_base(str(copy)), "cpu")
    assert "\n" not in str(refusal.value)


def test_an_unknown_device_is_refused(tiny_base: Path) -> None:
    with pytest.raises(BaseModelError, match="use auto, cpu"):
        load_pipeline(resolve_base(str(tiny_base)), "quantum")


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: creativeml-openrail-m\n---\n# A model\n", "creativeml-openrail-m"),
        (
            "---\nlicense: other\nlicense_name: community\nlicense_link: LICENSE.md\n---\n",
            "community, LICENSE.md",
        ),
        ("---\nlicense: [mit\n---\n", None),
        ("---\n- license\n---\n", None),
        ("---\ntags: [a]\n---\n", None),
        ('---\nlicense: "a\\u202eb\\nc"\n---\n', "a?b?c"),
        ("# A model without front matter\n", None),
        (None, None),
    ],
)
def test_the_licence_is_what_the_base_s_own_card_names(
    card: str | None, licence: str | None, tiny_base: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    if card is not None:
        (folder / "README.md").write_text(card)
    found = resolve_base(str(folder))
    assert licence_of(found) == licence
    assert found.digest == resolve_base(str(tiny_base)).digest


def test_the_bundled_model_s_licence_is_named() -> None:
    assert licence_of(resolve_base(str(MINIATURE_FOLDER))) == "mit"
