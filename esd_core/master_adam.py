"""Adam whose updates arrive in bfloat16 weights, in less memory than Adam in bfloat16 throughout.

A float32 master is kept exactly as two halves of 16 bits: the module's own tensor is the master rounded to bfloat16,
and what rounding took away stands beside it. Each parameter is updated as soon as its gradient is complete, inside
the backward pass, and the gradient freed; the gradients never exist all together. Small ones of float32 wait for the
end of the pass and are updated in one call.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.optim.adam import adam

from esd_core.tensor_file import Stored, in_memory

BETAS, EPS = (0.9, 0.999), 1e-8  # Kingma & Ba 2015, and torch's defaults
SMALL = 1 << 16  # elements of a parameter
CHUNK = {"cpu": 1 << 18, "cuda": 1 << 24}  # elements at a time; on a CPU their float32 copies stay in its cache


def join(high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """The float32 master of a bfloat16 tensor and the signed 16 bits beside it. All (N,); exact."""
    wide = low.to(torch.int32)  # first: adding numbers of two widths is fifteen times slower
    return wide.add_(high.view(torch.int16).to(torch.int32), alpha=1 << 16).view(torch.float32)


def split_into(master: torch.Tensor, high: torch.Tensor, low: torch.Tensor) -> None:
    """Write a float32 master (N,) as its nearest bfloat16, halves away from zero, and what is left; join undoes it."""
    bits = master.view(torch.int32)
    low.copy_(bits)  # keeps the lower half
    high.view(torch.int16).copy_(bits.add(0x8000).bitwise_right_shift_(16))


class MasterAdam:
    """Adam on named parameters, stepping inside the backward pass.

    Beside each element of a bfloat16 parameter: 2 bytes of master, 2 of first moment (bfloat16), 4 of second
    (float32: a decay of .999 would round away in 8 bits of mantissa). Parameters of float32 and float64 are their own
    masters with moments of their own precision: torch.optim.Adam(fused=True) to the bit. With masters=False so are
    those of bfloat16, as in the authors' loop; then most small updates round away.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], masters: bool = True) -> None:
        self.parameters = parameters
        self.steps = dict.fromkeys(parameters, 0)
        split = {name for name, p in parameters.items() if masters and p.dtype is torch.bfloat16}
        self.low = {name: torch.zeros_like(parameters[name], dtype=torch.int16) for name in split}
        self.exp_avg = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.exp_avg_sq = {
            name: torch.zeros_like(p, dtype=torch.float32 if name in split else p.dtype)
            for name, p in parameters.items()
        }
        self._rate: float | None = None
        for name, p in parameters.items():  # torch keeps a hook as long as its parameter, out of the collector's sight
            p.requires_grad_(True).register_post_accumulate_grad_hook(partial(_update, weakref.ref(self), name))

    @contextmanager
    def stepping(self, learning_rate: float) -> Iterator[None]:
        """`loss.backward()` within this block is one optimizer step; outside it only leaves gradients."""
        self._rate = learning_rate
        try:
            yield
            self._step([name for name, p in self.parameters.items() if p.grad is not None])
        finally:
            self._rate = None

    def master(self, name: str) -> torch.Tensor:
        """The trained tensor in its full precision, detached; float32 for a bfloat16 parameter with a master."""
        p = self.parameters[name].detach()
        if name not in self.low:
            return p
        master = torch.empty_like(p, dtype=torch.float32)
        for part, high, low in zip(*_chunks(master, p, self.low[name]), strict=True):
            part.copy_(join(high, low))
        return master

    @torch.no_grad()
    def update(self, name: str, p: torch.Tensor) -> None:
        if self._rate is None:
            return
        if name in self.low:
            self._step_split(name, p, self._rate)
        elif p.numel() >= SMALL:
            self._step([name])

    @torch.no_grad()
    def _step(self, names: list[str]) -> None:
        """Update parameters that are their own masters, in one call."""
        assert self._rate is not None
        parameters = [self.parameters[name] for name in names]
        gradients = [_gradient(p) for p in parameters]
        for name in names:
            self.steps[name] += 1
        if names:
            first, second = ([of[name] for name in names] for of in (self.exp_avg, self.exp_avg_sq))
            _adam(parameters, gradients, first, second, [self.steps[name] for name in names], self._rate)

    def _step_split(self, name: str, p: torch.Tensor, rate: float) -> None:
        """Update a bfloat16 parameter by way of its master, part by part."""
        self.steps[name] += 1
        tensors = (p, _gradient(p), self.exp_avg[name], self.exp_avg_sq[name], self.low[name])
        for weight, grad, first, second, low in zip(*_chunks(*tensors), strict=True):
            master, moment = join(weight, low), first.float()
            _adam([master], [grad.float()], [moment], [second], [self.steps[name]], rate)
            split_into(master, weight, low)
            first.copy_(moment)

    def masters(self) -> dict[str, Stored]:
        """Every trained tensor in its full precision, made when it is read."""
        wide = {name: torch.float32 if name in self.low else p.dtype for name, p in self.parameters.items()}
        return {
            name: Stored(tuple(p.shape), wide[name], partial(self._read, name)) for name, p in self.parameters.items()
        }

    def _read(self, name: str) -> torch.Tensor:
        return self.master(name).cpu()

    def state(self) -> dict[str, Stored]:
        """Masters, moments and step counts, flat, for `restore`."""
        tensors = {f"weights/{name}": master for name, master in self.masters().items()}
        for key, values in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
            tensors |= {f"adam/{key}/{name}": in_memory(value) for name, value in values.items()}
        return tensors | {f"adam/step/{name}": in_memory(torch.tensor(count)) for name, count in self.steps.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Stored]) -> None:
        """Continue from `state()`; raises KeyError when it is of another subset."""
        for name, p in self.parameters.items():
            saved = tensors[f"weights/{name}"].read()
            if name in self.low:
                master = torch.empty_like(p, dtype=torch.float32).copy_(saved)
                split_into(_flat(master), _flat(p), _flat(self.low[name]))
            else:
                p.copy_(saved)
            self.exp_avg[name].copy_(tensors[f"adam/exp_avg/{name}"].read())
            self.exp_avg_sq[name].copy_(tensors[f"adam/exp_avg_sq/{name}"].read())
            self.steps[name] = int(tensors[f"adam/step/{name}"].read())


