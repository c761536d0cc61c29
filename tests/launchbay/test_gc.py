"""`launchbay gc` on a data folder."""

import asyncio
from pathlib import Path

from click.testing import CliRunner

from launchbay.commands.gc import command
from launchbay.errors import NotThere
from server.start import opened
from tests.server.conftest import make_client
from tests.server.test_artifacts import DELETE, content, log


async def log_and_delete(folder: Path) -> None:
    """Leave an artifact that was deleted."""
    async with opened(folder) as services:
        client = await make_client(services)
        version = await log(client, content({"a": b"x" * 2**20}))
        await client.ask(DELETE, id=version["id"], aliases=True)


def test_what_was_freed_is_told(tmp_path: Path) -> None:
    asyncio.run(log_and_delete(tmp_path))
    folder = ["--data-dir", str(tmp_path)]
    said = [
        CliRunner().invoke(command, [*folder, *more], catch_exceptions=False).stdout for more in ([], ["--at-once"])
    ]
    assert "Removed 0 objects (0.0 MiB without manifests)" in said[0]
    assert "Removed 2 objects (1.0 MiB without manifests)" in said[1]


def test_a_folder_without_server_or_objects_is_told(tmp_path: Path) -> None:
    asked = ["--data-dir", str(tmp_path)]
    nothing = CliRunner().invoke(command, asked).exception
    assert isinstance(nothing, NotThere)
    assert "No server was ever started" in str(nothing)
    (tmp_path / "admin-api-key").touch()
    elsewhere = CliRunner().invoke(command, asked).exception
    assert isinstance(elsewhere, NotThere)
    assert "are in a bucket" in str(elsewhere)
    assert not (tmp_path / "objects").exists()
