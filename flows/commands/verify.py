"""esd verify."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from flows.commands.options import add_command

if TYPE_CHECKING:
    from flows.commands.options import Commands

EPILOG = """\
Checks the manifest, every file's size and SHA-256, the weights' header, and that nothing else lies in the folder.
Loads no model. Exit code 0: whole and unaltered; 1: every fault on a line of its own.

examples:
  esd verify s3://esd-releases/releases/esd-miniature-van-gogh/1
  aws s3 cp --recursive s3://esd-releases/releases/esd-miniature-van-gogh/1 release && esd verify release
"""


def add(commands: Commands) -> None:
    parser = add_command(commands, "verify", "check a release, in S3 or downloaded, against its manifest", EPILOG)
    parser.add_argument("release", metavar="s3://...|DIR", help="release folder in S3 or on disk")
    parser.set_defaults(command=verify)


def verify(arguments: argparse.Namespace) -> int:
    from flows.embedded import storage_for
    from tasks import release

    with storage_for(arguments.release):
        faults = release.verify(arguments.release)
    for fault in faults:
        print(f"{arguments.release}: {fault}", file=sys.stderr)
    if not faults:
        print(f"{arguments.release}: whole and unaltered")
    return 1 if faults else 0
