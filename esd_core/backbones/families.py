"""The families of base models that can be erased from; one row for each pipeline class of diffusers. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """What differs before anything is loaded.

    pipeline: the class that model_index.json names. backbone: its Backbone, as module.Class in esd_core.backbones.
    denoiser: the pipeline's component that is trained. components: folders of a model that are loaded and digested.
    unused: components that a pipeline takes and that are left out. optional: components that a folder may lack.
    """

    name: str
    pipeline: str
    backbone: str
    denoiser: str
    components: tuple[str, ...]
    unused: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


TWO_TEXTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
THIRD_TEXT = ("text_encoder_3", "tokenizer_3")
IMAGE_PROMPTS = ("image_encoder", "feature_extractor")


FAMILIES = {
    family.pipeline: family
    for family in (
        Family(
            name="Stable Diffusion 1 and 2",
            pipeline="StableDiffusionPipeline",
            backbone="stable_diffusion.StableDiffusion",
            denoiser="unet",
            components=("unet", "text_encoder", "tokenizer", "vae", "scheduler"),
            unused=("safety_checker", "feature_extractor"),
        ),
        Family(
            name="Stable Diffusion XL",
            pipeline="StableDiffusionXLPipeline",
            backbone="stable_diffusion_xl.StableDiffusionXL",
            denoiser="unet",
            components=("unet", *TWO_TEXTS, "vae", "scheduler"),
            unused=IMAGE_PROMPTS,
        ),
        Family(
            name="Stable Diffusion 3",
            pipeline="StableDiffusion3Pipeline",
            backbone="stable_diffusion_3.StableDiffusion3",
            denoiser="transformer",
            components=("transformer", *TWO_TEXTS, *THIRD_TEXT, "vae", "scheduler"),
            unused=IMAGE_PROMPTS,
            optional=THIRD_TEXT,
        ),
        Family(
            name="FLUX.1",
            pipeline="FluxPipeline",
            backbone="flux.Flux",
            denoiser="transformer",
            components=("transformer", *TWO_TEXTS, "vae", "scheduler"),
            unused=IMAGE_PROMPTS,
        ),
    )
}
