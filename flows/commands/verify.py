"""esd verify, esd fetch, esd keygen."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.options import add_command, add_trust, trust_from

if TYPE_CHECKING:
    from flows.commands.options import Commands
    from tasks.approvals.approval_log import ApprovalRecord
    from tasks.releases.manifest import Manifest
    from tasks.releases.verifying import Verified

VERIFY = """\
Checks the manifest and its signature, every file's size and SHA-256, the approvals, the weights' structure and numbers,
and that nothing else lies there; that the tensors' names are the base model's, if that is the bundled one or given with
--base; in S3 also the approval log. Loads no model, needs no torch. Exit code 0: nothing is wrong; 1: every fault on a
line of its own. A folder on disk without a signature that is checked is whole at best: whoever changed a file may have
changed its manifest, too.

examples:
  esd verify s3://esd-releases/releases/esd-miniature-van-gogh/1
  esd verify release --key team.pub --base CompVis/stable-diffusion-v1-4@COMMIT
"""
FETCH = """\
Downloads a release and verifies it: the current one of a model, or a version. What is there already is not fetched
again, and what was interrupted goes on. A withdrawn release is refused. Prints the folder.

examples:
  esd fetch esd-miniature-van-gogh
  esd fetch esd-miniature-van-gogh@1 --out release --key team.pub
"""
KEYGEN = """\
Makes a development key for signing releases: FILE (private, for you only) and FILE.pub (for those who verify). With
ESD_SIGNING_PASSWORD set, the private half is encrypted with it. Keep keys out of repositories.

example:
  esd keygen ~/.config/esd/signing.pem
  export ESD_SIGNING_KEY=~/.config/esd/signing.pem ESD_VERIFYING_KEY=~/.config/esd/signing.pem.pub
"""


def add(commands: Commands) -> None:
    parser = add_command(commands, "verify", "check a release, in S3 or downloaded, against its manifest", VERIFY)
    parser.add_argument("release", metavar="s3://...|DIR", help="release folder in S3 or on disk")
    add_trust(parser)
    parser.add_argument("--base", metavar="BASE", help="base model whose tensors the weights must fit")
    parser.set_defaults(command=verify)
    parser = add_command(commands, "fetch", "download a release, verified", FETCH)
    parser.add_argument("release", metavar="MODEL[@VERSION]|s3://...", help="which release")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to (default: the cache in ESD_HOME)")
    add_trust(parser)
    parser.set_defaults(command=fetch)
    parser = add_command(commands, "keygen", "make a development key for signing releases", KEYGEN)
    parser.add_argument("file", type=Path, metavar="FILE", help="where the private key goes")
    parser.set_defaults(command=keygen)


def verify(arguments: argparse.Namespace) -> int:
    from esd_core.yaml_text import printable
    from flows.embedded import storage_for
    from tasks.releases.verifying import examine

    with storage_for(arguments.release):
        found = examine(arguments.release, trust_from(arguments), arguments.base)
    for fault in found.faults:
        print(f"{arguments.release}: {printable(fault)}", file=sys.stderr)
    if not found.faults:
        whole = "whole and unaltered" if found.vouched_for else "whole, but nothing vouches for its manifest"
        print(f"{arguments.release}: {whole}", *_account(found), sep="\n  ")
    return 1 if found.faults else 0


def _account(found: Verified) -> list[str]:
    """What a release without faults is, who allowed it, and who says so, a line each."""
    from esd_core.yaml_text import printable
    from tasks.releases.verifying import Signed

    manifest = found.manifest
    assert manifest
    signed = {
        Signed.GOOD: f"by {found.signer}",
        Signed.UNCHECKED: "by somebody; to check by whom, add --key, --roots or --issuer",
        Signed.NOT: "by nobody",
    }
    log = f"says the same; this version is {found.standing.state.value}" if found.standing else "not asked: not in S3"
    lines = [
        ("model", f"{manifest.model} version {manifest.version}"),
        ("erased", f"{manifest.job.name}, from {manifest.job.base}, with {manifest.job.method}"),
        *([("code", f"esd-pipeline {manifest.code}")] if manifest.code else []),
        ("weights", f"SHA-256 {manifest.weights_digest}"),
        ("tensors", _tensors(found, manifest)),
        ("manifest", f"SHA-256 {found.manifest_digest}"),
        *(("approved", _approval(entry)) for entry in manifest.approvals),
        ("signed", signed[found.signed]),
        ("log", log),
    ]
    return [f"{name:9} {printable(value)}" for name, value in lines]


def _tensors(found: Verified, manifest: Manifest) -> str:
    """With whose names and shapes the weights' were compared; nothing but a base model at hand can tell."""
    from esd_core.concepts import MINIATURE

    if found.base is None and manifest.job.base == MINIATURE:
        return "names and shapes not compared: the bundled model is another one than the weights edit"
    if found.base is None:
        return f"names and shapes not compared with {manifest.job.base}'s: add --base {manifest.job.base}"
    return f"names and shapes are those of {found.base}"


def _approval(entry: ApprovalRecord) -> str:
    against = ", although a gate was not passed" if entry.override else ""
    return f"by {entry.by} on {entry.at:%Y-%m-%d}, entry {entry.entry}{against}: {entry.reason}"


def fetch(arguments: argparse.Namespace) -> int:
    from flows.embedded import embedded_storage
    from tasks.releases import fetching

    with embedded_storage():
        folder = fetching.fetch(arguments.release, arguments.out, trust_from(arguments), progress=sys.stderr.isatty())
    print(folder)
    return 0


def keygen(arguments: argparse.Namespace) -> int:
    from tasks.releases import signing
    from tasks.settings import get_settings

    password = get_settings().signing_password
    public = signing.make_key(arguments.file.expanduser(), password.get_secret_value() if password else None)
    print(
        f"{arguments.file}: private, sign with it (ESD_SIGNING_KEY)\n{public}: public, hand it out (ESD_VERIFYING_KEY)"
    )
    return 0
