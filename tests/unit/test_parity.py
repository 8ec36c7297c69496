"""The engine's pieces against the benchmark's plain loop, in float64: other subsets, eta, steps and schedulers.

The plain loop itself is held to the ESD authors' recorded tensors (test_plain_loop.py); here it records the cases.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.plain_loop import PlainLoop, PlainSettings
from esd_core.base_model import ResolvedBase
from esd_core.concepts import ConceptEntry
from esd_core.point_source import load_points
from esd_core.recipe import Recipe, RecipeName, named_recipe
from esd_core.schedule import shuffled
from esd_core.weights import read_weights
from tests.recorded_runs import replay
from tests.tiny_erasure import job_of, run

DRAWS = ((11, 0.0), (29, 0.5), (7, 0.99))  # noise seed, and where the rollout stops, of an iteration each
STEPS = 6  # of a whole erasure; one bank of as many rollouts serves it
ENDS = ("time_embedding.", "conv_norm_out.", "conv_out.")
# The methods of the authors' first code (train-esd.py), by parameter name; the others are the plain loop's own.
FIRST_CODE: dict[str, Callable[[str], bool]] = {
    "xattn": lambda name: "attn2" in name,
    "noxattn": lambda name: "attn2" not in name and not name.startswith(ENDS),
    "selfattn": lambda name: "attn1" in name,
    "full": lambda _: True,
}


@dataclass(frozen=True)
class Run:
    train_method: str
    scheduler: str
    num_inference_steps: int
    negative_guidance: float
    erase_from: str | None = None
    guidance_scale: float = 3.0


RUNS = (
    Run("esd-x", "PNDMScheduler", 50, 2.0),
    Run("esd-x", "DPMSolverMultistepScheduler", 20, 4.0, erase_from="a tree", guidance_scale=7.5),
    Run("esd-x-strict", "DDIMScheduler", 5, 11.0),
    Run("esd-u", "EulerDiscreteScheduler", 7, 1.0),
    Run("esd-all", "DPMSolverMultistepScheduler", 9, 3.0),
    Run("xattn", "EulerDiscreteScheduler", 30, 2.0, erase_from="a house"),
    Run("noxattn", "DDIMScheduler", 50, 2.0),
    Run("selfattn", "EulerDiscreteScheduler", 10, 4.0),
    Run("full", "PNDMScheduler", 6, 1.5, guidance_scale=1.0),
)


def loop_of(run: Run, folder: Path) -> PlainLoop:
    own = run.train_method not in FIRST_CODE
    settings = PlainSettings(
        "Van Gogh",
        run.train_method if own else "esd-all",
        run.erase_from,
        run.num_inference_steps,
        run.guidance_scale,
        run.negative_guidance,
    )
    loop = PlainLoop(folder, settings, torch.float64)
    unclipped = {"clip_sample": False} if run.scheduler == "DDIMScheduler" else {}  # latents leave [-1, 1]
    loop.scheduler = getattr(diffusers, run.scheduler).from_config(loop.scheduler.config, **unclipped)
    if not own:
        wanted = FIRST_CODE[run.train_method]
        loop.parameters = {name: p for name, p in loop.edited.named_parameters() if wanted(name)}
        loop.optimizer = torch.optim.Adam(loop.parameters.values(), lr=settings.lr)
    return loop


def record(run: Run, folder: Path, path: Path) -> None:
    """The plain loop's iterations in the format of the recorded cases."""
    loop = loop_of(run, folder)
    draws = [(seed, int(place * run.num_inference_steps)) for seed, place in DRAWS]
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in ("timestep", "xt", "target", "pred", "loss")}
    tensors = {"concept_embeds": loop.concept, "null_embeds": loop.null}
    for seed, stop in draws:
        loop.optimizer.zero_grad()
        x, t = loop.rollout(seed, stop)
        target = loop.target(x, t)
        with torch.no_grad():
            pred = loop.edited(x, t, encoder_hidden_states=loop.prompt).sample
        loss = torch.tensor(loop.learn(x, t, target), dtype=torch.float64)
        for name, value in (("timestep", t), ("xt", x[0]), ("target", target[0]), ("pred", pred[0]), ("loss", loss)):
            rows[name].append(value.double())
        if not any(name.startswith("first_grad_norm/") for name in tensors):
            gradients = {name: p.grad for name, p in loop.parameters.items() if p.grad is not None}
            tensors |= {f"first_grad_norm/{name}": grad.norm()[None] for name, grad in gradients.items()}
    tensors |= {name: torch.stack(values) for name, values in rows.items()}
    tensors |= {f"final/{name}": p.detach() for name, p in loop.parameters.items()}
    tensors["noise_seed"], tensors["rollout_steps"] = (torch.tensor(drawn) for drawn in zip(*draws, strict=True))
    tensors["sampler_timesteps"] = loop.scheduler.timesteps
    about = {**asdict(run), "concept": "Van Gogh", "lr": loop.settings.lr}
    copies = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, path, metadata={key: json.dumps(value) for key, value in about.items()})


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.train_method}, {run.scheduler}")
def test_the_engine_computes_what_the_plain_loop_computes(run: Run, tiny_base: Path, tmp_path: Path) -> None:
    record(run, tiny_base, tmp_path / "case.safetensors")
    replay(tmp_path / "case.safetensors", tiny_base)


