"""esd erase."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.options import add_base, add_command, add_machine, machine_from

if TYPE_CHECKING:
    from esd_core.concepts import ConceptEntry
    from flows.commands.options import Commands

EPILOG = """\
Learning rate, eta and number of steps follow from measuring the model, and the erasure stops when the concept is gone;
what it chose and why is printed in the end. With --suite a classifier looks at a few images too before it stops.
--recipe takes a published algorithm instead, and every single setting can be fixed by hand. --kind picks the paper's
parameters: style trains cross-attention (esd-x), object and global everything else (esd-u). An interrupted erasure
continues with the same command and ends with the same bits.

examples:
  esd erase "Van Gogh" --out van-gogh.safetensors
  esd erase house --kind object --out house.safetensors --retain church --retain tree
  esd erase sun --kind global --out sun.safetensors --also-known-as sunshine
  esd erase star --kind object --out star.safetensors --suite miniature
  esd erase "Van Gogh" --out van-gogh.safetensors --recipe paper
  esd erase car --kind object --out car.safetensors --negative-guidance 3 --iterations 400 --lr 2e-4
  esd erase nudity --kind global --out nudity.safetensors --device cuda \\
      --base CompVis/stable-diffusion-v1-4@<commit>

then, in plain diffusers:
  pipe.unet.load_state_dict(safetensors.torch.load_file("van-gogh.safetensors"), strict=False)
"""
SUBSETS = "esd-x, esd-x-strict, esd-x-text, esd-u, esd-u-authors, self-attention or esd-all"
# option, field of a list's row, type, metavar, help
SETTINGS = (
    ("--recipe", "recipe", str, "R", "auto (default: measured), paper, or authors-2025"),
    ("--subset", "subset", str, "S", f"{SUBSETS} (default: by kind)"),
    ("--erase-from", "erase_from", str, "TEXT", "erase only from pictures of TEXT"),
    ("--negative-guidance", "negative_guidance", float, "F", "eta: how far to steer away"),
    ("--anchor", "anchor", str, "A", "what the target starts from: empty (default) or concept"),
    ("--iterations", "iterations", int, "N", "optimizer steps"),
    ("--lr", "learning_rate", float, "F", "Adam's learning rate"),
    ("--batch-size", "batch_size", int, "N", "points per optimizer step"),
    ("--seed", "seed", int, "N", "seeds rollouts and the order of points (default 0)"),
    ("--rollout-from", "rollout_from", str, "W", "frozen (default) or student: which weights sample x_t"),
    ("--sampler", "sampler", str, "S", "of the rollouts: auto (default), base, ddim, pndm, euler or dpm++"),
    ("--rollout-steps", "rollout_steps", int, "N", "sampler steps of a whole trajectory"),
    ("--start-guidance", "start_guidance", float, "F", "classifier-free guidance of the rollouts"),
    ("--points-per-rollout", "points_per_rollout", int, "N", "points kept of each trajectory"),
    ("--reuse", "reuse", int, "N", "how often each point is trained on"),
    ("--timestep-choice", "timestep_choice", str, "T", "sampler (default) or bucket: timestep given to the model"),
    ("--precision", "precision", str, "P", "auto (default), float32 or bfloat16"),
    ("--updates", "updates", str, "U", "master (default: float32 copies) or in-place, in the model's precision"),
)


def add(commands: Commands) -> None:
    parser = add_command(commands, "erase", "erase one concept and write the edited weights", EPILOG)
    parser.add_argument("concept", metavar="CONCEPT", help="the concept, as a prompt would name it")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.safetensors", help="where the weights go")
    add_base(parser)
    parser.add_argument("--kind", default="style", metavar="KIND", help="style (default), object or global")
    many: dict[str, Any] = {"action": "append", "default": [], "metavar": "TEXT"}
    parser.add_argument("--also-known-as", **many, help="another name, erased with it; may be given several times")
    parser.add_argument("--retain", **many, help="a prompt to keep as it is; may be given several times")
    parser.add_argument(
        "--suite",
        metavar="SUITE",
        help="its classifiers look at a few images before the erasure stops by itself: miniature, imagenette, artists, "
        "nudity, or a YAML file",
    )
    chosen = parser.add_argument_group("how it is erased")
    for option, field, kind, metavar, text in SETTINGS:
        chosen.add_argument(option, dest=field, type=kind, metavar=metavar, help=text)
    add_machine(parser)
    parser.set_defaults(command=erase)


def entry_from(arguments: argparse.Namespace) -> ConceptEntry:
    """The concept list row that these options spell; raises InvalidInput naming every bad one."""
    from pydantic import ValidationError

    from esd_core.concepts import ConceptEntry
    from esd_core.errors import InvalidInput
    from esd_core.faults import describe_faults

    settings = {field: getattr(arguments, field) for _, field, *_ in SETTINGS}
    given = {name: value for name, value in settings.items() if value is not None}
    lists = {"also_known_as": arguments.also_known_as, "retain": arguments.retain}
    row = {"name": arguments.concept, "kind": arguments.kind, **lists, **given}
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
    from esd_core.evaluation.suite import load_suite
    from tasks.nights.jobs import JobFiles, job_of
    from tasks.settings import get_settings

    settings = get_settings()
    suite = load_suite(arguments.suite) if arguments.suite else None
    job = job_of([entry], base, suite)
    folder = JobFiles.of(settings.jobs_folder, job).folder
    machine = machine_from(arguments, settings.machine)
    outcome = erase_job(job, base, folder, machine, banks=settings.banks_folder, suite=suite)
    with whole_file(arguments.out) as partial:
        shutil.copyfile(outcome.weights, partial)
    for tuned in outcome.tuned:
        print(tuned.sentence)
    print(f"cost: {outcome.forward_equivalents:,.0f} forward passes of one sample, {outcome.seconds:.0f} s")
    print(f"{arguments.out}: {job.name} erased with {job.method}, sha256 {outcome.weights_digest}")
    return 0
