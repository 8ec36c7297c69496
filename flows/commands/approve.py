"""esd approve, esd reject, esd publish."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flows.commands.options import add_command, add_version

if TYPE_CHECKING:
    from flows.commands.options import Commands

APPROVE = """\
Adds an entry to the append-only approval log: who, when, why, and the digest of the weights that were judged.

example:
  esd approve esd-miniature-van-gogh 1 --by "Ada Lovelace" --reason "looked at the grid, neighbours are intact"
"""
REJECT = """\
A rejected version is never published.

example:
  esd reject esd-miniature-house 2 --by "Ada Lovelace" --reason "churches have lost their towers"
"""
PUBLISH = """\
Checks the approval record and every digest again, uploads the files and, last, the manifest. Publishing again
changes nothing.

example:
  esd publish esd-miniature-van-gogh 1
"""


def add(commands: Commands) -> None:
    for name, summary, epilog, command in (
        ("approve", "approve a registered version for publication", APPROVE, approve),
        ("reject", "reject a registered version", REJECT, reject),
    ):
        parser = add_command(commands, name, summary, epilog)
        add_version(parser)
        parser.add_argument("--by", required=True, metavar="NAME", help="who decides")
        parser.add_argument("--reason", required=True, metavar="TEXT", help="why")
        parser.set_defaults(command=command)
    parser = add_command(commands, "publish", "publish an approved version to S3", PUBLISH)
    add_version(parser)
    parser.set_defaults(command=publish)


def approve(arguments: argparse.Namespace) -> int:
    from esd_core.concepts import ApprovalPolicy
    from flows.embedded import embedded_storage
    from tasks import approval

    with embedded_storage():
        record = approval.approve(
            arguments.model, arguments.version, arguments.by, arguments.reason, ApprovalPolicy.MANUAL
        )
    print(
        f"{record.model} {record.version}: approved by {record.by}; publish it with "
        f"`esd publish {record.model} {record.version}`"
    )
    return 0


def reject(arguments: argparse.Namespace) -> int:
    from flows.embedded import embedded_storage
    from tasks import approval

    with embedded_storage():
        record = approval.reject(arguments.model, arguments.version, arguments.by, arguments.reason)
    print(f"{record.model} {record.version}: rejected by {record.by}")
    return 0


def publish(arguments: argparse.Namespace) -> int:
    from flows.embedded import embedded_storage
    from tasks import release

    with embedded_storage():
        published = release.publish(arguments.model, arguments.version)
    print(
        f"{arguments.model} {arguments.version}: published at {published.uri}; check it with "
        f"`esd verify {published.uri}`"
    )
    return 0
