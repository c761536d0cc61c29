"""Template variables: `{{name}}` in a queue's resource config, declared with a JSON schema, valued by whoever pushes.

A leaf that is exactly `{{name}}` becomes the typed value; inside a longer string the value is text. Values are never
rendered again and keys never templated, so nobody can smuggle anything through a value. Text goes through Jinja's
immutable sandbox, after its syntax tree passed an allow-list: variables and a few plain filters. The native environment
is out, because it turns the string "1e3" into a number.
"""

import difflib
import math
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
MAX_LEAF_CHARS = 32_768
"""Of a leaf with a placeholder; others may be as long as they like."""
MAX_RENDERED_CHARS = 1_000_000
"""Of all leaves with a placeholder together."""
_MAX_FILTERS = 8
_QUOTED_CHARS = 200
_EXACT = re.compile(r"\s*\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}\s*")
_TYPES = ("string", "number", "integer")
_SCHEMA_KEYS = frozenset({"type", "enum", "minimum", "maximum", "default", "title", "description"})
_FILTERS = frozenset({"default", "int", "lower", "replace", "string", "trim", "upper"})


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
            problems.append(f"Template variable {name!r} is {_quoted(value)}, but {problem}.")
        values[name] = _typed(variable.schema, value)
    if problems:
        raise TemplateError(" ".join(problems))
    return values


def render(config: Json, values: JsonObject) -> Json:
    """Return the config with every placeholder filled in; `TemplateError` quotes the leaf that cannot be."""
    return _Rendering(values).fill(config)


def variable_names(config: Json) -> frozenset[str]:
    """Return the names that a config's placeholders use."""
    return frozenset(name for leaf in _leaves(config) for name in _parsed(leaf).names)


def _variable(name: str, declared: Json) -> Variable:
    schema = declared.get("schema") if isinstance(declared, Mapping) else None
    if not isinstance(declared, Mapping) or not isinstance(schema, Mapping):
        raise TemplateError(f'Template variable {name!r} must be declared as {{"schema": {{"type": ...}}}}.')
    if not _is_name(name):
        raise TemplateError(f"{name!r} cannot be a template variable's name: use letters, digits and underscores.")
    if schema.get("type") not in _TYPES:
        raise TemplateError(f"Template variable {name!r} has type {schema.get('type')!r}; use {', '.join(_TYPES)}.")
    unknown = sorted(set(schema) - _SCHEMA_KEYS)
    if unknown:
        raise TemplateError(
            f"Template variable {name!r} has the unknown key {unknown[0]!r} in its schema; "
            f"use {', '.join(sorted(_SCHEMA_KEYS))}."
        )
    _check_rules(name, schema)
    default = schema.get("default")
    if default is not None and (problem := _broken_rule(schema, default)):
        raise TemplateError(f"Template variable {name!r} has the default {default!r}, but {problem}.")
    description = declared.get("description")
    return Variable(name, schema, description if isinstance(description, str) else None)


def _check_rules(name: str, schema: JsonObject) -> None:
    """Refuse rules that no value can be checked by."""
    bounds: list[int | float] = []
    for key in ("minimum", "maximum"):
        bound = schema.get(key)
        if isinstance(bound, int | float) and not isinstance(bound, bool) and _is_finite(bound):
            bounds.append(bound)
        elif bound is not None:
            raise TemplateError(f"Template variable {name!r} has the {key} {bound!r}; it must be a number.")
    if len(bounds) == 2 and bounds[0] > bounds[1]:
        raise TemplateError(f"Template variable {name!r} has a minimum, {bounds[0]}, above its maximum, {bounds[1]}.")
    choices = schema.get("enum")
    if choices is not None and (isinstance(choices, str) or not isinstance(choices, Sequence) or not choices):
        raise TemplateError(f"Template variable {name!r} has the enum {choices!r}; it must be a list of values.")


def _is_name(name: str) -> bool:
    """Whether Jinja too takes this for a plain name: `true`, `not` and `self` mean other things to it."""
    try:
        return bool(_EXACT.fullmatch(f"{{{{{name}}}}}")) and name in _parsed(f"{{{{{name}}}}}").names
    except TemplateError:
        return False


def _typed(schema: JsonObject, value: Json) -> Json:
    """Return an integer for `2.0` where one is declared: JSON takes it for one, but most platforms do not."""
    if schema.get("type") == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _is_finite(value: Json) -> bool:
    """Whether this can be written as JSON: Python also reads `NaN` and `Infinity`."""
    return not isinstance(value, float) or math.isfinite(value)


def _broken_rule(schema: JsonObject, value: Json) -> str | None:
    """Return in plain words which rule of its schema a value breaks."""
    if not _is_finite(value):
        return "a finite number is wanted"
    rules = ("type", "enum", "minimum", "maximum")
    checked = {key: schema[key] for key in rules if schema.get(key) is not None}
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


