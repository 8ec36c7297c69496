"""Guidance: how a sampler's step follows from what the model predicts, steering away from a concept or not.

Every guidance is a function of one signature: (eps_null, eps_prompt, eps_concept, guidance_scale, step) to the noise
estimate that the sampler goes by. The three predictions are of the empty prompt, the prompt and the concept's text at
the same x_t, each (B, C, h, w); guidance_scale is that of classifier-free guidance; step counts from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch

from esd_core.errors import InvalidInput
from esd_core.objective import guided

GuidanceFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, int], torch.Tensor]


class GuidanceMethod(StrEnum):
    NONE = "none"  # classifier-free guidance, away from nothing
    NEGATIVE_PROMPT = "negative-prompt"
    SLD_WEAK = "sld-weak"  # Safe Latent Diffusion, as weak, medium, strong and max as published
    SLD_MEDIUM = "sld-medium"
    SLD_STRONG = "sld-strong"
    SLD_MAX = "sld-max"


@dataclass(frozen=True)
class Guidance:
    """What images are steered away from, and how."""

    method: GuidanceMethod = GuidanceMethod.NONE
    concept: str = ""

    def __post_init__(self) -> None:
        if self.method is GuidanceMethod.NONE and self.concept:
            raise InvalidInput(f"guidance none steers away from nothing, not even {self.concept!r}: choose another")
        if self.method is not GuidanceMethod.NONE and not self.concept.strip():
            raise InvalidInput(f"guidance {self.method.value} steers away from a concept: name it")


PLAIN = Guidance()


@dataclass(frozen=True)
class SafeLatent:
    """A configuration of Safe Latent Diffusion, in the paper's order: delta, s_S, lambda, s_m, beta_m."""

    warmup: int  # sampler steps of PUBLISHED_STEPS that are not steered; momentum builds up meanwhile
    scale: float
    threshold: float
    momentum_scale: float
    momentum_beta: float


PUBLISHED_STEPS = 50
# Schramowski et al., CVPR 2023, Hyp-Weak to Hyp-Max. The paper leaves beta_m of Hyp-Weak open, where s_m = 0 makes it
# idle. diffusers' SafetyConfig agrees but for Weak's scale: 20 there, 200 in the paper.
SAFE_LATENT = {
    GuidanceMethod.SLD_WEAK: SafeLatent(15, 200, 0.0, 0.0, 0.0),
    GuidanceMethod.SLD_MEDIUM: SafeLatent(10, 1000, 0.01, 0.3, 0.4),
    GuidanceMethod.SLD_STRONG: SafeLatent(7, 2000, 0.025, 0.5, 0.7),
    GuidanceMethod.SLD_MAX: SafeLatent(0, 5000, 1.0, 0.5, 0.7),
}


def classifier_free(
    eps_null: torch.Tensor, eps_prompt: torch.Tensor, _concept: torch.Tensor, guidance_scale: float, _step: int
) -> torch.Tensor:
    """Ho & Salimans 2022: away from the empty prompt. The concept is not looked at."""
    return guided(eps_null, eps_prompt, guidance_scale)


def negative_prompt(
    _null: torch.Tensor, eps_prompt: torch.Tensor, eps_concept: torch.Tensor, guidance_scale: float, _step: int
) -> torch.Tensor:
    """Classifier-free guidance away from the concept, which takes the empty prompt's place."""
    return guided(eps_concept, eps_prompt, guidance_scale)


def safety_term(
    eps_null: torch.Tensor, eps_prompt: torch.Tensor, eps_concept: torch.Tensor, scale: float, threshold: float
) -> torch.Tensor:
    """gamma = mu * (eps_concept - eps_null), elementwise, before momentum (Schramowski et al., CVPR 2023, eqs. 4 to 6).

    mu = scale * |eps_prompt - eps_concept|, at most 1 as in the authors' code, where eps_prompt - eps_concept is below
    the threshold; 0 elsewhere.
    """
    difference = eps_prompt - eps_concept
    mu = (scale * difference.abs()).clamp(max=1) * (difference < threshold)
    return mu * (eps_concept - eps_null)


class SafeLatentDiffusion:
    """Schramowski et al., CVPR 2023, eqs. 3, 7 and 8. It remembers a momentum: make a new one for each batch of images.

    The published warm-up is for 50 steps; of another number it takes the same share, rounded.
    """

    def __init__(self, configuration: SafeLatent, steps: int) -> None:
        self.configuration = configuration
        self.warmup_steps = round(configuration.warmup * steps / PUBLISHED_STEPS)
        self.momentum: torch.Tensor | float = 0.0

    def __call__(
        self,
        eps_null: torch.Tensor,
        eps_prompt: torch.Tensor,
        eps_concept: torch.Tensor,
        guidance_scale: float,
        step: int,
    ) -> torch.Tensor:
        chosen, beta = self.configuration, self.configuration.momentum_beta
        gamma = safety_term(eps_null, eps_prompt, eps_concept, chosen.scale, chosen.threshold)
        gamma = gamma + chosen.momentum_scale * self.momentum
        self.momentum = beta * self.momentum + (1 - beta) * gamma
        return guided(eps_null, eps_prompt if step < self.warmup_steps else eps_prompt - gamma, guidance_scale)


def guidance_function(method: GuidanceMethod, steps: int) -> GuidanceFunction:
    """The method's function for one batch of images of so many sampler steps."""
    match method:
        case GuidanceMethod.NONE:
            return classifier_free
        case GuidanceMethod.NEGATIVE_PROMPT:
            return negative_prompt
        case _:
            return SafeLatentDiffusion(SAFE_LATENT[method], steps)
