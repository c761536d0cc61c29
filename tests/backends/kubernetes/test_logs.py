"""The output of many launches, and of those whose end is hard to read."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from backends.base import Handle
from backends.kubernetes.api import KubeApi, KubeUnavailable
from backends.kubernetes.logs import FOLLOWED, LOOKS_AT_ONCE, TRIES, Logs, View
from backends.kubernetes.records import Records
from backends.kubernetes.sources import Source

LINE = b"2026-01-01T00:00:00.000000001Z hello\n"


class Containers:
    """What of `KubeApi` is used: each container prints a line, and is read for as long as it is followed and runs."""

    def __init__(self) -> None:
        self.failures = 0
        self.asked = 0
        self.over = asyncio.Event()
        self.under_way = {True: 0, False: 0}
        self.most = {True: 0, False: 0}
        """By whether they were followed."""

    async def log(
        self, namespace: str, pod: str, container: str, *, follow: bool = False, since: str = ""
    ) -> AsyncGenerator[bytes]:
        self.asked += 1
        self.under_way[follow] += 1
        self.most[follow] = max(self.most[follow], self.under_way[follow])
        try:
            if self.failures:
                self.failures -= 1
                raise KubeUnavailable("away")
            yield LINE
            await (self.over.wait() if follow else asyncio.sleep(0.01))
        finally:
            self.under_way[follow] -= 1

    def view(self, handle: Handle) -> View:
        is_over = self.over.is_set()
        source = Source(f"{handle}-abc", "job", is_main=True, is_over=is_over, is_gone=False)
        return View(cast("KubeApi", self), "ns", [source], is_over)


def logs_of(containers: Containers, folder: Path) -> Logs:
    return Logs(Records(folder), containers.view, random=Random(1), clock=lambda: 0.0)


async def read(logs: Logs, handle: Handle, came: dict[Handle, bytes]) -> None:
    chunks: Any = logs.read(handle, 0, follow=True)
    async with aclosing(chunks):
        async for chunk in chunks:
            came[handle] = came.get(handle, b"") + chunk.data


async def test_of_many_that_begin_at_once_few_are_followed_and_few_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.kubernetes.logs.LOOKS_PER_SECOND", 1000)
    containers, came = Containers(), dict[Handle, bytes]()
    logs = logs_of(containers, tmp_path)
    handles = [Handle(f"/ns/Job.v1.batch/launch-{number}") for number in range(3 * FOLLOWED)]
    readers = [asyncio.create_task(read(logs, handle, came)) for handle in handles]
    async with asyncio.timeout(120):
        while len(came) < len(handles):  # noqa: ASYNC110 -- the readers wait for data, not for each other
            await asyncio.sleep(0.01)
        assert containers.most[True] == FOLLOWED
        assert containers.most[False] <= LOOKS_AT_ONCE
        containers.over.set()
        for handle in handles:
            logs.wake(handle)
        await asyncio.gather(*readers)
    assert set(came.values()) == {b"hello\n"}
    await logs.close()


async def test_an_end_that_cannot_be_read_at_once_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.kubernetes.logs.AGAIN_SECONDS", (0.01, 0.01))
    containers, came = Containers(), dict[Handle, bytes]()
    logs, handle = logs_of(containers, tmp_path), Handle("/ns/Job.v1.batch/launch-1")
    containers.over.set()
    containers.failures = TRIES - 1
    async with asyncio.timeout(60):
        await read(logs, handle, came)
    assert came == {handle: b"hello\n"}
    assert containers.asked == TRIES


async def test_an_end_that_nobody_can_tell_is_not_asked_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.kubernetes.logs.AGAIN_SECONDS", (0.01, 0.01))
    containers, came = Containers(), dict[Handle, bytes]()
    logs, handle = logs_of(containers, tmp_path), Handle("/ns/Job.v1.batch/launch-1")
    containers.over.set()
    containers.failures = 1000
    async with asyncio.timeout(60):
        await read(logs, handle, came)
    assert came == {}
    assert containers.asked == TRIES + 1  # and once more, with what began in the last moment
