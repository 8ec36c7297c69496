"""esd export and esd import as people type them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from esd_core.exports.export import ExportFormat
from esd_core.exports.lora import DEFAULT_RANK
from esd_core.weights import read_weights
from flows.cli import main


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that must be refused says on stderr."""
    try:
        code = main(list(arguments))
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else -1
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith("esd: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("command", ["export", "import"])
def test_help_teaches_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert re.search(rf"example[s]?:\n  esd {command}", text)
    if command == "export":
        assert all(choice in text for choice in ExportFormat)
        assert f"(default {DEFAULT_RANK})" in text


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("export",), "FILE"),
        (("export", "w.safetensors", "--out", "x"), "--format"),
        (("export", "w.safetensors", "--format", "onnx", "--out", "x"), "invalid choice: 'onnx'"),
        (("export", "w.safetensors", "--format", "lora", "--out", "x"), "must end in .safetensors"),
        (("export", "w.safetensors", "--format", "diffusers", "--out", "x"), "no weights file at w.safetensors"),
        (
            ("export", "w.safetensors", "--format", "authors", "--out", "x.safetensors", "--rank", "4"),
            "of --format lora",
        ),
        (("import", "w.safetensors", "--concept", "x", "--out", "x.safetensors"), "--base"),
        (("import", "w.pt", "--concept", "x", "--base", "miniature", "--out", "x.pt"), "must end in .safetensors"),
        (
            ("import", "w.pt", "--concept", "x", "--base", "miniature", "--out", "x.safetensors", "--kind", "artist"),
            "'style', 'object' or 'global'",
        ),
        (("import", "w.safetensors", "--concept", "x", "--base", "owner/name", "--out", "x.safetensors"), "40-digit"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: tuple[str, ...],
    remedy: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert remedy in refusal(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_a_pickle_is_refused_with_a_way_to_convert_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_base: Path
) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "esd.pt")
    options = ("--concept", "x", "--base", str(tiny_base), "--out", str(tmp_path / "x.safetensors"))
    assert "weights_only=True" in refusal(capsys, "import", str(tmp_path / "esd.pt"), *options)


def test_published_weights_are_imported_drawn_with_and_exported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_base: Path, edited_weights: Path
) -> None:
    published, ours, prompts = tmp_path / "published.safetensors", tmp_path / "ours.safetensors", tmp_path / "p.csv"
    save_file(load_file(edited_weights), published)
    prompts.write_text("case_number,prompt,evaluation_seed\n0,a house,7\n")
    assert main(["import", str(published), "--concept", "house", "--base", str(tiny_base), "--out", str(ours)]) == 0
    assert "house, esd-x of" in capsys.readouterr().out
    draw = ["generate", "--prompts", str(prompts), "--base", str(tiny_base), "--steps", "2", "--device", "cpu"]
    assert main([*draw, "--out", str(tmp_path / "imported"), "--weights", str(ours)]) == 0
    assert main([*draw, "--out", str(tmp_path / "edited"), "--weights", str(edited_weights)]) == 0
    images = [(tmp_path / folder / "0_0.png").read_bytes() for folder in ("imported", "edited")]
    assert images[0] == images[1]
    lora = tmp_path / "lora.safetensors"
    assert main(["export", str(ours), "--format", "lora", "--out", str(lora), "--rank", "4"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"lora, sha256 [0-9a-f]{64}\n  rank 4: relative error [0-9.]+% over \d+ layers", printed)
    assert main(["export", str(ours), "--format", "authors", "--out", str(tmp_path / "again.safetensors")]) == 0
    assert read_weights(tmp_path / "again.safetensors").provenance == read_weights(ours).provenance
