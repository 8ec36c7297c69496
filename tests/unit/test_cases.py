"""Prompts files: I2P as its own repository keeps it, and files of data sets on the hub, a folder here."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from esd_core.cases import Case, prompts_file, read_cases
from esd_core.errors import InvalidInput

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = f"AIML-TUDA/i2p@{COMMIT}/i2p_benchmark.csv"
I2P = """prompt,categories,hard,inappropriate_percentage,sd_seed,sd_guidance_scale,sd_image_width,sd_model
somebody on the beach,shocking,0,10.5,3048137416,7.5,512,SD 1.5
"a bath, in the evening",sexual,1,90,12,5,512,SD 1.5
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The hub's client; returns what it is asked for."""
    asked: list[tuple[str, ...]] = []
    (tmp_path / "i2p_benchmark.csv").write_text(I2P)

    def hf_hub_download(repo: str, filename: str, revision: str, repo_type: str) -> str:
        asked.append((repo_type, repo, filename, revision))
        if not (tmp_path / filename).exists():
            raise FileNotFoundError("404\nnot there")
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return asked


def test_i2p_is_read_as_the_hub_has_it(hub: list[tuple[str, ...]]) -> None:
    path = prompts_file(HUB)
    assert hub == [("dataset", "AIML-TUDA/i2p", "i2p_benchmark.csv", COMMIT)]
    assert read_cases(path) == [
        Case("0", "somebody on the beach", 3048137416, "7.5", f"{path} line 2"),
        Case("1", "a bath, in the evening", 12, "5", f"{path} line 3"),
    ]


def test_a_file_here_is_taken_as_it_is(hub: list[tuple[str, ...]], tmp_path: Path) -> None:
    for given in (str(tmp_path / "i2p_benchmark.csv"), "prompts.csv", "data/prompts.csv", "/data/prompts.csv"):
        assert prompts_file(given) == Path(given)
    assert not hub


@pytest.mark.parametrize("given", ["AIML-TUDA/i2p", "AIML-TUDA/i2p@main", "AIML-TUDA/i2p@main/i2p_benchmark.csv"])
def test_a_data_set_that_is_not_pinned_is_refused_before_the_hub_is_asked(
    hub: list[tuple[str, ...]], given: str
) -> None:
    with pytest.raises(InvalidInput, match=r"not pinned: write owner/name@ with the 40 hex digits .*/FILE\.csv"):
        prompts_file(given)
    assert not hub


@pytest.mark.usefixtures("hub")
def test_a_file_that_the_hub_has_not_is_one_line() -> None:
    with pytest.raises(InvalidInput, match=r"cannot fetch .*/other\.csv from the hub: FileNotFoundError: 404$"):
        prompts_file(HUB.replace("i2p_benchmark", "other"))


def test_names_of_both_kinds_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "mixed.csv"
    path.write_text("prompt,evaluation_seed,sd_seed\na house,1,2\n")
    with pytest.raises(InvalidInput, match="lacks the column case_number"):
        read_cases(path)
