"""How an artifact version comes to be: created as pending, its files and manifest uploaded, committed.

Every step may come twice, as clients try again after an answer got lost. Bytes go to the object store by signed URL
that accepts only the announced MD5; the commit checks that everything which the manifest names has arrived.
"""

import asyncio
import base64
import binascii
import hashlib
import json
import re
from typing import Any

from sqlalchemy import Connection

from protocol.json_types import JsonObject
from protocol.names import JOB_TYPE, UNNAMED_CODE_JOB, first_name_of_job
from server import arrivals, artifact_manifest, ids, object_keys
from server.artifact_manifest import Entry
from server.automations import artifact_events
from server.context import Context
from server.errors import Conflict, NotFound, RequestError
from server.graphql import Info, Resolvers
from server.object_store import Parts
from server.resolvers import artifact_shapes as shapes
from server.resolvers import projects as project_resolvers
from server.storage import artifact_contents, artifacts, collections, lineage, memberships, projects, runs, tags
from server.storage.rows import AnyRow

resolvers = Resolvers()

MAX_NAME_CHARS = 128
MD5_BYTES = 16
MANIFEST_NAME = "wandb_manifest.json"
TAG = re.compile(r"[-\w]+([ ]+[-\w]+)*")


@resolvers.field("Mutation", "createArtifact")
async def create_artifact(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a version that waits for its files, or find the one with the same content.

    Idempotent by the client's own id: `wandb job create` asks twice for one version, the second time without metadata,
    and of code without a name under another collection name, which is the one that it shows to people.
    """
    context = info.context
    input["entityName"] = input["entityName"] or context.viewer.entity  # an offline run does not know whose it is
    context.viewer.must_use(input["entityName"])
    if input["digestAlgorithm"] != "MANIFEST_MD5":
        raise RequestError("Only artifacts with MD5 digests are supported yet. Log it with the default digest.")
    wanted, tagged = wanted_aliases(input), tag_names(input.get("tags"))

    def work(connection: Connection) -> dict[str, Any]:
        known = _made_by_all(connection, input) or _made_before(connection, context, input)
        row = _renamed(connection, context, known, input) if known else _make(connection, context, input)
        if row.state == "COMMITTED":
            # No commit will follow, so what was asked for is done here.
            for alias in wanted:
                artifact_events.set_alias(connection, context, row.sequence_id, row.membership_id, alias)
        else:
            artifacts.request_aliases(connection, row, wanted)
        artifact_events.tagged(connection, context, row.id, tags.add_to_artifact(connection, row.id, tagged))
        if input.get("clientID"):
            _remember_client_id(connection, context, row, input)
        run = _run(connection, input)
        if run is not None:
            lineage.record_output(connection, run.id, row.id, context.now)
        return shapes.node(connection, row.id)

    return {"artifact": await context.services.database.write(work)}


def _remember_client_id(connection: Connection, context: Context, row: AnyRow, input: dict[str, Any]) -> None:
    known = artifacts.by_client_id(connection, input["clientID"])
    if known is None or context.viewer.may_use(known.entity_name):  # nobody takes another's id over
        artifacts.remember_client_id(connection, row.id, input["clientID"], input.get("sequenceClientID"))


def _made_by_all(connection: Connection, input: dict[str, Any]) -> AnyRow | None:
    """Return the version that several runs make together, if one of them has begun with it."""
    if not input.get("distributedID"):
        return None
    place = projects.find(connection, input["entityName"], input["projectName"])
    collection = collections.by_name(connection, place.id, _collection_name(input)) if place else None
    return artifacts.pending_of(connection, collection.id, input["distributedID"]) if collection else None


def _made_before(connection: Connection, context: Context, input: dict[str, Any]) -> AnyRow | None:
    """Return the version that the client has asked for before, unless it was deleted since."""
    known = artifacts.by_client_id(connection, input["clientID"]) if input.get("clientID") else None
    if known is None or not context.viewer.may_use(known.entity_name):
        return None
    return known if known.state != "DELETED" and known.digest == input["digest"] else None


def _renamed(connection: Connection, context: Context, row: AnyRow, input: dict[str, Any]) -> AnyRow:
    """Bring a version that waits for its files to the collection that it is asked for under by now.

    If that has the same content already, there is nothing to wait for.
    """
    name = _collection_name(input)
    if row.state != "PENDING" or name == row.sequence_name:
        return row
    sequence_id = collections.ensure(connection, row.project_id, collections.SEQUENCE, row.type_name, name, context.now)
    same = _same_content(connection, sequence_id, input)
    moved = {"sequence_id": sequence_id} if same is None else {"state": "DELETED"}
    artifacts.change(connection, row.id, context.now, **moved)
    if not artifacts.any_in_collection(connection, row.sequence_id):
        collections.change(connection, row.sequence_id, context.now, deleted_at=context.now)
    found = same or artifacts.by_id(connection, row.id)
    assert found is not None
    return found


def _same_content(connection: Connection, sequence_id: int, input: dict[str, Any]) -> AnyRow | None:
    # Of what several make together, each says the digest of his own part.
    is_whole = input["enableDigestDeduplication"] and not input.get("distributedID")
    return artifacts.by_digest(connection, sequence_id, input["digest"]) if is_whole else None


def _make(connection: Connection, context: Context, input: dict[str, Any]) -> AnyRow:
    project_id = project_resolvers.ensure(connection, context, input["entityName"], input["projectName"])
    name = _name_of_job(connection, project_id, input) or _collection_name(input)
    sequence_id = collections.ensure(
        connection, project_id, collections.SEQUENCE, input["artifactTypeName"], name, context.now
    )
    same = _same_content(connection, sequence_id, input)
    if same is not None:
        return same
    artifact_id = artifacts.create(
        connection,
        sequence_id,
        input["digest"],
        context.now,
        description=input.get("description"),
        metadata=check_metadata(input.get("metadata")),
        distributed_id=input.get("distributedID"),
        created_by=context.viewer.id,
        history_step=input.get("historyStep"),
        ttl_seconds=stored_ttl(input.get("ttlDurationSeconds")),
    )
    row = artifacts.by_id(connection, artifact_id)
    assert row is not None
    return row


def _name_of_job(connection: Connection, project_id: int, input: dict[str, Any]) -> str | None:
    """Return the job that the client means if it asks under the first of its two names for code without a name.

    So it learns whether that job is new, has changed, or is as it was.
    """
    wanted = _collection_name(input)
    if input["artifactTypeName"] != JOB_TYPE or collections.by_name(connection, project_id, wanted):
        return None
    known = collections.names(connection, project_id, JOB_TYPE, starting_with=UNNAMED_CODE_JOB)
    return next((name for name in known if first_name_of_job(name) == wanted), None)


def _collection_name(input: dict[str, Any]) -> str:
    names: list[str | None] = [input.get("artifactCollectionName"), *(input.get("artifactCollectionNames") or [])]
    return check_collection_name(next((name for name in names if name), ""))


def check_collection_name(name: str) -> str:
    """Return the name; `RequestError` unless it can be a collection's."""
    if not name or len(name) > MAX_NAME_CHARS or set(name) & set("/:"):
        raise RequestError(
            f"{name!r} cannot be an artifact's name: use 1 to {MAX_NAME_CHARS} characters without / and :"
        )
    return name


def check_alias(alias: str) -> str:
    """Return the alias; `RequestError` unless it can be one."""
    if (
        not alias
        or len(alias) > MAX_NAME_CHARS
        or set(alias) & set("/:")
        or memberships.version_number(alias) is not None
    ):
        raise RequestError(f"{alias!r} cannot be an alias: use 1 to 128 characters without / and :, and not vN.")
    return alias


def wanted_aliases(input: dict[str, Any]) -> list[str]:
    """Return the aliases that are asked for.

    `v3` always means the version of that number. A job made of an image asks for the image's tag as an alias, which may
    look like that; the job is made without it.
    """
    asked: list[dict[str, str]] = input.get("aliases") or []
    return [check_alias(each["alias"]) for each in asked if memberships.version_number(each["alias"]) is None]


def tag_names(tags: list[dict[str, Any]] | None) -> list[str]:
    """Return the names of tags; `RequestError` if one cannot be a tag."""
    names = [tag["tagName"] for tag in tags or []]
    for name in names:
        if len(name) > MAX_NAME_CHARS or not TAG.fullmatch(name):
            raise RequestError(
                f"{name!r} cannot be a tag: use words of letters, digits, dashes and underscores, "
                f"{MAX_NAME_CHARS} characters at most."
            )
    return list(dict.fromkeys(names))


def check_metadata(text: str | None) -> str | None:
    """Return the metadata; `RequestError` unless it is JSON (the bare NaN of clients is fine)."""
    try:
        json.loads(text or "null")
    except ValueError as error:
        raise RequestError(f"The artifact's metadata is not JSON: {error}.") from error
    return text


def stored_ttl(seconds: int | None) -> int | None:
    """Return a time to live as it is stored: null if it is inherited."""
    return None if seconds == shapes.TTL_INHERITED else seconds


def _run(connection: Connection, input: dict[str, Any]) -> AnyRow | None:
    name = input.get("runName")
    return runs.find(connection, input["entityName"], input["projectName"], name) if name else None


@resolvers.field("Mutation", "createArtifactManifest")
async def create_manifest(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Announce a version's manifest, or a part of it; only once its digest is known there is a URL to upload it to."""
    context, kind = info.context, input.get("type") or artifact_contents.FULL
    digest: str = input["digest"]
    if digest:
        _hex_md5(digest)

    def work(connection: Connection) -> AnyRow:
        row, name = _pending(connection, context, input["artifactID"]), input["name"]
        key = object_keys.of_manifest(row.id)
        if kind == artifact_contents.FULL:
            announce = artifact_contents.announce_manifest
            return announce(connection, row.id, name, digest, object_key=key, now=context.now)
        base, add = _base(connection, context, input), artifact_contents.add_manifest
        return add(connection, row.id, name, digest, kind, object_key=key, now=context.now, base_artifact_id=base)

    return _manifest_node(context, await context.services.database.write(work))


@resolvers.field("Mutation", "updateArtifactManifest")
async def update_manifest(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Say the digest of a part, which can then be uploaded."""
    context = info.context
    digest: str = input.get("digest") or ""
    _hex_md5(digest)

    def work(connection: Connection) -> AnyRow:
        manifest_id = ids.decode("ArtifactManifest", input["artifactManifestID"])
        known = artifact_contents.manifest_by_id(connection, manifest_id)
        if known is None:
            raise NotFound("There is no such artifact manifest.")
        try:
            _pending(connection, context, ids.encode("Artifact", known.artifact_id))
        except NotFound as error:
            raise NotFound("There is no such artifact manifest.") from error
        if known.digest not in {"", digest}:
            raise Conflict("This manifest has another digest already. Log the artifact again.")
        return artifact_contents.set_manifest_digest(connection, known.id, digest, _base(connection, context, input))

    return _manifest_node(context, await context.services.database.write(work))


def _pending(connection: Connection, context: Context, wire_id: str) -> AnyRow:
    row = shapes.changeable(connection, context, wire_id)
    if row.state == "COMMITTED":
        raise Conflict("The artifact is committed, so its manifest cannot change. Log a new version.")
    artifacts.go_on(connection, row.id, context.now)
    return row


def _base(connection: Connection, context: Context, input: dict[str, Any]) -> int | None:
    """Return the version that a manifest says it builds upon."""
    return shapes.usable(connection, context, input["baseArtifactID"]).id if input.get("baseArtifactID") else None


def _manifest_node(context: Context, manifest: AnyRow) -> JsonObject:
    wire_id, digest = ids.encode("ArtifactManifest", manifest.id), manifest.digest
    url = context.services.objects.upload_url(context.base_url, manifest.object_key, md5=digest) if digest else None
    headers = context.services.objects.upload_headers(digest)
    file: JsonObject = {"id": wire_id, "name": manifest.name, "displayName": manifest.name, "sizeBytes": 0}
    return {
        "artifactManifest": {
            "id": wire_id,
            "digest": digest,
            "file": {**file, "uploadUrl": url, "uploadHeaders": headers},
        }
    }


@resolvers.field("Mutation", "createArtifactFiles")
async def create_files(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Return an upload URL for each file, in the order of the request; none for content that is here already."""
    context = info.context
    specs: list[dict[str, Any]] = input["artifactFiles"]

    def work(connection: Connection) -> list[AnyRow]:
        wire_ids = {spec["artifactID"] for spec in specs}
        rows = {wire_id: shapes.changeable(connection, context, wire_id) for wire_id in wire_ids}
        for row in rows.values():
            artifacts.go_on(connection, row.id, context.now)
        contents: dict[tuple[int, str], AnyRow] = {}
        for entity_id in {row.entity_id for row in rows.values()}:
            births = {_md5(spec): row for spec in specs if (row := rows[spec["artifactID"]]).entity_id == entity_id}
            artifact_contents.announce(connection, [_content(row, digest) for digest, row in births.items()])
            known = artifact_contents.known(connection, entity_id, list(births))
            artifact_contents.want(connection, known.values())
            contents.update({(entity_id, digest): content for digest, content in known.items()})
        return [contents[rows[spec["artifactID"]].entity_id, _md5(spec)] for spec in specs]

    contents = await context.services.database.write(work)
    pairs = list(zip(specs, contents, strict=True))
    parts = [await _begin_parts(context, spec, content) for spec, content in pairs]
    # Signing thousands of URLs takes longer than others should wait.
    nodes = await asyncio.to_thread(
        lambda: [_upload(context, *each) for each in zip(specs, contents, parts, strict=True)]
    )
    return {"files": {"edges": [{"node": node} for node in nodes], "pageInfo": {"hasNextPage": False}}}


async def _begin_parts(context: Context, spec: dict[str, Any], content: AnyRow) -> Parts | None:
    """Begin an upload in parts, if the client offers that and the store wants it."""
    offered: list[dict[str, Any]] = spec.get("uploadPartsInput") or []
    if not offered or content.size_bytes is not None:
        return None
    return await context.services.objects.begin_parts(content.object_key, [part["partNumber"] for part in offered])


@resolvers.field("Mutation", "completeMultipartUploadArtifact")
async def complete_parts(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Put together what was uploaded in parts. The store has checked each part against the MD5 that came with it."""
    context = info.context

    def work(connection: Connection) -> AnyRow:
        row = shapes.changeable(connection, context, input["artifactID"])
        content = artifact_contents.by_key(connection, row.entity_id, input["storagePath"])
        if content is None:
            raise NotFound("There is no such upload.")
        return content

    content = await context.services.database.read(work)
    # Clients send back what the store said of each part, under the name that its MD5 had in the announcement.
    etags = {part["partNumber"]: part["hexMD5"] for part in input["completedParts"]}
    await context.services.objects.complete_parts(content.object_key, input["uploadID"], etags)
    await arrivals.look_for_contents(context.services, [content.object_key])
    return {"digest": content.digest}


def _md5(spec: dict[str, Any]) -> str:
    digest = spec.get("md5")
    if not digest:
        raise RequestError(f"The file {spec['name']!r} has no MD5; other digests are not supported yet.")
    return digest


def _content(row: AnyRow, digest: str) -> JsonObject:
    name = _hex_md5(digest)
    key = object_keys.of_content(row.entity_id, name)
    return {"entity_id": row.entity_id, "digest": digest, "object_key": key, "birth_artifact_id": row.id}


def _hex_md5(digest: str) -> str:
    try:
        content = base64.b64decode(digest, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    # A digest has one spelling, so that a content has one row; base64 would allow several.
    if len(content) != MD5_BYTES or base64.b64encode(content).decode() != digest:
        raise RequestError(f"{digest!r} is not an MD5 in base64.")
    return content.hex()


def _upload(context: Context, spec: dict[str, Any], content: AnyRow, parts: Parts | None) -> JsonObject:
    objects, is_here = context.services.objects, content.size_bytes is not None
    url = None if is_here else objects.upload_url(context.base_url, content.object_key, md5=content.digest)
    return {
        "id": base64.b64encode(f"Upload:{content.object_key}".encode()).decode(),
        "name": spec["name"],
        "displayName": spec["name"],
        "sizeBytes": content.size_bytes or 0,
        "storagePath": content.object_key,
        "uploadUrl": url,
        "uploadHeaders": [] if parts else objects.upload_headers(content.digest),
        "uploadMultipartUrls": _part_urls(parts) if parts else None,
        "artifact": {"id": ids.encode("Artifact", content.birth_artifact_id)},
    }


def _part_urls(parts: Parts) -> JsonObject:
    urls = [{"partNumber": number, "uploadUrl": url} for number, url in parts.urls.items()]
    return {"uploadID": parts.upload_id, "uploadUrlParts": urls}


@resolvers.field("Mutation", "commitArtifact")
async def commit_artifact(_: object, info: Info, input: dict[str, Any]) -> JsonObject:
    """Make a version final: its manifest is read and checked, and it gets its number and aliases."""
    context = info.context

    def before(connection: Connection) -> tuple[AnyRow, list[AnyRow]]:
        row = shapes.changeable(connection, context, input["artifactID"])
        return row, _parts(connection, row.id)

    row, parts = await context.services.database.read(before)
    if row.state == "COMMITTED":
        return {"artifact": await context.services.database.read(shapes.node, row.id)}
    contents = [await context.services.objects.read(part.object_key) for part in parts]
    if not parts or None in contents:
        raise Conflict("The artifact cannot be committed: its manifest was never uploaded. Log it again.")
    whole = parts[-1]
    is_whole = whole.kind == artifact_contents.FULL
    manifest, entries, digest = await asyncio.to_thread(_read, [part for part in contents if part is not None])
    if is_whole and digest != row.digest:
        raise Conflict("The artifact's manifest does not have the digest that was announced. Log it again.")
    if not is_whole:
        await context.services.objects.write(object_keys.of_whole_manifest(row.id), manifest)

    waiting = await context.services.database.read(_waiting, row.entity_id, entries)
    await arrivals.look_for_contents(context.services, [content.object_key for content in waiting])

    def work(connection: Connection) -> dict[str, Any]:
        _check_uploads(connection, row.entity_id, entries)
        kept = whole if is_whole else _add_whole(connection, context, row.id, manifest)
        _commit(connection, context, row.id, digest, kept.id, entries)
        return shapes.node(connection, row.id)

    return {"artifact": await context.services.database.write(work)}


def _parts(connection: Connection, artifact_id: int) -> list[AnyRow]:
    """Return the manifests that a version is made of: one that is full, or parts, or a base and what is added to it.

    Clients say a base of every manifest; it counts for those that are increments.
    """
    found = artifact_contents.manifests(connection, artifact_id)
    if not found or found[-1].kind == artifact_contents.FULL:
        return found[-1:]
    added = [manifest for manifest in found if manifest.kind != artifact_contents.FULL]
    bases = {manifest.base_artifact_id for manifest in added if manifest.kind == artifact_contents.INCREMENTAL}
    base = [artifact_contents.manifest(connection, artifact_id) for artifact_id in bases if artifact_id is not None]
    if None in base:
        raise Conflict("The version that this one adds to was deleted. Log the artifact as a whole.")
    return [*(manifest for manifest in base if manifest is not None), *added]


def _read(parts: list[bytes]) -> tuple[bytes, list[Entry], str]:
    """Return the manifest that parts make together, its entries, and the digest of the whole."""
    manifest = parts[0] if len(parts) == 1 else artifact_manifest.merged(parts)
    entries = artifact_manifest.parse(manifest)
    return manifest, entries, artifact_manifest.digest(entries)


def _add_whole(connection: Connection, context: Context, artifact_id: int, manifest: bytes) -> AnyRow:
    md5 = base64.b64encode(hashlib.md5(manifest, usedforsecurity=False).digest()).decode()
    key = object_keys.of_whole_manifest(artifact_id)
    return artifact_contents.announce_manifest(
        connection, artifact_id, MANIFEST_NAME, md5, object_key=key, now=context.now
    )


def _waiting(connection: Connection, entity_id: int, entries: list[Entry]) -> list[AnyRow]:
    """Return the contents of which nobody has said yet that they have arrived."""
    digests = list({entry.digest for entry in entries if entry.ref is None})
    known = artifact_contents.known(connection, entity_id, digests)
    return [content for content in known.values() if content.size_bytes is None]


def _check_uploads(connection: Connection, entity_id: int, entries: list[Entry]) -> None:
    digests = list({entry.digest for entry in entries if entry.ref is None})
    known = artifact_contents.known(connection, entity_id, digests)
    arrived = {digest for digest, content in known.items() if content.size_bytes is not None}
    artifact_contents.want(connection, known.values())
    missing = [entry.path for entry in entries if entry.ref is None and entry.digest not in arrived]
    if missing:
        more = f" (one of {len(missing)})" if len(missing) > 1 else ""
        raise Conflict(f"The artifact cannot be committed: {missing[0]!r}{more} was never uploaded. Log it again.")


def _commit(
    connection: Connection, context: Context, artifact_id: int, digest: str, manifest_id: int, entries: list[Entry]
) -> None:
    size, now = sum(entry.size_bytes for entry in entries), context.now
    if not artifacts.commit(connection, artifact_id, digest=digest, size_bytes=size, file_count=len(entries), now=now):
        return  # somebody else was faster
    artifact_contents.store(connection, artifact_id, manifest_id, entries, now)
    row = artifacts.by_id(connection, artifact_id)
    assert row is not None
    membership_id = memberships.add_version(connection, row.sequence_id, artifact_id, now)
    for alias in artifacts.requested_aliases(row):
        artifact_events.set_alias(connection, context, row.sequence_id, membership_id, alias)
    artifact_events.created(connection, context, row.sequence_id, membership_id)
    artifact_events.tagged(connection, context, artifact_id, tags.of_artifacts(connection, [artifact_id])[artifact_id])
