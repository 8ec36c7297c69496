"""What a base model's folder must and must not hold, seen before anything of it is loaded. Knows no torch.

A folder may come from anywhere. Nothing of it is unpickled and no code of it is run; what asks for that is refused
rather than passed over, so that nobody believes in something that was left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from esd_core.backbones.families import Family
from esd_core.errors import BaseModelError

CODE_KEYS = ("auto_map", "custom_pipelines")  # of a config that names code to be imported
SHARDS = ".safetensors.index.json"  # tells in which file each tensor lies
MOST_CONFIG_BYTES = 32 << 20


def check_folder(folder: Path, family: Family, files: Iterable[Path]) -> None:
    """Raise BaseModelError for a folder with missing parts, code, links out of it, or what is not what it is called.

    files: those that are loaded.
    """
    needed = [component for component in family.components if component not in family.optional]
    for component in needed:
        if not any(file.parent == folder / component for file in files):
            raise BaseModelError(f"{folder} has nothing in {component}: the model needs it; fetch the folder again")
    for path in (folder, *(folder / component for component in family.components)):
        for code in sorted(path.glob("*.py")):
            raise BaseModelError(f"{code} is code, which is not run: remove it if the model is whole without it")
    for file in sorted(files):
        _check_place(folder, file)
        if file.suffix == ".safetensors":
            numbers_in(file)
        elif file.name.endswith(SHARDS):
            _check_shards(file)
        elif file.name in ("model_index.json", "config.json") or file.name.endswith("_config.json"):
            read_config(file)


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object; raises BaseModelError for what is none, or names code to be imported."""
    try:
        if path.stat().st_size > MOST_CONFIG_BYTES:
            raise BaseModelError(f"{path} has {path.stat().st_size} bytes: that is no configuration")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise BaseModelError(f"{path} is not JSON: {str(e).splitlines()[0][:200]}") from e
    if not isinstance(config, dict):
        raise BaseModelError(f"{path} is not a JSON object")
    for key in CODE_KEYS:
        if key in config:
            raise BaseModelError(f"{path} asks for code of its own ({key}), which is not run: remove that entry")
    return config


def _check_shards(index: Path) -> None:
    named = read_config(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise BaseModelError(f"{index} names no files of weights")
    for name in sorted(set(named.values())):
        if Path(name).name != name or not (index.parent / name).is_file():
            raise BaseModelError(f"{index} names the file {name[:100]!r}, which does not lie beside it: fetch it again")


def numbers_in(path: Path) -> int:
    """How many numbers a safetensors file holds, by its header, which must describe the file exactly."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as f:
            shapes = [f.get_slice(name).get_shape() for name in f.keys()]  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as e:
        raise BaseModelError(f"{path} is not whole safetensors ({str(e).splitlines()[0][:200]}): fetch it again") from e
    return sum(_product(shape) for shape in shapes)


def _product(shape: Iterable[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _check_place(folder: Path, file: Path) -> None:
    """Links may lead elsewhere within the folder; in the hub's cache, whose snapshots are links, to its blobs."""
    home = folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    try:
        real = file.resolve(strict=True)
    except (OSError, RuntimeError) as e:
        raise BaseModelError(f"{file} is a link that leads nowhere: remove it, or put the file there") from e
    if not (real.is_relative_to(home) or real.is_relative_to(blobs)):
        raise BaseModelError(f"{file} is a link out of the folder: put the file itself there")
    if not real.is_file():
        raise BaseModelError(f"{file} is no file")
