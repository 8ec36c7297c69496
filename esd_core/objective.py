"""The formulas of erasure, as pure functions. Noise predictions are (B, C, h, w)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def guided(eps_null: torch.Tensor, eps_concept: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): eps_null + scale * (eps_concept - eps_null)."""
    return eps_null + guidance_scale * (eps_concept - eps_null)


def esd_target(
    eps_anchor: torch.Tensor, eps_concept: torch.Tensor, eps_null: torch.Tensor, negative_guidance: float
) -> torch.Tensor:
    """Noise the student must predict: eps_anchor - eta * (eps_concept - eps_null), all from the frozen model.

    Gandikota et al., ICCV 2023, eq. 6, when the anchor is the empty prompt. The authors' current code anchors on the
    concept itself with eta one larger, which is the same target.
    """
    return eps_anchor - negative_guidance * (eps_concept - eps_null)


def esd_loss(prediction: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error over all elements, a scalar (Gandikota et al., eq. 7); weight: (B,), of each sample."""
    if weight is None:
        return F.mse_loss(prediction, target)
    return (weight * (prediction - target).square().flatten(1).mean(1)).mean()
