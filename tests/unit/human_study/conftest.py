"""A painted study, made once; a copy of it and its page for every test."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from infra.human_study.definition import read_definition
from infra.human_study.make import make_study
from infra.human_study.server import build_app
from tests.painted_study import write_study


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("painted"))


@pytest.fixture
def folder(painted: Path, tmp_path: Path) -> Path:
    make_study(read_definition(painted), tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def page(folder: Path) -> TestClient:
    return TestClient(build_app(folder))
