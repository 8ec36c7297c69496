"""Hostile base models: a folder from anywhere is refused before code runs, or anything is unpickled or made up."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import resolve_base
from esd_core.errors import BaseModelError

RAN = "ran"
CODE = f"""
import pathlib
pathlib.Path({RAN!r}).touch()
class Evil:
    @classmethod
    def from_pretrained(cls, *_, **__):
        return cls()
"""
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
Change = Callable[[Path], object]


class Exploding:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {RAN}",)


def config(file: str, **values: Any) -> Change:
    """Values put into a JSON file of the folder."""
    return lambda folder: (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **values}))


def text(file: str, content: str | bytes) -> Change:
    return lambda folder: (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def gone(place: str) -> Change:
    return lambda folder: shutil.rmtree(folder / place) if (folder / place).is_dir() else (folder / place).unlink()


def all_of(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def link(file: str, target: str) -> Change:
    def change(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to(target)

    return change


def moved_out(place: str) -> Change:
    """A part of the folder as a link to where it really lies."""

    def change(folder: Path) -> None:
        elsewhere = folder.parent / "elsewhere"
        shutil.move(folder / place, elsewhere)
        (folder / place).symlink_to(elsewhere)

    return change


def weights(component: str, content: bytes | Callable[[bytes], bytes]) -> Change:
    def change(folder: Path) -> None:
        file = folder / component / WEIGHTS[component]
        file.write_bytes(content if isinstance(content, bytes) else content(file.read_bytes()))

    return change


def number(component: str, value: float) -> Change:
    """One number of a component's weights is another."""

    def change(folder: Path) -> None:
        file = folder / component / WEIGHTS[component]
        tensors = load_file(file)
        tensors[min(tensors)].view(-1)[0] = value
        save_file(tensors, file, metadata={"format": "pt"})

    return change


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written) if length is None else length) + written + data


def entry(first: int, last: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [first, last]}


