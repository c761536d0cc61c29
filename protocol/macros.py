"""Macros: `${name}` in resource args, which only the agent can fill in. One literal pass over string values."""

import re
from collections.abc import Mapping, Sequence

from protocol.json_types import Json
from protocol.launch_spec import LaunchSpec

_MACRO = re.compile(r"\$\{(\w+)\}")


def expand(value: Json, macros: Mapping[str, str]) -> Json:
    """Fill in the known macros of all string values. Unknown ones, and keys, stay as they are."""
    if isinstance(value, str):
        return _MACRO.sub(lambda match: macros.get(match[1], match[0]), value)
    if isinstance(value, Mapping):
        return {key: expand(entry, macros) for key, entry in value.items()}
    if isinstance(value, Sequence):
        return [expand(entry, macros) for entry in value]
    return value


def launch_macros(spec: LaunchSpec, run_id: str, image: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the macros of a launch. What is not known is left out, so that it stays visible.

    `environment` are those variables of the agent that may be read here. They never stand in for a macro of our own,
    known or not.
    """
    # The stock agent lower-cases the project here. Our runs keep its spelling, and so does what is named after it.
    macros = {
        "project_name": spec.project,
        "entity_name": spec.entity,
        "run_id": run_id,
        "run_name": spec.name,
        "author": spec.author,
        "image_uri": image,
    }
    return {name: value for name, value in {**environment, **macros}.items() if value is not None}
