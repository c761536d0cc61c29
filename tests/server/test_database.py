"""What `Database` promises, on both engines."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import Connection, func, insert, select, update

from server.database import Database, DatabaseUnusable
from server.database.opening import open_database
from server.database.postgresql import parse_url
from server.errors import RequestError
from server.storage.tables import entities
from server.wakeups import Wakeups, wait
from tests.postgres import Cluster


@pytest.fixture
async def database(tmp_path: Path, database_url: str | None) -> AsyncIterator[Database]:
    """A database with nothing in it."""
    opened = await open_database(tmp_path, database_url)
    yield opened
    await opened.close()


def _add(connection: Connection, name: str) -> None:
    connection.execute(insert(entities).values(name=name, kind="0", created_at=0))


def _count(connection: Connection) -> int:
    return connection.scalar(select(func.count()).select_from(entities)) or 0


class TestTransactions:
    """`read` and `write`."""

    async def test_work_that_fails_changes_nothing(self, database: Database) -> None:
        def work(connection: Connection) -> None:
            _add(connection, "one")
            raise RequestError("no")

        with pytest.raises(RequestError, match="no"):
            await database.write(work)
        assert await database.read(_count) == 0

    async def test_work_that_fails_takes_nobody_with_it(self, database: Database) -> None:
        def fail(connection: Connection) -> None:
            _add(connection, "never")
            raise RequestError("no")

        works = [database.write(_add, f"name-{number}") if number % 3 else database.write(fail) for number in range(30)]
        results = await asyncio.gather(*works, return_exceptions=True)
        assert [isinstance(result, RequestError) for result in results] == [number % 3 == 0 for number in range(30)]
        assert await database.read(_count) == 20

    async def test_who_does_not_wait_any_more_disturbs_nobody(self, database: Database) -> None:
        impatient = [asyncio.create_task(database.write(_add, f"gone-{number}")) for number in range(5)]
        await asyncio.sleep(0)
        for task in impatient:
            task.cancel()
        await asyncio.gather(*impatient, return_exceptions=True)
        await database.write(_add, "here")
        assert (
            await database.read(
                lambda connection: connection.scalar(select(entities.c.name).where(entities.c.name == "here"))
            )
            == "here"
        )

    async def test_changes_of_one_row_at_the_same_time_are_all_kept(self, database: Database) -> None:
        """Each reads, thinks and writes: a lost update would show as a smaller sum."""
        await database.write(_add, "counter")

        def increment(connection: Connection) -> None:
            seen = connection.scalar(select(entities.c.kind).where(entities.c.name == "counter"))
            connection.execute(
                update(entities).where(entities.c.name == "counter").values(kind=str(int(seen or 0) + 1))
            )

        await asyncio.gather(*(database.write(increment) for _ in range(40)))
        assert await database.read(lambda connection: connection.scalar(select(entities.c.kind))) == "40"

    async def test_of_those_who_make_the_same_row_one_makes_it_and_the_others_find_it(self, database: Database) -> None:
        def ensure(connection: Connection) -> bool:
            if connection.scalar(select(entities.c.id).where(entities.c.name == "only")) is not None:
                return False
            _add(connection, "only")
            return True

        made = await asyncio.gather(*(database.write(ensure) for _ in range(12)))
        assert made.count(True) == 1
        assert await database.read(_count) == 1

    async def test_a_read_sees_one_moment(self, database: Database) -> None:
        def twice(connection: Connection) -> bool:
            return _count(connection) == _count(connection)

        async def write() -> None:
            for number in range(30):
                await database.write(_add, str(number))

        writing = asyncio.create_task(write())
        while not writing.done():
            assert await database.read(twice)
        await writing

    async def test_what_is_there_stays(self, database: Database, tmp_path: Path, database_url: str | None) -> None:
        await database.write(_add, "kept")
        again = await open_database(tmp_path, database_url)
        assert await again.read(_count) == 1
        await again.close()


async def test_what_postgresql_cannot_hold_is_the_callers_mistake(
    cluster: Cluster, migrated: str, tmp_path: Path
) -> None:
    url = cluster.copy_of(migrated)
    database = await open_database(tmp_path, url)
    try:
        for name in ("a\0b", "x" * 200):
            with pytest.raises(RequestError, match="This cannot be stored"):
                await database.write(_add, name)
    finally:
        await database.close()
        cluster.drop(url)


class TestWakeupsOfOthers:
    """Server processes that share a database wake each other's waiters."""

    async def test_arrive_and_do_not_come_back(self, cluster: Cluster, migrated: str, tmp_path: Path) -> None:
        url = cluster.copy_of(migrated)
        databases = [await open_database(tmp_path, url) for _ in range(2)]
        here, there = Wakeups(), Wakeups()
        sharing = [asyncio.create_task(db.share(hints)) for db, hints in zip(databases, (here, there), strict=True)]
        try:
            with here.listening([("queue", 1)]) as own, there.listening([("queue", 1)]) as first:
                # Connecting wakes everybody, as nobody knows what was missed.
                assert await wait(own, 10)
                assert await wait(first, 10)
                with there.listening([("queue", 1)]) as second:
                    here.notify_one(("queue", 1))
                    assert await wait(own, 10)
                    assert await wait(first, 10)
                    here.notify(("queue", 2))
                    here.notify(("queue", 1))
                    assert await wait(second, 10)
                    assert await wait(first, 10)
                    assert await wait(own, 10)
                    await asyncio.sleep(0.2)
                    assert not own.is_set(), "an own wake-up came back"
        finally:
            for task in sharing:
                task.cancel()
            await asyncio.wait(sharing)
            for database in databases:
                await database.close()
            cluster.drop(url)

    async def test_are_carried_again_after_the_connection_was_lost(
        self, cluster: Cluster, migrated: str, tmp_path: Path
    ) -> None:
        url = cluster.copy_of(migrated)
        databases = [await open_database(tmp_path, url) for _ in range(2)]
        here, there = Wakeups(), Wakeups()
        sharing = [asyncio.create_task(db.share(hints)) for db, hints in zip(databases, (here, there), strict=True)]
        try:
            with there.listening([("queue", 1)]) as event:
                assert await wait(event, 10)
                cluster.sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'launchbay'"
                )
                here.notify(("queue", 1))
                assert await wait(event, 10), "connecting again wakes everybody"
                assert await databases[0].read(_count) == 0, "the pool finds a new connection"
        finally:
            for task in sharing:
                task.cancel()
            await asyncio.wait(sharing)
            for database in databases:
                await database.close()
            cluster.drop(url)


