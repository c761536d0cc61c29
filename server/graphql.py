"""Executes GraphQL documents over our own SDL.

Clients send hand-written documents, so this is a real executor. Parsing and validating take most of the time of a small
request, and clients send the same few documents again and again: parsed and validated ones are kept, bounded.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from importlib import resources
from typing import Any, TypeAlias, cast

import orjson
import structlog
from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    GraphQLObjectType,
    GraphQLResolveInfo,
    GraphQLScalarType,
    GraphQLSchema,
    build_schema,
    execute,  # pyright: ignore[reportUnknownVariableType] -- one of its options lacks a type
    parse,
    validate,
)

from protocol.errors import LaunchbayError
from protocol.json_types import JsonObject
from server.context import Context
from server.errors import RequestError

# graphql-core hands resolvers a parent and arguments whose types only the SDL knows.
Resolver: TypeAlias = Callable[..., Any]
Info: TypeAlias = "GraphQLResolveInfo[Context]"
"""What a resolver gets beside parent and arguments; `info.context` is the request."""

MAX_DOCUMENT_CHARS = 200_000
MAX_TOKENS = 20_000
CACHED_DOCUMENTS = 1_000

log = structlog.get_logger(__name__)


class Resolvers:
    """A table of resolvers that a module fills: `@resolvers.field("Query", "viewer")`."""

    def __init__(self) -> None:
        self.fields: dict[tuple[str, str], Resolver] = {}

    def field(self, type_name: str, field_name: str) -> Callable[[Resolver], Resolver]:
        """Bind the function below to a field. It gets the parent, the `info`, and the field's arguments by name."""

        def bind(resolver: Resolver) -> Resolver:
            self.fields[type_name, field_name] = resolver
            return resolver

        return bind


class Executor:
    """The schema with its resolvers, and the documents seen before."""

    def __init__(self, schema: GraphQLSchema) -> None:
        self._schema = schema
        self._prepared = lru_cache(CACHED_DOCUMENTS)(self._prepare)

    async def execute(
        self, query: str, variables: JsonObject, operation_name: str | None, context: Context
    ) -> tuple[int, JsonObject]:
        """Run one operation; returns the HTTP status and the body. Undeclared variables are ignored."""
        if len(query) > MAX_DOCUMENT_CHARS:
            return 413, _failure([GraphQLError("The GraphQL document is too long.")])
        prepared = self._prepared(query)
        if isinstance(prepared, list):
            return 400, _failure(prepared)
        result = execute(
            self._schema,
            prepared,
            context_value=context,
            variable_values=dict(variables),
            operation_name=operation_name or None,
        )
        return _answer(await result if isinstance(result, Awaitable) else result)

    def _prepare(self, query: str) -> DocumentNode | list[GraphQLError]:
        try:
            document = parse(query, max_tokens=MAX_TOKENS, no_location=True)
        except GraphQLError as error:
            return [error]
        return validate(self._schema, document) or document


def load_schema(tables: list[Resolvers]) -> GraphQLSchema:
    """Build the SDL's schema and attach the resolvers; a resolver for a field that the SDL lacks is an error."""
    schema = build_schema(resources.files("server").joinpath("schema.graphql").read_text("utf-8"))
    for name, serialize in _SCALARS.items():
        cast("GraphQLScalarType", schema.type_map[name]).coerce_output_value = serialize  # type: ignore[method-assign]
    for table in tables:
        for (type_name, field_name), resolver in table.fields.items():
            parent = cast("GraphQLObjectType", schema.type_map[type_name])
            parent.fields[field_name].resolve = resolver
    return schema


def _answer(result: ExecutionResult) -> tuple[int, JsonObject]:
    if not result.errors:
        return 200, {"data": result.data}
    status = 200
    for error in result.errors:
        cause = error.original_error
        if isinstance(cause, RequestError):
            status = max(status, cause.status)
        elif isinstance(cause, LaunchbayError | GraphQLError):
            status = max(status, 400)
        elif cause is not None:
            # A bug. Clients retry a 5xx for minutes without showing anything, so it is told as a GraphQL error.
            log.error("resolver failed", path=error.path, exc_info=cause)
    return status, _failure(result.errors, result.data)


def _failure(errors: list[GraphQLError], data: Mapping[str, Any] | None = None) -> JsonObject:
    described = [_describe(error) for error in errors]
    # Several fields may fail for one reason, such as a filter; the client shows all messages in a row.
    once = {error["message"]: error for error in reversed(described)}
    return {"errors": list(reversed(once.values())), "data": data}


def _describe(error: GraphQLError) -> JsonObject:
    cause = error.original_error
    if cause is None or isinstance(cause, LaunchbayError | GraphQLError):
        message = error.message
    else:
        message = f"Internal error ({type(cause).__name__}). The server's log has the details."
    described: dict[str, Any] = {"message": message}
    if error.path:
        described["path"] = error.path
    if isinstance(cause, LaunchbayError):
        described["extensions"] = {"code": cause.code}
    return described


def _json_text(value: object) -> str:
    """JSONString: text that holds JSON. Text is passed through, exactly as it was stored."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _raw_json(value: object) -> object:
    """JSON: any value. The encoder writes NaN and infinities, which are no JSON, as null."""
    return value


def _text(value: object) -> str:
    return str(value)


def _integer(value: object) -> int:
    return int(cast("int", value))


_SCALARS: Mapping[str, Callable[[object], object]] = {
    "JSONString": _json_text,
    "JSON": _raw_json,
    "JSONLines": _raw_json,
    "DateTime": _text,
    "Int64": _integer,
}
