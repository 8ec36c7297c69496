"""Options and argument shapes that several commands share."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from esd_core.machine import Machine
    from tasks.releases.trust import Trust


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


def add_device(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--device", metavar="D", help="auto, cpu, cuda, cuda:1, ... (default: ESD_DEVICE, else auto)")


def add_machine(parser: argparse.ArgumentParser) -> None:
    """How the work is done here; what is not given is as the settings say."""
    group = parser.add_argument_group("this machine")
    add_device(group)
    group.add_argument("--gradient-checkpointing", action="store_true", help="less memory, a third more time")
    group.add_argument("--compile", action="store_true", help="torch.compile: minutes first, faster afterwards")
    group.add_argument("--channels-last", action="store_true", help="memory layout that convolutions on GPUs prefer")


def machine_from(arguments: argparse.Namespace, configured: Machine) -> Machine:
    """The settings' machine with what these options change."""
    names = ("device", "gradient_checkpointing", "compile", "channels_last")
    return replace(configured, **{name: getattr(arguments, name) for name in names if getattr(arguments, name)})


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="registered model, as `esd status` names it")
    parser.add_argument("version", metavar="VERSION", type=int, help="its version number")


def add_decision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", required=True, metavar="NAME", help="who decides")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why")


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Who must have signed; where nobody is named, whom the settings name."""
    group = parser.add_argument_group("who must have signed (default: ESD_VERIFYING_...)")
    group.add_argument("--key", type=Path, metavar="PUB", help="the owner of this public key")
    group.add_argument("--roots", type=Path, metavar="PEM", help="somebody with a certificate under these roots")
    group.add_argument("--identity", metavar="WHO", help="whom the certificate must name, or who Sigstore must know")
    group.add_argument("--issuer", metavar="URL", help="with Sigstore: who must have vouched for that identity")


def trust_from(arguments: argparse.Namespace) -> Trust | None:
    """Who must have signed, as these options say; None where they say nothing."""
    from tasks.releases.trust import Trust
    from tasks.settings import get_settings

    given = {name: getattr(arguments, name) for name in ("key", "roots", "identity", "issuer")}
    return Trust(**given, sigstore=get_settings().sigstore_trust) if any(given.values()) else None
