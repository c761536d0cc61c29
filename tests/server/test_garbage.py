"""What nothing needs any more is freed, and nothing else is."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import select

from protocol.names import run_storage_id
from server.context import Services
from server.garbage import ABANDONED_SECONDS, GRACE_SECONDS, Freed, collect
from server.ids import decode
from server.object_store import LocalObjectStore
from server.storage import garbage
from server.storage.tables import run_lines
from tests.server.conftest import Client, Clock, make_client
from tests.server.run_steps import log_rows, start
from tests.server.test_artifact_parts import add_part
from tests.server.test_artifacts import (
    COMMIT,
    DELETE,
    DELETE_RUN,
    Content,
    announce,
    commit,
    content,
    create,
    key_of,
    log,
    put,
    read,
    upload,
    upload_files,
    upload_manifest,
)

ANNOUNCE = """mutation($names: [String!]!) { createRunFiles(input: {
  entityName: "admin", projectName: "p", runName: "r", files: $names
}) { files { id uploadUrl } } }"""
DELETE_FILES = "mutation($ids: [ID!]!) { deleteFiles(input: {files: $ids}) { success } }"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The folder of the objects."""
    return tmp_path / "data" / "objects"


def contents_in(stored: Path) -> list[bytes]:
    """Return all contents of artifacts that the store has."""
    return sorted(path.read_bytes() for path in (stored / "contents").rglob("*") if path.is_file())


def files_in(stored: Path) -> int:
    """Return how many objects the store has, and leavings of uploads."""
    return sum(path.is_file() for path in stored.rglob("*"))


async def delete(client: Client, version: dict[str, Any]) -> None:
    """Delete a version."""
    await client.ask(DELETE, id=version["id"], aliases=True)


async def after_grace(services: Services, clock: Clock) -> Freed:
    """Let the time of grace pass twice, once for what is marked and once for the mark; return what then goes."""
    freed = Freed()
    for _ in range(2):
        last = await collect(services)
        freed = Freed(freed.objects + last.objects, freed.size_bytes + last.size_bytes)
        clock.now += GRACE_SECONDS
    last = await collect(services)
    return Freed(freed.objects + last.objects, freed.size_bytes + last.size_bytes)


# --- what goes --------------------------------------------------------------------------------------------------------


async def test_what_only_a_deleted_version_has_is_freed(
    client: Client, services: Services, clock: Clock, stored: Path
) -> None:
    first = await log(client, content({"own": b"own", "shared": b"shared"}))
    await log(client, content({"shared": b"shared", "other": b"other"}))
    await delete(client, first)
    assert await collect(services) == Freed(), "somebody may be downloading it"
    assert contents_in(stored) == [b"other", b"own", b"shared"]
    assert await after_grace(services, clock) == Freed(objects=2, size_bytes=3), "a content, and a manifest"
    assert contents_in(stored) == [b"other", b"shared"]
    left = await read(client, first["id"])
    assert left is not None
    assert left["state"] == "DELETED"
    assert await after_grace(services, clock) == Freed(), "once is enough"


async def test_whoever_asks_may_have_it_freed_at_once(client: Client, services: Services, stored: Path) -> None:
    version = await log(client, content({"a": b"1"}))
    await delete(client, version)
    assert await collect(services, 0) == Freed(objects=2, size_bytes=1)
    assert files_in(stored) == 0
    assert not list((stored / "contents").glob("*")), "no folder is left, either"
    again = await log(client, content({"a": b"1"}))
    assert (again["state"], contents_in(stored)) == ("COMMITTED", [b"1"])


async def test_the_content_of_one_entity_is_not_kept_by_another(
    client: Client, services: Services, stored: Path
) -> None:
    eve = await make_client(services, "eve")
    await log(eve, content({"a": b"same"}), entityName="eve")
    await delete(client, await log(client, content({"a": b"same"})))
    assert len(contents_in(stored)) == 2
    await collect(services, 0)
    assert contents_in(stored) == [b"same"]


