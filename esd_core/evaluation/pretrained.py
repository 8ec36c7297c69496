"""Transformers models and processors from a folder or from `owner/name@commit`: safetensors only, no foreign code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from esd_core.errors import EvaluationError
from esd_core.evaluation.model_refs import PINNED, model_digest
from esd_core.kept_models import at_work, kept


def load_model(kind: Any, ref: str, device: str) -> Any:
    """The model of class `kind` in float32, for inference.

    Raises EvaluationError when it cannot be loaded, or lacks a tensor that transformers would make up.
    """

    def load() -> Any:
        model, found = _load(kind, ref, use_safetensors=True, dtype=torch.float32, output_loading_info=True)
        if found["missing_keys"]:
            raise EvaluationError(
                f"model {ref} lacks {len(found['missing_keys'])} tensors of a {type(model).__name__}, "
                f"such as {min(found['missing_keys'])}: give a model that was trained as one"
            )
        return model.eval().requires_grad_(False)

    return at_work(kept((kind.__name__, model_digest(ref)), load), device)


def load_processor(kind: Any, ref: str) -> Any:
    """The image processor or tokenizer beside a model."""
    return kept((kind.__name__, model_digest(ref)), lambda: _load(kind, ref))


def pixel_values(processor: Any, images: np.ndarray, model: Any) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> what the model takes, on its device."""
    pixels = processor(list(images), return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    return pixels.to(model.device)


def _load(kind: Any, ref: str, **options: Any) -> Any:
    model_digest(ref)
    pinned = None if Path(ref).is_dir() else PINNED.fullmatch(ref)
    where = {"revision": pinned["commit"]} if pinned else {"local_files_only": True}
    try:
        with _quiet():
            return kind.from_pretrained(pinned["name"] if pinned else ref, **where, **options)
    except (OSError, ValueError, KeyError) as e:
        first_line = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise EvaluationError(f"cannot load model {ref}: {first_line}") from e


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar for loading a few tensors, no report on those that are left over."""
    shown, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()
