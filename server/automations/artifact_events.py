"""What happens to versions of artifacts and to collections, as automations see it.

Called in the transaction in which it happens, so that it has happened if and only if there is a delivery of it.
"""

from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection, select

from protocol.json_types import JsonObject
from server import artifact_filters, ids
from server.automations import messages
from server.automations.event_types import EventType
from server.context import Context
from server.storage import automations, collections, deliveries, memberships, projects
from server.summaries import parsed


def set_alias(connection: Connection, context: Context, collection_id: int, membership_id: int, alias: str) -> None:
    """Point an alias at a version in a collection, and tell it to who waits for that, if it is new to the version."""
    if memberships.set_alias(connection, collection_id, membership_id, alias):
        happened = _Happening(connection, context, EventType.ADD_ARTIFACT_ALIAS, alias=alias)
        happened.to_version(membership_id, collection_id)


def created(connection: Connection, context: Context, collection_id: int, membership_id: int) -> None:
    """A run has logged a new version; its aliases and tags are there."""
    _Happening(connection, context, EventType.CREATE_ARTIFACT).to_version(membership_id, collection_id)


def linked(connection: Connection, context: Context, collection_id: int, membership_id: int) -> None:
    """A version is in one more collection; its aliases there are, too."""
    _Happening(connection, context, EventType.LINK_ARTIFACT).to_version(membership_id, collection_id)


def unlinked(connection: Connection, context: Context, collection_id: int, membership_id: int) -> None:
    """A version is about to be taken out of a collection."""
    _Happening(connection, context, EventType.UNLINK_ARTIFACT).to_version(membership_id, collection_id)


def tagged(connection: Connection, context: Context, artifact_id: int, names: Iterable[str]) -> None:
    """A version has got tags, wherever it is. One that is not final yet is nowhere: it gets them with its commit."""
    _tags_of_version(connection, context, EventType.ADD_ARTIFACT_TAG, artifact_id, names)


def untagged(connection: Connection, context: Context, artifact_id: int, names: Iterable[str]) -> None:
    """A version has lost tags, wherever it is."""
    _tags_of_version(connection, context, EventType.REMOVE_ARTIFACT_TAG, artifact_id, names)


def collection_tagged(connection: Connection, context: Context, collection_id: int, names: Iterable[str]) -> None:
    """A collection has got tags."""
    for name in names:
        _Happening(connection, context, EventType.ADD_COLLECTION_TAG, tag=name).to_collection(collection_id)


def collection_untagged(connection: Connection, context: Context, collection_id: int, names: Iterable[str]) -> None:
    """A collection has lost tags."""
    for name in names:
        _Happening(connection, context, EventType.REMOVE_COLLECTION_TAG, tag=name).to_collection(collection_id)


def _tags_of_version(
    connection: Connection, context: Context, event: EventType, artifact_id: int, names: Iterable[str]
) -> None:
    for name in names:
        happened = _Happening(connection, context, event, tag=name)
        for place in memberships.of_artifact(connection, artifact_id):
            happened.to_version(place.id, place.collection_id)


class _Happening:
    """One event, which may be one in several collections. An automation hears of it once."""

    def __init__(
        self,
        connection: Connection,
        context: Context,
        event: EventType,
        *,
        alias: str | None = None,
        tag: str | None = None,
    ) -> None:
        self._connection = connection
        self._context = context
        self._event = event
        self._alias, self._tag = alias, tag
        self._told: set[int] = set()

    def to_version(self, membership_id: int, collection_id: int) -> None:
        """Tell who waits for this in a version of the collection."""

        def is_meant(filter_text: str) -> bool:
            condition = artifact_filters.of_event(filter_text, alias=self._alias, tag=self._tag)
            return condition is None or memberships.is_such(self._connection, membership_id, condition)

        self._tell(collection_id, is_meant, lambda: self._of_version(membership_id))

    def to_collection(self, collection_id: int) -> None:
        """Tell who waits for this in the collection itself."""

        def is_meant(filter_text: str) -> bool:
            condition = artifact_filters.of_tag(filter_text, self._tag or "")
            return condition is None or bool(self._connection.scalar(select(condition)))

        self._tell(collection_id, is_meant, lambda: self._of_collection(collection_id))

    def _tell(
        self, collection_id: int, is_meant: Callable[[str], bool], described: Callable[[], tuple[JsonObject, Any]]
    ) -> None:
        for row in automations.concerned_by_artifact(self._connection, self._event, collection_id):
            if row.id in self._told or not is_meant(row.filter):
                continue
            self._told.add(row.id)
            variables, metadata = described()
            about = {"event_type": self._event, "event_author": self._context.viewer.username, **variables}
            about |= {name: word for name, word in (("alias", self._alias), ("tag", self._tag)) if word is not None}
            about |= messages.metadata_asked_for(row.action, metadata)
            deliveries.add_of_automation(self._connection, row, about, self._context.now)

    def _of_version(self, membership_id: int) -> tuple[JsonObject, Any]:
        row = memberships.described(self._connection, membership_id)
        path = f"{row.entity_name}/{row.project_name}/{row.collection_name}:v{row.version_index}"
        wire_id = ids.encode("Artifact", row.artifact_id)
        return {
            **_place(row.entity_name, row.project_name, row.collection_name),
            "artifact_version": f"wandb-artifact://_id/{wire_id}",
            "artifact_version_string": path,
            "artifact_version_index": f"v{row.version_index}",
        }, parsed(row.metadata or "{}")

    def _of_collection(self, collection_id: int) -> tuple[JsonObject, Any]:
        collection = collections.by_id(self._connection, collection_id)
        assert collection is not None
        project = projects.by_id(self._connection, collection.project_id)
        assert project is not None
        return _place(project.entity_name, project.name, collection.name), {}


def _place(entity: str, project: str, collection: str) -> JsonObject:
    return {"entity_name": entity, "project_name": project, "artifact_collection_name": collection}
