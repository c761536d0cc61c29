"""A program: `launchbay`, which writes down twice a second how many asyncio tasks it has, into the file SOAK_TASKS.

The rest can be seen from outside.
"""

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

from launchbay.cli import main

SECONDS = 0.5
FILE = "SOAK_TASKS"


async def _counting(work: Coroutine[Any, Any, Any], file: Path) -> Any:
    counting = asyncio.create_task(_count(file))
    try:
        return await work
    finally:
        counting.cancel()


async def _count(file: Path) -> None:
    new = file.with_suffix(".new")
    while True:
        new.write_text(str(len(asyncio.all_tasks())))
        new.replace(file)  # whoever reads gets a whole number
        await asyncio.sleep(SECONDS)


def _patch(library: Any, file: Path) -> None:
    run = library.run
    library.run = lambda work, **more: run(_counting(work, file), **more)  # pyright: ignore[reportUnknownLambdaType]


if __name__ == "__main__":
    for each in (asyncio, uvloop):
        _patch(each, Path(os.environ[FILE]))
    main()
