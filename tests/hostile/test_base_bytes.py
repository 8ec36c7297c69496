"""Any bytes in a base model's files, any JSON in its index: read, or refused in one line."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esd_core.base_folder import numbers_in, read_config
from esd_core.base_model import resolve_base
from esd_core.errors import BaseModelError
from tests.hostile.refusals import JSON, QUICK, refused_in_one_line


@QUICK
@given(content=st.binary(max_size=200), length=st.integers(0, 2**64 - 1) | st.integers(0, 300))
def test_no_bytes_make_looking_at_a_base_fail(tmp_path: Path, content: bytes, length: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(struct.pack("<Q", length) + content)
    for read in (numbers_in, read_config):
        with pytest.raises(BaseModelError) as refusal:
            read(file)
        assert "\n" not in str(refusal.value)


@QUICK
@given(field=st.sampled_from(["_class_name", "unet", "text_encoder", "scheduler"]), value=JSON)
def test_no_index_makes_resolving_a_base_fail(tiny_base: Path, tmp_path: Path, field: str, value: object) -> None:
    folder = tmp_path / "base"
    if not folder.exists():
        shutil.copytree(tiny_base, folder)
    index = {**json.loads((tiny_base / "model_index.json").read_text()), field: value}
    (folder / "model_index.json").write_text(json.dumps(index))
    with refused_in_one_line():
        resolve_base(str(folder))
