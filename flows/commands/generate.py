"""esd generate."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.options import add_base, add_command, add_device

if TYPE_CHECKING:
    from flows.commands.options import Commands

EPILOG = """\
PROMPTS is a CSV file with the columns case_number, prompt, evaluation_seed. The images are {case_number}_{n}.png;
those already in DIR are left alone, so the same command continues after an interruption.

Guidance steers away from a concept without training: by a negative prompt, or by Safe Latent Diffusion (sld-...) with
its published constants. The noise that an image starts from depends on its seed alone, so images made with other
weights, samplers or guidance compare one by one.

examples:
  esd generate --prompts prompts.csv --out before
  esd generate --prompts prompts.csv --out after --weights van-gogh.safetensors
  esd generate --prompts prompts.csv --out after --weights van-gogh.safetensors \\
      --base CompVis/stable-diffusion-v1-4@<commit> --steps 50 --guidance-scale 7.5 --device cuda
  esd generate --prompts prompts.csv --out guided --guidance sld-strong --away-from "Van Gogh" --steps 50
"""
SAMPLERS = ("auto", "base", "ddim", "pndm", "euler", "dpm++")
METHODS = ("none", "negative-prompt", "sld-weak", "sld-medium", "sld-strong", "sld-max")


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "generate", "make images from a prompts file, with or without edited weights", EPILOG
    )
    parser.add_argument("--prompts", required=True, type=Path, metavar="FILE.csv", help="the prompts")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the images")
    add_base(parser)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="edited weights; without them the base as it is")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="sampler steps (default 20)")
    parser.add_argument("--guidance-scale", type=float, default=4.0, metavar="F", help="classifier-free guidance (4.0)")
    names = ", ".join(SAMPLERS[1:])
    text = f"auto (default: ddim; flow matching has its own), {names}; base is the scheduler that the base ships"
    parser.add_argument("--sampler", choices=SAMPLERS, default="auto", metavar="S", help=text)
    parser.add_argument("--guidance", choices=METHODS, default="none", metavar="G", help=f"{', '.join(METHODS)} (none)")
    parser.add_argument("--away-from", default="", metavar="TEXT", help="the concept that guidance steers away from")
    parser.add_argument("--images-per-prompt", type=int, default=1, metavar="N", help="images of each prompt (1)")
    add_device(parser)
    parser.set_defaults(command=generate)


def generate(arguments: argparse.Namespace) -> int:
    from esd_core.base_model import resolve_base
    from esd_core.generation import generate_from_csv
    from esd_core.guidance import Guidance, GuidanceMethod
    from esd_core.recipe import RolloutSampler
    from tasks.settings import get_settings

    made = generate_from_csv(
        arguments.prompts,
        arguments.out,
        resolve_base(arguments.base),
        arguments.weights,
        steps=arguments.steps,
        guidance_scale=arguments.guidance_scale,
        images_per_prompt=arguments.images_per_prompt,
        device=arguments.device or get_settings().device,
        sampler=RolloutSampler(arguments.sampler),
        guidance=Guidance(GuidanceMethod(arguments.guidance), arguments.away_from),
    )
    print(f"{made} new images in {arguments.out}")
    return 0
