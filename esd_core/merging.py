"""One model out of several, each with one concept erased: layer by layer, in closed form.

Each concept i was erased alone from the original weights W, which became W + D_i. A merged layer shall do as W + D_i
does with what it sees of concept i, and as W does with what it sees of everything else. Least squares give

    W' = W + s sum_i D_i w_i G_i (sum_j w_j G_j + k G_0 + r I)^-1

with G_i = X^T X over what the layer sees in rollouts of concept i, G_0 in those of random words, weights w_i, and s to
make up for what the compromise takes of each edit. What appears unasked must not come of other words either, so its
edit holds for those too: among such concepts alone, with w_i G_i + k G_0 in the place of w_i G_i and s = 1; of one
concept that is D_i. Adding up the D_i instead lets each disturb all (docs/lists.md).

Without G_0, w and s this is the regression mean of Jin et al., "Dataless Knowledge Fusion" (ICLR 2023); MACE
(Lu et al., CVPR 2024) merges keys and values of erased concepts by it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

KEEP = 1.0  # k: weight of random words beside each concept
OVERSHOOT = 1.35  # s, of several concepts that prompts name
RIDGE = 1e-3  # r, as a share of the mean of the diagonal
AT_ONCE = 4 << 30  # bytes of Gram matrices that are summed in one round of rollouts
ROWS = 64  # of each sample: neighbouring places look alike
PLACES = ((0, 0), (1, 0), (2, 0), (0, 2))  # random words before and after a name

Layer = nn.Linear | nn.Conv2d


def concept_prompts(names: Sequence[str], words: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` prompts of a concept: its names in turn, bare and beside one or two random words."""
    drawn = random.Random(seed)
    prompts = []
    for i in range(count):
        before, after = PLACES[i // len(names) % len(PLACES)] if words else (0, 0)
        beside = [drawn.choice(words) for _ in range(before + after)]
        prompts.append(" ".join([*beside[:before], names[i % len(names)], *beside[before:]]))
    return prompts


def word_prompts(words: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` prompts of one, two and four random words."""
    drawn = random.Random(seed)
    lengths = [(1, 2, 2, 4)[i % 4] for i in range(count)]
    return [" ".join(drawn.choice(words) for _ in range(length)) for length in lengths] if words else [""] * count


def mergeable(denoiser: nn.Module, names: Sequence[str]) -> dict[str, Layer]:
    """The linear and convolutional layers whose weights are among `names`; what else is there stays the original."""
    edited = set(names)
    return {
        name: layer
        for name, layer in denoiser.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and f"{name}.weight" in edited
    }


def passes(layers: Mapping[str, Layer], at_once: int = AT_ONCE) -> list[dict[str, Layer]]:
    """The layers in groups whose Gram matrices together take at most so many bytes, or of one layer that takes more."""
    groups: list[dict[str, Layer]] = []
    left = 0
    for name, layer in layers.items():
        size = 4 * (layer.weight[0].numel() + 1) ** 2
        if not groups or size > left:
            groups.append({})
            left = at_once
        groups[-1][name] = layer
        left -= size
    return groups


def seen_by(layer: Layer, inputs: torch.Tensor) -> torch.Tensor:
    """(N, d + 1) float32: what each output place of the layer is computed from, and a one for the bias."""
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        patches = torch.nn.functional.unfold(
            inputs,
            layer.kernel_size,
            layer.dilation,
            layer.padding,
            layer.stride,
        )
        inputs = patches.transpose(1, 2)
    rows = inputs.reshape(-1, inputs.shape[-1]).float()
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


@contextmanager
def gram_matrices(
    layers: Mapping[str, Layer], generator: torch.Generator, *, of_prompts_only: bool
) -> Iterator[dict[str, torch.Tensor]]:
    """Within this block every call of these layers adds X^T X of what they see, (d + 1, d + 1), under their names.

    Of each sample ROWS rows drawn at random are enough. of_prompts_only: of a batch for classifier-free guidance the
    second half, which is told the prompt.
    """
    sums: dict[str, torch.Tensor] = {}

    def add(name: str, layer: Layer, inputs: tuple[Any, ...]) -> None:
        samples = inputs[0].detach().chunk(2)[1] if of_prompts_only else inputs[0].detach()
        rows = seen_by(layer, samples)
        chosen = torch.randint(len(rows), (min(len(rows), ROWS * len(samples)),), generator=generator)
        rows = rows[chosen.to(rows.device)]
        sums[name] = rows.T @ rows if name not in sums else sums[name].addmm_(rows.T, rows)

    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: add(name, layer, inputs))
        for name, layer in layers.items()
    ]
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


def merged_edit(
    edits: Sequence[torch.Tensor | None], seen: Sequence[torch.Tensor], others: torch.Tensor, unasked: Sequence[bool]
) -> torch.Tensor:
    """What is added to one layer, (out, d).

    edits: D_i, (out, d), None where a concept left the layer as it was. seen: w_i G_i, and others: G_0, (d, d).
    unasked: whether each concept appears without being named.
    """
    overshoot = OVERSHOOT if len(edits) > 1 else 1.0
    wanted: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for edit, gram, is_unasked in zip(edits, seen, unasked, strict=True):
        if edit is not None:
            own = gram + KEEP * others if is_unasked else overshoot * gram
            wanted[is_unasked].append(edit.double() @ own.double())
    among_unasked = [gram for gram, is_unasked in zip(seen, unasked, strict=True) if is_unasked]
    parts = [
        torch.cholesky_solve(sum(products[1:], products[0]).T, _factor(sum(grams, KEEP * others))).T
        for products, grams in ((wanted[True], among_unasked), (wanted[False], seen))
        if products
    ]
    return sum(parts[1:], parts[0]).to(others.dtype)


def _factor(gram: torch.Tensor) -> torch.Tensor:
    """The Cholesky factor of a Gram matrix with its ridge, in float64."""
    wide = gram.to(torch.float64, copy=True)
    wide.diagonal().add_(RIDGE * wide.diagonal().mean())
    return torch.linalg.cholesky(wide)