ALIEN = safetensors({"__metadata__": {"format": "pt"}, "alien": entry(0, 8)}, b"\0" * 8)
OVERLAP = safetensors({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12)
HUGE = struct.pack("<Q", 200 << 20) + b" " * 100
PICKLE = pickle.dumps(Exploding())
# what is done to a good folder, and what the refusal says
BAD_BASES: dict[str, tuple[Change, str]] = {
    "a pickled U-Net": (
        all_of(gone("unet/" + WEIGHTS["unet"]), text("unet/pytorch_model.bin", PICKLE)),
        "unet has no .saf",
    ),
    "a pickled VAE": (
        all_of(gone("vae/" + WEIGHTS["vae"]), text("vae/diffusion_pytorch_model.bin", PICKLE)),
        "vae has no",
    ),
    "a pickled text encoder": (
        all_of(gone("text_encoder/model.safetensors"), text("text_encoder/pytorch_model.bin", PICKLE)),
        "text_encoder has no .safetensors weights; pickled weights are not loaded",
    ),
    "a pickle under another name": (weights("unet", PICKLE), "unet.* is not whole safetensors"),
    "a pickle as the text encoder": (weights("text_encoder", PICKLE), "text_encoder.* is not whole safetensors"),
    "code beside the U-Net": (text("unet/evil.py", CODE), "evil.py is code"),
    "a pipeline of its own": (text("pipeline.py", CODE), "pipeline.py is code"),
    "code that the U-Net's config names": (config("unet/config.json", auto_map={"AutoModel": "evil.Evil"}), "auto_map"),
    "code that the text encoder's config names": (
        config("text_encoder/config.json", auto_map={"AutoModel": "x/y--evil.Evil"}),
        "auto_map",
    ),
    "code that the tokenizer's config names": (
        config("tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}),
        "auto_map",
    ),
    "a component of another library": (config("model_index.json", unet=["os", "system"]), "code of 'os'"),
    "a component that is a file": (config("model_index.json", unet=["evil", "Evil"]), "code of 'evil'"),
    "a pipeline class that is a file": (config("model_index.json", _class_name=["pipeline", "Evil"]), "supported: "),
    "a class that is no model": (config("model_index.json", text_encoder=["transformers", "Trainer"]), "cannot load"),
    "a class that is a method": (config("model_index.json", text_encoder=["transformers", "__dir__"]), "cannot load"),
    "a component that is a word": (
        config("model_index.json", text_encoder="transformers"),
        "not a library and a class",
    ),
    "a component that is a number": (config("model_index.json", text_encoder=5), "not a library and a class"),
    "a component without a class": (config("model_index.json", text_encoder=["transformers"]), "cannot load"),
    "weights outside": (moved_out("unet/" + WEIGHTS["unet"]), "link out of the folder"),
    "a part outside": (moved_out("vae"), "link out of the folder"),
    "a config that is the password file": (link("vae/config.json", "/etc/passwd"), "link out of the folder"),
    "a config that is a device": (link("vae/config.json", "/dev/zero"), "link out of the folder"),
    "a link to itself": (link("vae/config.json", "config.json"), "leads nowhere"),
    "a link to nothing": (link("unet/more.json", "/nowhere"), "leads nowhere"),
    "no text encoder": (gone("text_encoder"), "nothing in text_encoder"),
    "no VAE": (gone("vae"), "nothing in vae"),
    "no scheduler": (gone("scheduler"), "nothing in scheduler"),
    "no tokenizer": (gone("tokenizer"), "nothing in tokenizer"),
    "no weights of the VAE": (gone("vae/" + WEIGHTS["vae"]), "vae has no .safetensors"),
    "no config of the U-Net": (gone("unet/config.json"), "cannot load"),
    "no config of the text encoder": (gone("text_encoder/config.json"), "cannot load"),
    "an index that is a list": (text("model_index.json", "[]"), "model_index.json is not a JSON object"),
    "an index that is empty": (text("model_index.json", ""), "model_index.json is not JSON"),
    "an index in no encoding": (text("model_index.json", b"\xff\xfe\0"), "model_index.json is not JSON"),
    "an index of brackets": (text("model_index.json", "[" * 100_000), "model_index.json is not JSON"),
    "a config of brackets": (text("unet/config.json", "[" * 100_000), "unet/config.json is not JSON"),
    "a config of 40 megabytes": (text("unet/config.json", b" " * (40 << 20)), "that is no configuration"),
    "a config of other types": (config("unet/config.json", block_out_channels="many"), "cannot load"),
    "a text encoder of other types": (config("text_encoder/config.json", hidden_size="many"), "cannot load"),
    "a scheduler of other types": (
        config("scheduler/scheduler_config.json", num_train_timesteps="many"),
        "cannot load",
    ),
    "less than no channels": (config("unet/config.json", in_channels=-4), "cannot load"),
    "half a config": (text("text_encoder/config.json", "{"), "text_encoder/config.json is not JSON"),
    "weights of no bytes": (weights("unet", b""), "is not whole safetensors"),
    "weights cut off": (weights("vae", lambda content: content[:1000]), "vae.* is not whole safetensors"),
    "weights cut off by five bytes": (
        weights("text_encoder", lambda content: content[:-5]),
        "is not whole safetensors",
    ),
    "weights and five bytes more": (weights("unet", lambda content: content + b"12345"), "is not whole safetensors"),
    "overlapping tensors": (weights("text_encoder", OVERLAP), "is not whole safetensors"),
    "a header of 200 MB": (weights("vae", HUGE), "is not whole safetensors"),
    "a header of 2^60 bytes": (weights("unet", safetensors({}, length=1 << 60)), "is not whole safetensors"),
    "other tensors in the U-Net": (weights("unet", ALIEN), "does not hold what its configuration needs"),
    "other tensors in the text encoder": (weights("text_encoder", ALIEN), "does not hold what its configuration needs"),
    "not a number in the U-Net": (number("unet", float("nan")), "numbers that are not finite"),
    "infinite in the text encoder": (number("text_encoder", float("inf")), "numbers that are not finite"),
    "not a number in the VAE": (number("vae", float("nan")), "numbers that are not finite"),
    "shards that lie elsewhere": (
        text("unet/diffusion_pytorch_model.safetensors.index.json", '{"weight_map": {"a": "../../x.safetensors"}}'),
        "does not lie beside it",
    ),
    "shards of no files": (text("unet/x.safetensors.index.json", '{"weight_map": [1]}'), "names no files"),
}


@pytest.mark.parametrize("name", BAD_BASES)
def test_a_bad_base_is_refused_in_one_line(
    tiny_base: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, says = BAD_BASES[name]
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    change(folder)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BaseModelError, match=says) as refusal:
        load_pipeline(resolve_base(str(folder)), "cpu")
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert sorted(tmp_path.rglob("*")) == before  # nothing was written, and nothing ran


def test_the_base_that_is_spoiled_above_is_good(tiny_base: Path, tmp_path: Path) -> None:
    """Also as the hub's cache has it: every file of a snapshot is a link to a blob."""
    load_pipeline(resolve_base(str(shutil.copytree(tiny_base, tmp_path / "base"))), "cpu")
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / ("0" * 40), tmp_path / "models--a--b" / "blobs"
    shutil.copytree(tiny_base, snapshot)
    blobs.mkdir()
    for number_of, file in enumerate([path for path in snapshot.rglob("*") if path.is_file()]):
        shutil.move(file, blobs / str(number_of))
        file.symlink_to(os.path.relpath(blobs / str(number_of), file.parent))
    load_pipeline(resolve_base(str(snapshot)), "cpu")
