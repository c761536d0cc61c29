"""A server's services on a fresh data folder, with a clock that tests set."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from server.context import Context, Services, Viewer
from server.graphql import Executor, load_schema
from server.resolvers import ALL_RESOLVERS
from server.start import opened
from server.storage import users
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
    url = cluster.copy_of(request.getfixturevalue("migrated"))
    yield url
    cluster.drop(url)


@pytest.fixture
async def services(tmp_path: Path, clock: Clock, database_url: str | None) -> AsyncIterator[Services]:
    """A server's services; user `admin` exists."""
    async with opened(tmp_path / "data", database_url) as services:
        yield replace(services, clock=clock)


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
    return Client(Executor(load_schema(ALL_RESOLVERS)), context)


@pytest.fixture
async def client(services: Services) -> Client:
    """A client of user `admin`."""
    return await make_client(services)
