"""esd erase."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.options import add_base, add_command, add_device

if TYPE_CHECKING:
    from esd_core.concepts import ConceptEntry
    from flows.commands.options import Commands

EPILOG = """\
--kind picks the paper's parameters: style trains cross-attention (esd-x), object and global everything else (esd-u).
An interrupted erasure continues with the same command and ends with the same bits.

examples:
  esd erase "Van Gogh" --out van-gogh.safetensors
  esd erase house --kind object --out house.safetensors --negative-guidance 3
  esd erase sun --kind global --out sun.safetensors --iterations 400 --lr 2e-4
  esd erase nudity --kind global --out nudity.safetensors --device cuda \\
      --base CompVis/stable-diffusion-v1-4@<commit> --iterations 1000 --lr 1e-5

then, in plain diffusers:
  pipe.unet.load_state_dict(safetensors.torch.load_file("van-gogh.safetensors"), strict=False)
"""
SUBSETS = "esd-x, esd-x-strict, esd-u, esd-u-authors or esd-all"


def add(commands: Commands) -> None:
    parser = add_command(commands, "erase", "erase one concept and write the edited weights", EPILOG)
    parser.add_argument("concept", metavar="CONCEPT", help="the concept, as a prompt would name it")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.safetensors", help="where the weights go")
    add_base(parser)
    parser.add_argument("--kind", default="style", metavar="KIND", help="style (default), object or global")
    parser.add_argument("--subset", metavar="S", help=f"{SUBSETS} (default: by kind)")
    parser.add_argument("--erase-from", metavar="TEXT", help="erase only from pictures of TEXT")
    parser.add_argument("--negative-guidance", type=float, metavar="F", help="eta: how far to steer away")
    parser.add_argument("--iterations", type=int, metavar="N", help="optimizer steps")
    parser.add_argument("--lr", dest="learning_rate", type=float, metavar="F", help="Adam's learning rate")
    parser.add_argument("--seed", type=int, metavar="N", help="seeds rollouts and the order of points (default 0)")
    parser.add_argument("--rollout-from", metavar="W", help="frozen (default) or student: which weights sample x_t")
    add_device(parser)
    parser.set_defaults(command=erase)


RECIPE_OPTIONS = ("subset", "negative_guidance", "iterations", "learning_rate", "seed", "rollout_from")


def entry_from(arguments: argparse.Namespace) -> ConceptEntry:
    """The concept list row that these options spell; raises InvalidInput naming every bad one."""
    from pydantic import ValidationError

    from esd_core.concepts import ConceptEntry, describe_faults
    from esd_core.errors import InvalidInput

    settings = {name: getattr(arguments, name) for name in RECIPE_OPTIONS}
    given = {name: value for name, value in settings.items() if value is not None}
    row = {"name": arguments.concept, "kind": arguments.kind, "erase_from": arguments.erase_from, **given}
    try:
        return ConceptEntry.model_validate(row)
    except ValidationError as e:
        raise InvalidInput(describe_faults(e)) from e


def check_target(out: Path) -> None:
    """Refuse a bad --out before any work is done."""
    from esd_core.errors import InvalidInput

    if out.suffix != ".safetensors":
        raise InvalidInput(f"--out {out} must end in .safetensors: edited weights are written in that format only")
    if out.is_dir():
        raise InvalidInput(f"--out {out} is a folder: name a file in it")


def erase(arguments: argparse.Namespace) -> int:
    check_target(arguments.out)
    entry = entry_from(arguments)

    from esd_core.base_model import resolve_base

    base = resolve_base(arguments.base)

    from esd_core.digest import whole_file
    from esd_core.erasure import erase as erase_job
    from tasks.jobs import JobFiles, job_of
    from tasks.settings import get_settings

    settings = get_settings()
    job = job_of(entry, base)
    folder = JobFiles.of(settings.jobs_folder, job).folder
    outcome = erase_job(job, base, folder, device=arguments.device or settings.device)
    with whole_file(arguments.out) as partial:
        shutil.copyfile(outcome.weights, partial)
    print(f"{arguments.out}: {job.concept.name} erased with {job.recipe.subset.value}, sha256 {outcome.weights_digest}")
    return 0
