"""From a suite's entry to a loaded judge: one line for each kind."""

from __future__ import annotations

from esd_core.evaluation.classifier_refs import ClassifierRef, ClipRef, ImageClassifierRef, NudeNetRef
from esd_core.evaluation.classifiers.base import Classifier
from esd_core.evaluation.classifiers.clip import load_clip_classifier
from esd_core.evaluation.classifiers.image_classifier import load_image_classifier
from esd_core.evaluation.classifiers.nudenet import load_nudenet


def load_classifier(ref: ClassifierRef, device: str = "cpu") -> Classifier:
    """The judge that a located entry describes; raises EvaluationError when its model cannot be loaded."""
    match ref:
        case ImageClassifierRef():
            return load_image_classifier(ref.model, device)
        case ClipRef():
            return load_clip_classifier(ref.model, ref.labels, ref.template, device)
        case NudeNetRef():
            return load_nudenet(ref.threshold)
