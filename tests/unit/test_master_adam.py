"""The optimizer with exact masters: what it keeps, what it adds up, and that elsewhere it is torch's own Adam."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esd_core.master_adam import MasterAdam, join, split_into


def test_any_float32_stands_exactly_in_two_halves() -> None:
    bits = torch.randint(-(2**31), 2**31, (1 << 20,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    bits[:4] = torch.tensor([0, -(2**31), 2**31 - 1, -1])
    master = bits.view(torch.float32)
    high, low = torch.empty(len(bits), dtype=torch.bfloat16), torch.empty(len(bits), dtype=torch.int16)
    split_into(master, high, low)
    assert torch.equal(join(high, low).view(torch.int32), bits)
    ordinary = (master.abs() > 1e-30) & (master.abs() < 1e30)
    assert torch.allclose(high.float()[ordinary], master[ordinary], rtol=2**-8, atol=0)


def pulled(dtype: torch.dtype, masters: bool, steps: int) -> tuple[nn.Parameter, MasterAdam]:
    """A parameter of ones, pulled down by `steps` gradients of one, at a learning rate of 1e-5."""
    parameter = nn.Parameter(torch.ones(3, 5, dtype=dtype))
    optimizer = MasterAdam({"weight": parameter}, masters)
    for _ in range(steps):
        with optimizer.stepping(1e-5):
            parameter.sum().backward()
    return parameter, optimizer


def test_steps_too_small_for_bfloat16_add_up_in_the_master() -> None:
    parameter, optimizer = pulled(torch.bfloat16, masters=True, steps=300)
    assert torch.allclose(optimizer.master("weight"), torch.tensor(1 - 300e-5), atol=1e-4)
    assert torch.equal(parameter, optimizer.master("weight").bfloat16())
    lost, _ = pulled(torch.bfloat16, masters=False, steps=300)
    assert torch.equal(lost, torch.ones_like(lost))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_parameters_get_torchs_own_adam(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(700, 400, dtype=dtype), torch.randn(5, 700, 400, dtype=dtype)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer, reference = MasterAdam({"weight": ours}), torch.optim.Adam([theirs], lr=1e-3, fused=True)
    for gradient in gradients:
        with optimizer.stepping(1e-3):
            (ours * gradient).sum().backward()
        theirs.grad = gradient
        reference.step()
    assert torch.equal(ours, theirs)


def test_continues_from_its_state_to_the_bit() -> None:
    whole, _ = pulled(torch.bfloat16, masters=True, steps=7)
    parameter, first = pulled(torch.bfloat16, masters=True, steps=4)
    second = MasterAdam({"weight": nn.Parameter(torch.zeros_like(parameter))})
    second.restore(first.state())
    for _ in range(3):
        with second.stepping(1e-5):
            second.parameters["weight"].sum().backward()
    assert torch.equal(second.parameters["weight"], whole)
    with pytest.raises(KeyError):
        MasterAdam({"other": nn.Parameter(torch.zeros(1))}).restore(first.state())
