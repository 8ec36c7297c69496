"""The score bank: points of frozen rollouts with the predictions the frozen model made there.

One guided rollout of the frozen model evaluates it with and without the concept at every step: exactly what the
teacher is asked for later. Kept, those predictions replace the authors' fresh rollout and two teacher calls per
optimizer step. A bank depends on the base, the prompts and the rollouts, never on eta, subset or learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from esd_core.backbones.base import Conditioning, concatenate, repeat
from esd_core.objective import esd_target
from esd_core.recipe import Anchor, Recipe, TimestepChoice
from esd_core.rollout import Predict, RolloutPoint, guided_rollout


@dataclass(frozen=True)
class Prompts:
    """Conditionings of one prompt each: the concept, the empty prompt, and what is erased from (if anything).

    `prompt` is what rollouts are made of and what the student is trained on: the concept, or the text it is erased
    from, as in the authors' code.
    """

    concept: Conditioning
    null: Conditioning
    erase_from: Conditioning | None = None

    @property
    def prompt(self) -> Conditioning:
        return self.concept if self.erase_from is None else self.erase_from


@dataclass(frozen=True)
class Points:
    """N training points. latents and eps_*: (N, ...); timesteps: (N,).

    eps_anchor: of what is erased from. companion: (N,), number of the other prompt that is kept at the same point, and
    eps_kept what the frozen model predicts for it.
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    eps_concept: torch.Tensor
    eps_null: torch.Tensor
    eps_anchor: torch.Tensor | None = None
    companion: torch.Tensor | None = None
    eps_kept: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, rows: torch.Tensor) -> Points:
        return Points(**{name: tensor[rows] for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def to(self, device: torch.device) -> Points:
        return Points(**{name: _moved(tensor, device) for name, tensor in self.tensors().items()})

    def target(self, anchor: Anchor, negative_guidance: float) -> torch.Tensor:
        """(N, ...): what the student must predict at these points, erased from their own text if they have one."""
        if self.eps_anchor is not None:
            eps_anchor = self.eps_anchor
        else:
            eps_anchor = self.eps_concept if anchor is Anchor.CONCEPT else self.eps_null
        return esd_target(eps_anchor, self.eps_concept, self.eps_null, negative_guidance)

    @staticmethod
    def concatenate(parts: Iterable[Points]) -> Points:
        tensors = [part.tensors() for part in parts]
        return Points(**{name: torch.cat([t[name] for t in tensors]) for name in tensors[0]})


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To a GPU out of pinned memory and without waiting; from a GPU only when all has arrived, else half of it is read
    before it is there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def start_noise(shape: tuple[int, ...], seeds: Iterable[int], dtype: torch.dtype) -> torch.Tensor:
    """Standard normal noise, one draw of (1, *shape) for each seed; made on the CPU so that devices agree."""
    return torch.cat([torch.randn((1, *shape), generator=torch.Generator().manual_seed(s), dtype=dtype) for s in seeds])


def jittered(
    timestep: float, rollout_steps: int, train_steps: int, count: int, generator: torch.Generator
) -> torch.Tensor:
    """(count,) timesteps uniform in the bucket of a sampler's timestep, as the paper's code draws them.

    The train_steps timesteps of the noise schedule fall into as many buckets as the sampler has steps.
    """
    bucket = train_steps / rollout_steps
    number = int(timestep / bucket)
    start, end = math.ceil(number * bucket), min(math.ceil((number + 1) * bucket), train_steps)
    return torch.randint(start, max(start + 1, end), (count,), generator=generator)


def jittered_flow(timesteps: torch.Tensor, step: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) timesteps of flow matching, uniform between the sampler's own and its next one (0 after the last).

    timesteps: (steps,) falling from at most 1000, unevenly and real. These buckets hold one sampler timestep each and
    together cover all timesteps, as those of `jittered` do.
    """
    upper = timesteps[step]
    lower = timesteps[step + 1] if step + 1 < len(timesteps) else torch.zeros_like(upper)
    return upper - (upper - lower) * torch.rand(count, generator=generator).to(upper)


def bucket_timesteps(scheduler: Any, step: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) timesteps drawn from the bucket of a sampler's step number `step`."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return jittered_flow(scheduler.timesteps, step, count, generator)
    train_steps = int(scheduler.config.num_train_timesteps)
    return jittered(float(scheduler.timesteps[step]), scheduler.num_inference_steps, train_steps, count, generator)


def collect(
    scheduler: Any,
    predict: Predict,
    teach: Predict,
    noise: torch.Tensor,
    prompts: Prompts,
    recipe: Recipe,
    generator: torch.Generator,
) -> Points:
    """Roll out `len(noise)` trajectories with `predict` and keep `points_per_rollout` random points of each.

    `scheduler` has its timesteps set. `teach` is the frozen model. When it is also the sampler, the rollout's own
    predictions are kept and no further evaluation is made, unless timesteps are jittered or the concept is erased
    from another text.
    """
    batch, steps = len(noise), len(scheduler.timesteps)
    kept = min(recipe.points_per_rollout, steps)
    wanted = torch.stack([torch.randperm(steps, generator=generator)[:kept] for _ in range(batch)])
    last = int(wanted.max())
    parts: list[Points] = []
    told = (prompts.prompt, prompts.null, recipe.start_guidance)
    for point in guided_rollout(predict, scheduler, noise, *told, generator):
        rows = (wanted == point.step).any(dim=1).nonzero().flatten()
        if len(rows):
            timesteps = point.timestep.expand(len(rows))
            if recipe.timestep_choice is TimestepChoice.BUCKET:
                timesteps = bucket_timesteps(scheduler, point.step, len(rows), generator)
            own = predict == teach and recipe.timestep_choice is TimestepChoice.SAMPLER
            parts.append(taught(point, rows, timesteps, teach, prompts, reusable=own))
        if point.step == last:
            break
    return Points.concatenate(parts)


@torch.no_grad()
def taught(
    point: RolloutPoint,
    rows: torch.Tensor,
    timesteps: torch.Tensor,
    teach: Predict,
    prompts: Prompts,
    reusable: bool,
) -> Points:
    """The chosen rows of a rollout point with the frozen model's predictions at `timesteps`, (len(rows),).

    reusable: the point's own predictions are the frozen model's at these timesteps.
    """
    device = point.latents.device
    rows, timesteps = rows.to(device), timesteps.to(device)
    latents = point.latents[rows]

    def ask(text: Conditioning) -> torch.Tensor:
        return teach(latents, timesteps, repeat(text, len(rows)))

    eps_prompt = point.eps_prompt[rows] if reusable else ask(prompts.prompt)
    erasing_from = prompts.erase_from is not None
    result = Points(
        latents=latents,
        timesteps=timesteps,
        eps_concept=ask(prompts.concept) if erasing_from else eps_prompt,
        eps_null=point.eps_null[rows] if reusable else ask(prompts.null),
        eps_anchor=eps_prompt if erasing_from else None,
    )
    return result.to(torch.device("cpu"))


def accompanied(points: Points, companions: Sequence[Conditioning], teach: Predict, at_once: int) -> Points:
    """The points with another prompt at each, which the student shall predict as before: every second time
    companion number 0, the prompt of `eps_null`, the others in turn. Costs an evaluation for each of the others."""
    count = len(points)
    if len(companions) > 1:
        turns = torch.arange(count)
        companion = torch.where(turns % 2 == 0, 0, 1 + turns // 2 % (len(companions) - 1))
    else:
        companion = torch.zeros(count, dtype=torch.long)
    eps_kept = points.eps_null.clone()
    others = companion.nonzero().flatten()
    for rows in others.split(at_once) if len(others) else ():
        told = concatenate([companions[int(number)] for number in companion[rows]])
        device = next(iter(told.values())).device
        latents, timesteps = points.latents[rows].to(device), points.timesteps[rows].to(device)
        eps_kept[rows] = teach(latents, timesteps, told).cpu()
    return replace(points, companion=companion, eps_kept=eps_kept)
