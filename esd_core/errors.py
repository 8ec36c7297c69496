"""Everything this system refuses to do, as exceptions with a remedy in the message.

EsdError            base of all; the command line prints its message as one line and exits with code 2
├── InvalidInput        what a person wrote is wrong: concept list, recipe, prompts file, option
├── BaseModelError      the base model cannot be found, pinned or understood
├── WeightsError        a weights file is missing, truncated, not safetensors, or does not fit
│   └── BaseModelMismatch   the weights edit another base model than the one loaded
├── ErasureFailed       training cannot go on: loss not finite, empty parameter subset
├── EvaluationError     a suite, classifier or cached image set cannot be used
├── OutOfMemory         memory ran out; may pass by itself
├── DiskFull            nothing more can be written
├── ServiceUnavailable  a server (MLflow, S3, Prefect) does not answer; may pass by itself
├── RegistryError       MLflow answers, but not with what was asked for
├── ApprovalError       publishing or approving what must not be
└── ReleaseError        a release is incomplete, altered or already there
"""


class EsdError(Exception):
    """A refusal with a remedy; the message is one line."""


class InvalidInput(EsdError):
    pass


class BaseModelError(EsdError):
    pass


class WeightsError(EsdError):
    pass


class BaseModelMismatch(WeightsError):
    pass


class ErasureFailed(EsdError):
    pass


class EvaluationError(EsdError):
    pass


class OutOfMemory(EsdError):
    pass


class DiskFull(EsdError):
    pass


class ServiceUnavailable(EsdError):
    pass


class RegistryError(EsdError):
    pass


class ApprovalError(EsdError):
    pass


class ReleaseError(EsdError):
    pass
