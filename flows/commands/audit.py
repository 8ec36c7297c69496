"""esd audit."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from flows.commands.options import add_command, add_trust, trust_from

if TYPE_CHECKING:
    from flows.commands.options import Commands
    from tasks.approvals.audit import Audit

EPILOG = """\
Compares registry, artifacts, S3 and the approval log with each other and makes every digest again: tags edited by hand,
aliases and pointers moved without a record, objects missing or changed, releases without approval, approvals of other
weights. Changes nothing. Exit code 0: everything agrees; 1: each disagreement on a line of its own.

examples:
  esd audit
  esd audit --key team.pub
"""


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "audit", "compare registry, S3 and the approval log, and list what disagrees", EPILOG
    )
    add_trust(parser)
    parser.set_defaults(command=audit)


def audit(arguments: argparse.Namespace) -> int:
    from esd_core.yaml_text import printable
    from flows.embedded import embedded_storage
    from tasks.approvals.audit import audit as compare

    with embedded_storage():
        found = compare(trust_from(arguments))
    for disagreement in found.disagreements:
        print(printable(disagreement.sentence), file=sys.stderr)
    count = len(found.disagreements)
    print(f"looked at {_looked_at(found)}: {_counted(count, 'disagreement') if count else 'everything agrees'}")
    return 1 if count else 0


def _looked_at(found: Audit) -> str:
    versions = _counted(found.versions, "version")
    if found.entries is None:
        return f"{versions}, but at no release: the approval log is broken"
    signed = ", ".join(f"{number} {how.value}" for how, number in sorted(found.releases.items()))
    releases = _counted(sum(found.releases.values()), "release") + (f" ({signed})" if signed else "")
    return f"{versions}, {releases} and {found.entries} entries of the approval log"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
