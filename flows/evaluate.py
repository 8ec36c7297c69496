"""A registered version, measured anew."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from esd_core.concepts import MINIATURE
from esd_core.evaluation.gates import Gates
from flows.form import Images, Indifference, Share, WrongShare
from tasks.nights import artifacts, steps


@flow(name="evaluate", flow_run_name="{model} {version} by {suite}", persist_result=False)
def evaluate(
    model: Annotated[str, Field(min_length=1)],
    version: Annotated[int, Field(ge=1)],
    suite: str = MINIATURE,
    images_per_probe: Images = 200,
    erased_at_most: Share = 0.10,
    others_drop_at_most: Share = 0.05,
    coherent_at_least: Share = 0.0,
    sequential: bool = True,
    indifference: Indifference = 0.25,
    wrong_pass: WrongShare = 0.05,
    wrong_fail: WrongShare = 0.05,
) -> str:
    """Measure a version with any suite and gates; returns the MLflow run that keeps what was found.

    Args:
        model: Registered model, e.g. esd-miniature-van-gogh.
        version: Its version number.
        suite: Evaluation suite: a YAML file, or miniature, imagenette, artists, nudity.
        images_per_probe: Images for each row of the suite, before and after; at most so many for sequential gates.
        erased_at_most: Gate: what may remain of the erased concept, as a share of its base rate.
        others_drop_at_most: Gate: how far the rates of all other concepts may fall on average, as a share of images.
        coherent_at_least: Gate: share of the erased concept's images that are pictures at all; 0 does not ask for it.
        sequential: Make images until each gate is decided, instead of a fixed number.
        indifference: Share of a limit by which a model may miss it and still be judged either way.
        wrong_pass: Most that a gate may pass of models that are worse.
        wrong_fail: Most that a gate may fail of models that are better.
    """
    given = locals()
    gates = Gates(**{name: given[name] for name in Gates.model_fields if name in given})
    found = steps.evaluate_again(model, version, suite, images_per_probe, gates)
    artifacts.show_concept(found.version, found.report, found.verdict, found.grid)
    return found.run
