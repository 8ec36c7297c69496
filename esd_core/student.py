"""The student: the trained subset of the one U-Net in memory, its optimizer, and its frozen self.

Frozen predictions come from the same module with the original tensors swapped in; no second U-Net exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import UNet2DConditionModel

from esd_core.backbones.stable_diffusion import NoisePredictor
from esd_core.errors import ErasureFailed
from esd_core.objective import esd_loss, esd_target
from esd_core.parameters import select
from esd_core.recipe import Anchor, Recipe
from esd_core.score_bank import Points


class Student:
    """Trains `recipe.subset` of a U-Net towards the ESD target; everything else stays frozen.

    prompt_embeds: (1, L, D), what the student is conditioned on. Trained tensors are kept in float32 or wider even
    when the model computes in less: updates must not round away.
    """

    def __init__(self, unet: UNet2DConditionModel, recipe: Recipe, prompt_embeds: torch.Tensor) -> None:
        unet.requires_grad_(False)
        self.recipe = recipe
        self.prompt_embeds = prompt_embeds
        self.predict = NoisePredictor(unet)
        self.parameters = select(unet, recipe.subset)
        for parameter in self.parameters.values():
            if parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        self._original = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizer = torch.optim.Adam(
            self.parameters.values(), lr=recipe.learning_rate, fused=prompt_embeds.device.type == "cuda"
        )

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within this block the U-Net is the original one: tensors are swapped, nothing is copied."""
        edited = {name: parameter.data for name, parameter in self.parameters.items()}
        try:
            for name, parameter in self.parameters.items():
                parameter.data = self._original[name]
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = edited[name]

    @torch.no_grad()
    def predict_frozen(self, latents: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        with self.frozen():
            return self.predict(latents, timesteps, embeds)

    def target(self, points: Points) -> torch.Tensor:
        """(N, C, h, w): where the recipe wants the student's prediction of these points."""
        if points.eps_anchor is not None:
            anchor = points.eps_anchor
        else:
            anchor = points.eps_concept if self.recipe.anchor is Anchor.CONCEPT else points.eps_null
        return esd_target(anchor, points.eps_concept, points.eps_null, self.recipe.negative_guidance)

    def step(self, points: Points) -> float:
        """One optimizer step on these points; returns the loss before it. Raises ErasureFailed when not finite."""
        embeds = self.prompt_embeds.expand(len(points), -1, -1)
        prediction = self.predict(points.latents, points.timesteps, embeds)
        loss = esd_loss(prediction, self.target(points))
        value = float(loss.detach())
        if not torch.isfinite(loss):
            raise ErasureFailed(
                f"the loss became {value}: lower learning_rate ({self.recipe.learning_rate:g}) or "
                f"negative_guidance ({self.recipe.negative_guidance:g}); the last checkpoint is kept"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return value

    def edited(self) -> dict[str, torch.Tensor]:
        """The trained tensors by name."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """Trained tensors and Adam's moments, flat, for a checkpoint."""
        tensors = {f"weights/{name}": parameter.detach() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam/{key}/{name}"] = value
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Continue from `state()`; raises KeyError when the checkpoint is of another subset."""
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"weights/{name}"])
            moments = {key: tensors[f"adam/{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in moments.items()
            }
