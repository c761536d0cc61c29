"""What a launch may set of a job: its inputs, as the job's file and its artifact's metadata describe them.

A job says which types its inputs have (learned from a run) and, where its author declared them, by which JSON schema
they go. Both are trees; here they become one flat list. Nothing is checked against it: inputs are not validated.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from protocol.json_types import Json, JsonObject

RUN_CONFIG = "@wandb.config"
"""The place of inputs that are values of the run's config; those of config files have the file's path."""
FILES = "files"
MAX_INPUTS = 1000


@dataclass(frozen=True, slots=True)
class JobInput:
    """One value that a launch may set."""

    place: str
    name: str
    """Dotted path inside of the place; dots of a key are written as `\\.`."""
    type: str
    """In words: `number`, `list of string`."""
    rule: JsonObject = field(default_factory=dict[str, Json])
    """Its JSON schema, empty if none was declared."""


def job_inputs(job: JsonObject, metadata: JsonObject) -> list[JobInput]:
    """Return a job's inputs, by place and in the order of their keys. What is not understood is left out."""
    types, schemas = _object(metadata.get("input_types")), _object(metadata.get("input_schemas"))
    if not types:
        types = {RUN_CONFIG: job.get("input_types")}
    found: list[JobInput] = []
    for place, (of_types, of_schemas) in _places(types, schemas).items():
        words = {name: _word(leaf) for name, leaf in _leaves(of_types, _members)}
        rules = dict(_leaves(of_schemas, _properties))
        found += [
            JobInput(place, name, words.get(name) or str(rules[name].get("type", "any")), rules.get(name, {}))
            for name in sorted({*words, *rules})
        ]
    return found[:MAX_INPUTS]


def _places(types: JsonObject, schemas: JsonObject) -> Mapping[str, tuple[JsonObject, JsonObject]]:
    files = (_object(types.get(FILES)), _object(schemas.get(FILES)))
    places = {RUN_CONFIG: (_object(types.get(RUN_CONFIG)), _object(schemas.get(RUN_CONFIG)))}
    for path in sorted({*files[0], *files[1]}):
        places[path] = (_object(files[0].get(path)), _object(files[1].get(path)))
    return places


def _leaves(root: JsonObject, members: Callable[[JsonObject], JsonObject | None]) -> Iterator[tuple[str, JsonObject]]:
    """Walk through a tree of objects; without recursion, as nobody limits its depth."""
    waiting: list[tuple[str, JsonObject]] = [("", root)]
    while waiting:
        name, node = waiting.pop()
        inner = members(node)
        if inner is not None:
            waiting += [(_below(name, key), _object(value)) for key, value in inner.items()]
        elif name:
            yield name, node


def _below(name: str, key: str) -> str:
    escaped = key.replace(".", "\\.")
    return f"{name}.{escaped}" if name else escaped


def _members(node: JsonObject) -> JsonObject | None:
    return _object(_params(node).get("type_map")) if node.get("wb_type") == "typedDict" else None


def _properties(node: JsonObject) -> JsonObject | None:
    return _object(node["properties"]) if "properties" in node else None


def _word(node: JsonObject) -> str:
    """Say a type in words, one level deep."""
    kind, params = str(node.get("wb_type", "any")), _params(node)
    if kind == "list":
        return f"list of {_object(params.get('element_type')).get('wb_type', 'any')}"
    allowed = params.get("allowed_types")
    if kind == "union" and isinstance(allowed, Sequence):
        return " or ".join(str(_object(each).get("wb_type", "any")) for each in allowed)
    return kind


def _params(node: JsonObject) -> JsonObject:
    return _object(node.get("params"))


def _object(value: Json) -> JsonObject:
    return cast("JsonObject", value) if isinstance(value, Mapping) else {}
