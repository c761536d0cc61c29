"""A scene for tests that kill agents."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.scene import Scene, scene


@pytest.fixture(name="scene")
async def _scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with scene(tmp_path, monkeypatch) as made:
        yield made
