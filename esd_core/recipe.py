"""How a concept is erased: every setting that changes the resulting weights, and nothing else."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ParameterSubset(StrEnum):
    ESD_X = "esd-x"  # every cross-attention (attn2) parameter
    ESD_X_STRICT = "esd-x-strict"  # attn2 key and value projections only
    ESD_X_TEXT = "esd-x-text"  # keys and values made of the text alone: the same, but of joint attention its text's
    ESD_U = "esd-u"  # everything but attn2, time embedding and output layer: the paper's code
    ESD_U_AUTHORS = "esd-u-authors"  # Linear and Conv2d outside attn2: the authors' current code
    SELF_ATTENTION = "self-attention"  # every self-attention (attn1) parameter
    ESD_ALL = "esd-all"  # everything

    def overlaps(self, other: ParameterSubset) -> bool:
        """Whether a parameter can be of both."""
        either = {self, other}
        return ParameterSubset.ESD_ALL in either or len({s in _CROSS_ATTENTION for s in either}) == 1


_CROSS_ATTENTION = {ParameterSubset.ESD_X, ParameterSubset.ESD_X_STRICT, ParameterSubset.ESD_X_TEXT}


class RolloutFrom(StrEnum):
    FROZEN = "frozen"  # x_t sampled with the original weights, as the authors' current code does
    STUDENT = "student"  # x_t sampled with the edited weights, as the paper does


class RolloutSampler(StrEnum):
    AUTO = "auto"  # ddim; the base's own where the family takes no other (flow matching)
    BASE = "base"  # the scheduler that the base model ships
    DDIM = "ddim"
    PNDM = "pndm"
    EULER = "euler"
    DPM = "dpm++"  # DPM-Solver++, second order


class Anchor(StrEnum):
    EMPTY = "empty"  # the paper: start from the unconditional prediction
    CONCEPT = "concept"  # the authors' current code: start from the concept; its eta 2 equals the paper's eta 1


class TimestepChoice(StrEnum):
    SAMPLER = "sampler"  # the sampler's own timestep, the one x_t was made for
    BUCKET = "bucket"  # uniform between the sampler's timesteps, as the paper's code draws it


class Precision(StrEnum):
    AUTO = "auto"  # bfloat16 on a GPU, float32 on a CPU
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Updates(StrEnum):
    MASTER = "master"  # exact float32 masters of the trained tensors take the updates: none rounds away
    IN_PLACE = "in-place"  # in the model's own precision, as the authors' current code: in bfloat16 most round away


class Keep(StrEnum):
    NOTHING = "nothing"  # the published algorithms
    EMPTY = "empty"  # the empty prompt's prediction at the same x_t; the bank knows it
    EMPTY_AND_WORDS = "empty-and-words"  # in turn with two random words of the tokenizer's vocabulary


class Recipe(BaseModel):
    """Settings of one erasure. Part of the job's digest. What is None is chosen by measuring the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subset: ParameterSubset = Field(description="Which parameters are trained.")
    negative_guidance: float | None = Field(
        None, gt=0, le=20, description="eta: how far the target steers away from the concept."
    )
    anchor: Anchor = Field(
        Anchor.EMPTY, description="What the target starts from, unless the concept names erase_from."
    )
    iterations: int | None = Field(None, ge=1, le=10_000, description="Optimizer steps.")
    learning_rate: float | None = Field(None, gt=0, le=1, description="Adam's learning rate.")
    batch_size: int = Field(2, ge=1, le=64, description="Points per optimizer step.")
    rollout_from: RolloutFrom = Field(RolloutFrom.FROZEN, description="Which weights sample x_t.")
    sampler: RolloutSampler = Field(RolloutSampler.AUTO, description="How x_t is sampled.")
    rollout_steps: int = Field(50, ge=2, le=1000, description="Sampler steps of a whole trajectory.")
    start_guidance: float = Field(3.0, ge=1, le=30, description="Classifier-free guidance scale of the rollouts.")
    points_per_rollout: int = Field(25, ge=1, le=1000, description="Points kept of each trajectory.")
    reuse: int = Field(1, ge=1, le=100, description="How often each kept point is trained on.")
    timestep_choice: TimestepChoice = Field(
        TimestepChoice.SAMPLER, description="Timestep given to teacher and student."
    )
    contexts: int = Field(
        0, ge=0, le=32, description="Random words beside which the concept is erased too, anchored on the words alone."
    )
    keep: Keep = Field(Keep.NOTHING, description="What the student is held to beside its target, at the same x_t.")
    keep_weight: float = Field(1.0, gt=0, le=100, description="Weight of what is kept and retained, beside the target.")
    gives_back: bool = Field(
        False, description="Whether an erasure that had to be pushed is merged with the original weights afterwards."
    )
    precision: Precision = Field(Precision.AUTO, description="Numbers that the model computes in.")
    updates: Updates = Field(Updates.MASTER, description="Where optimizer steps are added up.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seeds rollouts and the order of points.")

    @property
    def stops_by_itself(self) -> bool:
        """Whether the erasure's end is left to looking at it."""
        return self.iterations is None

    @property
    def is_tuned(self) -> bool:
        """Whether anything is to be chosen by measuring the model."""
        return None in (self.negative_guidance, self.iterations, self.learning_rate)


