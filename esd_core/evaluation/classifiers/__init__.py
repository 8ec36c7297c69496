"""Judges: each says, for every image, which of its labels it shows. `base` is the interface, `loading` the table.

Images are (N, H, W, 3) uint8 RGB throughout.
"""

from esd_core.evaluation.classifiers.base import Classifier
from esd_core.evaluation.classifiers.image_classifier import load_image_classifier
from esd_core.evaluation.classifiers.loading import load_classifier

__all__ = ["Classifier", "load_classifier", "load_image_classifier"]
