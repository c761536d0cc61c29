"""Agents in this process that die between two of their steps, as they would by SIGKILL.

A step is what a task does between two awaits that suspend it. Every task of an agent counts, also those that other
tasks start. After its last step none of an agent's tasks is ever stepped again: nothing is awaited, caught, or cleaned
up in a `finally`. What the kernel would do is done here: its connections are closed, its journal and lock let go.
"""

import asyncio
import ctypes
import gc
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from agent.control_plane import ControlPlane
from agent.journal import Journal

_LIFE: ContextVar["Life | None"] = ContextVar("life", default=None)


class Life:
    """One agent from its start to its death, which comes after the step `last`."""

    def __init__(self, last: int | None = None) -> None:
        self.steps = 0
        """How many it has taken so far."""
        self.last = last
        self.over = asyncio.Event()
        self._reached: dict[int, asyncio.Event] = {}
        self._open: list[ControlPlane | Journal] = []
        self._threads: set[asyncio.Future[Any]] = set()
        self._gone = False
        self._parked: list[asyncio.Future[None]] = []

    @staticmethod
    def current() -> "Life | None":
        """Return the life of the agent that calls this, if it is one."""
        return _LIFE.get()

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let the agent run."""
        token = _LIFE.set(self)
        task = asyncio.create_task(work)
        _LIFE.reset(token)
        return task

    def die_in(self, steps: int) -> None:
        """Let it die after that many more steps."""
        self.last = self.steps + steps

    def reach(self, steps: int) -> asyncio.Event:
        """Return what is set when it has taken that many more steps."""
        return self._reached.setdefault(self.steps + steps, asyncio.Event())

    async def die(self) -> None:
        """Die now, if it is not dead yet, and do what a kernel does then."""
        self.over.set()
        if self._threads:
            await asyncio.wait(self._threads)
        for thing in self._open:
            if isinstance(thing, Journal):
                await _let_go(thing)
            elif thing._session is not None and thing._session.connector is not None:
                await thing._session.connector.close()
        gc.freeze()

    def vanish(self) -> None:
        """Let the tasks of the dead end, without a further step of what they were about."""
        self._gone = True
        for parked in self._parked:
            if not parked.done():
                parked.set_result(None)

    def keep(self, thing: ControlPlane | Journal) -> None:
        """Note what it has opened."""
        self._open.append(thing)

    def watch(self, thread: asyncio.Future[Any]) -> None:
        """Note what a thread of it is busy with."""
        self._threads.add(thread)
        thread.add_done_callback(self._threads.discard)

    def step(self, do: Callable[..., Any], *what: Any) -> Any:
        """Let one of its tasks do something, or nothing ever again."""
        if self.last is not None and self.steps >= self.last:
            self.over.set()
        if self.over.is_set():
            return self._park()
        self.steps += 1
        if reached := self._reached.pop(self.steps, None):
            reached.set()
        return do(*what)

    def _park(self) -> asyncio.Future[None]:
        if self._gone:
            raise StopIteration
        parked: Any = asyncio.get_running_loop().create_future()
        parked._asyncio_future_blocking = True  # what a task expects of what it is to wait for
        self._parked.append(parked)
        return parked


class _Mortal(Coroutine[Any, Any, Any]):
    """What a task of an agent does, as long as the agent lives."""

    def __init__(self, life: Life, work: Coroutine[Any, Any, Any]) -> None:
        self._life = life
        self._work = work
        # Never collected: that would raise GeneratorExit in it, and so run what stands in a `finally`.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(work))

    def send(self, value: Any) -> Any:
        """Do the next step."""
        return self._life.step(self._work.send, value)

    def throw(self, *error: Any) -> Any:
        """Do the next step, which begins with an error."""
        return self._life.step(self._work.throw, *error)

    def close(self) -> None:
        """Do nothing: the dead do not clean up."""

    def __await__(self) -> Any:
        """Refuse: only tasks run this."""
        raise NotImplementedError


@asynccontextmanager
async def mortality(patch: pytest.MonkeyPatch) -> AsyncGenerator[Callable[[int | None], Life]]:
    """Let agents be mortal while the block runs; gives what makes the life of the next one."""
    loop = asyncio.get_running_loop()
    run_in_executor: Any = loop.run_in_executor
    lives: list[Life] = []

    def new(last: int | None) -> Life:
        lives.append(Life(last))
        return lives[-1]

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> Any:
        life = Life.current()
        return asyncio.Task(_Mortal(life, work) if life else work, loop=loop, **more)

    def in_thread(*args: Any) -> Any:
        busy = run_in_executor(*args)
        if life := Life.current():
            life.watch(busy)
        return busy

    for kind in (ControlPlane, Journal):
        patch.setattr(kind, "__init__", _noted(kind.__init__))
    patch.setattr(loop, "run_in_executor", in_thread)
    loop.set_task_factory(factory)
    try:
        yield new
    finally:
        for life in lives:
            await life.die()
            life.vanish()
        await asyncio.sleep(0)
        loop.set_task_factory(None)
        loop._asyncgens.clear()  # type: ignore[attr-defined]  # those of the dead, which the loop would close


def _noted(make: Callable[..., None]) -> Callable[..., None]:
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        if life := Life.current():
            life.keep(self)

    return init


async def _let_go(journal: Journal) -> None:
    try:
        journal._connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return  # closed by the agent itself
    await asyncio.to_thread(journal._thread.shutdown)
    journal._connection.close()
    os.close(journal._lock)
