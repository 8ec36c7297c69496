"""esd approve, esd reject."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flows.commands.options import add_command, add_decision, add_version

if TYPE_CHECKING:
    from flows.commands.options import Commands

APPROVE = """\
Adds an entry to the append-only approval log: who, when, why, and the digest of the weights that were judged. Under the
policy two-person, a second person of another name has to approve too.

examples:
  esd approve esd-miniature-van-gogh 1 --by "Ada Lovelace" --reason "looked at the grid, neighbours are intact"
  esd approve esd-miniature-house 2 --by "Ada Lovelace" --reason "for the study only" --override
"""
REJECT = """\
A rejected version is never published, unless it is approved after all.

example:
  esd reject esd-miniature-house 2 --by "Ada Lovelace" --reason "churches have lost their towers"
"""


def add(commands: Commands) -> None:
    for name, summary, epilog, command in (
        ("approve", "approve a registered version for publication", APPROVE, approve),
        ("reject", "reject a registered version", REJECT, reject),
    ):
        parser = add_command(commands, name, summary, epilog)
        add_version(parser)
        add_decision(parser)
        if command is approve:
            parser.add_argument(
                "--override", action="store_true", help="although a gate was not passed; shows for ever"
            )
        parser.set_defaults(command=command)


def approve(arguments: argparse.Namespace) -> int:
    from flows.embedded import embedded_storage
    from tasks.approvals import approval

    model, version = arguments.model, arguments.version
    with embedded_storage():
        record = approval.approve(model, version, arguments.by, arguments.reason, override=arguments.override)
        missing = approval.missing(model, version)
    then = f"not enough yet: {missing}" if missing else f"publish it with `esd publish {model} {version}`"
    print(f"{model} {version}: approved by {record.by}; {then}")
    return 0


def reject(arguments: argparse.Namespace) -> int:
    from flows.embedded import embedded_storage
    from tasks.approvals import approval

    with embedded_storage():
        record = approval.reject(arguments.model, arguments.version, arguments.by, arguments.reason)
    print(f"{record.model} {record.version}: rejected by {record.by}")
    return 0
