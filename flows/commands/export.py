"""esd export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.options import add_command

if TYPE_CHECKING:
    from flows.commands.options import Commands

FORMATS = {
    "diffusers": "a complete folder: DiffusionPipeline.from_pretrained(DIR)",
    "single-file": "a checkpoint in the original key naming, for A1111, ComfyUI and from_single_file",
    "lora": "low-rank factors of the change, for diffusers, ComfyUI and kohya; its error is printed",
    "authors": "the trained tensors alone: pipe.unet.load_state_dict(load_file(FILE), strict=False)",
}
EPILOG = f"""\
formats:
{chr(10).join(f"  {name:<12} {what}" for name, what in FORMATS.items())}

Numbers are written in the precision in which the base stores them, a LoRA's in float32. What exists is not overwritten.

examples:
  esd export van-gogh.safetensors --format diffusers --out sd-without-van-gogh
  esd export van-gogh.safetensors --format single-file --out models/checkpoints/sd-without-van-gogh.safetensors
  esd export van-gogh.safetensors --format lora --rank 64 --out models/loras/without-van-gogh.safetensors
  esd export van-gogh.safetensors --format authors --out esd-van-gogh.safetensors --base stable-diffusion-v1-4

then, in plain diffusers:
  StableDiffusionPipeline.from_single_file("sd-without-van-gogh.safetensors", config="stable-diffusion-v1-4")
  pipe.load_lora_weights("without-van-gogh.safetensors")    needs pip install peft
"""


def add(commands: Commands) -> None:
    parser = add_command(commands, "export", "write edited weights in a format that other programs load", EPILOG)
    parser.add_argument("file", type=Path, metavar="FILE", help="edited weights, of `esd erase` or `esd import`")
    parser.add_argument("--format", required=True, choices=tuple(FORMATS), metavar="F", help=", ".join(FORMATS))
    parser.add_argument("--out", required=True, type=Path, metavar="PATH", help="the file, or for diffusers the folder")
    parser.add_argument("--base", metavar="BASE", help="the base they edit (default: the one that FILE names)")
    parser.add_argument("--rank", type=int, metavar="N", help="of a LoRA: higher is larger and closer (default 64)")
    parser.set_defaults(command=export)


def export(arguments: argparse.Namespace) -> int:
    from esd_core.exports.export import export as write

    written = write(arguments.file, arguments.format, arguments.out, base=arguments.base, rank=arguments.rank)
    digest = f", sha256 {written.digest}" if written.digest else ""
    print("\n  ".join([f"{written.path}: {arguments.format}{digest}", *written.notes]))
    return 0
