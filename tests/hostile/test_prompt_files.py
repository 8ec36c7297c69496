"""Hostile prompt files, of `esd generate` and in I2P's format: refused with the line that is at fault."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esd_core.cases import read_cases
from esd_core.errors import InvalidInput
from esd_core.evaluation.suite import load_suite
from esd_core.studies.prompt_file import read_prompt_sets
from tests.hostile.refusals import QUICK, refused_in_one_line

HEADER = "case_number,prompt,evaluation_seed"

BAD_FILES: dict[str, tuple[str | bytes, str]] = {
    "a formula for a number": (f"{HEADER}\n=1+1,a house,1\n", "line 2: case_number"),
    "a command for a number": (f"{HEADER}\n=cmd|'/C calc'!A0,a house,1\n", "line 2: case_number"),
    "a formula for a prompt": (f'{HEADER}\n1,"=HYPERLINK(""http://x"")",1\n', "line 2: .* formula"),
    "a command for a prompt": (f"{HEADER}\n1,+cmd|' /C calc'!A0,1\n", "line 2: .* formula"),
    "a function for a prompt": (f"{HEADER}\n1,@SUM(A1:A9),1\n", "line 2: .* formula"),
    "a formula for a seed": (f"{HEADER}\n1,a house,=1\n", "line 2: evaluation_seed"),
    "a number that leaves the folder": (f"{HEADER}\n../../x,a house,1\n", "line 2: case_number"),
    "a number with a NUL": (f"{HEADER}\n1\0,a house,1\n", "line 2: case_number|not a CSV"),
    "a number of 10,000 characters": (f"{HEADER}\n{'1' * 10_000},a house,1\n", "line 2: case_number"),
    "a number in other digits": (f"{HEADER}\n٣,a house,1\n", "line 2: case_number"),
    "a prompt with a NUL": (f"{HEADER}\n1,a\0house,1\n", "line 2: .* control characters|not a CSV"),
    "a prompt with an escape": (f"{HEADER}\n1,a \x1b[31mhouse,1\n", "line 2: .* control characters"),
    "a prompt right to left": (f"{HEADER}\n1,a \u202eesuoh,1\n", "line 2: .* control characters"),
    "a prompt of 10,000 characters": (f"{HEADER}\n1,{'a' * 10_000},1\n", "line 2: .* more than 5000"),
    "a prompt of a megabyte": (f"{HEADER}\n1,{'a' * (1 << 20)},1\n", "not a CSV"),
    "quotes that do not end": (f'{HEADER}\n1,"a house,1\n', "line 2: fewer values"),
    "a seed that is none": (f"{HEADER}\n1,a house,many\n", "line 2: evaluation_seed"),
    "a seed below none": (f"{HEADER}\n1,a house,-1\n", "line 2: evaluation_seed"),
    "a seed of 5,000 digits": (f"{HEADER}\n1,a house,{'9' * 5000}\n", "line 2: evaluation_seed"),
    "a seed in other digits": (f"{HEADER}\n1,a house,٣\n", "line 2: evaluation_seed"),
    "too few values": (f"{HEADER}\n1,a house\n", "line 2: fewer values"),
    "a prompt with bare commas": (f"{HEADER}\n1,a house, a tree,1\n", "line 2: more values"),
    "a number twice": (f"{HEADER}\n1,a,1\n1,b,2\n", "case_number 1 stands there more than once"),
    "a column twice": (f"{HEADER},prompt\n1,a,1,b\n", "line 1: a column stands there twice"),
    "other columns": ("a,b\n1,2\n", "lacks the column case_number, prompt, evaluation_seed"),
    "no columns": ("", "lacks the column"),
    "no rows": (f"{HEADER}\n", "holds no prompts"),
    "semicolons": (f"{HEADER.replace(',', ';')}\n1;a;1\n", "lacks the column"),
    "Latin-1": (f"{HEADER}\n1,Caf\xe9,1\n".encode("latin-1"), "not a CSV file in UTF-8"),
    "UTF-16": (f"{HEADER}\n1,a,1\n".encode("utf-16"), "not a CSV file in UTF-8"),
    "half a character": (HEADER.encode() + b"\n1,a\xe2\x82,1\n", "not a CSV file in UTF-8"),
    "a spreadsheet": (b"PK\x03\x04" + bytes(range(256)), "not a CSV file in UTF-8"),
    "NULs": (b"\0" * 1000, "lacks the column|not a CSV"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_prompts_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    content, says = BAD_FILES[name]
    path = tmp_path / "prompts.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInput, match=says) as refusal:
        read_cases(path)
    told = str(refusal.value)
    assert str(path) in told
    assert told.isprintable()
    assert len(told) < 600


@pytest.mark.parametrize("place", ["/dev/zero", "/"])
def test_what_is_no_file_is_not_read(place: str) -> None:
    with pytest.raises(InvalidInput, match=f"cannot read prompts file {place}"):
        read_cases(Path(place))


@pytest.mark.parametrize("scale", ["=7", "nan", "inf", "-7", "0", "1e9", "seven", "7\0"])
def test_a_bad_guidance_scale_is_refused_with_its_line(tmp_path: Path, scale: str) -> None:
    suite, path = load_suite("miniature"), tmp_path / "i2p.csv"
    path.write_text(f"{HEADER},evaluation_guidance\n1,a,1,7\n2,b,2,{scale}\n")
    with pytest.raises(InvalidInput, match=r"line 3: evaluation_guidance .* from 1 to 30"):
        read_prompt_sets(path, suite, suite.probes[0], None)


def test_a_long_file_with_one_number_twice_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("".join([HEADER, "\n", *(f"{n % 99_999},a,1\n" for n in range(100_000))]))
    began = time.process_time()
    with pytest.raises(InvalidInput, match="case_number 0 stands there more than once"):
        read_cases(path)
    assert time.process_time() - began < 20  # looking for each number among all took hours


@QUICK
@given(content=st.binary(max_size=200), headed=st.booleans())
def test_no_bytes_make_reading_a_prompts_file_fail(tmp_path: Path, content: bytes, headed: bool) -> None:
    path = tmp_path / "prompts.csv"
    path.write_bytes(f"{HEADER}\n".encode() * headed + content)
    with refused_in_one_line():
        assert all(case.number and case.seed >= 0 for case in read_cases(path))


@QUICK
@given(cells=st.lists(st.text(max_size=20), min_size=3, max_size=4))
def test_no_cells_make_reading_a_prompts_file_fail(tmp_path: Path, cells: list[str]) -> None:
    path = tmp_path / "prompts.csv"
    quoted = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
    path.write_bytes(f"{HEADER}\n{quoted}\n".encode(errors="surrogatepass"))
    with refused_in_one_line():
        read_cases(path)
