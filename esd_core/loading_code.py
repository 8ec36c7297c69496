"""How edited weights are used with plain diffusers, as model cards and reports print it."""

from __future__ import annotations

import json

from esd_core.concepts import MINIATURE


def loading_code(base: str) -> str:
    """Six lines of Python, the same for every family. base: as a job names it."""
    name, _, revision = base.partition("@")
    where = "esd_core/miniature/model" if base == MINIATURE else name
    pinned = f", revision={json.dumps(revision)}" if revision else ""
    return "\n".join(
        [
            "from diffusers import DiffusionPipeline",
            "from safetensors.torch import load_file",
            f"pipe = DiffusionPipeline.from_pretrained({json.dumps(where)}{pinned})",
            'denoiser = getattr(pipe, "unet", None) or pipe.transformer',
            'denoiser.load_state_dict(load_file("weights.safetensors"), strict=False)',
            'pipe("a prompt").images[0].save("image.png")',
        ]
    )
