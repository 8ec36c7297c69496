"""A registered version as an MLflow model: prompts, seeds and steps in, PNG images out.

    model = mlflow.pyfunc.load_model("models:/esd-miniature-van-gogh/1")
    png = model.predict(pandas.DataFrame({"prompt": ["a house"], "seed": [7], "steps": [20]}))["png"][0]

MLflow imports this module to load a version (`_load_pyfunc`); what it loads is safetensors, nothing is unpickled. The
base model is found as everywhere: bundled, a folder, or a pinned commit of the hub.
"""

from __future__ import annotations

import json
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esd_core.errors import InvalidInput
from tasks.releases.layout import WEIGHTS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MODEL, EXAMPLE = "MLmodel", "input_example.json"  # artifacts beside the weights
GUIDANCE_SCALE = 4.0


class Drawing:
    """Edited weights in their base model, loaded when the first image is asked for."""

    def __init__(self, weights: Path) -> None:
        self.weights = weights

    @cached_property
    def _pipeline(self) -> Any:
        from esd_core.base_model import resolve_base
        from esd_core.generation import edited_pipeline
        from esd_core.weights import read_weights
        from tasks.settings import get_settings

        edited = read_weights(self.weights)
        base = resolve_base(edited.provenance.base)
        return edited_pipeline(base, edited, get_settings().device)

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A column `png` with an image for each row of prompt, seed, steps. params: guidance_scale."""
        import pandas as pd

        missing = [name for name in ("prompt", "seed", "steps") if name not in model_input]
        if missing:
            raise InvalidInput(f"a row must say prompt, seed and steps; missing: {', '.join(missing)}")
        scale = float((params or {}).get("guidance_scale", GUIDANCE_SCALE))
        pictures = pd.Series(index=model_input.index, dtype=object, name="png")
        for steps, rows in model_input.groupby("steps"):
            images = self._images(list(rows["prompt"]), [int(seed) for seed in rows["seed"]], int(steps), scale)
            for row, image in zip(rows.index, images, strict=True):
                pictures[row] = _png(image)
        return pictures.to_frame()

    def _images(self, prompts: list[str], seeds: list[int], steps: int, scale: float) -> list[np.ndarray]:
        from esd_core.generation import generate

        return list(generate(self._pipeline, prompts, seeds, steps=steps, guidance_scale=scale, progress=False))


def _load_pyfunc(path: str) -> Drawing:
    """What MLflow calls with the folder of a version's artifacts."""
    return Drawing(Path(path) / WEIGHTS)


def write_model_files(folder: Path, prompt: str) -> dict[str, Path]:
    """The files that make a folder of artifacts an MLflow model: its description with signature, and an example."""
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import add_to_model
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    rows = Schema([ColSpec("string", "prompt"), ColSpec("long", "seed"), ColSpec("long", "steps")])
    scale = ParamSpec("guidance_scale", "double", GUIDANCE_SCALE)
    signature = ModelSignature(rows, Schema([ColSpec("binary", "png")]), ParamSchema([scale]))
    example = {"artifact_path": EXAMPLE, "type": "dataframe", "pandas_orient": "split"}
    model = Model(signature=signature, saved_input_example_info=example)
    add_to_model(model, loader_module=__name__, data=".")
    model.save(str(folder / MODEL))
    columns, data = ["prompt", "seed", "steps"], [[prompt, 7, 20]]
    (folder / EXAMPLE).write_text(json.dumps({"columns": columns, "data": data}), encoding="utf-8")
    return {MODEL: folder / MODEL, EXAMPLE: folder / EXAMPLE}


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
