"""Images from prompts and seeds, and prompts files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import ResolvedBase
from esd_core.cases import read_cases
from esd_core.errors import EvaluationError, InvalidInput, WeightsError
from esd_core.generation import generate, generate_from_csv

HEADER = "case_number,prompt,evaluation_seed\n"


@pytest.fixture(scope="module")
def pipeline(base: ResolvedBase) -> Any:
    return load_pipeline(base, "cpu")


def draw(pipeline: Any, prompts: list[str], seeds: list[int], **options: Any) -> np.ndarray:
    return generate(pipeline, prompts, seeds, steps=2, guidance_scale=3.0, progress=False, **options)


def prompts_file(folder: Path, rows: str, header: str = HEADER) -> Path:
    path = folder / "prompts.csv"
    path.write_text(header + rows, encoding="utf-8")
    return path


def test_images_depend_on_their_own_prompt_and_seed_alone(pipeline: Any) -> None:
    prompts, seeds = ["a house", "a tree", "a boat"], [7, 8, 7]
    whole = draw(pipeline, prompts, seeds)
    one_by_one = draw(pipeline, prompts, seeds, batch_size=1)
    assert whole.shape == (3, 16, 16, 3)
    assert whole.dtype == np.uint8
    assert np.abs(whole.astype(int) - one_by_one).max() <= 1
    assert (draw(pipeline, ["a tree"], [8])[0].astype(int) - whole[1]).max() <= 1


def test_images_are_those_of_plain_diffusers(pipeline: Any) -> None:
    generator = torch.Generator().manual_seed(7)
    plain = pipeline("a house", num_inference_steps=2, guidance_scale=3.0, generator=generator).images[0]
    assert (draw(pipeline, ["a house"], [7])[0] == np.asarray(plain)).all()


def test_prompts_and_seeds_must_match(pipeline: Any) -> None:
    with pytest.raises(InvalidInput, match="2 prompts but 1 seeds"):
        draw(pipeline, ["a", "b"], [1])
    with pytest.raises(InvalidInput, match="no prompts"):
        draw(pipeline, [], [])


def test_broken_weights_are_noticed(base: ResolvedBase) -> None:
    broken = load_pipeline(base, "cpu")
    with torch.no_grad():
        broken.unet.conv_out.weight.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="no finite pixels for 'a house'"):
        draw(broken, ["a house"], [1])


def from_csv(path: Path, out: Path, base: ResolvedBase, weights: Path | None = None, images: int = 2) -> int:
    return generate_from_csv(
        path, out, base, weights, steps=2, guidance_scale=3.0, images_per_prompt=images, device="cpu", progress=False
    )


def test_a_prompts_file_becomes_numbered_images(pipeline: Any, base: ResolvedBase, tmp_path: Path) -> None:
    path = prompts_file(tmp_path, '0,a house,7\n15,"a boat, red",9\n')
    assert from_csv(path, tmp_path / "out", base) == 4
    assert sorted(p.name for p in (tmp_path / "out").glob("*")) == [
        ".generation.json",
        *("0_0.png", "0_1.png", "15_0.png", "15_1.png"),
    ]
    second = np.asarray(Image.open(tmp_path / "out" / "15_1.png")).astype(int)
    assert np.abs(second - draw(pipeline, ["a boat, red"], [10])[0]).max() <= 1


def test_only_missing_images_are_drawn(base: ResolvedBase, tmp_path: Path) -> None:
    path, out = prompts_file(tmp_path, "0,a house,7\n1,a tree,8\n"), tmp_path / "out"
    assert from_csv(path, out, base) == 4
    (out / "1_0.png").unlink()
    kept = (out / "0_0.png").stat().st_mtime_ns
    assert from_csv(path, out, base) == 1
    assert (out / "0_0.png").stat().st_mtime_ns == kept
    assert from_csv(path, out, base) == 0


def test_images_of_other_weights_are_never_mixed_in(base: ResolvedBase, edited_weights: Path, tmp_path: Path) -> None:
    path, out = prompts_file(tmp_path, "0,a house,7\n"), tmp_path / "out"
    from_csv(path, out, base)
    with pytest.raises(InvalidInput, match="holds images made with other weights"):
        from_csv(path, out, base, edited_weights)
    from_csv(path, tmp_path / "edited", base, edited_weights)
    before, after = (np.asarray(Image.open(folder / "0_0.png")) for folder in (out, tmp_path / "edited"))
    assert (before != after).any()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "holds no prompts"),
        ("0,a house\n", "line 2: fewer values"),
        ("../0,a house,1\n", "case_number"),
        ("0,a house,-1\n", "evaluation_seed '-1'"),
        ("0,a house,1\n0,a tree,2\n", "case_number 0 stands there more than once"),
    ],
)
def test_faulty_rows_are_refused(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_cases(prompts_file(tmp_path, rows))


def test_faulty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="lacks the column evaluation_seed"):
        read_cases(prompts_file(tmp_path, "0,a house\n", header="case_number,prompt\n"))
    with pytest.raises(InvalidInput, match="cannot read prompts file"):
        read_cases(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(HEADER.encode() + b"0,\xff\xfe,1\n")
    with pytest.raises(InvalidInput, match="not a CSV file in UTF-8"):
        read_cases(tmp_path / "bytes.csv")


def test_a_refusal_leaves_no_folder_behind(base: ResolvedBase, tmp_path: Path) -> None:
    path = prompts_file(tmp_path, "0,a house,7\n")
    with pytest.raises(WeightsError):
        from_csv(path, tmp_path / "out", base, tmp_path / "none.safetensors")
    assert not (tmp_path / "out").exists()


def test_a_byte_order_mark_and_other_columns_are_welcome(tmp_path: Path) -> None:
    path = prompts_file(tmp_path, "3,Van Gogh,a house,5\n", header="\ufeffcase_number,artist,prompt,evaluation_seed\n")
    (case,) = read_cases(path)
    assert (case.number, case.prompt, case.seed) == ("3", "a house", 5)
