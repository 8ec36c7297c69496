"""Styles: the interference matrix, rows erased, columns prompted, in which only the diagonal should change.

Gandikota et al., ICCV 2023, section 5.1: modern artists, ESD-x; there the matrix is one of pictures.
"""

from __future__ import annotations

from esd_core.concepts import ConceptKind
from esd_core.studies.matrix import distances, fill_matrix
from esd_core.studies.request import StudyRequest
from esd_core.studies.study import Findings
from esd_core.studies.workbench import Workbench


def styles(bench: Workbench, request: StudyRequest) -> Findings:
    matrix = fill_matrix(bench, request.concepts, ConceptKind.STYLE)
    return Findings(
        title=f"Styles: {len(matrix.erased)} artists, each erased alone",
        asks="Does erasing one artist leave the styles of the others alone?",
        tables=(
            matrix.summary("styles", "artist", "artists"),
            matrix.table("styles-change", "Change of every style (columns) by every erasure (rows), in points"),
        ),
        charts=(
            matrix.heat_map("styles-matrix", "How often each style is seen"),
            *distances(bench, matrix, "styles-moved"),
        ),
        sheets=(matrix.sheet("styles-images", "What is drawn for each artist: one seed for each column"),),
        notes=("Only the outlined diagonal should differ from the base's row.",),
    )
