"""Pipelines of diffusers, steered away from a concept: their own sampling loops, with another noise estimate.

U-Nets are asked about two prompts at every step, in one batch: the empty one, then the given one. Steering adds the
concept as a third, and answers both of the two with the guidance function's estimate g. The pipeline's classifier-free
guidance of the two, g + scale * (g - g), is g; noise, sampler and autoencoder stay the pipeline's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from esd_core.backbones.base import Backbone, Conditioning, repeat
from esd_core.backbones.families import FAMILIES
from esd_core.backbones.loading import backbone_of
from esd_core.errors import InvalidInput
from esd_core.guidance import Guidance, GuidanceFunction, GuidanceMethod, guidance_function
from esd_core.recipe import RolloutSampler

FLUX = FAMILIES["FluxPipeline"]


class Steering:
    """A sampler and a guidance, ready for a pipeline. Raises InvalidInput where the model has no such thing."""

    def __init__(
        self, pipeline: Any, sampler: RolloutSampler, guidance: Guidance, guidance_scale: float, steps: int
    ) -> None:
        self.pipeline, self.guidance, self.guidance_scale, self.steps = pipeline, guidance, guidance_scale, steps
        self.scheduler = pipeline.scheduler
        if sampler is not RolloutSampler.BASE:
            self.scheduler = backbone_of(pipeline).scheduler_of(sampler)
        self.concept: Conditioning | None = None
        if guidance.method is not GuidanceMethod.NONE:
            backbone = backbone_of(pipeline)
            check_support(backbone, guidance.method, guidance_scale)
            if guidance.method is not GuidanceMethod.NEGATIVE_PROMPT:
                self.concept = backbone.encode(guidance.concept)

    @contextmanager
    def of_batch(self, count: int) -> Iterator[dict[str, Any]]:
        """While open, the pipeline's next `count` images are steered, if it is called with these arguments."""
        settings: dict[str, Any] = {"num_inference_steps": self.steps, "guidance_scale": self.guidance_scale}
        answered: AbstractContextManager[None] = nullcontext()
        if self.guidance.method is GuidanceMethod.NEGATIVE_PROMPT:
            settings["negative_prompt"] = [self.guidance.concept] * count
        elif self.concept is not None:
            function = guidance_function(self.guidance.method, self.steps)
            answered = answering_with(function, self.pipeline.unet, self.concept, self.guidance_scale)
        shipped = self.pipeline.scheduler
        self.pipeline.scheduler = self.scheduler
        try:
            with answered:
                yield settings
        finally:
            self.pipeline.scheduler = shipped


def check_support(backbone: Backbone, method: GuidanceMethod, guidance_scale: float) -> None:
    """Raises InvalidInput, naming the family, where images cannot be steered by this method."""
    family = backbone.family
    if family is FLUX:
        raise InvalidInput(f"{family.name} draws without an empty prompt to steer from: use guidance none")
    if guidance_scale <= 1:
        raise InvalidInput(f"guidance {method.value} has no effect at guidance scale {guidance_scale:g}: use above 1")
    kind = backbone.scheduler.config.get("prediction_type", "velocity")
    if method is not GuidanceMethod.NEGATIVE_PROMPT and kind != "epsilon":
        raise InvalidInput(
            f"guidance {method.value} compares predictions of noise, but this {family.name} predicts {kind}: "
            "use none or negative-prompt"
        )


@contextmanager
def answering_with(
    function: GuidanceFunction, unet: torch.nn.Module, concept: Conditioning, guidance_scale: float
) -> Iterator[None]:
    """While open, a U-Net asked about (empty, prompt) answers twice with the function's estimate; for one sampling."""
    steps = itertools.count()

    def ask(_unet: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        latents, timestep = given
        count = len(latents) // 2
        third = repeat(concept, count)

        def with_third(told: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: torch.cat([tensor, third[name].to(tensor)]) for name, tensor in told.items()}

        asked = with_third({"encoder_hidden_states": named["encoder_hidden_states"]})
        added = with_third(named.get("added_cond_kwargs") or {})
        return (torch.cat([latents, latents[:count]]), timestep), {**named, **asked, "added_cond_kwargs": added}

    def answer(_unet: torch.nn.Module, _given: Any, predicted: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        eps_null, eps_prompt, eps_concept = predicted[0].chunk(3)
        estimate = function(eps_null, eps_prompt, eps_concept, guidance_scale, next(steps))
        return (torch.cat([estimate, estimate]),)

    hooks = unet.register_forward_pre_hook(ask, with_kwargs=True), unet.register_forward_hook(answer)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
