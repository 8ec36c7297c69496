"""Templates of the HTML pages that are written: everything escaped, nothing undefined."""

from __future__ import annotations

from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@lru_cache
def template(package: str, name: str) -> Template:
    """The template beside a package's code, compiled once in a process: it takes longer than filling it."""
    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
