"""Real parts, one of each."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.building import parts


@pytest.fixture(scope="package")
def engine() -> Iterator[parts.Engine]:
    """A container engine with an image that has a shell."""
    if why := parts.missing():
        pytest.skip(why)
    with parts.engine() as running:
        client = running.client()
        parts.make_shell_image(client)
        client.close()
        yield running


@pytest.fixture(scope="package")
def python_image(engine: parts.Engine) -> str:
    """An image with Python in that engine."""
    client = engine.client()
    parts.make_python_image(client)
    client.close()
    return parts.PYTHON


@pytest.fixture
def registry(engine: parts.Engine, tmp_path: Path) -> Iterator[str]:
    """The host of a registry that is for everybody."""
    with parts.registry(tmp_path) as host:
        yield host


@pytest.fixture
def private_registry(engine: parts.Engine, tmp_path: Path) -> Iterator[str]:
    """The host of a registry that wants a login."""
    with parts.registry(tmp_path, is_private=True) as host:
        yield host


async def run_in(engine: parts.Engine, image: str, *command: str) -> str:
    """Run a command in an image; returns its output."""

    def run() -> str:
        client = engine.client()
        try:
            return client.containers.run(image, list(command), network_mode="none", remove=True).decode()
        finally:
            client.close()

    return await asyncio.to_thread(run)
