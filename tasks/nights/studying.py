"""A study as a Prefect task, and what Prefect shows of it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from prefect import task
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from esd_core.studies.request import StudyRequest
from tasks.nights.artifacts import data_uri, show_what_is_logged
from tasks.settings import get_settings

log = logging.getLogger(__name__)


@task(task_run_name="study {request.protocol}", cache_policy=NO_CACHE, persist_result=False)
def run_study(request: StudyRequest) -> Path:
    """Run a protocol into its folder under home/studies; returns the folder."""
    from esd_core.studies.markdown import as_markdown
    from esd_core.studies.protocols import run
    from esd_core.studies.workbench import Folders

    show_what_is_logged()
    settings = get_settings()
    folders = Folders(settings.jobs_folder, settings.banks_folder, settings.cache_folder)
    out = settings.home / "studies" / f"{request.protocol.value}-{request.digest[:8]}"
    study = run(request, out, folders, settings.machine, progress=sys.stderr.isatty())
    create_markdown_artifact(as_markdown(study), key=f"study-{request.protocol.value}", description=study.title)
    for shown in (*study.charts, *study.course, *study.pictures):
        create_image_artifact(data_uri(out / f"{shown.name}.png"), key=shown.name, description=shown.title)
    log.info("%s: %s", study.title, out)
    return out
