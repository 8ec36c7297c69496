"""A night on a random base model: every code path of a real one, and no meaning."""

from __future__ import annotations

from pathlib import Path

import yaml

CONCEPTS = ("house", "sun")
QUICK = {
    "negative_guidance": 2.0,
    "learning_rate": 2e-4,
    "iterations": 6,
    "batch_size": 1,
    "rollout_steps": 4,
    "points_per_rollout": 3,
}


def write_suite(folder: Path, names: tuple[str, ...] = (*CONCEPTS, "tree")) -> Path:
    """A suite whose classifier answers "seen" to everything: 100 % before and after, whatever the weights."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

    config = ResNetConfig(
        embedding_size=4, hidden_sizes=(4, 8), depths=(1, 1), layer_type="basic", id2label={0: "seen", 1: "unseen"}
    )
    model = ResNetForImageClassification(config)
    with torch.no_grad():
        model.classifier[-1].bias.copy_(torch.tensor([100.0, -100.0]))
    model.save_pretrained(folder / "eye")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder / "eye")
    probes = [
        {"name": name, "concept": name, "classifier": "eye", "label": "seen", "prompts": [f"a {name}"]}
        for name in names
    ]
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"classifiers": {"eye": {"model": "eye"}}, "probes": probes, "steps": 2}))
    return path


def write_list(
    folder: Path, base: Path, suite: Path, *, erased_at_most: float = 1.0, mode: str = "separate", **settings: object
) -> Path:
    """A concept list of an object and an attribute; with erased_at_most 1 every gate passes, below it none."""
    house = {"name": "house", "kind": "object", **QUICK, **settings}
    sun = {"name": "sun", "kind": "global", "compare_with": "esd-x", **QUICK}
    path = folder / "list.yaml"
    whole = {
        "base": str(base),
        "suite": str(suite),
        "images_per_probe": 2,
        "gates": {"erased_at_most": erased_at_most, "others_drop_at_most": 1.0},
        "approval": "gates",
        "mode": mode,
        "concepts": [house, sun],
    }
    path.write_text(yaml.safe_dump(whole))
    return path