def drawn(loop: PlainLoop, latents: torch.Tensor) -> tuple[int, int]:
    """The noise seed and the stopping step of the plain loop's rollout that ends with these latents."""
    found = [
        (seed, stop)
        for seed in range(STEPS)
        for stop in range(len(loop.scheduler.timesteps))
        if torch.allclose(loop.rollout(seed, stop)[0], latents, atol=1e-4)
    ]
    (only,) = found
    return only


@pytest.mark.parametrize(("kind", "method"), [("style", "esd-x"), ("object", "esd-u")])
def test_an_erasure_by_the_authors_recipe_is_the_plain_loop(
    kind: str, method: str, base: ResolvedBase, tmp_path: Path
) -> None:
    """The whole engine, from its bank to its weights, against the loop on the same draws."""
    small = {"iterations": STEPS, "rollout_steps": 5, "precision": "float32"}
    entry = ConceptEntry.model_validate({"name": "Van Gogh", "kind": kind, "recipe": "authors-2025", **small})
    job = job_of(base, entry.erasure)
    weights = read_weights(run(job, base, tmp_path).weights).tensors
    loop = PlainLoop(base.folder, PlainSettings("Van Gogh", method, num_inference_steps=5), torch.float32)
    before = {name: p.detach().clone() for name, p in loop.parameters.items()}
    assert set(before) == set(weights)
    (bank,) = tmp_path.glob("bank-*.safetensors")
    points = load_points(bank)
    assert points is not None
    for number in range(STEPS):
        seed, stop = drawn(loop, points.latents[shuffled(number, STEPS, job.erasures[0].recipe.seed)][None])
        loop.iteration(seed, stop)
    theirs = torch.cat([(p.detach() - before[name]).flatten() for name, p in loop.parameters.items()])
    ours = torch.cat([(weights[name] - before[name]).flatten() for name in before])
    assert float(theirs.abs().mean()) > loop.settings.lr
    assert float((ours - theirs).abs().mean()) < 0.01 * loop.settings.lr


def test_the_recipe_of_the_paper_says_what_its_code_does() -> None:
    """train-esd.py of the authors' first code; a style is trained by xattn, everything else by noxattn."""
    published = named_recipe(RecipeName.PAPER, "style")
    assert published == {
        "subset": "esd-x",
        "rollout_from": "student",  # quick_sample_till_t samples with the model that is trained
        "sampler": "ddim",
        "rollout_steps": 50,  # ddim_steps
        "start_guidance": 3.0,
        "timestep_choice": "bucket",  # t_enc_ddpm
        "anchor": "empty",  # e_0
        "negative_guidance": 1.0,
        "iterations": 1000,
        "learning_rate": 1e-5,
        "batch_size": 1,
        "points_per_rollout": 1,  # a rollout of its own for every step
        "reuse": 1,
        "precision": "float32",
        "updates": "master",
    }
    assert named_recipe(RecipeName.PAPER, "object") == {**published, "subset": "esd-u"}
    assert Recipe(**published).keep == "nothing"
    assert Recipe(**published).contexts == 0
