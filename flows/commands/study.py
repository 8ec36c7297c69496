"""esd study."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.options import add_base, add_command, add_machine, machine_from

if TYPE_CHECKING:
    from flows.commands.options import Commands

EPILOG = """\
The experiments of the paper (Gandikota et al., ICCV 2023), each on any base: what is erased is measured with the base
and without the concept at the same prompts and seeds, every rate with a 95 % interval. Writes DIR/study.html (one file
with everything in it), DIR/study.json, and a PNG for each chart. Erasures and images that any earlier run has made are
found and used; an interrupted study continues with the same command.

examples:
  esd study objects --out objects                        each object class erased in turn, and all the others
  esd study styles --out styles                          the interference matrix of the artists
  esd study implied --out implied                        prompts that never name the concept
  esd study eta --out eta --etas 1 3 10                  efficacy against interference, from one score bank
  esd study generality --concepts house --also-known-as cottage --out generality
  esd study baselines --concepts sun --out baselines     negative prompt, Safe Latent Diffusion, ESD-x, ESD-u
  esd study quality --concepts "Van Gogh" --out quality   FID, KID and CLIP score of everything else
  esd study objects --base CompVis/stable-diffusion-v1-4@COMMIT --suite imagenette --images 500 --out objects
"""
# protocol, what it is, its own options, example
PROTOCOLS = (
    (
        "objects",
        "each class erased in turn: the erased class and the others",
        ("--others",),
        "esd study objects --out objects",
    ),
    (
        "styles",
        "the interference matrix: rows erased, columns prompted",
        ("--others",),
        "esd study styles --out styles",
    ),
    (
        "implied",
        "prompts that never name the concept, against guidance",
        ("--kind", "--prompts"),
        "esd study implied --base BASE --suite nudity --prompts AIML-TUDA/i2p@COMMIT/i2p_benchmark.csv --out implied",
    ),
    (
        "eta",
        "efficacy against interference at several eta, from one score bank",
        ("--others", "--kind", "--etas", "--iterations", "--lr"),
        "esd study eta --concepts car --etas 1 2 3 5 10 --out eta",
    ),
    (
        "generality",
        "synonyms, paraphrases, and near neighbours",
        ("--others", "--kind", "--also-known-as", "--neighbours"),
        'esd study generality --concepts "Van Gogh" --also-known-as "Vincent van Gogh" --out generality',
    ),
    (
        "baselines",
        "negative prompt, Safe Latent Diffusion, another checkpoint, ESD-x and ESD-u",
        ("--others", "--kind", "--against"),
        'esd study baselines --concepts "Van Gogh" --against other.safetensors --out baselines',
    ),
    (
        "quality",
        "FID, KID, CLIP score and distance at equal seeds, of all that is not the concept",
        ("--others", "--kind", "--prompts", "--real"),
        'esd study quality --concepts "Van Gogh" --prompts coco.csv --real coco-images --out quality',
    ),
)
# argument, field of the request, type, several, metavar, help
OPTIONS: dict[str, tuple[str, Any, bool, str, str]] = {
    "--others": ("others", int, False, "N", "images of each other probe (12)"),
    "--kind": ("kind", str, False, "KIND", "style, object or global, where the suite does not say it"),
    "--prompts": (
        "prompts",
        str,
        False,
        "FILE.csv",
        "I2P's format, all rows: a file, or owner/name@commit/FILE.csv on the hub (default: the suite's prompts)",
    ),
    "--real": ("real", Path, False, "FOLDER", "real images to compare with (default: the base's own at other seeds)"),
    "--etas": ("etas", float, True, "F", "values of negative guidance (1 3 10)"),
    "--iterations": ("iterations", int, False, "N", "steps (default: those of the tuned erasure)"),
    "--lr": ("learning_rate", float, False, "F", "learning rate (default: that of the tuned erasure)"),
    "--also-known-as": ("also_known_as", str, True, "NAME", "other names of the concept"),
    "--neighbours": ("neighbours", str, True, "NAME", "concepts of the suite (default: nearest in the text encoder)"),
    "--against": ("against", str, False, "MODEL", "another base, or a weights file of `esd erase`"),
}


def add(commands: Commands) -> None:
    parser = add_command(commands, "study", "the paper's experiments: tables, charts, one report", EPILOG)
    protocols = parser.add_subparsers(title="protocols", metavar="PROTOCOL", required=True, parser_class=type(parser))
    for name, summary, options, example in PROTOCOLS:
        protocol = add_command(protocols, name, summary, f"example:\n  {example}\n")
        protocol.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the study")
        add_base(protocol)
        protocol.add_argument(
            "--suite",
            default="miniature",
            metavar="SUITE",
            help="a YAML file, or miniature (default), imagenette, artists, nudity",
        )
        protocol.add_argument("--images", type=int, metavar="N", help="images of each probe of an erased concept (24)")
        protocol.add_argument("--concepts", nargs="+", metavar="NAME", help="default: as the suite lists them by kind")
        for option in options:
            field, kind, several, metavar, text = OPTIONS[option]
            nargs = "+" if several else None
            protocol.add_argument(option, dest=field, type=kind, nargs=nargs, metavar=metavar, help=text)
        add_machine(protocol)
        protocol.set_defaults(command=study, protocol=name)


def study(arguments: argparse.Namespace) -> int:
    from esd_core.studies.request import StudyRequest, checked_request

    given = {name: getattr(arguments, name, None) for name in StudyRequest.model_fields}
    request = checked_request({name: value for name, value in given.items() if value is not None})

    from esd_core.studies.writing import PAGE, check_folder
    from flows.tables import print_study
    from tasks.settings import get_settings

    check_folder(arguments.out)

    from esd_core.studies.protocols import run
    from esd_core.studies.workbench import Folders

    settings = get_settings()
    folders = Folders(settings.jobs_folder, settings.banks_folder, settings.cache_folder)
    found = run(request, arguments.out, folders, machine_from(arguments, settings.machine))
    print_study(found)
    print(f"the same with charts and pictures: {arguments.out / PAGE}")
    return 0
