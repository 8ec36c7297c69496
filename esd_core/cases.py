"""Prompts files: prompts with seeds of their own, as CSV, from disk or from a data set on the hub.

The columns are those of the paper's code: case_number, prompt, evaluation_seed, and, if it likes, evaluation_guidance.
I2P (AIML-TUDA/i2p) calls the last two sd_seed and sd_guidance_scale and numbers no rows; that is read too.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esd_core.errors import InvalidInput

COLUMNS = ("case_number", "prompt", "evaluation_seed")
GUIDANCE = "evaluation_guidance"
I2P = {"sd_seed": "evaluation_seed", "sd_guidance_scale": GUIDANCE}
DATA_SET = re.compile(r"[\w.-]+/[\w.-]+(?<!\.csv)(@\S*)?")  # what is meant to be one, pinned or not
HUB_FILE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<commit>[0-9a-f]{40})/(?P<file>[\w./-]+\.csv)")
LONGEST = 5000  # characters of a prompt
FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # and what turns text around
FORMULA = re.compile(r"\s*(=|[+@-]\w*[(|!])")  # what a spreadsheet that opens the file would run


@dataclass(frozen=True)
class Case:
    """A row of a prompts file. guidance: as it is written, empty where the file gives none; where: for messages."""

    number: str
    prompt: str
    seed: int
    guidance: str = ""
    where: str = ""


def prompts_file(given: str) -> Path:
    """The path of a file, or of `owner/name@commit/FILE.csv` what that data set of the hub holds, fetched once.

    Raises InvalidInput when the hub does not answer, or what is neither a file nor pinned looks like a data set.
    """
    path, match = Path(given), HUB_FILE.fullmatch(given)
    if path.exists() or not DATA_SET.fullmatch(given):
        return path
    if match is None:
        raise InvalidInput(
            f"prompts file {given!r} is not here, and as a data set of the hub it is not pinned: "
            "write owner/name@ with the 40 hex digits of a commit, and /FILE.csv"
        )
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(match["repo"], match["file"], revision=match["commit"], repo_type="dataset"))
    except Exception as e:  # the hub client raises a dozen unrelated types: network, auth, missing, disk
        first_line = (str(e).splitlines() or [""])[0]
        raise InvalidInput(f"cannot fetch {given} from the hub: {type(e).__name__}: {first_line}") from e


def read_cases(path: Path) -> list[Case]:
    """Read a prompts file; raises InvalidInput with the line number of the first fault."""
    if path.exists() and not path.is_file():
        raise InvalidInput(f"cannot read prompts file {path}: it is no file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as f:
            cases = [_case(f"{path} line {line}", row) for line, row in _rows(path, csv.DictReader(f))]
    except OSError as e:
        raise InvalidInput(f"cannot read prompts file {path}: {e.strerror}") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise InvalidInput(f"{path} is not a CSV file in UTF-8: {e}") from e
    if not cases:
        raise InvalidInput(f"{path} holds no prompts: add rows below {','.join(COLUMNS)}")
    twice = [number for number, count in Counter(case.number for case in cases).items() if count > 1]
    if twice:
        raise InvalidInput(f"{path}: case_number {twice[0]} stands there more than once; numbers name the image files")
    return cases


def _rows(path: Path, reader: csv.DictReader[str]) -> Iterator[tuple[int, dict[str | Any, str | Any]]]:
    """Rows under our names of the columns, each with its line."""
    given = list(reader.fieldnames or ())
    as_i2p = "sd_seed" in given and not {"case_number", "evaluation_seed"} & set(given)
    names = [I2P.get(name, name) for name in given] if as_i2p else given
    missing = [column for column in COLUMNS if column not in names and not (as_i2p and column == "case_number")]
    if missing:
        raise InvalidInput(f"{path} lacks the column {', '.join(missing)}: expected {', '.join(COLUMNS)}")
    if len(set(names)) < len(names):
        raise InvalidInput(f"{path} line 1: a column stands there twice: {', '.join(given)[:200]}")
    reader.fieldnames = names
    for number, row in enumerate(reader):
        yield reader.line_num, ({"case_number": str(number)} if as_i2p else {}) | row


def _case(where: str, row: dict[str | Any, str | Any]) -> Case:
    number, prompt, seed = (row[column] for column in COLUMNS)
    if number is None or prompt is None or seed is None:
        raise InvalidInput(f"{where}: fewer values than columns")
    if None in row:
        raise InvalidInput(f"{where}: more values than columns: put quotes around a prompt with commas")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", number.strip()):
        raise InvalidInput(f"{where}: case_number {number[:100]!r} must be a number: it names the image files")
    if not re.fullmatch(r"[0-9]{1,18}", seed.strip()):
        raise InvalidInput(f"{where}: evaluation_seed {seed[:100]!r} must be a whole number of at least 0")
    if FORMULA.match(prompt):
        raise InvalidInput(f"{where}: the prompt {prompt[:40]!r} is a spreadsheet's formula: write a prompt")
    if FORBIDDEN.search(prompt) or len(prompt) > LONGEST:
        raise InvalidInput(
            f"{where}: the prompt {prompt[:40]!r} has control characters, or more than {LONGEST} characters: correct it"
        )
    return Case(number.strip(), prompt, int(seed), (row.get(GUIDANCE) or "").strip(), where)
