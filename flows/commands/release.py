"""esd publish, esd rollback, esd withdraw."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flows.commands.options import add_command, add_decision, add_version

if TYPE_CHECKING:
    from flows.commands.options import Commands

PUBLISH = """\
Checks the approvals and every digest again, uploads the files and, last, the manifest, signed if ESD_SIGNING_KEY is
set; then latest.json names the version. Publishing again changes nothing; what was interrupted is completed.

example:
  esd publish esd-miniature-van-gogh 1
"""
ROLLBACK = """\
Verifies an earlier release and lets latest.json name it again. The version it replaces counts as superseded.

example:
  esd rollback esd-miniature-van-gogh 1 --by "Ada Lovelace" --reason "version 2 draws grey skies"
"""
WITHDRAW = """\
Takes a release back: latest.json goes if it names it, `esd fetch` refuses it and says why. Its objects stay.

example:
  esd withdraw esd-miniature-van-gogh 2 --by "Ada Lovelace" --reason "a paraphrase brings the style back"
"""


def add(commands: Commands) -> None:
    for name, summary, epilog, command in (
        ("publish", "publish an approved version to S3", PUBLISH, publish),
        ("rollback", "let an earlier release be the current one again", ROLLBACK, rollback),
        ("withdraw", "take a release back", WITHDRAW, withdraw),
    ):
        parser = add_command(commands, name, summary, epilog)
        add_version(parser)
        if command is publish:
            parser.add_argument("--by", metavar="NAME", help="who publishes (default: this account)")
        else:
            add_decision(parser)
        parser.set_defaults(command=command)


def publish(arguments: argparse.Namespace) -> int:
    from flows.embedded import embedded_storage
    from tasks.releases import release

    with embedded_storage():
        published = release.publish(arguments.model, arguments.version, arguments.by)
    print(
        f"{arguments.model} {arguments.version}: published at {published.uri}; check it with "
        f"`esd verify {published.uri}`"
    )
    return 0


def rollback(arguments: argparse.Namespace) -> int:
    from flows.embedded import embedded_storage
    from tasks.approvals import lifecycle

    with embedded_storage():
        uri = lifecycle.rollback(arguments.model, arguments.version, arguments.by, arguments.reason)
    print(f"{arguments.model} {arguments.version}: released again, at {uri}")
    return 0


def withdraw(arguments: argparse.Namespace) -> int:
    from flows.embedded import embedded_storage
    from tasks.approvals import lifecycle

    with embedded_storage():
        record = lifecycle.withdraw(arguments.model, arguments.version, arguments.by, arguments.reason)
    print(
        f"{record.model} {record.version}: withdrawn by {record.by}; its objects stay, nobody is led to them any more"
    )
    return 0