def _chunks(*tensors: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Dense tensors of one shape and layout, each as flat parts."""
    return [_flat(tensor).split(CHUNK[tensor.device.type]) for tensor in tensors]


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """(N,) view of a dense tensor in the order of its memory, channels_last or not."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def _gradient(p: torch.Tensor) -> torch.Tensor:
    """Take a parameter's gradient from it, in the parameter's own layout."""
    grad, p.grad = p.grad, None
    assert grad is not None
    return grad if grad.stride() == p.stride() else torch.empty_like(p).copy_(grad)


def _adam(
    weights: Sequence[torch.Tensor],
    grads: list[torch.Tensor],
    exp_avgs: list[torch.Tensor],
    exp_avg_sqs: list[torch.Tensor],
    steps: list[int],
    rate: float,
) -> None:
    """One step of Adam in place, each of a step number of its own; all of one precision."""
    adam(
        list(weights),
        grads,
        exp_avgs,
        exp_avg_sqs,
        [],
        [torch.tensor(float(step - 1), device=weight.device) for step, weight in zip(steps, weights, strict=True)],
        foreach=False,
        fused=weights[0].dtype is not torch.bfloat16,
        amsgrad=False,
        beta1=BETAS[0],
        beta2=BETAS[1],
        lr=rate,
        weight_decay=0.0,
        eps=EPS,
        maximize=False,
    )


def _update(optimizer: weakref.ref[MasterAdam], name: str, parameter: torch.Tensor) -> None:
    found = optimizer()
    if found is not None:
        found.update(name, parameter)
