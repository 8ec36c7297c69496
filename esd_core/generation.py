"""Images from prompts and seeds, given as they are or in a prompts file.

Images are (N, H, W, 3) uint8. Each image's noise comes from its own seed, so neither the batch size nor the other
prompts change it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from esd_core import digest
from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import ResolvedBase
from esd_core.cases import read_cases
from esd_core.errors import EvaluationError, InvalidInput
from esd_core.guidance import PLAIN, Guidance
from esd_core.recipe import RolloutSampler
from esd_core.steering import Steering
from esd_core.weights import EditedWeights, apply_weights, read_weights

SETTINGS_FILE = ".generation.json"  # in the output folder: what its images were made with


def edited_pipeline(base: ResolvedBase, weights: EditedWeights | None, device: str) -> Any:
    """The base's pipeline with edited weights in it, if any; raises as `apply_weights` does."""
    pipeline = load_pipeline(base, device)
    if weights:
        apply_weights(getattr(pipeline, base.family.denoiser), weights, base.digest)
    return pipeline


def batches(
    pipeline: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int,
    guidance_scale: float,
    batch_size: int,
    description: str,
    progress: bool,
    sampler: RolloutSampler = RolloutSampler.BASE,
    guidance: Guidance = PLAIN,
) -> Iterator[np.ndarray]:
    """Images in the order of the prompts, (batch, H, W, 3) at a time, drawn as they are asked for.

    sampler: `base` is the scheduler that the pipeline holds. Another sampler or guidance starts from the same noise.
    Raises InvalidInput at once where the model has no such sampler or guidance, EvaluationError for broken weights.
    """
    if len(prompts) != len(seeds):
        raise InvalidInput(f"{len(prompts)} prompts but {len(seeds)} seeds: give one seed for each prompt")
    steering = Steering(pipeline, sampler, guidance, guidance_scale, steps)

    def drawn() -> Iterator[np.ndarray]:
        with tqdm(total=len(prompts), desc=description, unit="image", disable=not progress, leave=False) as bar:
            for start in range(0, len(prompts), batch_size):
                chosen = list(prompts[start : start + batch_size])
                yield _draw(steering, chosen, seeds[start : start + batch_size])
                bar.update(len(chosen))

    return drawn()


def _draw(steering: Steering, prompts: list[str], seeds: Sequence[int]) -> np.ndarray:
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    with steering.of_batch(len(prompts)) as settings:
        pixels = steering.pipeline(prompts, generator=generators, output_type="np", **settings).images
    if not np.isfinite(pixels).all():
        raise EvaluationError(f"the model draws no finite pixels for {prompts[0]!r}: its weights are broken")
    return (pixels * 255).round().astype(np.uint8)


def generate(
    pipeline: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int,
    guidance_scale: float,
    batch_size: int = 16,
    description: str = "images",
    progress: bool = True,
    sampler: RolloutSampler = RolloutSampler.BASE,
    guidance: Guidance = PLAIN,
) -> np.ndarray:
    """One image for each prompt and seed: (N, H, W, 3) uint8."""
    drawn = batches(
        pipeline,
        prompts,
        seeds,
        steps=steps,
        guidance_scale=guidance_scale,
        batch_size=batch_size,
        description=description,
        progress=progress,
        sampler=sampler,
        guidance=guidance,
    )
    images = list(drawn)
    if not images:
        raise InvalidInput("no prompts: give at least one")
    return np.concatenate(images)


def generate_from_csv(
    csv: Path,
    out: Path,
    base: ResolvedBase,
    weights: Path | None,
    *,
    steps: int,
    guidance_scale: float,
    images_per_prompt: int,
    device: str = "auto",
    batch_size: int = 16,
    progress: bool = True,
    sampler: RolloutSampler = RolloutSampler.BASE,
    guidance: Guidance = PLAIN,
) -> int:
    """Draw every case of a prompts file to `{case_number}_{n}.png`; image n has the case's seed + n.

    Files that are already there are kept, so an interrupted run continues; a folder whose images were made with other
    weights or settings is refused. Returns how many images were drawn.
    """
    cases = read_cases(csv)
    edited = read_weights(weights) if weights else None
    made_with = {
        "base_digest": base.digest,
        "weights_digest": digest.of_file(weights) if weights else None,
        "prompts_digest": digest.of_json([[case.number, case.prompt, case.seed] for case in cases]),
        "steps": steps,
        "guidance_scale": guidance_scale,
        "sampler": sampler,
        "guidance": guidance.method,
        "away_from": guidance.concept,
    }
    settings = json.dumps(made_with, sort_keys=True)
    _check_folder(out, settings)
    todo = [
        (out / f"{case.number}_{n}.png", case.prompt, case.seed + n)
        for case in cases
        for n in range(images_per_prompt)
        if not (out / f"{case.number}_{n}.png").exists()
    ]
    if not todo:
        return 0
    pipeline = edited_pipeline(base, edited, device)
    paths, prompts, seeds = zip(*todo, strict=True)
    drawn = batches(
        pipeline,
        prompts,
        seeds,
        steps=steps,
        guidance_scale=guidance_scale,
        batch_size=batch_size,
        description="drawing",
        progress=progress,
        sampler=sampler,
        guidance=guidance,
    )
    digest.write_text(out / SETTINGS_FILE, settings)
    for path, image in zip(paths, (image for batch in drawn for image in batch), strict=True):
        with digest.whole_file(path) as partial:
            Image.fromarray(image).save(partial, format="PNG")
    return len(todo)


def _check_folder(out: Path, settings: str) -> None:
    """Raises InvalidInput when the folder holds images of something else."""
    note = out / SETTINGS_FILE
    if note.exists() and note.read_text(encoding="utf-8") != settings:
        raise InvalidInput(
            f"{out} holds images made with other weights, prompts or settings: choose another folder, or empty it"
        )
    if out.exists() and not out.is_dir():
        raise InvalidInput(f"{out} is a file: give a folder for the images")
