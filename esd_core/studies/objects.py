"""Objects: each class erased in turn; the erased class and the others, before and after.

Gandikota et al., ICCV 2023, table 2: ten Imagenette classes, 500 images each, ResNet-50 top-1, ESD-u.
"""

from __future__ import annotations

from esd_core.concepts import ConceptKind
from esd_core.studies.figures import rate_after, rate_before
from esd_core.studies.matrix import Matrix, distances, fill_matrix
from esd_core.studies.request import StudyRequest
from esd_core.studies.study import Bars, Findings, Series
from esd_core.studies.workbench import Workbench


def objects(bench: Workbench, request: StudyRequest) -> Findings:
    matrix = fill_matrix(bench, request.concepts, ConceptKind.OBJECT)
    return Findings(
        title=f"Objects: {len(matrix.erased)} classes, each erased alone",
        asks="How much of an erased class is left, and what becomes of the other classes?",
        tables=(
            matrix.summary("objects", "class", "classes"),
            matrix.table("objects-change", "Change of every class (columns) by every erasure (rows), in points"),
        ),
        charts=(
            _bars(matrix),
            matrix.heat_map("objects-matrix", "How often each class is seen"),
            *distances(bench, matrix, "objects-moved"),
        ),
        sheets=(matrix.sheet("objects-images", "What is drawn for each class: one seed for each column"),),
        notes=(
            (
                "In the paper's table (Stable Diffusion 1.4, ten Imagenette classes, 500 images each) the erased class "
                "falls from 78.2 to 12.6 % and the others from 78.2 to 63.2 % on average."
            ),
        ),
    )


def _bars(matrix: Matrix) -> Bars:
    own = [matrix.result(name, name) for name in matrix.erased]
    others = [matrix.others(name) for name in matrix.erased]
    return Bars(
        name="objects",
        title="Images that show the class",
        labels=matrix.erased,
        series=(
            Series(name="erased class, before", figures=tuple(map(rate_before, own))),
            Series(name="erased class, after", figures=tuple(map(rate_after, own))),
            Series(name="other classes, after", figures=tuple(map(rate_after, others))),
        ),
    )
