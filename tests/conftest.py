"""What all tests share."""

import asyncio
import functools
import shutil
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine, create_engine

from backends.local_process import keeping
from server.database.postgresql import PostgresDatabase, parse_url
from server.migrations.upgrade import upgrade
from tests import clusters, postgres
from tests.cluster.control_plane import ControlPlane

# How long an example takes says more of the machine than of what is tested.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# The asyncio plugin looks for a current event loop beside those of the tests, makes one if there is none, and leaves it
# open. So there is one, and it is closed.
_LOOP = asyncio.new_event_loop()


def pytest_sessionstart() -> None:
    """Have a current event loop."""
    asyncio.set_event_loop(_LOOP)


def pytest_sessionfinish() -> None:
    """Close it, and end the keepers that backends in this process have left, as they live as long as their jobs do."""
    asyncio.set_event_loop(None)
    _LOOP.close()
    for keeper in keeping._left:
        keeper.kill()
        keeper.wait()


@pytest.fixture(scope="session", autouse=True)
def _entry_points_are_found_once() -> Iterator[None]:
    """An agent looks for the entry points of backends when it starts, which takes longer than all the rest of that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backends.registry.entry_points", functools.cache(entry_points))
        yield


@pytest.fixture(scope="session", autouse=True)
def _new_sqlite_files_are_copied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server that makes its database goes through all revisions of the schema: so one does, and others copy its file.

    That the revisions work is for the tests of migrations, and for all servers that are processes of their own.
    """
    template = tmp_path_factory.mktemp("template") / "launchbay.db"

    def copy_and_upgrade(engine: Engine) -> None:
        assert engine.url.database is not None
        file = Path(engine.url.database)
        if not file.exists():
            shutil.copyfile(template, file)
        upgrade(engine)

    made = create_engine(f"sqlite:///{template}")
    upgrade(made)
    made.dispose()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.database.sqlite.upgrade", copy_and_upgrade)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the soak: it waits most of its two minutes, and nobody should wait for it at the end."""
    items.sort(key=lambda item: "tests/soak/" not in item.nodeid)


@pytest.fixture(scope="session")
def cluster() -> Iterator[postgres.Cluster]:
    """A PostgreSQL cluster for tests alone."""
    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed: on Debian, apt-get install postgresql")
    with postgres.running() as started:
        yield started


@pytest.fixture(scope="session")
def migrated(cluster: postgres.Cluster) -> str:
    """The URL of a database with the newest schema, to be copied and not to be used."""
    url = cluster.new_database()

    async def migrate() -> None:
        await (await PostgresDatabase.open(parse_url(url))).close()

    asyncio.run(migrate())
    return url


@pytest.fixture(scope="session")
def kube_cluster() -> Iterator[clusters.Cluster]:
    """A Kubernetes cluster of one node, which all workers share."""
    if why := clusters.missing():
        pytest.skip(why)
    with clusters.running() as running:
        yield running


@pytest.fixture
def control_plane() -> Iterator[ControlPlane]:
    """An API server and its store alone, for one test."""
    if why := clusters.missing_control_plane():
        pytest.skip(why)
    with clusters.running_control_plane() as running:
        yield running
