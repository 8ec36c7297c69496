"""The student: the trained tensors of the one denoiser in memory, their optimizer, and the frozen model they came from.

Frozen predictions come from the same module with the original tensors swapped in; no second denoiser exists.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from esd_core.backbones.base import Backbone, Conditioning, concatenate
from esd_core.errors import ErasureFailed
from esd_core.master_adam import MasterAdam
from esd_core.objective import esd_loss
from esd_core.parameters import select
from esd_core.recipe import ParameterSubset, Updates
from esd_core.tensor_file import Stored

# A backward pass in forward passes of the same samples, counted in FLOPs (benchmarks/cost.py): through everything
# for activations, and once more for the weights that train, which in cross-attention are few.
BACKWARD_COST = dict.fromkeys((ParameterSubset.ESD_X, ParameterSubset.ESD_X_STRICT, ParameterSubset.ESD_X_TEXT), 1.1)


@dataclass(frozen=True)
class Batch:
    """What one optimizer step is taught. latents, target: (B, ...); timesteps: (B,); conditioning: (B, ...)."""

    latents: torch.Tensor
    timesteps: torch.Tensor
    conditioning: Conditioning
    target: torch.Tensor
    weight: torch.Tensor | None = None  # (B,)

    def to(self, device: torch.device) -> Batch:
        told = {name: tensor.to(device) for name, tensor in self.conditioning.items()}
        weight = None if self.weight is None else self.weight.to(device)
        return Batch(self.latents.to(device), self.timesteps.to(device), told, self.target.to(device), weight)

    @staticmethod
    def concatenate(parts: Sequence[Batch]) -> Batch:
        """Batches one after the other; those without weights count as one."""
        weights = [torch.ones(len(p.latents), device=p.latents.device) if p.weight is None else p.weight for p in parts]
        return Batch(
            torch.cat([part.latents for part in parts]),
            torch.cat([part.timesteps for part in parts]),
            concatenate([part.conditioning for part in parts]),
            torch.cat([part.target for part in parts]),
            None if all(part.weight is None for part in parts) else torch.cat(weights),
        )


class EditedModel:
    """The one denoiser in memory, with parameters of some subsets edited, and the frozen model that it was.

    The originals are kept only where the frozen model is asked: score banks ask it before.
    """

    def __init__(self, backbone: Backbone, subsets: Iterable[ParameterSubset], keeps_originals: bool) -> None:
        backbone.denoiser.requires_grad_(False)
        self.backbone = backbone
        self.subsets = {subset: select(backbone.denoiser, subset) for subset in subsets}
        self.parameters = {name: p for chosen in self.subsets.values() for name, p in chosen.items()}
        self.originals = {name: p.detach().clone() for name, p in self.parameters.items() if keeps_originals}
        self._changed = False

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within this block the denoiser is the original one: tensors are swapped, nothing is copied."""
        assert self.originals or not self._changed, "the originals were not kept"
        edited = {name: self.parameters[name].data for name in self.originals}
        try:
            for name, original in self.originals.items():
                self.parameters[name].data = original
            yield
        finally:
            for name, tensor in edited.items():
                self.parameters[name].data = tensor

    @torch.no_grad()
    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        return self.backbone.predict(latents, timesteps, conditioning)

    @torch.no_grad()
    def predict_frozen(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        with self.frozen():
            return self.backbone.predict(latents, timesteps, conditioning)


class Student(EditedModel):
    """Trains subsets of a denoiser's parameters; everything else stays frozen."""

    def __init__(
        self, backbone: Backbone, subsets: Iterable[ParameterSubset], updates: Updates, keeps_originals: bool
    ) -> None:
        super().__init__(backbone, subsets, keeps_originals)
        self.optimizer = MasterAdam(self.parameters, masters=updates is Updates.MASTER)
        self.backward_cost = 0.0  # in forward passes of a sample

    def gradients(self, batch: Batch, subset: ParameterSubset) -> float:
        """Mean squared error of the batch, its gradients left in the subset's parameters.

        Raises ErasureFailed when it is not finite.
        """
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in self.subsets[subset])
            parameter.grad = None
        prediction = self.backbone.predict(batch.latents, batch.timesteps, batch.conditioning)
        loss = esd_loss(prediction, batch.target, batch.weight)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ErasureFailed(
                f"the loss became {value}: lower learning_rate or negative_guidance; the last checkpoint is kept"
            )
        loss.backward()
        self.backward_cost += BACKWARD_COST.get(subset, 2.0) * len(batch.latents)
        return value

    @contextmanager
    def moved_against_gradients(self, distance: float) -> Iterator[None]:
        """Within this block every parameter with a gradient stands `distance` against its sign: Adam's first step."""
        moved = {name: p.data for name, p in self.parameters.items() if p.grad is not None}
        try:
            for name, tensor in moved.items():
                gradient = self.parameters[name].grad
                assert gradient is not None
                self.parameters[name].data = tensor - distance * gradient.sign()
            yield
        finally:
            for name, tensor in moved.items():
                self.parameters[name].data = tensor

    def step(self, batch: Batch, subset: ParameterSubset, learning_rate: float) -> float:
        """One optimizer step on the subset; returns the loss before it."""
        with self.optimizer.stepping(learning_rate):
            value = self.gradients(batch, subset)
        self._changed = True
        return value

    def edited(self) -> dict[str, Stored]:
        """The trained tensors by name, in the precision they were trained in. Raises ErasureFailed unless finite."""
        broken = [name for name, parameter in self.parameters.items() if not torch.isfinite(parameter).all()]
        if broken:
            raise ErasureFailed(
                f"{len(broken)} trained tensors are not finite, first {broken[0]}: lower learning_rate or "
                "negative_guidance; the last checkpoint is kept"
            )
        return self.optimizer.masters()

    def state(self) -> dict[str, Stored]:
        """Trained tensors and Adam's moments, flat, for a checkpoint; raises ErasureFailed unless finite."""
        self.edited()
        return self.optimizer.state()

    def restore(self, tensors: Mapping[str, Stored]) -> None:
        """Continue from `state()`; raises KeyError, before anything is changed, when it is of another student."""
        own = self.optimizer.state()
        unlike = [n for n in own if n not in tensors or tensors[n].form != own[n].form]
        if unlike:
            raise KeyError(min(unlike))
        self.optimizer.restore(tensors)
        self._changed = True
