"""What Stable Diffusion 3 and FLUX share: a transformer that predicts a velocity along straight paths to noise.

x_t = (1 - sigma) x_0 + sigma * noise, timestep = 1000 sigma, velocity = noise - x_0 (Esser et al., ICML 2024; Liu et
al., ICLR 2023). Guidance and the erasure's target are formed of velocities as they are of noise: in both, the
coefficients of the frozen predictions sum to one, and a velocity is a noise estimate up to scale and an x_t that
cancels. Timesteps are real numbers in (0, 1000].
"""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from esd_core.backbones.base import Backbone
from esd_core.errors import BaseModelError, InvalidInput
from esd_core.recipe import RolloutSampler


class FlowMatching(Backbone):
    """Rolled out with the base's own flow-matching Euler scheduler, the one it is sampled with."""

    max_shift: float  # of larger pictures' timesteps, where the scheduler's configuration names none

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        if not isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler):
            raise BaseModelError(
                f"{self.family.name} is rolled out with FlowMatchEulerDiscreteScheduler, but this base ships "
                f"{type(self.scheduler).__name__}: save the pipeline with the former as its scheduler"
            )

    def scheduler_of(self, choice: RolloutSampler) -> Any:
        if choice not in (RolloutSampler.AUTO, RolloutSampler.BASE):
            raise InvalidInput(
                f"sampler {choice.value!r} is for models that predict noise or v; {self.family.name} matches flows: "
                f"set sampler to {RolloutSampler.AUTO.value} or {RolloutSampler.BASE.value}"
            )
        return super().scheduler_of(RolloutSampler.BASE)

    def shift_for(self, tokens: int) -> float:
        """mu: how far timesteps move towards noise for pictures of so many tokens, as the pipelines compute it."""
        config = self.scheduler.config
        return float(
            calculate_shift(
                tokens,
                config.get("base_image_seq_len", 256),
                config.get("max_image_seq_len", 4096),
                config.get("base_shift", 0.5),
                config.get("max_shift", self.max_shift),
            )
        )
