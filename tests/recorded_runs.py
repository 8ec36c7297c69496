"""A run recorded from a training loop, and our replay of it in float64 through the public pieces.

A case is a safetensors file; its header holds the settings as JSON values, and names the scheduler by its class where
the model is not sampled with its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from esd_core.backbones.base import Backbone
from esd_core.backbones.loading import load_pipeline
from esd_core.backbones.stable_diffusion import StableDiffusion
from esd_core.base_model import resolve_base
from esd_core.parameters import select
from esd_core.recipe import Anchor, ParameterSubset, RolloutSampler, Updates
from esd_core.rollout import guided_rollout
from esd_core.score_bank import Points, Prompts, start_noise, taught
from esd_core.student import Batch, Student

TOLERANCE = 1e-9  # relative, in float64

# What may be meant by the training methods of the authors' current code and of their first; the tensors tell which.
SUBSETS: dict[str, list[tuple[ParameterSubset, ...]]] = {
    "esd-x": [(ParameterSubset.ESD_X,)],
    "xattn": [(ParameterSubset.ESD_X,)],
    "esd-x-strict": [(ParameterSubset.ESD_X_STRICT,)],
    "esd-u": [(ParameterSubset.ESD_U_AUTHORS,), (ParameterSubset.ESD_U,)],
    "noxattn": [(ParameterSubset.ESD_U,)],
    "selfattn": [(ParameterSubset.SELF_ATTENTION,)],
    "esd-all": [(ParameterSubset.ESD_X, ParameterSubset.ESD_U_AUTHORS), (ParameterSubset.ESD_ALL,)],
    "full": [(ParameterSubset.ESD_ALL,)],
}
SAMPLERS = {  # by the names that a case may use
    **{choice.value: choice for choice in RolloutSampler},
    "PNDMScheduler": RolloutSampler.PNDM,
    "DDIMScheduler": RolloutSampler.DDIM,
    "EulerDiscreteScheduler": RolloutSampler.EULER,
    "DPMSolverMultistepScheduler": RolloutSampler.DPM,
}


class Case:
    """One recorded run and our replay of it."""

    def __init__(self, path: Path, model_folder: Path) -> None:
        self.recorded = load_file(path)
        with safe_open(path, framework="pt") as f:
            self.settings: dict[str, Any] = {key: json.loads(value) for key, value in f.metadata().items()}
        model = resolve_base(str(model_folder))
        self.backbone: Backbone = StableDiffusion(load_pipeline(model, "cpu", torch.float64))
        self.backbone.denoiser.eval()
        source = self.settings["erase_from"]
        self.prompts = Prompts(
            concept=self.backbone.encode(self.settings["concept"]),
            null=self.backbone.encode(""),
            erase_from=None if source is None else self.backbone.encode(source),
        )
        self.sampler = SAMPLERS[self.settings.get("scheduler") or RolloutSampler.BASE]
        subsets = self._subsets()
        self.student = Student(self.backbone, subsets, Updates.MASTER, keeps_originals=True)
        self.subset = subsets[0]
        self.student.subsets[self.subset] = self.student.parameters  # a step trains all of them

    def _subsets(self) -> tuple[ParameterSubset, ...]:
        """The subsets of that name that train exactly what was recorded."""
        method = self.settings["train_method"]
        trained = {key.removeprefix("final/") for key in self.recorded if key.startswith("final/")}
        known = [(ParameterSubset(method),)] if method in list(ParameterSubset) else []
        meant = [*SUBSETS.get(method, []), *known]
        for subsets in meant:
            if {name for subset in subsets for name in select(self.backbone.denoiser, subset)} == trained:
                return subsets
        raise AssertionError(f"{method} trained {len(trained)} tensors, which none of {meant} selects")

    def points(self, iteration: int) -> Points:
        """The point that iteration number `iteration` trained on, taught by the frozen model."""
        seed, step = int(self.recorded["noise_seed"][iteration]), int(self.recorded["rollout_steps"][iteration])
        noise = start_noise(self.backbone.latent_shape, [seed], torch.float64)
        rollout = guided_rollout(
            self.student.predict_frozen,
            self.backbone.sampler(self.sampler, self.settings["num_inference_steps"]),
            noise,
            self.prompts.prompt,
            self.prompts.null,
            self.settings["guidance_scale"],
        )
        point = next(point for point in rollout if point.step == step)
        teach, rows = self.student.predict_frozen, torch.tensor([0])
        return taught(point, rows, point.timestep.expand(1), teach, self.prompts, reusable=True)

    def batch(self, points: Points) -> Batch:
        target = points.target(Anchor.CONCEPT, self.settings["negative_guidance"])
        return Batch(points.latents, points.timesteps, self.prompts.prompt, target)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    error = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-300))
    assert error <= TOLERANCE, f"{what}: relative error {error:.2e}"


def replay(path: Path, model_folder: Path) -> None:
    """Asserts that every iteration, the first gradients and the weights in the end are those recorded."""
    case = Case(path, model_folder)
    recorded, prompts = case.recorded, case.prompts
    assert_same(prompts.concept["encoder_hidden_states"], recorded["concept_embeds"], "concept embedding")
    assert_same(prompts.null["encoder_hidden_states"], recorded["null_embeds"], "null embedding")
    before = {key: tensor.read().clone() for key, tensor in case.student.edited().items()}
    if "sampler_timesteps" in recorded:
        timesteps = case.backbone.sampler(case.sampler, case.settings["num_inference_steps"]).timesteps
        assert timesteps.tolist() == recorded["sampler_timesteps"].tolist()
    for i in range(len(recorded["loss"])):
        points = case.points(i)
        batch = case.batch(points)
        assert float(points.timesteps[0]) == float(recorded["timestep"][i])
        assert_same(points.latents[0], recorded["xt"][i], f"x_t of iteration {i}")
        assert_same(batch.target[0], recorded["target"][i], f"target of iteration {i}")
        prediction = case.student.predict(batch.latents, batch.timesteps, batch.conditioning)
        assert_same(prediction[0], recorded["pred"][i], f"prediction of iteration {i}")
        if i == 0:
            assert_first_gradients(case, batch)
        loss = torch.tensor(case.student.step(batch, case.subset, case.settings["lr"]), dtype=torch.float64)
        assert_same(loss, recorded["loss"][i].double(), f"loss of iteration {i}")
    for key, tensor in case.student.edited().items():
        assert_same(tensor.read() - before[key], recorded[f"final/{key}"] - before[key], f"change of {key}")


def assert_first_gradients(case: Case, batch: Batch) -> None:
    case.student.gradients(batch, case.subset)
    for key, parameter in case.student.parameters.items():
        assert parameter.grad is not None, key
        assert_same(parameter.grad.norm(), case.recorded[f"first_grad_norm/{key}"][0], f"gradient of {key}")
