"""A registered version as an MLflow model, loaded in a process that knows nothing but its name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from mlflow.models import Model
from PIL import Image

from esd_core.base_model import resolve_base
from esd_core.generation import generate
from esd_core.recipe import ParameterSubset
from tasks.settings import Settings
from tests.edited_models import edit
from tests.integration.conftest import Made

pytestmark = pytest.mark.slow

Make = Callable[..., Made]
PROMPTS, SEEDS, STEPS = ["a house", "a tree on the beach", "the sun"], [3, 4, 5], [2, 3, 2]

FRESH = """
import json, sys
import mlflow
import pandas

mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
drawn = model.predict(pandas.DataFrame(json.loads(sys.argv[3])), params={"guidance_scale": 2.0})
print(json.dumps([picture.hex() for picture in drawn["png"]]))
"""


@pytest.mark.usefixtures("bucket")
def test_a_version_draws_in_a_fresh_process(settings: Settings, make: Make, tiny_base: Path, tmp_path: Path) -> None:
    model = edit(resolve_base(str(tiny_base)), tmp_path / "edited.safetensors", ParameterSubset.ESD_X)
    version = make(drawable=model.file).register()
    rows = json.dumps({"prompt": PROMPTS, "seed": SEEDS, "steps": STEPS})
    command = [sys.executable, "-c", FRESH, settings.mlflow_tracking_uri, f"models:/{version.model}/1", rows]
    environment = {**os.environ, "ESD_DEVICE": "cpu"}
    ended = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
    pictures = [bytes.fromhex(picture) for picture in json.loads(ended.stdout.splitlines()[-1])]
    pipeline = model.edited_pipeline()
    for prompt, seed, steps, picture in zip(PROMPTS, SEEDS, STEPS, pictures, strict=True):
        drawn = generate(pipeline, [prompt], [seed], steps=steps, guidance_scale=2.0, progress=False)[0]
        assert picture.startswith(b"\x89PNG")
        assert (np.asarray(Image.open(BytesIO(picture))) == drawn).all()


@pytest.mark.usefixtures("bucket")
def test_it_says_what_goes_in_and_out_and_gives_an_example(make: Make) -> None:
    version = make().register()
    folder = Path(version.artifacts.removeprefix("file://"))
    found = Model.load(str(folder))
    assert found.signature
    assert [column.name for column in found.signature.inputs] == ["prompt", "seed", "steps"]
    assert [column.name for column in found.signature.outputs] == ["png"]
    example = json.loads((folder / "input_example.json").read_text())
    assert example == {"columns": ["prompt", "seed", "steps"], "data": [["a picture of sun", 7, 20]]}
    assert {"MLmodel", "input_example.json"} < set(version.files)
