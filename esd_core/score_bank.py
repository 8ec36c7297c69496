"""The score bank: points of frozen rollouts with the predictions the frozen model made there.

One guided rollout of the frozen model evaluates it with and without the concept at every step: exactly what the
teacher is asked for later. Kept, those predictions replace the authors' fresh rollout and two teacher calls per
optimizer step. The bank does not depend on eta, anchor on the concept or the empty prompt, subset or learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from esd_core import digest
from esd_core.recipe import Recipe, TimestepChoice
from esd_core.rollout import Predict, RolloutPoint, guided_rollout

ROLLOUTS_AT_ONCE = 8


@dataclass(frozen=True)
class Embeddings:
    """Text embeddings, each (1, L, D): the concept, the empty prompt, and what is erased from (if anything).

    `prompt` is what rollouts are made of and what the student is trained on: the concept, or the text it is erased
    from, as in the authors' code.
    """

    concept: torch.Tensor
    null: torch.Tensor
    erase_from: torch.Tensor | None = None

    @property
    def prompt(self) -> torch.Tensor:
        return self.concept if self.erase_from is None else self.erase_from


@dataclass(frozen=True)
class Points:
    """N training points. latents and eps_*: (N, C, h, w); timesteps: (N,). eps_anchor: of what is erased from."""

    latents: torch.Tensor
    timesteps: torch.Tensor
    eps_concept: torch.Tensor
    eps_null: torch.Tensor
    eps_anchor: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, rows: torch.Tensor) -> Points:
        return Points(**{name: tensor[rows] for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def to(self, device: torch.device) -> Points:
        return Points(**{name: t.to(device, non_blocking=True) for name, t in self.tensors().items()})

    @staticmethod
    def concatenate(parts: Iterable[Points]) -> Points:
        tensors = [part.tensors() for part in parts]
        return Points(**{name: torch.cat([t[name] for t in tensors]) for name in tensors[0]})


def rollouts_needed(recipe: Recipe) -> int:
    """How many trajectories fill a bank from which every draw of the recipe is served."""
    kept_each = min(recipe.points_per_rollout, recipe.rollout_steps)
    return math.ceil(recipe.iterations * recipe.batch_size / recipe.reuse / kept_each)


def start_noise(shape: tuple[int, int, int], seeds: Iterable[int], dtype: torch.dtype) -> torch.Tensor:
    """Standard normal noise, one draw of (1, C, h, w) for each seed; made on the CPU so that devices agree."""
    return torch.cat([torch.randn((1, *shape), generator=torch.Generator().manual_seed(s), dtype=dtype) for s in seeds])


def jittered(timestep: torch.Tensor, recipe: Recipe, count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) timesteps uniform in the DDPM bucket of a DDIM timestep, as the paper's code draws them."""
    bucket = 1000 // recipe.rollout_steps
    start = (int(timestep) // bucket) * bucket
    return torch.randint(start, min(start + bucket, 1000), (count,), generator=generator)


def collect(
    predict: Predict,
    teach: Predict,
    scheduler: Any,
    noise: torch.Tensor,
    embeds: Embeddings,
    recipe: Recipe,
    generator: torch.Generator,
) -> Points:
    """Roll out `len(noise)` trajectories with `predict` and keep `points_per_rollout` random points of each.

    `teach` is the frozen model. When it is also the sampler, the rollout's own predictions are kept and no further
    evaluation is made, unless timesteps are jittered or the concept is erased from another text.
    """
    batch = len(noise)
    steps = len(_timesteps(scheduler, recipe.rollout_steps))
    kept = min(recipe.points_per_rollout, steps)
    wanted = torch.stack([torch.randperm(steps, generator=generator)[:kept] for _ in range(batch)])
    last = int(wanted.max())
    parts: list[Points] = []
    rollout = guided_rollout(
        predict, scheduler, noise, embeds.prompt, embeds.null, recipe.start_guidance, recipe.rollout_steps
    )
    for point in rollout:
        rows = (wanted == point.step).any(dim=1).nonzero().flatten()
        if len(rows):
            parts.append(taught(point, rows, teach, embeds, recipe, generator, reusable=predict is teach))
        if point.step == last:
            break
    return Points.concatenate(parts)


def _timesteps(scheduler: Any, steps: int) -> torch.Tensor:
    scheduler.set_timesteps(steps)
    return torch.as_tensor(scheduler.timesteps)


@torch.no_grad()
def taught(
    point: RolloutPoint,
    rows: torch.Tensor,
    teach: Predict,
    embeds: Embeddings,
    recipe: Recipe,
    generator: torch.Generator,
    reusable: bool,
) -> Points:
    """The chosen rows of a rollout point with the frozen model's predictions."""
    device = point.latents.device
    on_device = rows.to(device)
    latents = point.latents[on_device]
    if recipe.timestep_choice is TimestepChoice.BUCKET:
        timesteps = jittered(point.timestep, recipe, len(rows), generator).to(device)
    else:
        timesteps = point.timestep.to(device).expand(len(rows))

    def ask(text: torch.Tensor) -> torch.Tensor:
        return teach(latents, timesteps, text.expand(len(rows), -1, -1))

    own = reusable and recipe.timestep_choice is TimestepChoice.SAMPLER
    eps_prompt = point.eps_prompt[on_device] if own else ask(embeds.prompt)
    erasing_from = embeds.erase_from is not None
    result = Points(
        latents=latents,
        timesteps=timesteps,
        eps_concept=ask(embeds.concept) if erasing_from else eps_prompt,
        eps_null=point.eps_null[on_device] if own else ask(embeds.null),
        eps_anchor=eps_prompt if erasing_from else None,
    )
    return result.to(torch.device("cpu"))


def fill(
    predict: Predict,
    scheduler: Any,
    shape: tuple[int, int, int],
    embeds: Embeddings,
    recipe: Recipe,
    progress: bool = True,
) -> Points:
    """A bank large enough for the recipe, sampled with the frozen model in batches of trajectories."""
    total = rollouts_needed(recipe)
    device = embeds.concept.device
    generator = torch.Generator().manual_seed(recipe.seed)
    parts = []
    with tqdm(total=total, desc="score bank", unit="rollout", disable=not progress, leave=False) as bar:
        for first in range(0, total, ROLLOUTS_AT_ONCE):
            count = min(ROLLOUTS_AT_ONCE, total - first)
            seeds = range(recipe.seed * 100_003 + first, recipe.seed * 100_003 + first + count)
            noise = start_noise(shape, seeds, embeds.concept.dtype).to(device)
            parts.append(collect(predict, predict, scheduler, noise, embeds, recipe, generator))
            bar.update(count)
    return Points.concatenate(parts)


def save(path: Path, points: Points) -> None:
    """Write the points to a safetensors file, whole or not at all, with a digest beside it."""
    with digest.whole_file(path) as partial:
        save_file(points.tensors(), partial)
        checksum = digest.of_file(partial)
    digest.write_text(path.with_suffix(".sha256"), checksum)


def load(path: Path) -> Points | None:
    """Read a bank; None when there is none or it is damaged, so that it is filled again."""
    checksum = path.with_suffix(".sha256")
    if not path.is_file() or not checksum.is_file() or digest.of_file(path) != checksum.read_text().strip():
        return None
    try:
        return Points(**load_file(path))
    except (SafetensorError, TypeError):
        return None
