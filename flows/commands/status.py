"""esd status."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flows.commands.options import add_command

if TYPE_CHECKING:
    from flows.commands.options import Commands

EPILOG = """\
One line per registered version: the concept, whether its gates passed, who approved it, and where it is published.

examples:
  esd status
  ESD_MLFLOW_TRACKING_URI=https://mlflow.example.org esd status
"""


def add(commands: Commands) -> None:
    parser = add_command(commands, "status", "every registered version: verdict, approval, release", EPILOG)
    parser.set_defaults(command=status)


def status(_: argparse.Namespace) -> int:
    from flows.embedded import embedded_storage
    from flows.tables import print_status
    from tasks.approvals import overview

    with embedded_storage():
        print_status(overview.status())
    return 0
