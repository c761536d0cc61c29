"""How commands read what people give them: `name=value` pairs, and JSON or YAML as text or file."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import click
import yaml

from protocol.errors import system_words
from protocol.json_types import dig


def read_mapping(source: Path | str) -> dict[str, Any]:
    """Read a JSON or YAML mapping from a file, or from the text itself."""
    try:
        text = Path(source).read_text("utf-8") if isinstance(source, Path) or _is_file(source) else source
        value: Any = yaml.safe_load(text)  # JSON is YAML
        json.dumps(value, allow_nan=False)  # as the server is told
    except OSError as error:
        raise click.UsageError(f"{source} cannot be read: {system_words(error)}.") from error
    except yaml.YAMLError as error:
        raise click.UsageError(f"{source} is neither JSON nor YAML: {error}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise click.UsageError(f"{source} holds what JSON has not, as a date without quotes: {error}.") from error
    if not isinstance(value, dict):
        raise click.UsageError(f"{source} must be a file, or text, that holds a mapping of keys to values.")
    return cast("dict[str, Any]", value)


def _is_file(source: str) -> bool:
    try:
        return not source.lstrip().startswith("{") and Path(source).is_file()
    except OSError:
        return False  # too long for a name


def declared_schemas(queue: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the schemas of a queue's template variables by name; `queue` is as the server answers."""
    declared: list[Any] = dig(queue, "defaultResourceConfig", "templateVariables") or []
    return {variable["name"]: json.loads(variable["schema"]) for variable in declared}


def key_values(pairs: Iterable[str], schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Read `name=value` pairs, as numbers where the variable's schema says so. The value may contain `=`."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise click.UsageError(f"--set-var takes name=value, not {pair!r}.")
        values[name] = _typed(text, str(schemas.get(name, {}).get("type", "string")))
    return values


def _typed(text: str, kind: str) -> Any:
    """Return text as the kind of value wanted; what cannot be read stays text, and the schema's check names it."""
    try:
        if kind == "integer":
            return int(text)
        if kind == "number":
            return float(text)
    except ValueError:
        pass
    return text
