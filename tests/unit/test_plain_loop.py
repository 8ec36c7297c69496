"""The benchmark's plain loop against tensors recorded from the ESD authors' own training loop, in float64."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks.plain_loop import PlainLoop, PlainSettings, draws

ORACLE = Path(os.environ.get("ESD_ORACLE", Path(__file__).parents[3] / "shared" / "oracle"))
CASES = sorted(path.stem for path in ORACLE.glob("*.safetensors"))
TOLERANCE = 1e-9  # relative, in float64
METHODS = ("esd-x", "esd-x-strict", "esd-u", "esd-all")
SETTINGS = set(PlainSettings.__dataclass_fields__)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    error = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-300))
    assert error <= TOLERANCE, f"{what}: relative error {error:.2e}"


@pytest.mark.skipif(
    not (ORACLE / "model").is_dir(), reason=f"the recorded tensors are not at {ORACLE}; set ESD_ORACLE to their folder"
)
@pytest.mark.parametrize("name", CASES)
def test_does_what_the_authors_loop_did(name: str) -> None:
    path = ORACLE / f"{name}.safetensors"
    recorded = load_file(path)
    with safe_open(path, framework="pt") as f:
        about = {key: json.loads(value) for key, value in f.metadata().items()}
    if about.get("scheduler") or about["train_method"] not in METHODS:
        pytest.skip("the authors' current code has neither this method nor another scheduler than the model's")
    loop = PlainLoop(
        ORACLE / "model",
        PlainSettings(**{key: value for key, value in about.items() if key in SETTINGS}),
        torch.float64,
    )
    before = {key: tensor.detach().clone() for key, tensor in loop.parameters.items()}
    assert set(before) == {key.removeprefix("final/") for key in recorded if key.startswith("final/")}
    for i in range(len(recorded["loss"])):
        loop.optimizer.zero_grad()
        latents, timestep = loop.rollout(int(recorded["noise_seed"][i]), int(recorded["rollout_steps"][i]))
        assert float(timestep) == float(recorded["timestep"][i])
        assert_same(latents[0], recorded["xt"][i], f"x_t of iteration {i}")
        target = loop.target(latents, timestep)
        assert_same(target[0], recorded["target"][i], f"target of iteration {i}")
        loss = torch.tensor(loop.learn(latents, timestep, target), dtype=torch.float64)
        assert_same(loss, recorded["loss"][i].double(), f"loss of iteration {i}")
    for key, tensor in loop.parameters.items():
        assert_same(tensor.detach() - before[key], recorded[f"final/{key}"] - before[key], f"change of {key}")


def test_leaves_gradients_where_nothing_is_trained(tiny_base: Path) -> None:
    loop = PlainLoop(tiny_base, PlainSettings("Van Gogh", "esd-x", num_inference_steps=2), torch.float32)
    loop.iteration(seed=0, stop=1)
    assert all(parameter.grad is not None for parameter in loop.edited.parameters())
    assert all(parameter.grad is None for parameter in loop.frozen.parameters())


def test_stopping_steps_are_each_drawn_once_in_a_pass() -> None:
    settings = PlainSettings("Van Gogh", "esd-x", num_inference_steps=10)
    drawn = list(itertools.islice(draws(settings, seed=1), 30))
    for start in (0, 10, 20):
        assert sorted(stop for _, stop in drawn[start : start + 10]) == list(range(10))
    assert drawn[:10] != drawn[10:20]
