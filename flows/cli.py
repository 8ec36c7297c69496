"""The `esd` command: what people type.

This module and flows/commands import only the standard library at their top, so that --help answers at once;
each command imports what it needs when it runs. Exit codes: 0 done, 1 done but something failed (a concept, a
verification), 2 refused with one line that says what to do, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from flows.commands import (
    approve,
    audit,
    erase,
    export,
    generate,
    human_study,
    import_,
    release,
    run,
    status,
    study,
    verify,
)

REFUSED = 2
INTERRUPTED = 130

EXAMPLES = """\
examples:
  esd run infra/lists/demo.yaml --dry-run                 what tonight's run would do
  esd run infra/lists/demo.yaml                           do it here and now
  esd erase "Van Gogh" --out van-gogh.safetensors         one erasure, only the weights
  esd status                                              every version, its verdict, approval and release
  esd approve esd-miniature-van-gogh 1 --by Ada --reason "grid looked at"
  esd publish esd-miniature-van-gogh 1
  esd fetch esd-miniature-van-gogh                        the current release, verified

`esd COMMAND --help` teaches each command with examples. Settings come from ESD_* variables; see the README.
"""


class Parser(argparse.ArgumentParser):
    """Faults in one line, without the usage block."""

    def error(self, message: str) -> NoReturn:
        self.exit(REFUSED, f"esd: {message}; see `{self.prog} --help`\n")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="esd",
        description="Erase concepts from diffusion models: measured, gated, registered, approved, published.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for group in (run, erase, generate, study, human_study, export, import_, approve, release, verify, audit, status):
        group.add(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code. Every refusal is one line on stderr."""
    arguments = build_parser().parse_args(argv)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # stderr belongs to our own lines
    from esd_core.errors import EsdError

    try:
        return int(arguments.command(arguments))
    except EsdError as e:
        from esd_core.yaml_text import printable

        print(f"esd: {printable(' '.join(str(e).split()))}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("esd: interrupted; the same command continues where it stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, `head` for instance, has gone
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
