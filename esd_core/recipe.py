"""How a concept is erased: every setting that changes the resulting weights, and nothing else."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ParameterSubset(StrEnum):
    ESD_X = "esd-x"  # every cross-attention (attn2) parameter
    ESD_X_STRICT = "esd-x-strict"  # attn2 key and value projections only
    ESD_U = "esd-u"  # everything but attn2, time embedding and output layer: the paper's code
    ESD_U_AUTHORS = "esd-u-authors"  # Linear and Conv2d outside attn2: the authors' current code
    ESD_ALL = "esd-all"  # everything


class RolloutFrom(StrEnum):
    FROZEN = "frozen"  # x_t sampled with the original weights, as the authors' current code does
    STUDENT = "student"  # x_t sampled with the edited weights, as the paper does


class Anchor(StrEnum):
    EMPTY = "empty"  # the paper: start from the unconditional prediction
    CONCEPT = "concept"  # the authors' current code: start from the concept; its eta 2 equals the paper's eta 1


class TimestepChoice(StrEnum):
    SAMPLER = "sampler"  # the sampler's own timestep, the one x_t was made for
    BUCKET = "bucket"  # uniform between the sampler's timesteps, as the paper's code draws it


class Recipe(BaseModel):
    """Settings of one erasure. Part of the job's digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subset: ParameterSubset = Field(description="Which parameters are trained.")
    negative_guidance: float = Field(
        1.0, gt=0, le=20, description="eta: how far the target steers away from the concept."
    )
    anchor: Anchor = Field(
        Anchor.EMPTY, description="What the target starts from, unless the concept names erase_from."
    )
    iterations: int = Field(200, ge=1, le=10_000, description="Optimizer steps.")
    learning_rate: float = Field(3e-4, gt=0, le=1, description="Adam's learning rate.")
    batch_size: int = Field(2, ge=1, le=64, description="Points per optimizer step.")
    rollout_from: RolloutFrom = Field(RolloutFrom.FROZEN, description="Which weights sample x_t.")
    rollout_steps: int = Field(50, ge=2, le=1000, description="Sampler steps of a whole trajectory.")
    start_guidance: float = Field(3.0, ge=1, le=30, description="Classifier-free guidance scale of the rollouts.")
    points_per_rollout: int = Field(25, ge=1, le=1000, description="Points kept of each trajectory.")
    reuse: int = Field(1, ge=1, le=100, description="How often each kept point is trained on.")
    timestep_choice: TimestepChoice = Field(
        TimestepChoice.SAMPLER, description="Timestep given to teacher and student."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seeds rollouts and the order of points.")


# What a recipe leaves out, by how the concept shows itself; measured on the bundled model.
NAMED_IN_PROMPTS: dict[str, Any] = {"subset": ParameterSubset.ESD_X}
NOT_NAMED: dict[str, Any] = {
    "subset": ParameterSubset.ESD_U,
    "negative_guidance": 2.0,
    "learning_rate": 2e-4,
    "iterations": 300,
}
