"""One yard for all tests of a file, a suite that measures several concepts, and rows that take a moment or a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import NoPostgres, private_cluster
from tests.survival.yard import Yard, opened
from tests.tiny_night import QUICK, write_suite

NAMES = ("house", "sun", "tree", "boat", "car", "fish", "road", "star", "church")
LONG = {"iterations": 300, "points_per_rollout": 4}  # so that there is time to do something to it


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    try:
        with (
            private_cluster("prefect", "mlflow") as databases,
            opened(tmp_path_factory.mktemp("yard") / "yard", databases) as yard,
        ):
            yield yard
    except NoPostgres as e:
        pytest.skip(str(e))


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("suite"), NAMES)


@pytest.fixture
def parameters(tiny_base: Path, suite: Path) -> Callable[..., dict[str, Any]]:
    """Parameters of a night on these concepts. Another seed makes another job of the same concept."""

    def written(*names: str, seed: int = 0, runners: int = 1, **settings: object) -> dict[str, Any]:
        rows = [{"name": name, "kind": "object", "seed": seed, **QUICK, **settings} for name in names]
        return {
            "concepts": rows,
            "runners": runners,
            "base": str(tiny_base),
            "suite": str(suite),
            "images_per_probe": 2,
            "erased_at_most": 1.0,
            "others_drop_at_most": 1.0,
            "approval": "gates",
        }

    return written
