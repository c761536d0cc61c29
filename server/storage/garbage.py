"""What nothing needs any more: found, forgotten, and noted for removal from the object store.

A content is needed by the entries of versions, and by uploads under way, which do not say so before their commit. So
one that no version needs is only marked as unused at first. Whoever wants it takes the mark away
(`artifact_contents.want`). It goes once it has been unused for long, and for longer than any upload that is under way:
such an upload would have taken the mark away. A commit that meets a mark changes the same row as what is about to
remove the content: one of them begins again.

Each function is a piece of work of bounded length, as others wait for the transaction.
"""

from collections.abc import Sequence

from sqlalchemy import (
    ColumnElement,
    Connection,
    delete,
    exists,
    literal,
    select,
    tuple_,
    update,
)

from server import ids, object_keys
from server.storage import discarded_objects
from server.storage.artifact_contents import FULL
from server.storage.rows import AnyRow
from server.storage.tables import (
    artifact_collections,
    artifact_contents,
    artifact_entries,
    artifact_manifests,
    artifacts,
    projects,
    run_files,
    run_lines,
    runs,
)

AT_ONCE = 500
"""Rows that are looked at, or removed with a note, in one transaction."""
ROWS_AT_ONCE = 5_000
"""Rows that are simply removed."""
MARGIN_SECONDS = 300.0
"""Who begins an upload while a mark is set may not see it; and clocks of servers differ."""

# --- versions ---------------------------------------------------------------------------------------------------------


def abandon_uploads(connection: Connection, before: float, now: float) -> int:
    """Delete versions whose upload nobody has gone on with since; returns how many, `AT_ONCE` at most."""
    is_over = (artifacts.c.state == "PENDING") & (artifacts.c.updated_at < before)
    chosen = connection.scalars(select(artifacts.c.id).where(is_over).limit(AT_ONCE)).all()
    connection.execute(update(artifacts).where(artifacts.c.id.in_(chosen)).values(state="DELETED", updated_at=now))
    return len(chosen)


def deleted_versions(connection: Connection) -> Sequence[int]:
    """Return the deleted versions that still have a manifest, but for those that something counts on.

    That is an upload under way that builds upon them, or a version that refers to their files.
    """
    bases = (
        select(artifact_manifests.c.base_artifact_id)
        .join(artifacts, artifacts.c.id == artifact_manifests.c.artifact_id)
        .where(artifacts.c.state == "PENDING", artifact_manifests.c.base_artifact_id.is_not(None))
    )
    has_manifest = exists().where(artifact_manifests.c.artifact_id == artifacts.c.id)
    statement = select(artifacts.c.id).where(artifacts.c.state == "DELETED", has_manifest)
    deleted = connection.scalars(statement).all()
    if not deleted:
        return []
    held = {*connection.scalars(bases), *_referred_to(connection)}
    return [artifact_id for artifact_id in deleted if artifact_id not in held]


def _referred_to(connection: Connection) -> set[int | None]:
    """Return the versions to whose files others refer. It takes a look at all entries."""
    statement = (
        select(artifact_entries.c.ref)
        .distinct()
        .join(artifacts, artifacts.c.id == artifact_entries.c.artifact_id)
        .where(artifact_entries.c.ref.startswith(ids.REFERENCE), artifacts.c.state != "DELETED")
    )
    return {ids.decode_reference(ref) for ref in connection.scalars(statement)}


def free_version(connection: Connection, artifact_id: int, now: float) -> bool:
    """Forget what a deleted version consists of, some of it at a time; returns whether there is more."""
    mine = artifact_entries.c.artifact_id == artifact_id
    some = select(artifact_entries.c.path).where(mine).limit(ROWS_AT_ONCE)
    removed = connection.execute(delete(artifact_entries).where(mine, artifact_entries.c.path.in_(some)))
    if removed.rowcount:
        return True
    manifests = artifact_manifests.c.artifact_id == artifact_id
    found = connection.execute(select(artifact_manifests).where(manifests)).all()
    keys = [manifest.object_key for manifest in found]
    if any(manifest.kind != FULL for manifest in found):
        keys.append(object_keys.of_whole_manifest(artifact_id))  # a commit that was cut short may have written it
    discarded_objects.add(connection, dict.fromkeys(keys), now)
    connection.execute(delete(artifact_manifests).where(manifests))
    return False


# --- runs -------------------------------------------------------------------------------------------------------------


