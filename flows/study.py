"""One of the paper's experiments: tables and charts, from any base."""

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from esd_core.concepts import MINIATURE, ConceptKind
from esd_core.studies.request import Protocol, checked_request
from tasks.nights.studying import run_study

Count = Annotated[int, Field(ge=1, le=100_000)]
Eta = Annotated[float, Field(gt=0, le=20)]


@flow(name="study", flow_run_name="{protocol} of {base}", persist_result=False)
def study(
    protocol: Protocol,
    base: str = MINIATURE,
    suite: str = MINIATURE,
    images: Annotated[int | None, Field(ge=1, le=100_000)] = None,
    others: Count = 12,
    concepts: list[str] | None = None,
    kind: ConceptKind | None = None,
    etas: list[Eta] | None = None,
    iterations: Annotated[int | None, Field(ge=1, le=10_000)] = None,
    learning_rate: Annotated[float | None, Field(gt=0, le=1)] = None,
    also_known_as: list[str] | None = None,
    neighbours: list[str] | None = None,
    prompts: str | None = None,
    real: Path | None = None,
    against: str | None = None,
) -> Path:
    """Erase what the protocol asks for, measure it against the base at the same seeds, write tables and charts.

    Args:
        protocol: Which experiment.
        base: Base model: hub id pinned as owner/name@commit, a folder, or miniature.
        suite: Evaluation suite: a YAML file, or miniature, imagenette, artists, nudity.
        images: Images of each probe of an erased concept; 24 if empty, or all rows of a prompts file.
        others: Images of each other probe.
        concepts: What to erase; if empty, what the suite lists by kind.
        kind: Their kind, where the suite does not say it.
        etas: Of eta: values of negative guidance; 1, 3 and 10 if empty.
        iterations: Of eta: steps; as the tuned erasure chose if empty.
        learning_rate: Of eta: as the tuned erasure chose if empty.
        also_known_as: Of generality: other names of the concept.
        neighbours: Of generality: concepts to keep; the nearest in the text encoder if empty.
        prompts: Of implied and quality: a CSV file in I2P's format, on the runner or as owner/name@commit/FILE.csv.
        real: Of quality: a folder of real images to compare with, where the runner can read it.
        against: Of baselines: another base model, or a weights file.
    """
    settings = {name: value for name, value in locals().items() if value is not None}
    return run_study(checked_request(settings))