@pytest.mark.parametrize("go_on", ["files", "manifest"])
async def test_an_upload_that_was_given_up_is_freed(
    client: Client, services: Services, clock: Clock, stored: Path, go_on: str
) -> None:
    made = await create(client, content({"a": b"1"}))
    await upload(client, made["id"], content({"a": b"1"}))
    clock.now += ABANDONED_SECONDS - 1
    await collect(services, 0)
    assert contents_in(stored) == [b"1"]
    if go_on == "files":
        await announce(client, made["id"], {"a": b"1"})
    else:
        await upload_manifest(client, made["id"], content({"a": b"1"}).manifest)
    clock.now += ABANDONED_SECONDS - 1
    await collect(services, 0)
    assert contents_in(stored) == [b"1"], "somebody has gone on with it"
    clock.now += 2
    await collect(services, 0)
    assert files_in(stored) == 0
    assert "was deleted" in (await client.fail(COMMIT, id=made["id"]))[1]


async def test_the_parts_of_a_manifest_go_when_it_is_whole(client: Client, services: Services, stored: Path) -> None:
    made = await create(client, content({"a": b"1"}))
    await add_part(client, made["id"], content({"a": b"1"}), "INCREMENTAL")
    await commit(client, made["id"])
    assert files_in(stored) == 3
    await collect(services, 0)
    assert files_in(stored) == 2


async def test_lines_and_files_of_a_deleted_run_are_freed(client: Client, services: Services, stored: Path) -> None:
    for run in ("r", "kept"):
        await start(client, run)
        await log_rows(client, {"loss": 1}, {"loss": 2}, name=run)
    announced = (await client.ask(ANNOUNCE, names=["a", "b", "never came"]))["createRunFiles"]["files"]
    for file, text in zip(announced, (b"1", b"23"), strict=False):
        await put(services, key_of(file["uploadUrl"]), text)
    await client.ask(DELETE_RUN, id=run_storage_id("admin", "p", "r"))
    assert await collect(services, 0) == Freed(objects=3, size_bytes=3)
    assert files_in(stored) == 0
    lines = await services.database.read(lambda connection: connection.execute(select(run_lines)).all())
    assert len(lines) == 2, "those of the other run"


async def test_a_file_that_comes_again_after_its_deletion_goes_again(
    client: Client, services: Services, clock: Clock, stored: Path
) -> None:
    await start(client)
    (file,) = (await client.ask(ANNOUNCE, names=["a"]))["createRunFiles"]["files"]
    await put(services, key_of(file["uploadUrl"]), b"1")
    await client.ask(DELETE_FILES, ids=[file["id"]])
    assert files_in(stored) == 0, "at once"
    await put(services, key_of(file["uploadUrl"]), b"1")
    clock.now += GRACE_SECONDS
    await collect(services)
    assert files_in(stored) == 0


async def test_what_broke_off_on_its_way_is_removed(services: Services, clock: Clock, stored: Path) -> None:
    left = stored / ".arriving" / "left"
    left.write_bytes(b"half")
    clock.now = left.stat().st_mtime + GRACE_SECONDS
    assert await collect(services) == Freed()
    clock.now += 1
    assert await collect(services) == Freed(unfinished=1)
    assert files_in(stored) == 0


# --- what stays -------------------------------------------------------------------------------------------------------


async def test_content_that_an_upload_counts_on_stays(
    client: Client, services: Services, clock: Clock, stored: Path
) -> None:
    """It was told that the content is here, so it does not send it."""
    old = await log(client, content({"a": b"1"}))
    made = await create(client, content({"b": b"1"}))
    assert [node["uploadUrl"] for node in await announce(client, made["id"], {"b": b"1"})] == [None]
    await delete(client, old)
    for _ in range(4):
        clock.now += GRACE_SECONDS
        await collect(services)
    await upload_manifest(client, made["id"], content({"b": b"1"}).manifest)
    assert (await commit(client, made["id"]))["state"] == "COMMITTED"
    clock.now += GRACE_SECONDS
    await collect(services, 0)
    assert contents_in(stored) == [b"1"]


