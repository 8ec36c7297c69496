"""What a suite says of its metrics: one model of settings for each. Works without torch.

`digest` names all that decides a located metric's figures.
"""

from __future__ import annotations

from math import ceil

from pydantic import Field, ValidationInfo, field_validator

from esd_core import digest
from esd_core.evaluation.classifier_refs import ModelRef, Words
from esd_core.evaluation.model_refs import model_digest

TAILS = 3  # ways to be no picture: flat, rough, far from the base's


def fewest_images(false_alarms: float) -> int:
    """Of the base, from which a range with this share of false alarms can be learned; see metrics/coherence.py."""
    return 2 * ceil(TAILS / false_alarms) - 3


class CoherenceRef(ModelRef):
    """From what an evaluation learns what pictures look like: features, and images that the base draws for it."""

    model: Words = Field(description="Folder of a vision model, relative to the suite file, or owner/name@commit.")
    false_alarms: float = Field(0.03, gt=0, lt=0.5, description="Share of the base's own images outside of the range.")
    images: int = Field(200, ge=1, le=100_000, description="Of the base, to learn the range from.")
    prompts: tuple[Words, ...] = Field((), description="Of these images, in turn; unless given, all of the suite's.")

    @field_validator("images")
    @classmethod
    def _enough(cls, images: int, info: ValidationInfo) -> int:
        false_alarms = info.data.get("false_alarms")
        if false_alarms and images < fewest_images(false_alarms):
            raise ValueError(
                f"cannot tell {false_alarms:.1%} false alarms: give at least {fewest_images(false_alarms)}"
            )
        return images

    @property
    def digest(self) -> str:
        return digest.of_json([model_digest(self.model), self.false_alarms, self.images, self.prompts])


class QualityRef(ModelRef):
    """By what the study of quality measures images. features: for FID, KID and distances at equal seeds."""

    features: Words = Field(description="Folder of a vision model, relative to the suite file, or owner/name@commit.")
    clip: Words | None = Field(None, description="The same of a CLIPModel, for CLIP scores.")

    @property
    def digest(self) -> str:
        return digest.of_json([model_digest(self.features), self.clip and model_digest(self.clip)])