@dataclass(slots=True)
class _Rendering:
    """One walk through a config. It stops as soon as the whole has become too long, not after the memory is gone."""

    values: JsonObject
    chars_left: int = MAX_RENDERED_CHARS

    def fill(self, config: Json, depth: int = 0) -> Json:
        if isinstance(config, str):
            return self._fill_leaf(config) if "{{" in config else config
        if not isinstance(config, Mapping | Sequence):
            return config
        _check_depth(depth)
        if isinstance(config, Mapping):
            return {key: self.fill(value, depth + 1) for key, value in config.items()}
        return [self.fill(value, depth + 1) for value in config]

    def _fill_leaf(self, leaf: str) -> Json:
        if not (match := _EXACT.fullmatch(leaf)):
            return self._fill_text(leaf)
        if match[1] not in self.values:
            raise TemplateError(f"{leaf!r} names {match[1]!r}, which is not a template variable of the queue.")
        value = self.values[match[1]]
        if isinstance(value, str):
            self._spend(value)
        return value

    def _fill_text(self, leaf: str) -> str:
        pieces: list[str] = []
        try:
            for piece in _parsed(leaf).template.generate(self.values):
                self._spend(piece)
                pieces.append(piece)
        except (UndefinedError, TypeError, ValueError, OverflowError) as error:
            raise TemplateError(f"{_quoted(leaf)} cannot be rendered: {error}.") from error
        return "".join(pieces)

    def _spend(self, text: str) -> None:
        self.chars_left -= len(text)
        if self.chars_left < 0:
            raise TemplateError(f"The rendered config is longer than {MAX_RENDERED_CHARS} characters.")


def _leaves(config: Json, depth: int = 0) -> Iterator[str]:
    """Yield the leaves that have a placeholder."""
    if isinstance(config, str):
        if "{{" in config:
            yield config
    elif isinstance(config, Mapping | Sequence):
        _check_depth(depth)
        for part in config.values() if isinstance(config, Mapping) else config:
            yield from _leaves(part, depth + 1)


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise TemplateError(f"The config is nested deeper than {MAX_DEPTH} levels.")


def _quoted(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= _QUOTED_CHARS else f"{text[:_QUOTED_CHARS]}..."


def _replace(value: object, old: str, new: str) -> str:
    """Replace like Jinja's own filter, but stop before the text is too long: chained, it grows exponentially."""
    text = str(value)
    if len(text) + text.count(old) * (len(new) - len(old)) > MAX_RENDERED_CHARS:
        raise ValueError(f"it becomes longer than {MAX_RENDERED_CHARS} characters")
    return text.replace(old, new)


def _make_environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.globals.clear()  # `range`, `dict` and their like are names too
    environment.filters["replace"] = _replace
    return environment


_environment = _make_environment()


@dataclass(frozen=True, slots=True)
class _ParsedLeaf:
    template: Template
    names: frozenset[str]


@lru_cache(maxsize=256)
def _parsed(leaf: str) -> _ParsedLeaf:
    """Compile a leaf; `TemplateError` if there is anything in it but variables and plain filters."""
    if len(leaf) > MAX_LEAF_CHARS:
        raise TemplateError(f"{_quoted(leaf)} has a placeholder and is longer than {MAX_LEAF_CHARS} characters.")
    if "{%" in leaf or "{#" in leaf:
        raise _not_allowed(leaf, "a statement or a comment")
    try:
        tree = _environment.parse(leaf)
        parts = [part for output in tree.find_all(nodes.Output) for part in output.nodes]
        names = {_name(part, leaf) for part in parts if not isinstance(part, nodes.TemplateData)}
        return _ParsedLeaf(_environment.from_string(tree), frozenset(names))
    except TemplateSyntaxError as error:
        raise TemplateError(f"{_quoted(leaf)} is not a template: {error.message}.") from error
    except RecursionError as error:
        raise TemplateError(f"{_quoted(leaf)} is not a template: it is nested too deeply.") from error
    except ValueError as error:
        raise TemplateError(f"{_quoted(leaf)} is not a template: it has a number that is too long.") from error


def _name(part: nodes.Node, leaf: str) -> str:
    """Return the variable of a placeholder, which may stand behind a few filters with constant arguments."""
    node: nodes.Node | None = part
    for _ in range(_MAX_FILTERS + 1):
        if isinstance(node, nodes.Name):
            if node.name == "self":  # Jinja's own name for the template
                raise _not_allowed(leaf, "the name 'self'")
            return node.name
        if not isinstance(node, nodes.Filter):
            raise _not_allowed(leaf, type(node).__name__.lower())
        if node.name not in _FILTERS:
            raise _not_allowed(leaf, f"the filter {node.name!r}")
        if node.kwargs or node.dyn_args or node.dyn_kwargs or any(type(a) is not nodes.Const for a in node.args):
            raise _not_allowed(leaf, f"something else than constants as arguments of the filter {node.name!r}")
        node = node.node
    raise _not_allowed(leaf, f"more than {_MAX_FILTERS} filters")


def _not_allowed(leaf: str, what: str) -> TemplateError:
    return TemplateError(
        f"{_quoted(leaf)} uses {what}, which is not allowed beside a placeholder or in it. "
        f"Allowed are variables and the filters {', '.join(sorted(_FILTERS))}."
    )