@pytest.mark.parametrize("asked", [True, False])
async def test_content_that_was_unused_is_wanted_again(
    client: Client, services: Services, clock: Clock, stored: Path, asked: bool
) -> None:
    """Be it by an upload, or by a commit of what was never asked for: drafts name files of the version before."""
    await delete(client, await log(client, content({"a": b"1"})))
    await collect(services)  # marks it
    clock.now += 2 * garbage.MARGIN_SECONDS
    made = await create(client, content({"b": b"1"}))
    await upload_manifest(client, made["id"], content({"b": b"1"}).manifest)
    if asked:
        assert [node["uploadUrl"] for node in await announce(client, made["id"], {"b": b"1"})] == [None]
        clock.now += GRACE_SECONDS
        await collect(services)
    await commit(client, made["id"])
    clock.now += GRACE_SECONDS
    await collect(services)
    assert contents_in(stored) == [b"1"]


async def test_what_an_upload_adds_to_stays_until_it_is_committed(
    client: Client, services: Services, clock: Clock, stored: Path
) -> None:
    base = await log(client, content({"a": b"1"}))
    made = await create(client, content({"b": b"2"}))
    await add_part(client, made["id"], content({"b": b"2"}), "INCREMENTAL", base["id"])
    await delete(client, base)
    for _ in range(3):
        clock.now += GRACE_SECONDS
        await collect(services)
    assert (await commit(client, made["id"]))["fileCount"] == 2
    await after_grace(services, clock)
    assert contents_in(stored) == [b"1", b"2"]


async def test_what_another_version_refers_to_stays(
    client: Client, services: Services, clock: Clock, stored: Path
) -> None:
    source = await log(client, content({"a": b"1"}))
    reference = f"wandb-artifact://{base64.b64decode(source['id']).hex()}/a"
    refers = await log(client, content({"b": b"2"}, a=reference, far="s3://bucket/a", odd="wandb-artifact://x/a"))
    await delete(client, source)
    assert await after_grace(services, clock) == Freed()
    assert contents_in(stored) == [b"1", b"2"]
    await delete(client, refers)
    assert await after_grace(services, clock) == Freed(objects=4, size_bytes=2)


async def test_what_is_added_to_nothing_is_refused(client: Client, services: Services) -> None:
    """The base went while the upload did not say yet that it adds to it."""
    base = await log(client, content({"a": b"1"}))
    made = await create(client, content({"b": b"2"}))
    await add_part(client, made["id"], content({"b": b"2"}), "INCREMENTAL", base["id"])
    await delete(client, base)
    base_id = decode("Artifact", base["id"])
    while await services.database.write(garbage.free_version, base_id, 0):
        pass
    status, told = await client.fail(COMMIT, id=made["id"])
    assert (status, told) == (400, "The version that this one adds to was deleted. Log the artifact as a whole.")


# --- crashes ----------------------------------------------------------------------------------------------------------


class Stubborn(LocalObjectStore):
    """A store that removes nothing of what it is asked to, or does not answer."""

    answers = True

    async def delete(self, keys: Sequence[str]) -> Sequence[str]:
        """Remove nothing."""
        if not self.answers:
            raise OSError("no answer")
        return keys


@pytest.mark.parametrize("answers", [True, False])
async def test_what_the_store_did_not_remove_is_removed_later(
    client: Client, services: Services, tmp_path: Path, stored: Path, answers: bool
) -> None:
    await delete(client, await log(client, content({"a": b"1"})))
    stubborn = Stubborn.open(stored, tmp_path / "data" / "signing-secret")
    assert isinstance(stubborn, Stubborn)
    stubborn.answers = answers
    if answers:
        assert await collect(replace(services, objects=stubborn), 0) == Freed()
    else:
        with pytest.raises(OSError, match="no answer"):
            await collect(replace(services, objects=stubborn), 0)
    assert files_in(stored) == 2
    assert await collect(services, 0) == Freed(objects=2, size_bytes=1)
    assert files_in(stored) == 0


