"""An edited model of each family, made once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from diffusers.utils import logging as diffusers_logging

from esd_core.base_model import ResolvedBase, resolve_base
from tests.edited_models import Model, edit
from tests.tiny_originals import ORIGINALS, save
from tests.tiny_pipelines import flux


@pytest.fixture(autouse=True)
def _quiet() -> None:
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """An edited model of each family, made once."""
    made: dict[str, Model] = {}

    def get(name: str) -> Model:
        if name not in made:
            folder = tmp_path_factory.mktemp("family") / "base"
            build = {**ORIGINALS, "FLUX": flux}[name]
            base = resolve_base(str(save(build, folder)))
            made[name] = edit(base, folder.parent / "edited.safetensors")
        return made[name]

    return get


@pytest.fixture(scope="session")
def tiny(base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return edit(base, tmp_path_factory.mktemp("tiny") / "edited.safetensors")


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return edit(resolve_base("miniature"), tmp_path_factory.mktemp("miniature") / "edited.safetensors", size=0.05)