class RecipeName(StrEnum):
    AUTO = "auto"  # learning rate, eta and number of steps follow from measuring the model
    PAPER = "paper"  # Gandikota et al., ICCV 2023, and the authors' first code
    AUTHORS_2025 = "authors-2025"  # the authors' current code


# What the tuned recipe leaves nobody to choose, by kind of concept; learning rate, eta and steps are measured. It goes
# by the edited model's own trajectories, as the paper does: what it still draws is what is taught next. What appears
# unasked is also erased beside random words, which stand for the prompts that it appears in. It gives nothing back,
# since its edit must hold for other words too; nor do styles, since keys and values see nothing but tokens, and so few
# prompts hold too few of them to tell what must not change (docs/tuning.md).
_TUNED: dict[str, dict[str, Any]] = {
    kind: {
        "subset": subset,
        "batch_size": 1,
        "rollout_from": RolloutFrom.STUDENT,
        "rollout_steps": 20,
        "points_per_rollout": 20,
        "reuse": 2,
        "contexts": contexts,
        "keep": keep,
        "keep_weight": weight,
        "gives_back": gives_back,
    }
    for kind, subset, contexts, keep, weight, gives_back in (
        ("style", ParameterSubset.ESD_X, 3, Keep.EMPTY_AND_WORDS, 3.0, False),
        ("object", ParameterSubset.ESD_U, 0, Keep.EMPTY_AND_WORDS, 3.0, True),
        ("global", ParameterSubset.ESD_U, 3, Keep.NOTHING, 1.0, False),
    )
}
# The two published algorithms (paper and first code; esd_sd.py of the authors' repository, commit 25613d2).
_PUBLISHED: dict[RecipeName, dict[str, Any]] = {
    RecipeName.PAPER: {
        "negative_guidance": 1.0,
        "anchor": Anchor.EMPTY,
        "iterations": 1000,
        "learning_rate": 1e-5,
        "batch_size": 1,
        "rollout_from": RolloutFrom.STUDENT,
        "sampler": RolloutSampler.DDIM,
        "rollout_steps": 50,
        "start_guidance": 3.0,
        "points_per_rollout": 1,
        "reuse": 1,
        "timestep_choice": TimestepChoice.BUCKET,
        "precision": Precision.FLOAT32,
        "updates": Updates.MASTER,
    },
    RecipeName.AUTHORS_2025: {
        "negative_guidance": 2.0,
        "anchor": Anchor.CONCEPT,
        "iterations": 200,
        "learning_rate": 5e-5,
        "batch_size": 1,
        "rollout_from": RolloutFrom.FROZEN,
        "sampler": RolloutSampler.BASE,
        "rollout_steps": 50,
        "start_guidance": 3.0,
        "points_per_rollout": 1,
        "reuse": 1,
        "timestep_choice": TimestepChoice.SAMPLER,
        "precision": Precision.BFLOAT16,
        "updates": Updates.IN_PLACE,
    },
}


def named_recipe(name: RecipeName, kind: str) -> dict[str, Any]:
    """Settings of a recipe by name, for a kind of concept: style, object or global.

    Styles, which prompts name, are erased from cross-attention, objects and what appears unasked from everything else,
    as the paper does; the authors' current code selects the latter anew.
    """
    if name is RecipeName.AUTO:
        return _TUNED[kind]
    if kind == "style":
        subset = ParameterSubset.ESD_X
    else:
        subset = ParameterSubset.ESD_U_AUTHORS if name is RecipeName.AUTHORS_2025 else ParameterSubset.ESD_U
    return {"subset": subset, **_PUBLISHED[name]}
