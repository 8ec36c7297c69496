"""The page's server. It listens on this machine only, unless told otherwise, and never says what made an image."""

from __future__ import annotations

import re
import socket
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field

from esd_core.errors import InvalidInput
from infra.human_study import answers
from infra.human_study.answers import Answer, Participant
from infra.human_study.study import ANSWERS, IMAGES, Trial, read_study

PAGE = Path(__file__).parent / "page"
ONLY_FROM_HERE = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"


class Arrival(BaseModel):
    model_config = ConfigDict(extra="forbid")

    participant: Participant


class Rating(Arrival):
    trial: int
    rating: Annotated[int, Field(ge=1, le=5)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


def build_app(folder: Path) -> FastAPI:
    """The page of the study in `folder`; its answers go to answers.jsonl there."""
    study = read_study(folder)
    path, writing, order_for = folder / ANSWERS, Lock(), cache(study.order_for)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(_guarded)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE / "page.html")

    @app.post("/participants")
    def arrive(arrival: Arrival) -> dict[str, Any]:
        """What this participant is to see, and what they have answered already."""
        given = answers.last_of_each(answers.read(path, study.digest))
        return {
            "trials": [_shown(trial) for trial in order_for(arrival.participant)],
            "answers": {a.trial: a.rating for a in given if a.participant == arrival.participant},
        }

    @app.post("/answers", status_code=201)
    def answer(rating: Rating) -> None:
        if rating.trial not in {trial.number for trial in order_for(rating.participant)}:
            raise HTTPException(422, "this participant has no such trial")
        with writing:
            answers.append(path, Answer(study=study.digest, **rating.model_dump()))

    @app.get("/images/{name}")
    def image(name: str) -> FileResponse:
        if not re.fullmatch(r"[0-9a-f]+\.png", name) or not (folder / IMAGES / name).is_file():
            raise HTTPException(404, "no such image")
        return FileResponse(folder / IMAGES / name)

    app.mount("/page", StaticFiles(directory=PAGE))
    return app


async def _guarded(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await answer(request)
    response.headers["Content-Security-Policy"] = ONLY_FROM_HERE
    response.headers["Cache-Control"] = "no-cache"
    return response


def _shown(trial: Trial) -> dict[str, Any]:
    """All that the page learns of a trial."""
    return trial.model_dump(include={"number", "image", "references"})


def listen(address: str, port: int) -> socket.socket:
    """A socket for the page; port 0 takes a free one. Raises InvalidInput when the address or port cannot be had."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address, port))
        listening.listen()
    except (OSError, OverflowError) as e:
        listening.close()
        raise InvalidInput(f"cannot listen on {address} port {port} ({e}): choose another with --port") from e
    return listening


def serve(folder: Path, listening: socket.socket) -> None:
    """Serve the study in `folder` until Ctrl-C, which comes out as KeyboardInterrupt."""
    with listening:
        uvicorn.Server(uvicorn.Config(build_app(folder), log_level="warning", lifespan="off")).run(sockets=[listening])