class TestUrls:
    """How a database is named."""

    def test_the_driver_is_ours_to_choose(self) -> None:
        url = parse_url("postgres://me:pw@db.test:5433/name?sslmode=require")
        assert url.drivername == "postgresql+asyncpg"
        assert (url.host, url.port, url.database, dict(url.query)) == ("db.test", 5433, "name", {"ssl": "require"})

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("mysql://db/name", "'mysql' cannot be used. Write postgresql://"),
            ("no url at all", "cannot be read. Write postgresql://"),
        ],
    )
    def test_others_are_refused(self, url: str, message: str) -> None:
        with pytest.raises(DatabaseUnusable, match=message):
            parse_url(url)

    async def test_a_database_that_is_not_there_is_told_without_the_password(self, tmp_path: Path) -> None:
        with pytest.raises(DatabaseUnusable) as raised:
            await open_database(tmp_path, "postgresql://me:hush@127.0.0.1:1/name")
        assert "127.0.0.1:1/name cannot be used" in str(raised.value)
        assert "hush" not in str(raised.value)

    async def test_a_missing_driver_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr("server.database.postgresql")
        monkeypatch.setitem(sys.modules, "server.database.postgresql", None)
        with pytest.raises(DatabaseUnusable, match=r"launchbay\[postgres\]"):
            await open_database(tmp_path, "postgresql://db/name")


def test_notifications_fit() -> None:
    from server.database.notifications import MAX_TOPICS

    longest = [[("item-log", 2**63), False]] * MAX_TOPICS
    assert len(json.dumps([f"{Random(0).getrandbits(64):016x}", longest])) < 8000
