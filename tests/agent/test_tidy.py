"""What is removed from the folder of working folders, and what is not."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.tidy import tidy_strays


async def test_the_folder_of_an_attempt_that_begins_just_then_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adopted launch is tried again while the agent looks for what forgotten ones have left."""
    first = SimpleNamespace(name="launch-1")
    launches = [SimpleNamespace(launch=first)]
    context: Any = SimpleNamespace(work_dir=tmp_path, launches=launches)
    for name in ("launch-1", "forgotten-1"):
        (tmp_path / name).mkdir()
    (tmp_path / "forgotten-1.log").touch()
    look = Path.iterdir

    def look_a_moment_later(folder: Path) -> Iterator[Path]:
        first.name = "launch-2"
        (tmp_path / "launch-2").mkdir()
        return look(folder)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", look_a_moment_later)
        await tidy_strays(context)
    assert [path.name for path in tmp_path.iterdir()] == ["launch-2"]
