"""esd human-study."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.options import add_command

if TYPE_CHECKING:
    from flows.commands.options import Commands

LOOPBACK = "127.0.0.1"
EPILOG = """\
People see works by an artist and, beside them, an image: another real work, one by a similar artist, or one that a
model drew. They say how confident they are that the same artist made it, from 1 to 5, and never learn what made it.

example:
  esd human-study make study.yaml --out study     copy the images under names that say nothing
  esd human-study serve study                     show the page on http://127.0.0.1:8600
  esd human-study results study                   mean ratings by method, with intervals
"""
MAKE_EPILOG = """\
STUDY.yaml, whose folders are relative to it:
  title: Van Gogh and Monet
  prompts: prompts.csv          of `esd generate`, with one more column: artist
  works: works                  real works, a folder for each artist: works/Van Gogh/*.jpg
  similar: similar              optional: works of an artist who resembles them, in similar/Van Gogh
  original: before              images of the prompts by the original model
  methods:                      the same files, drawn so that an artist is erased
    - {name: ESD-x, erased: Van Gogh, images: esd-x}
    - {name: negative prompt, erased: Van Gogh, images: negative}
  references: 5                 works beside each image (5)
  trials_per_participant: 60    by default all images; the methods get equal shares
  seed: 0                       which works stand beside which image

example:
  esd generate --prompts prompts.csv --out before
  esd generate --prompts prompts.csv --out esd-x --weights van-gogh.safetensors
  esd human-study make study.yaml --out study
"""
SERVE_EPILOG = """\
Answers are appended to DIR/answers.jsonl as they are given; who comes back under the same name continues.

example:
  esd human-study serve study
  esd human-study serve study --address 0.0.0.0      for phones in the same network: there is no password
"""
RESULTS_EPILOG = """\
Prints the table, and writes DIR/results.json and DIR/results.html. May be asked for while people are still answering.

example:
  esd human-study results study
"""


def add(commands: Commands) -> None:
    parser = add_command(commands, "human-study", "let people rate images, blind, as in the paper's user study", EPILOG)
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True, parser_class=type(parser))
    step = add_command(steps, "make", "make a study from folders of images", MAKE_EPILOG)
    step.add_argument("file", type=Path, metavar="STUDY.yaml", help="which folders hold whose images")
    step.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the study")
    step.set_defaults(command=make)
    step = add_command(steps, "serve", "show a study as a web page, until Ctrl-C", SERVE_EPILOG)
    step.add_argument("folder", type=Path, metavar="DIR", help="folder of the study")
    step.add_argument("--port", type=int, default=8600, metavar="N", help="port (8600); 0 takes a free one")
    step.add_argument("--address", default=LOOPBACK, metavar="A", help=f"address to listen on ({LOOPBACK})")
    step.set_defaults(command=serve)
    step = add_command(steps, "results", "mean ratings by method, with confidence intervals", RESULTS_EPILOG)
    step.add_argument("folder", type=Path, metavar="DIR", help="folder of the study")
    step.set_defaults(command=results)


def make(arguments: argparse.Namespace) -> int:
    from infra.human_study.definition import read_definition
    from infra.human_study.make import make_study

    study = make_study(read_definition(arguments.file), arguments.out)
    print(f"{arguments.out}: {len(study.trials)} images, {study.trials_per_participant} for each participant")
    for question, method in study.groups:
        count = sum((trial.question, trial.method) == (question, method) for trial in study.trials)
        print(f"  {question:<14}{method:<24}{count}")
    print(f"`esd human-study serve {arguments.out}` shows it")
    return 0


def serve(arguments: argparse.Namespace) -> int:
    from infra.human_study.server import listen
    from infra.human_study.server import serve as serve_until_interrupted
    from infra.human_study.study import ANSWERS, read_study

    study = read_study(arguments.folder)
    listening = listen(arguments.address, arguments.port)
    if arguments.address not in (LOOPBACK, "localhost"):
        print(
            f"esd: {arguments.address} can be reached from other machines, without password or encryption: "
            "only for a network whose people you trust",
            file=sys.stderr,
        )
    with suppress(KeyboardInterrupt):
        print(f"{study.title}: {study.trials_per_participant} of {len(study.trials)} images for each participant")
        print(f"answers go to {arguments.folder / ANSWERS}")
        print(f"http://{arguments.address}:{listening.getsockname()[1]}   (Ctrl-C stops it)", flush=True)
        serve_until_interrupted(arguments.folder, listening)
    return 0


def results(arguments: argparse.Namespace) -> int:
    from flows.tables import print_human_study
    from infra.human_study.results import read_results, write_results

    found = read_results(arguments.folder)
    page = write_results(arguments.folder, found)
    print_human_study(found)
    print(f"the same with charts: {page}")
    return 0
