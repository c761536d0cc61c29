"""A server's services on a fresh data folder, with a clock that tests set."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from server.app import executor
from server.context import Context, Services, Viewer
from server.database.postgresql import parse_url
from server.graphql import Executor
from server.start import opened
from server.storage import users
from server.storage.tables import metadata
from tests.postgres import Cluster


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The server's clock."""
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The URL of a fresh database: None for SQLite, which needs none. Tests that use it run on both engines."""
    if request.param == "sqlite":
        yield None
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    url: str = request.getfixturevalue("reused_database")
    yield url
    cluster.empty(url, [table.name for table in metadata.sorted_tables])


@pytest.fixture(scope="session")
def reused_database(cluster: Cluster, migrated: str) -> str:
    """A database that is emptied after each test: to make one takes longer than most tests do."""
    return cluster.copy_of(migrated)


@pytest.fixture
async def services(tmp_path: Path, clock: Clock, database_url: str | None) -> AsyncIterator[Services]:
    """A server's services; user `admin` exists."""
    async with opened(tmp_path / "data", database_url) as services:
        yield replace(services, clock=clock, listening_since=0)


class Inside:
    """Runs tests of storage functions where the server runs these functions: below an asynchronous connection."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._engine = create_async_engine(parse_url(url))
        self._connection = self._runner.run(self._connect())
        sync = self._connection.sync_connection
        assert sync is not None
        self.connection: Connection = sync

    async def _connect(self) -> AsyncConnection:
        connection = await self._engine.connect()
        # The rows that a table refers to are left out: no foreign key is checked.
        await connection.execute(text("SET session_replication_role = replica"))
        return connection

    def run(self, test: Callable[[], object]) -> None:
        """Run a test."""
        self._runner.run(self._connection.run_sync(lambda _: test()))

    def close(self) -> None:
        """Undo everything."""
        self._runner.run(self._connection.close())
        self._runner.run(self._engine.dispose())
        self._runner.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def inside(request: pytest.FixtureRequest) -> Iterator[Inside | None]:
    """What runs a test that needs a `connection`; None if nothing is needed."""
    if request.param == "sqlite":
        yield None
        return
    inside = Inside(request.getfixturevalue("shared_database"))
    yield inside
    inside.close()


@pytest.fixture(scope="session")
def shared_database(cluster: Cluster, migrated: str) -> str:
    """A database of tests that commit nothing."""
    return cluster.copy_of(migrated)


@pytest.fixture
def connection(inside: Inside | None) -> Iterator[Connection]:
    """A connection to an empty database, of each engine, inside a transaction that is undone."""
    if inside is not None:
        yield inside.connection
        return
    # The rows that a table refers to are left out: SQLite checks no foreign key unless told to.
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.connect() as opened:
        yield opened
    engine.dispose()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run tests that need it `Inside`."""
    inside = pyfuncitem.funcargs.get("inside")
    if not isinstance(inside, Inside):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    inside.run(lambda: pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True


@dataclass
class Client:
    """Sends GraphQL straight to the executor, as one user."""

    executor: Executor
    context: Context

    async def ask(self, query: str, **variables: Any) -> Any:
        """Return the data of a successful answer."""
        status, body = await self.executor.execute(query, variables, None, self.context)
        assert status == 200, body
        assert "errors" not in body, body
        return body["data"]

    async def fail(self, query: str, **variables: Any) -> tuple[int, str]:
        """Return status and first message of an answer that must be an error."""
        status, body = await self.executor.execute(query, variables, None, self.context)
        assert "errors" in body, body
        errors: Any = body["errors"]
        return status, errors[0]["message"]


async def make_client(services: Services, username: str = "admin") -> Client:
    """Return a client of a user, who is made if he is not there."""

    def viewer(connection: Any) -> Viewer:
        row: Any = users.user_by_name(connection, username)
        user_id = row.id if row else users.create_user(connection, username, now=services.clock())
        return users.viewer_by_id(connection, user_id)

    context = Context(services, await services.database.write(viewer), "http://server.test")
    return Client(executor(), context)


@pytest.fixture
async def client(services: Services) -> Client:
    """A client of user `admin`."""
    return await make_client(services)