def deleted_runs(connection: Connection) -> Sequence[int]:
    """Return the deleted runs that still have lines or files."""
    has_lines = exists().where(run_lines.c.run_id == runs.c.id)
    has_files = exists().where(run_files.c.run_id == runs.c.id)
    return connection.scalars(select(runs.c.id).where(runs.c.deleted_at.is_not(None), has_lines | has_files)).all()


def free_run(connection: Connection, run_id: int, now: float) -> bool:
    """Forget lines and files of a deleted run, some of them at a time; returns whether there are more."""
    first = connection.execute(
        select(run_lines.c.stream, run_lines.c.number)
        .where(run_lines.c.run_id == run_id)
        .order_by(run_lines.c.stream, run_lines.c.number)
        .limit(1)
    ).first()
    if first is not None:
        some = (run_lines.c.run_id == run_id) & (run_lines.c.stream == first.stream)
        connection.execute(delete(run_lines).where(some, run_lines.c.number < first.number + ROWS_AT_ONCE))
        return True
    files = connection.execute(select(run_files).where(run_files.c.run_id == run_id).limit(AT_ONCE)).all()
    discarded_objects.add(connection, {file.object_key: file.size_bytes for file in files}, now)
    connection.execute(delete(run_files).where(run_files.c.id.in_([file.id for file in files])))
    return bool(files)


# --- contents ---------------------------------------------------------------------------------------------------------

_versions = artifact_entries.join(artifacts, artifacts.c.id == artifact_entries.c.artifact_id).join(
    artifact_collections, artifact_collections.c.id == artifacts.c.sequence_id
)
_NEEDED = exists(
    select(artifact_entries.c.artifact_id)
    .select_from(_versions.join(projects, projects.c.id == artifact_collections.c.project_id))
    .where(
        artifact_entries.c.digest == artifact_contents.c.digest,
        artifact_entries.c.ref.is_(None),
        projects.c.entity_id == artifact_contents.c.entity_id,
    )
)
_UPLOADED_MEANWHILE = exists(
    select(artifacts.c.id)
    .join(artifact_collections, artifact_collections.c.id == artifacts.c.sequence_id)
    .join(projects, projects.c.id == artifact_collections.c.project_id)
    .where(
        artifacts.c.state == "PENDING",
        projects.c.entity_id == artifact_contents.c.entity_id,
        artifacts.c.created_at <= artifact_contents.c.unused_since + MARGIN_SECONDS,
    )
)
"""Whether an upload is under way that may have begun before the content was found to be unused."""

FIRST = (0, "")
"""Comes before every content."""


def page_of_contents(connection: Connection, after: tuple[int, str]) -> list[AnyRow]:
    """Return a page of all contents by `entity_id` and `digest`, and of each whether it `is_new_garbage`."""
    key = tuple_(artifact_contents.c.entity_id, artifact_contents.c.digest)
    is_garbage = artifact_contents.c.unused_since.is_(None) & ~_NEEDED
    statement = select(
        artifact_contents.c.entity_id, artifact_contents.c.digest, is_garbage.label("is_new_garbage")
    ).where(key > tuple_(*(literal(part) for part in after)))
    ordered = statement.order_by(artifact_contents.c.entity_id, artifact_contents.c.digest)
    return list(connection.execute(ordered.limit(AT_ONCE)))


def mark_unused(connection: Connection, contents: Sequence[AnyRow], now: float) -> None:
    """Mark contents that no version needs."""
    for content in contents:
        is_new = _is(content) & artifact_contents.c.unused_since.is_(None) & ~_NEEDED
        connection.execute(update(artifact_contents).where(is_new).values(unused_since=now))


def forget_contents(connection: Connection, before: float) -> int:
    """Forget contents that have been unused since before a time, and take the mark from those that are needed again.

    Returns how many there were, `AT_ONCE` at most.
    """
    is_over = artifact_contents.c.unused_since <= before
    chosen = select(artifact_contents, _NEEDED.label("is_needed")).where(is_over, ~_UPLOADED_MEANWHILE)
    found = connection.execute(chosen.limit(AT_ONCE)).all()
    for content in found:
        if content.is_needed:
            connection.execute(update(artifact_contents).where(_is(content)).values(unused_since=None))
            continue
        connection.execute(delete(artifact_contents).where(_is(content)))
        discarded_objects.add(connection, {content.object_key: content.size_bytes}, content.unused_since)
    return len(found)


def _is(content: AnyRow) -> ColumnElement[bool]:
    same_entity = artifact_contents.c.entity_id == content.entity_id
    return same_entity & (artifact_contents.c.digest == content.digest)
