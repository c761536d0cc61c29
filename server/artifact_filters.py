"""By what registries, collections and versions in them are filtered and ordered."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, false, func, literal, or_, select

from server import filters, ids
from server.errors import NotFound, RequestError
from server.filters import Field, NumberField, TextField, TimeField
from server.storage import json_values
from server.storage.places import Key
from server.storage.registries import PREFIX
from server.storage.tables import (
    artifact_aliases,
    artifact_collection_tags,
    artifact_collections,
    artifact_memberships,
    artifact_tags,
    artifacts,
    projects,
)

IN_METADATA = "metadata."

_TAGS_OF_VERSION = select(artifact_tags.c.artifact_id).where(artifact_tags.c.artifact_id == artifacts.c.id)
_TAGS_OF_COLLECTION = select(artifact_collection_tags.c.collection_id).where(
    artifact_collection_tags.c.collection_id == artifact_collections.c.id
)
_ALIASES = select(artifact_aliases.c.id).where(artifact_aliases.c.membership_id == artifact_memberships.c.id)


class RegistryNameField(TextField):
    """A registry's name. An expression may mean the whole name or, as people say it, the name without the prefix."""

    def test(self, operator: str, operand: Any) -> ColumnElement[bool] | None:
        """See `Field`."""
        if operator != "$regex":
            return super().test(operator, operand)
        short = func.substr(projects.c.name, len(PREFIX) + 1)
        return or_(filters.matches(projects.c.name, operand), filters.matches(short, operand))


class NumberedField(NumberField):
    """A column of row numbers, which are also known under ids or as `vN`."""

    def __init__(self, column: ColumnElement[Any], number_of: Callable[[str], int]) -> None:
        super().__init__(column)
        self._number_of = number_of

    def _read(self, operand: Any) -> float:
        return super()._read(self._number_of(operand) if isinstance(operand, str) else operand)


class WordsField:
    """Words that something has several of: its tags, its aliases."""

    def __init__(self, rows: Any, word: ColumnElement[Any]) -> None:
        self._rows = rows
        self._word = word

    def test(self, operator: str, operand: Any) -> ColumnElement[bool] | None:
        """See `Field`. True if one of the words is."""
        match operator:
            case "$exists":
                return self._rows.exists() if operand else ~self._rows.exists()
            case "$eq" if operand is None:
                return ~self._rows.exists()
            case "$contains":
                found = TextField(self._word).test("$eq", operand)
            case _:
                found = TextField(self._word).test(operator, operand)
        return None if found is None else self._rows.where(found).exists()


class MetadataField:
    """A value somewhere in a version's metadata. It is compared with its like only: 1 is neither true nor "1"."""

    def __init__(self, path: str) -> None:
        self._value = json_values.JsonValue(artifacts.c.metadata_json, path.split("."))

    def test(self, operator: str, operand: Any) -> ColumnElement[bool] | None:
        """See `Field`."""
        match operator:
            case "$exists":
                return self._value.kind.is_not(None) if operand else self._value.kind.is_(None)
            case "$eq" if operand is None:
                return func.coalesce(self._value.kind, "null") == "null"
            case "$in":
                return self._is_one_of(filters.listed(operator, operand))
            case "$regex" | "$contains":
                return TextField(self._value.text).test(operator, operand)
            case _:
                return filters.compared(self._value.like(operand), operator, _comparable(operand))

    def _is_one_of(self, wanted: list[Any]) -> ColumnElement[bool]:
        tests: list[ColumnElement[bool]] = []
        for kind in (str, bool, int | float):
            alike = [each for each in wanted if isinstance(each, kind) and (kind is bool or not isinstance(each, bool))]
            if alike:
                form = self._value.like(alike[0])
                tests.append(filters.known(form, form.in_([_comparable(each) for each in alike])))
        if None in wanted:
            tests.append(func.coalesce(self._value.kind, "null") == "null")
        return or_(false(), *tests)


def _comparable(operand: Any) -> Any:
    if isinstance(operand, bool):
        return json_values.TRUE if operand else json_values.FALSE
    if not isinstance(operand, str | int | float):
        raise RequestError(f"A filter of metadata takes a string, a number or a boolean here, not {operand!r}.")
    return operand if isinstance(operand, str) else filters.number(operand)


