"""The list of a run: rows typed in the form, or a YAML file by reference; checked whole before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from esd_core.concept_list import ConceptList
from esd_core.errors import InvalidInput
from esd_core.evaluation.gates import Gates
from esd_core.list_file import Written, checked_list, load_concept_list, read_yaml
from tasks.s3.storage import open_bucket

PROJECT = Path(__file__).resolve().parents[2]
RULES = tuple(name for name in ConceptList.model_fields if name not in ("gates", "concepts"))
GATES = tuple(Gates.model_fields)


def list_of(parameters: Mapping[str, Any]) -> ConceptList:
    """The concept list that a run's flat parameters mean; raises InvalidInput naming every fault.

    With `concept_list`, a path or s3://BUCKET/KEY, the file says everything and the form nothing else.
    """
    reference = str(parameters["concept_list"]).strip()
    if reference:
        _refuse_both(parameters, reference)
        return read_list(reference)
    rules = {name: parameters[name] for name in RULES}
    gates = {name: parameters[name] for name in GATES}
    raw = {**rules, "gates": gates, "concepts": list(parameters["concepts"])}
    return checked_list(Written("parameters", raw), measured=True)


def read_list(reference: str) -> ConceptList:
    """A list by its path or S3 address. Paths are taken from the working folder, or else from this project's."""
    if not reference.startswith("s3://"):
        path = Path(reference).expanduser()
        here = path if path.exists() or path.is_absolute() else PROJECT / path
        return load_concept_list(here if here.exists() else path, measured=True)
    parts = urlsplit(reference)
    content = open_bucket(parts.netloc).get(parts.path.lstrip("/"))
    if content is None:
        raise InvalidInput(f"there is no concept list at {reference}: upload it, or correct the address")
    try:
        return checked_list(read_yaml(content.decode("utf-8"), reference), measured=True)
    except UnicodeDecodeError as e:
        raise InvalidInput(f"{reference} is not YAML: it is no text in UTF-8") from e


def flat(wanted: ConceptList) -> dict[str, Any]:
    """A list as the flat parameters of a run, as JSON knows them."""
    told = wanted.model_dump(mode="json", exclude={"gates", "concepts"})
    rows = [entry.model_dump(mode="json", exclude_defaults=True) for entry in wanted.concepts]
    return {**told, **wanted.gates.model_dump(mode="json"), "concepts": rows}


def _refuse_both(parameters: Mapping[str, Any], reference: str) -> None:
    """Raise InvalidInput for what is typed although the file says it."""
    defaults = {**{name: ConceptList.model_fields[name].default for name in RULES}, **Gates().model_dump()}
    typed = [name for name, default in defaults.items() if parameters[name] != default]
    typed += ["concepts"] if parameters["concepts"] else []
    if typed:
        raise InvalidInput(
            f"{reference} says {', '.join(typed)} itself: leave concept_list empty to use what is typed, "
            "or clear the rest"
        )
