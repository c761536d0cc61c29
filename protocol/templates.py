"""Template variables: `{{name}}` in a queue's resource config, declared with a JSON schema, valued by whoever pushes.

A leaf that is exactly `{{name}}` becomes the typed value; inside a longer string the value is text. Values are never
rendered again and keys never templated, so nobody can smuggle anything through a value. Text goes through Jinja's
immutable sandbox, after its syntax tree passed an allow-list: variables and a few plain filters. The native environment
is out, because it turns the string "1e3" into a number.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import jsonschema
from jinja2 import StrictUndefined, Template, TemplateSyntaxError, UndefinedError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from protocol.errors import TemplateError
from protocol.json_types import Json, JsonObject

MAX_DEPTH = 64
MAX_RENDERED_CHARS = 1_000_000
_EXACT = re.compile(r"\s*\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}\s*")
_TYPES = ("string", "number", "integer")
_SCHEMA_KEYS = frozenset({"type", "enum", "minimum", "maximum", "default", "title", "description"})
_FILTERS = frozenset({"default", "int", "lower", "replace", "string", "trim", "upper"})
_ALLOWED_NODES = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Filter, nodes.Const)


@dataclass(frozen=True, slots=True)
class Variable:
    """A declared template variable."""

    name: str
    schema: JsonObject
    description: str | None = None


def parse_variables(raw: JsonObject) -> dict[str, Variable]:
    """Read `{name: {"schema": {...}}}`; `TemplateError` names the variable and the key that are wrong."""
    return {name: _variable(name, declared) for name, declared in raw.items()}


def resolve_values(variables: Mapping[str, Variable], given: JsonObject) -> dict[str, Json]:
    """Return a value for every variable: the given one, else the default. All that is wrong is told at once."""
    problems = [_unknown(name, variables) for name in given if name not in variables]
    values: dict[str, Json] = {}
    for name, variable in variables.items():
        value = given.get(name)
        if value is None and "default" in variable.schema:
            value = variable.schema["default"]
        if value is None:
            problems.append(f"Template variable {name!r} has no value and no default. Set it: --set-var {name}=VALUE.")
        elif problem := _broken_rule(variable.schema, value):
            problems.append(f"Template variable {name!r} is {value!r}, but {problem}.")
        values[name] = value
    if problems:
        raise TemplateError(" ".join(problems))
    return values


def render(config: Json, values: JsonObject) -> Json:
    """Return the config with every placeholder filled in; `TemplateError` quotes the leaf that cannot be."""
    return _render(config, values, 0)


def variable_names(config: Json) -> frozenset[str]:
    """Return the names that a config's placeholders use."""
    if isinstance(config, str):
        return _names(config) if "{{" in config else frozenset()
    parts: Sequence[Json] = ()
    if isinstance(config, Mapping):
        parts = list(config.values())
    elif isinstance(config, Sequence):
        parts = config
    return frozenset[str]().union(*(variable_names(part) for part in parts))


def _variable(name: str, declared: Json) -> Variable:
    schema = declared.get("schema") if isinstance(declared, Mapping) else None
    if not isinstance(declared, Mapping) or not isinstance(schema, Mapping):
        raise TemplateError(f'Template variable {name!r} must be declared as {{"schema": {{"type": ...}}}}.')
    if not _EXACT.fullmatch(f"{{{{{name}}}}}"):
        raise TemplateError(f"{name!r} cannot be a template variable's name: use letters, digits and underscores.")
    if schema.get("type") not in _TYPES:
        raise TemplateError(f"Template variable {name!r} has type {schema.get('type')!r}; use {', '.join(_TYPES)}.")
    unknown = sorted(set(schema) - _SCHEMA_KEYS)
    if unknown:
        raise TemplateError(f"Template variable {name!r} has the unknown key {unknown[0]!r} in its schema.")
    default = schema.get("default")
    if default is not None and (problem := _broken_rule(schema, default)):
        raise TemplateError(f"Template variable {name!r} has the default {default!r}, but {problem}.")
    description = declared.get("description")
    return Variable(name, schema, description if isinstance(description, str) else None)


def _broken_rule(schema: JsonObject, value: Json) -> str | None:
    """Return in plain words which rule of its schema a value breaks."""
    checked = {key: rule for key, rule in schema.items() if key in {"type", "enum", "minimum", "maximum"}}
    validator = jsonschema.Draft202012Validator(checked)
    found: Iterator[jsonschema.ValidationError] = validator.iter_errors(value)  # pyright: ignore[reportUnknownMemberType]
    error = next(found, None)
    if error is None:
        return None
    rule = checked[str(error.validator)]
    match error.validator:
        case "type":
            article = "an" if rule == "integer" else "a"
            return f"{article} {rule} is wanted"
        case "minimum":
            return f"at least {rule} is wanted"
        case "maximum":
            return f"at most {rule} is allowed"
        case _:
            allowed: list[Json] = list(rule) if isinstance(rule, Sequence) else []
            return f"only {', '.join(map(repr, allowed))} are allowed"


def _unknown(name: str, variables: Mapping[str, Variable]) -> str:
    nearest = difflib.get_close_matches(name, variables, 1)
    hint = f"Did you mean {nearest[0]!r}?" if nearest else f"It has: {', '.join(sorted(variables)) or 'none'}."
    return f"The queue has no template variable {name!r}. {hint}"


def _render(config: Json, values: JsonObject, depth: int) -> Json:
    if depth > MAX_DEPTH:
        raise TemplateError(f"The config is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(config, str):
        return _render_leaf(config, values) if "{{" in config else config
    if isinstance(config, Mapping):
        return {key: _render(value, values, depth + 1) for key, value in config.items()}
    if isinstance(config, Sequence):
        return [_render(value, values, depth + 1) for value in config]
    return config


def _render_leaf(leaf: str, values: JsonObject) -> Json:
    if match := _EXACT.fullmatch(leaf):
        if match[1] not in values:
            raise TemplateError(f"{leaf!r} names {match[1]!r}, which is not a template variable of the queue.")
        return values[match[1]]
    try:
        text = _compiled(leaf).render(values)
    except UndefinedError as error:
        raise TemplateError(f"{leaf!r} cannot be rendered: {error}.") from error
    if len(text) > MAX_RENDERED_CHARS:
        raise TemplateError(f"{leaf[:80]!r} becomes longer than {MAX_RENDERED_CHARS} characters.")
    return text


_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


def _parsed(leaf: str) -> nodes.Template:
    """Return the syntax tree of a leaf; `TemplateError` if there is anything in it but variables and plain filters."""
    try:
        tree = _environment.parse(leaf)
    except TemplateSyntaxError as error:
        raise TemplateError(f"{leaf!r} is not a template: {error.message}.") from error
    for node in [tree, *tree.find_all(nodes.Node)]:
        if not isinstance(node, _ALLOWED_NODES) or (isinstance(node, nodes.Filter) and node.name not in _FILTERS):
            raise TemplateError(
                f"{leaf!r} uses {type(node).__name__.lower()}, which is not allowed in a placeholder. "
                f"Allowed are variables and the filters {', '.join(sorted(_FILTERS))}."
            )
    return tree


@lru_cache(maxsize=1024)
def _compiled(leaf: str) -> Template:
    _parsed(leaf)
    return _environment.from_string(leaf)


@lru_cache(maxsize=1024)
def _names(leaf: str) -> frozenset[str]:
    return frozenset(node.name for node in _parsed(leaf).find_all(nodes.Name))
