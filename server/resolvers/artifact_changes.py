"""Artifacts as they are made and changed: created, uploaded, committed, used, aliased, deleted."""

import base64
import json
import secrets
from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from server import artifact_manifest, ids
from server.artifact_manifest import Entry
from server.context import Context
from server.errors import Conflict, NotFound, RequestError
from server.graphql import Info, Resolvers
from server.resolvers import artifacts as reads
from server.resolvers import projects as project_resolvers
from server.storage import artifacts, collections, projects, runs
from server.storage.rows import AnyRow

resolvers = Resolvers()

MANIFEST_NAME = "wandb_manifest.json"
MD5_BYTES = 16


@resolvers.field("Mutation", "createArtifact")
async def create_artifact(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a version that waits for its files, or find the one with the same content.

    Idempotent by the client's own id: `wandb job create` asks twice for one version, under two collection names, and
    the second time without metadata.
    """
    context = info.context

    def work(connection: Connection) -> JsonObject:
        client_id = input.get("clientID")
        known = artifacts.by_client_id(connection, client_id) if client_id else None
        if known is not None and context.viewer.may_use(known.entity_name):
            return reads.nodes(connection, [known])[0]
        return reads.nodes(connection, [_create(connection, context, input)])[0]

    return {"artifact": await context.services.database.write(work)}


def _create(connection: Connection, context: Context, input: dict[str, Any]) -> AnyRow:
    now = context.now
    project_id = project_resolvers.ensure(connection, context, input["entityName"], input["projectName"])
    several: list[str] = input.get("artifactCollectionNames") or []
    name: str | None = next((each for each in (input.get("artifactCollectionName"), *several) if each), None)
    if name is None:
        raise RequestError("An artifact needs the name of its collection.")
    sequence_id = collections.ensure_sequence(connection, project_id, input["artifactTypeName"], name, now)
    run = runs.by_name(connection, project_id, input["runName"]) if input.get("runName") else None
    wanted: list[dict[str, str]] = input.get("aliases") or []
    aliases = list(dict.fromkeys(_checked_alias(alias["alias"]) for alias in wanted))
    same = artifacts.by_digest(connection, sequence_id, input["digest"]) if input["enableDigestDeduplication"] else None
    if same is not None:
        # No commit will follow, so what was asked for is done here.
        for alias in aliases:
            collections.set_alias(connection, sequence_id, same.membership_id, alias)
        artifact_id = same.id
    else:
        artifact_id = artifacts.create(
            connection,
            sequence_id,
            input["digest"],
            now,
            description=input.get("description"),
            metadata=input.get("metadata"),
            client_id=input.get("clientID"),
            sequence_client_id=input.get("sequenceClientID"),
            distributed_id=input.get("distributedID"),
            created_by_run=run.id if run else None,
            created_by=context.viewer.id,
            history_step=input.get("historyStep"),
            ttl_seconds=input.get("ttlDurationSeconds"),
            requested_aliases=json.dumps(aliases),
        )
    if run is not None:
        artifacts.record_use(connection, run.id, artifact_id, "output", now)
    return _row(connection, artifact_id)


@resolvers.field("Mutation", "createArtifactManifest")
async def create_manifest(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Announce a version's manifest; with a digest, it is uploaded next."""
    context = info.context
    if input.get("type") not in {None, "FULL"}:
        raise RequestError("Incremental and distributed artifacts are not supported yet. Log a whole artifact.")

    def work(connection: Connection) -> tuple[int, str]:
        row = reads.usable(connection, context, input["artifactID"])
        key = f"manifests/{row.id}/{secrets.token_hex(8)}"
        values = {"name": input["name"], "kind": "FULL", "digest": input["digest"]}
        return artifacts.add_manifest(connection, row.id, key, context.now, **values), key

    manifest_id, key = await context.services.database.write(work)
    wire_id = ids.encode("ArtifactManifest", manifest_id)
    file: JsonObject = {
        "id": wire_id,
        "name": MANIFEST_NAME,
        "uploadUrl": context.services.objects.upload_url(context.base_url, key, md5=input["digest"]),
        "uploadHeaders": [],
    }
    return {"artifactManifest": {"id": wire_id, "digest": input["digest"], "file": file}}


@resolvers.field("Mutation", "createArtifactFiles")
async def create_files(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Return an upload URL for each file, in the order of the request; none for content that is here already."""
    context = info.context
    wanted: list[dict[str, Any]] = input["artifactFiles"]

    def work(connection: Connection) -> list[tuple[dict[str, Any], AnyRow, AnyRow]]:
        rows = {spec["artifactID"]: reads.usable(connection, context, spec["artifactID"]) for spec in wanted}
        found: list[tuple[dict[str, Any], AnyRow, AnyRow]] = []
        for entity_id in {row.entity_id for row in rows.values()}:
            mine = [spec for spec in wanted if rows[spec["artifactID"]].entity_id == entity_id]
            digests = list(dict.fromkeys(_md5(spec) for spec in mine))
            births = {_md5(spec): rows[spec["artifactID"]].id for spec in reversed(mine)}
            fresh = [
                {
                    "entity_id": entity_id,
                    "digest": digest,
                    "object_key": _content_key(entity_id, digest),
                    "birth_artifact_id": births[digest],
                }
                for digest in digests
            ]
            artifacts.announce_contents(connection, fresh)
            contents = artifacts.known_contents(connection, entity_id, digests)
            found += [(spec, rows[spec["artifactID"]], contents[_md5(spec)]) for spec in mine]
        order = {id(spec): index for index, spec in enumerate(wanted)}
        return sorted(found, key=lambda each: order[id(each[0])])

    files = await context.services.database.write(work)
    edges = [{"node": _upload(context, spec, content)} for spec, _, content in files]
    return {"files": {"edges": edges, "pageInfo": {"hasNextPage": False}}}


def _md5(spec: dict[str, Any]) -> str:
    digest = spec.get("md5")
    if not digest:
        raise RequestError(f"The file {spec['name']!r} has no MD5; other digests are not supported yet.")
    return digest


def _content_key(entity_id: int, digest: str) -> str:
    try:
        raw = base64.b64decode(digest, validate=True)
    except ValueError:
        raw = b""
    # Also the spelling must be the one: two digests for one content would share its key.
    if len(raw) != MD5_BYTES or base64.b64encode(raw).decode() != digest:
        raise RequestError(f"{digest!r} is not an MD5 in base64.")
    name = raw.hex()
    return f"contents/{entity_id}/{name[:2]}/{name}"


def _upload(context: Context, spec: dict[str, Any], content: AnyRow) -> JsonObject:
    arrived = content.size_bytes is not None
    url = context.services.objects.upload_url(context.base_url, content.object_key, md5=content.digest)
    return {
        "id": base64.b64encode(f"Upload:{content.object_key}".encode()).decode(),
        "name": spec["name"],
        "displayName": spec["name"],
        "sizeBytes": content.size_bytes or 0,
        "storagePath": content.object_key,
        "uploadUrl": None if arrived else url,
        "uploadHeaders": [],
        "uploadMultipartUrls": None,
        "artifact": {"id": ids.encode("Artifact", content.birth_artifact_id)},
    }


@resolvers.field("Mutation", "commitArtifact")
async def commit_artifact(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a version final: its manifest is read and checked, and it gets its number and aliases."""
    context = info.context

    def manifest_of(connection: Connection) -> tuple[AnyRow, AnyRow | None]:
        row = reads.usable(connection, context, input["artifactID"])
        return row, artifacts.manifest(connection, row.id)

    row, manifest = await context.services.database.read(manifest_of)
    content = await context.services.objects.read(manifest.object_key) if manifest else None
    if content is None:
        raise Conflict("The artifact cannot be committed: its manifest was never uploaded. Log it again.")
    entries = artifact_manifest.parse(content)
    if artifact_manifest.digest(entries) != row.digest:
        raise Conflict("The artifact's manifest does not have the digest that was announced. Log it again.")

    def work(connection: Connection) -> JsonObject:
        current = _row(connection, row.id)
        if current.state == "PENDING":
            _check_uploads(connection, current.entity_id, entries)
            artifacts.commit(connection, row.id, entries, context.now)
            membership_id = collections.add_version(connection, row.sequence_id, row.id, context.now)
            for alias in json.loads(current.requested_aliases):
                collections.set_alias(connection, row.sequence_id, membership_id, alias)
        return reads.nodes(connection, [_row(connection, row.id)])[0]

    return {"artifact": await context.services.database.write(work)}


def _check_uploads(connection: Connection, entity_id: int, entries: list[Entry]) -> None:
    digests = list({entry.digest for entry in entries if entry.ref is None})
    arrived = {
        digest
        for digest, content in artifacts.known_contents(connection, entity_id, digests).items()
        if content.size_bytes is not None
    }
    missing = [entry.path for entry in entries if entry.ref is None and entry.digest not in arrived]
    if missing:
        raise Conflict(f"The artifact cannot be committed: {missing[0]!r} was never uploaded. Log it again.")


@resolvers.field("Mutation", "useArtifact")
async def use_artifact(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Note that a run uses a version."""
    context = info.context
    context.viewer.must_use(input["entityName"])

    def work(connection: Connection) -> JsonObject:
        row = reads.usable(connection, context, input["artifactID"])
        run = runs.find(connection, input["entityName"], input["projectName"], input["runName"])
        if run is None:
            raise NotFound(f"There is no run {input['entityName']}/{input['projectName']}/{input['runName']}.")
        artifacts.record_use(connection, run.id, row.id, "input", context.now, input.get("usedAs"))
        return reads.nodes(connection, [row])[0]

    return {"artifact": await context.services.database.write(work)}


@resolvers.field("Mutation", "updateArtifact")
async def update_artifact(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Change description, metadata (as a whole) or time to live."""
    context = info.context
    if input.get("tagsToAdd") or input.get("tagsToDelete"):
        raise RequestError("Tags of artifacts are not supported yet.")
    fields = {"description": "description", "metadata": "metadata", "ttlDurationSeconds": "ttl_seconds"}
    values = {column: input[field] for field, column in fields.items() if input.get(field) is not None}

    def work(connection: Connection) -> JsonObject:
        row = reads.usable(connection, context, input["artifactID"])
        artifacts.change(connection, row.id, context.now, **values)
        return reads.nodes(connection, [_row(connection, row.id)])[0]

    return {"artifact": await context.services.database.write(work)}


@resolvers.field("Mutation", "deleteArtifact")
async def delete_artifact(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Delete a version; one with aliases only if that is said."""
    context = info.context

    def work(connection: Connection) -> JsonObject:
        row = reads.visible(connection, context, input["artifactID"])
        aliases = artifacts.aliases_of(connection, [row.id])[row.id]
        if aliases and not input["deleteAliases"]:
            names = ", ".join(alias.alias for alias in aliases)
            raise Conflict(f"The artifact has the aliases {names}. Delete it with delete_aliases=True.")
        artifacts.remove(connection, row.id, context.now)
        return reads.nodes(connection, [_row(connection, row.id)])[0]

    return {"artifact": await context.services.database.write(work)}


@resolvers.field("Mutation", "addAliases")
async def add_aliases(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Point aliases of a version's collection at it."""
    return await _change_aliases(info, input, add=True)


@resolvers.field("Mutation", "deleteAliases")
async def delete_aliases(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Take aliases away."""
    return await _change_aliases(info, input, add=False)


async def _change_aliases(info: Info, input: dict[str, Any], *, add: bool) -> JsonObject:
    context = info.context

    def work(connection: Connection) -> None:
        row = reads.usable(connection, context, input["artifactID"])
        if row.membership_id is None:
            raise Conflict("The artifact is still being uploaded. Change its aliases when that is done.")
        for wanted in input["aliases"]:
            if add:
                collections.set_alias(connection, row.sequence_id, row.membership_id, _checked_alias(wanted["alias"]))
            else:
                collections.remove_alias(connection, row.sequence_id, wanted["alias"])

    await context.services.database.write(work)
    return {"success": True}


def _checked_alias(alias: str) -> str:
    managed = alias.startswith("v") and alias[1:].isdecimal()
    if not alias or len(alias) > 128 or "/" in alias or ":" in alias or managed:
        raise RequestError(f"{alias!r} cannot be an alias: use 1 to 128 characters without / and :, and not vN.")
    return alias


@resolvers.field("Mutation", "deleteArtifactSequence")
async def delete_sequence(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Delete a collection with its versions."""
    context = info.context

    def work(connection: Connection) -> JsonObject:
        row, project = _collection(connection, context, input["artifactSequenceID"])
        for version in artifacts.in_collection(connection, row.id, descending=True, offset=0, limit=1_000_000):
            artifacts.remove(connection, version.id, context.now)
        collections.change(connection, row.id, context.now, deleted_at=context.now)
        return {**reads.collection_node(row, project), "state": "DELETED"}

    return {"artifactCollection": await context.services.database.write(work)}


@resolvers.field("Mutation", "updateArtifactSequence")
async def update_sequence(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Change a collection's name or description."""
    context = info.context
    values = {key: input[key] for key in ("name", "description") if input.get(key) is not None}

    def work(connection: Connection) -> JsonObject:
        row, project = _collection(connection, context, input["artifactSequenceID"])
        name = values.get("name")
        if name and name != row.name and collections.by_name(connection, row.project_id, name):
            raise Conflict(f"The project has an artifact {name!r} already.")
        collections.change(connection, row.id, context.now, **values)
        changed, _ = _collection(connection, context, input["artifactSequenceID"])
        return reads.collection_node(changed, project)

    return {"artifactCollection": await context.services.database.write(work)}


def _collection(connection: Connection, context: Context, wire_id: str) -> tuple[AnyRow, dict[str, Any]]:
    row = collections.by_id(connection, ids.decode(collections.SEQUENCE, wire_id))
    project = projects.by_id(connection, row.project_id) if row else None
    if row is None or project is None or not context.viewer.may_use(project.entity_name):
        raise NotFound("There is no such artifact collection.")
    return row, project_resolvers.node(project)


def _row(connection: Connection, artifact_id: int) -> AnyRow:
    row = artifacts.by_id(connection, artifact_id)
    assert row is not None
    return row
