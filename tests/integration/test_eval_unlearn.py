"""The technique inside eval-unlearn: installed in an environment of its own, found by its entry point, run there.

The environment sees the packages of this one and adds the benchmark, with what only the benchmark needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esd_core.base_model import resolve_base
from esd_core.evaluation.eval_unlearn import EditedWeightsTechnique
from tests.edited_models import edit

pytestmark = [pytest.mark.own_environment, pytest.mark.timeout(900)]
PROJECT = Path(__file__).parents[2]
BENCHMARK = "eval-unlearn==1.1.2"
PROMPTS = ("a house", "a tree on the beach", "a red house")
# A metric of the test's own, since the benchmark's load their models from a hub: how bright the images are.
RUN = """
import json, sys
import numpy as np
from eval_unlearn.registry import register_metric
from eval_unlearn.runners import SingleBenchmarkRunner
from eval_unlearn.types import Dataset, MetricResult

@register_metric("brightness")
class Brightness:
    def __init__(self, prompts):
        self.prompts, self.seen = prompts, []
    def load_dataset(self):
        return [Dataset(prompts=self.prompts[:2]), Dataset(prompts=self.prompts[2:])]
    def update(self, images, prompts, metadata):
        self.seen += [float(np.asarray(image).mean()) for image in images]
    def compute(self):
        return MetricResult("brightness", sum(self.seen) / len(self.seen))

config, out = json.loads(sys.argv[1]), sys.argv[2]
SingleBenchmarkRunner("esd_pipeline", "brightness", config, {"prompts": json.loads(sys.argv[3])}, out).run()
"""


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the benchmark; skips where it cannot be installed."""
    folder = tmp_path_factory.mktemp("eval-unlearn")
    venv.create(folder, with_pip=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    (packages / "outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    python = folder / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    installed = run(*pip, "--constraint", PROJECT / "constraints.txt", BENCHMARK, cwd=folder)
    if installed.returncode:
        pytest.skip(f"{BENCHMARK} cannot be installed: {installed.stderr.strip().splitlines()[-1]}")
    ours = run(*pip, "--no-deps", "--editable", PROJECT, cwd=folder)
    assert ours.returncode == 0, ours.stderr
    return python


def test_the_benchmark_runs_it(python: Path, tmp_path: Path, tiny_base: Path) -> None:
    house = edit(resolve_base(str(tiny_base)), tmp_path / "house.safetensors")
    config = {"weights": str(house.file), "erase_concept": "house", "num_inference_steps": 2, "device": "cpu"}
    done = run(python, "-c", RUN, json.dumps(config), tmp_path, json.dumps(PROMPTS), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = [np.asarray(image) for image in EditedWeightsTechnique(**config).generate(PROMPTS)]
    report = json.loads((tmp_path / "esd_pipeline_house_latest_report.json").read_text())
    assert report["erase_concept"] == "house"
    assert report["metric_result"]["value"] == pytest.approx(np.mean(expected))
    saved = [np.asarray(Image.open(path)) for path in sorted(tmp_path.rglob("images/*.png"))]
    assert np.array_equal(saved, expected)
