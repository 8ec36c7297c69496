"""esd run."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.options import add_command

if TYPE_CHECKING:
    from esd_core.concept_list import ConceptList
    from flows.commands.options import Commands
    from tasks.nights.night import Night

MOST_RUNNERS = 64  # as the form has it
EPILOG = """\
Erases what is new or changed on the list, measures it, registers it, approves it by the list's policy and publishes
what is approved. What is registered already is not done again, and a run that was killed continues where it stopped.
Exit code 1: some concept failed; the others are finished all the same.

examples:
  esd run infra/lists/demo.yaml --dry-run     only the plan: new, changed, unchanged, retired
  esd run infra/lists/demo.yaml               the night, here and now, with embedded parts
  esd run infra/lists/demo.yaml --force       all of it again, also what is unchanged
  esd run s3://BUCKET/concepts.yaml --runners 4     the work dealt to the runners of `make up`, or of PREFECT_API_URL
  PREFECT_API_URL=https://prefect.example.org/api ESD_S3_ENDPOINT_URL=aws esd run concepts.yaml
"""


def add(commands: Commands) -> None:
    parser = add_command(commands, "run", "run the nightly job here and now", EPILOG)
    parser.add_argument("list", metavar="LIST.yaml", help="the concept list: a path, or s3://BUCKET/KEY")
    parser.add_argument("--force", action="store_true", help="do everything again, also what is unchanged")
    parser.add_argument(
        "--runners",
        metavar="N",
        type=runner_count,
        default=1,
        help="deal the work to N runs on the GPU work pool; 1 (default) does it here",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan and change nothing")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    wanted = _read(arguments.list)
    _say("planning ...")
    from flows.tables import print_plan
    from tasks.nights.plan import plan_tonight

    plan = plan_tonight(wanted, force=arguments.force)
    print_plan(plan)
    if arguments.dry_run:
        return 0
    night = _run_night(wanted, arguments.runners, arguments.force)
    _sum_up(night)
    return 1 if night.failed else 0


def runner_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_RUNNERS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {MOST_RUNNERS}")
    return int(text)


def _read(reference: str) -> ConceptList:
    if not reference.startswith("s3://"):
        from esd_core.list_file import load_concept_list

        return load_concept_list(Path(reference), measured=True)
    from flows.embedded import storage_for
    from tasks.nights.lists import read_list

    with storage_for(reference):
        return read_list(reference)


def _run_night(wanted: ConceptList, runners: int, force: bool) -> Night:
    from flows.embedded import embedded_prefect, embedded_storage
    from tasks.s3.storage import open_bucket

    _say("starting S3 and Prefect ...")
    with embedded_storage():
        open_bucket().check()
        with embedded_prefect():
            return _ended_night(wanted, runners, force)


def _ended_night(wanted: ConceptList, runners: int, force: bool) -> Night:
    from flows.nightly import nightly_erasure, parameters
    from tasks.nights.night import night_of

    _show_progress()
    state = nightly_erasure(**parameters(wanted), runners=runners, force=force, return_state=True)
    return night_of(state)


def _sum_up(night: Night) -> None:
    from flows.tables import print_night

    print_night(night)
    print(f"report  {night.report}")
    print("UIs     `make up` starts Prefect, MLflow and S3 with everything above in them")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show_progress() -> None:
    """Let the steps' own lines through to the terminal."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    for name in ("tasks", "flows", "esd_core"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
