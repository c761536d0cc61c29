"""Values inside of JSON that a column holds as text, as SQL for each engine."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, String
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Double, TypeEngine

from server.errors import RequestError

TRUE, FALSE = "true", "false"


class JsonValue:
    """The value at a path of keys; each of its forms is null where there is nothing of that kind."""

    def __init__(self, column: ColumnElement[Any], path: Sequence[str]) -> None:
        if any('"' in key for key in path):
            raise RequestError(f"There is no filter by a key with a quotation mark: {'.'.join(path)!r}.")
        in_sqlite = "$" + "".join(f'."{key}"' for key in path)
        in_postgresql = "{" + ",".join(json.dumps(key, ensure_ascii=False) for key in path) + "}"
        self.kind: ColumnElement[str] = _Kind(column, in_sqlite, in_postgresql)
        """What it is: `string`, `number`, `boolean`, `null`, `array` or `object`."""
        self.text: ColumnElement[str] = _Text(column, in_sqlite, in_postgresql)
        self.number: ColumnElement[float] = _Number(column, in_sqlite, in_postgresql)
        self.boolean: ColumnElement[str] = _Boolean(column, in_sqlite, in_postgresql)
        """`TRUE` or `FALSE`."""

    def like(self, value: object) -> ColumnElement[Any]:
        """Return the form that this value can be compared with."""
        if isinstance(value, bool):
            return self.boolean
        return self.text if isinstance(value, str) else self.number


class _Kind(FunctionElement[str]):
    name = "json_kind"
    type = String()
    inherit_cache = True


class _Text(FunctionElement[str]):
    name = "json_text"
    type = String()
    inherit_cache = True


class _Number(FunctionElement[float]):
    name = "json_number"
    type: TypeEngine[float] = Double()
    inherit_cache = True


class _Boolean(FunctionElement[str]):
    name = "json_boolean"
    type = String()
    inherit_cache = True


_KINDS_OF_SQLITE = {"text": "string", "integer": "number", "real": "number", "true": "boolean", "false": "boolean"}


@compiles(_Kind, "sqlite")
def _kind_in_sqlite(element: _Kind, compiler: Any, **options: Any) -> str:
    kind = _of_sqlite("json_type", element, compiler, **options)
    cases = " ".join(f"WHEN '{own}' THEN '{kind}'" for own, kind in _KINDS_OF_SQLITE.items())
    return f"(CASE {kind} {cases} ELSE {kind} END)"


@compiles(_Text, "sqlite")
def _text_in_sqlite(element: _Text, compiler: Any, **options: Any) -> str:
    kind, value = (_of_sqlite(name, element, compiler, **options) for name in ("json_type", "json_extract"))
    return f"(CASE WHEN {kind} = 'text' THEN {value} END)"


@compiles(_Number, "sqlite")
def _number_in_sqlite(element: _Number, compiler: Any, **options: Any) -> str:
    kind, value = (_of_sqlite(name, element, compiler, **options) for name in ("json_type", "json_extract"))
    return f"(CASE WHEN {kind} IN ('integer', 'real') THEN {value} END)"


@compiles(_Boolean, "sqlite")
def _boolean_in_sqlite(element: _Boolean, compiler: Any, **options: Any) -> str:
    kind = _of_sqlite("json_type", element, compiler, **options)
    return f"(CASE WHEN {kind} IN ('true', 'false') THEN {kind} END)"


def _of_sqlite(function: str, element: FunctionElement[Any], compiler: Any, **options: Any) -> str:
    column, path, _ = element.clauses
    return f"{function}({compiler.process(column, **options)}, {compiler.process(path, **options)})"


@compiles(_Kind, "postgresql")
def _kind_in_postgresql(element: _Kind, compiler: Any, **options: Any) -> str:
    return f"jsonb_typeof({_of_postgresql('#>', element, compiler, **options)})"


@compiles(_Text, "postgresql")
def _text_in_postgresql(element: _Text, compiler: Any, **options: Any) -> str:
    return _if_kind("string", element, compiler, **options)


@compiles(_Number, "postgresql")
def _number_in_postgresql(element: _Number, compiler: Any, **options: Any) -> str:
    return _if_kind("number", element, compiler, "::double precision", **options)


@compiles(_Boolean, "postgresql")
def _boolean_in_postgresql(element: _Boolean, compiler: Any, **options: Any) -> str:
    return _if_kind("boolean", element, compiler, **options)


def _if_kind(kind: str, element: FunctionElement[Any], compiler: Any, cast: str = "", **options: Any) -> str:
    own, value = (_of_postgresql(name, element, compiler, **options) for name in ("#>", "#>>"))
    return f"(CASE WHEN jsonb_typeof({own}) = '{kind}' THEN ({value}){cast} END)"


def _of_postgresql(operator: str, element: FunctionElement[Any], compiler: Any, **options: Any) -> str:
    column, _, path = element.clauses
    value = f"CAST({compiler.process(column, **options)} AS jsonb)"
    return f"({value} {operator} CAST({compiler.process(path, **options)} AS text[]))"