def _version_number(text: str) -> int:
    digits = text.removeprefix("v")
    if not digits.isdecimal():
        raise RequestError(f"{text!r} is no version. Use `v3` or 3.")
    return int(digits)


def _decoded(kind: str) -> Callable[[str], int]:
    def decode(text: str) -> int:
        try:
            return ids.decode(kind, text)
        except NotFound:
            return -1  # which nothing has

    return decode


_REGISTRY_ID = NumberedField(projects.c.id, _decoded("Project"))
_REGISTRY_FIELDS: Mapping[str, Field] = {
    "id": _REGISTRY_ID,
    "project_id": _REGISTRY_ID,
    "name": RegistryNameField(projects.c.name),
    "entity_id": NumberField(projects.c.entity_id),
    "description": TextField(projects.c.description),
    "created_at": TimeField(projects.c.created_at),
    "updated_at": TimeField(projects.c.updated_at),
}
_COLLECTION_FIELDS: Mapping[str, Field] = {
    "artifact_collection_id": NumberedField(artifact_collections.c.id, _decoded("ArtifactPortfolio")),
    "name": TextField(artifact_collections.c.name),
    "tag": WordsField(_TAGS_OF_COLLECTION, artifact_collection_tags.c.name),
    "description": TextField(artifact_collections.c.description),
    "created_at": TimeField(artifact_collections.c.created_at),
    "updated_at": TimeField(artifact_collections.c.updated_at),
}
_VERSION_FIELDS: Mapping[str, Field] = {
    "id": NumberedField(artifacts.c.id, _decoded("Artifact")),
    "version": NumberedField(artifact_memberships.c.version_index, _version_number),
    "tag": WordsField(_TAGS_OF_VERSION, artifact_tags.c.name),
    "alias": WordsField(_ALIASES, artifact_aliases.c.alias),
    "created_at": TimeField(artifacts.c.created_at),
    "updated_at": TimeField(artifacts.c.updated_at),
}
_ORDERS = ("name", "created_at", "updated_at")


def of_registries(text: str | None) -> ColumnElement[bool] | None:
    """Return the SQL of a filter of registries."""
    return filters.condition(text, filters.among(_REGISTRY_FIELDS))


def of_collections(text: str | None) -> ColumnElement[bool] | None:
    """Return the SQL of a filter of collections."""
    return filters.condition(text, filters.among(_COLLECTION_FIELDS))


def of_versions(text: str | None) -> ColumnElement[bool] | None:
    """Return the SQL of a filter of versions in collections."""
    return filters.condition(text, _version_field)


def of_event(text: str | None, *, alias: str | None = None, tag: str | None = None) -> ColumnElement[bool] | None:
    """Return the SQL of a filter of what happens to a version in a collection.

    `alias` and `tag` mean those that it is about, if it is about one, and else all that the version has.
    """
    about = {name: TextField(literal(word)) for name, word in (("alias", alias), ("tag", tag)) if word is not None}
    return filters.condition(text, lambda name: about.get(name) or _version_field(name))


def of_tag(text: str | None, tag: str) -> ColumnElement[bool] | None:
    """Return the SQL of a filter of a single tag."""
    return filters.condition(text, filters.among({"tag": TextField(literal(tag))}))


def _version_field(name: str) -> Field:
    if name.startswith(IN_METADATA):
        return MetadataField(name.removeprefix(IN_METADATA))
    return filters.among(_VERSION_FIELDS)(name)


def order_of_registries(text: str | None) -> Key:
    """Return an order of registries."""
    return _order(projects.c, text)


def order_of_collections(text: str | None) -> Key:
    """Return an order of collections."""
    return _order(artifact_collections.c, text)


def _order(columns: Any, text: str | None) -> Key:
    wanted = text or "+created_at"
    name = wanted.lstrip("+-")
    if name not in _ORDERS:
        raise RequestError(f"There is no order by {name!r}. Use one of: {', '.join(_ORDERS)}.")
    return Key(columns[name], descending=wanted.startswith("-"))