class Late(LocalObjectStore):
    """A store that removes what it is asked to when something else has been done."""

    before: Callable[[], Awaitable[object]]

    async def delete(self, keys: Sequence[str]) -> Collection[str]:
        """Do that first."""
        await self.before()
        return await super().delete(keys)


async def test_what_comes_again_before_it_is_removed_stays(
    client: Client, services: Services, tmp_path: Path, stored: Path
) -> None:
    await delete(client, await log(client, content({"a": b"1"})))
    late = Late.open(stored, tmp_path / "data" / "signing-secret")
    assert isinstance(late, Late)
    late.before = lambda: log(client, content({"a": b"1"}))
    assert await collect(replace(services, objects=late), 0) == Freed(objects=2, size_bytes=1)
    assert contents_in(stored) == [b"1"]


# --- all at once ------------------------------------------------------------------------------------------------------


class Logger:
    """Logs versions of contents that others have too, and deletes them again, by chance."""

    def __init__(self, client: Client, clock: Clock, random: Random) -> None:
        self.client, self.clock, self.random = client, clock, random
        self.kept: list[tuple[dict[str, Any], Content]] = []
        self.others: Sequence[Logger] = []

    async def work(self, name: str) -> None:
        """Log and delete for a while."""
        for _ in range(6):
            if self.kept and self.random.random() < 0.5:
                version, _ = self.kept.pop(self.random.randrange(len(self.kept)))
                await delete(self.client, version)
            else:
                await self._log(name)
            self.clock.now += self.random.random() * garbage.MARGIN_SECONDS / 10

    async def _log(self, name: str) -> None:
        files = {str(number): bytes([number]) for number in self.random.sample(range(4), self.random.randint(1, 3))}
        wanted = content(files)
        draft = next((each.kept[-1][1] for each in self.others if each.kept), None)
        if draft is not None and self.random.random() < 0.3:
            await self._log_draft(name, draft)
            return
        made = await create(self.client, wanted, name, enableDigestDeduplication=False)
        if self.kept and self.random.random() < 0.3:
            base, before = self.random.choice(self.kept)
            await add_part(self.client, made["id"], wanted, "INCREMENTAL", base["id"])
            wanted = content({**before.files, **files})
        else:
            await upload_files(self.client, made["id"], files)
            await asyncio.sleep(self.random.random() / 50)
            await upload_manifest(self.client, made["id"], wanted.manifest)
        self.kept.append((await commit(self.client, made["id"]), wanted))

    async def _log_draft(self, name: str, wanted: Content) -> None:
        """Log the files of another's version without a word on them; he may have deleted it meanwhile."""
        made = await create(self.client, wanted, name, enableDigestDeduplication=False)
        await upload_manifest(self.client, made["id"], wanted.manifest)
        status, answer = await self.client.executor.execute(COMMIT, {"id": made["id"]}, None, self.client.context)
        if status == 200:
            self.kept.append((made, wanted))
        else:
            assert "was never uploaded" in str(answer)
            await delete(self.client, made)


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_is_logged_and_deleted_meanwhile_what_is_left_is_whole(
    client: Client, services: Services, clock: Clock, stored: Path, seed: int
) -> None:
    clock.now = time.time()  # as files on their way have it
    loggers = [Logger(client, clock, Random(100 * seed + number)) for number in range(4)]
    for logger in loggers:
        logger.others = [other for other in loggers if other is not logger]
    is_over = False

    async def free() -> None:
        while not is_over:
            await collect(services, 0)

    freeing = [asyncio.create_task(free()) for _ in range(2)]  # two servers may share a database
    await asyncio.gather(*(logger.work(f"data{number % 2}") for number, logger in enumerate(loggers)))
    is_over = True
    await asyncio.gather(*freeing)
    left = [wanted for logger in loggers for _, wanted in logger.kept]
    needed = {text for wanted in left for text in wanted.files.values()}
    await collect(services, 0)
    assert contents_in(stored) == sorted(needed)
    assert files_in(stored) == len(needed) + len(left), "each version has a manifest"
