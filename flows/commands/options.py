"""Options and argument shapes that several commands share."""

from __future__ import annotations

import argparse
from typing import Any, Protocol


class Commands(Protocol):
    """What argparse's add_subparsers returns; its class is private."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser: ...


def add_command(commands: Commands, name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
    """A subcommand whose help keeps the line breaks of its examples."""
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base",
        default="miniature",
        metavar="BASE",
        help="hub id pinned as owner/name@COMMIT, a diffusers folder, or miniature (default)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="D", help="auto, cpu, cuda, cuda:1, ... (default: ESD_DEVICE, else auto)")


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="registered model, as `esd status` names it")
    parser.add_argument("version", metavar="VERSION", type=int, help="its version number")
