"""What an evaluation loads and draws, noted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from esd_core.backbones.loading import load_pipeline
from esd_core.base_model import ResolvedBase
from esd_core.evaluation import evaluate as module
from esd_core.generation import generate


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every load of a pipeline, noted."""
    noted: list[str] = []

    def noting(base: ResolvedBase, device: str = "auto") -> Any:
        noted.append(base.id)
        return load_pipeline(base, device)

    monkeypatch.setattr(module, "load_pipeline", noting)
    monkeypatch.setattr("esd_core.generation.load_pipeline", noting)
    return noted


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str, int]]:
    """Every image that is drawn: which pipeline, prompt and seed."""
    noted: list[tuple[int, str, int]] = []
    pipelines: list[Any] = []  # kept, so that no two have one id

    def noting(pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> np.ndarray:
        pipelines.append(pipeline)
        noted.extend((id(pipeline), prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True))
        return generate(pipeline, prompts, seeds, **options)

    monkeypatch.setattr("esd_core.evaluation.artist.generate", noting)
    return noted
