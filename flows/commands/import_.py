"""esd import."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.options import add_command

if TYPE_CHECKING:
    from esd_core.concepts import Concept
    from flows.commands.options import Commands

EPILOG = """\
FILE is safetensors with the trained tensors under diffusers' parameter names, as the ESD authors publish them. Every
tensor must be one of the base's, and together they must be a parameter subset (esd-x, esd-u, ...), which is told
from their names. The result is a weights file for `esd generate` and `esd export` that says what it was read from.
A pickle (.pt, .ckpt) is refused: reading one can run any code.

example:
  esd import esd-van-gogh.safetensors --concept "Van Gogh" --base CompVis/stable-diffusion-v1-4@<commit> \\
      --out van-gogh.safetensors
"""


def add(commands: Commands) -> None:
    parser = add_command(commands, "import", "read weights that the ESD authors' code made", EPILOG)
    parser.add_argument("file", type=Path, metavar="FILE", help="their weights")
    parser.add_argument("--concept", required=True, metavar="NAME", help="what they erase")
    parser.add_argument("--base", required=True, metavar="BASE", help="what they were trained from")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.safetensors", help="where ours goes")
    parser.add_argument("--kind", default="style", metavar="KIND", help="style (default), object or global")
    parser.add_argument("--erase-from", metavar="TEXT", help="the concept is erased from pictures of TEXT only")
    parser.set_defaults(command=import_weights)


def import_weights(arguments: argparse.Namespace) -> int:
    from esd_core.errors import InvalidInput

    if arguments.out.suffix != ".safetensors":
        raise InvalidInput(f"--out {arguments.out} must end in .safetensors")
    if arguments.out.exists():
        raise InvalidInput(f"--out {arguments.out} exists already: choose another name, or remove it first")
    concept = _concept(arguments)

    from esd_core.base_model import resolve_base
    from esd_core.exports.authors import import_authors

    made = import_authors(arguments.file, resolve_base(arguments.base), concept, arguments.out)
    print(f"{arguments.out}: {made.name}, {' + '.join(made.subsets)} of {made.base}, imported from {arguments.file}")
    return 0


def _concept(arguments: argparse.Namespace) -> Concept:
    from pydantic import ValidationError

    from esd_core.concepts import Concept
    from esd_core.errors import InvalidInput
    from esd_core.faults import describe_faults

    try:
        return Concept.model_validate(
            {"name": arguments.concept, "kind": arguments.kind, "erase_from": arguments.erase_from}
        )
    except ValidationError as e:
        raise InvalidInput(describe_faults(e)) from e
