"""Keeps what a cluster says of the objects of one kind: listed once, and watched from there on.

The cache is exact: it is only ever what a list said, with the changes since that moment in their order. So the watch
goes on from where it was only if it had truly watched; one that came to nothing, was silent, or has expired is followed
by a list, and so is every watch after a while. What is new in a list is told as if it had been watched.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from random import Random
from types import MappingProxyType
from typing import TypeAlias

import structlog

from backends.kubernetes.api import (
    Kind,
    KubeApi,
    KubeObject,
    KubeRefused,
    KubeUnavailable,
    Trim,
    WatchEvent,
    WatchExpired,
)
from protocol.errors import LaunchbayError

SILENCE_SECONDS = 180.0
"""A watch without an event or bookmark for so long is taken for dead: servers send a bookmark every minute."""
RELIST_SECONDS = 1800.0
"""How often everything is listed although the watch has told all of it."""
FIRST_PAUSE_SECONDS = 0.1
LAST_PAUSE_SECONDS = 15.0
SHORT_SECONDS = 5.0
"""A watch that ends sooner, without having brought anything, may not have watched at all."""
CALM_SECONDS = 60.0
"""After going well for so long the pauses begin again with the first."""
JITTER = 0.25
"""Many agents that lost their server together are spread by this share, either way."""

Changed: TypeAlias = Callable[[str, KubeObject | None, KubeObject | None], None]
"""Told of each change: the name, what there was and what there is; None for nothing."""

log = structlog.get_logger(__name__)


def without_managed_fields(object_: KubeObject) -> KubeObject:
    """Drop the half of an object that tells who set which field."""
    object_["metadata"].pop("managedFields", None)
    return object_


class Reflector:
    """The objects of one kind in a namespace, as the cluster last told them."""

    def __init__(
        self,
        api: KubeApi,
        kind: Kind,
        namespace: str,
        labels: str,
        changed: Changed,
        *,
        random: Random,
        trim: Trim = without_managed_fields,
    ) -> None:
        """`labels` is a selector. `trim` says what is kept of each object: at least its `metadata`."""
        self._api = api
        self._kind = kind
        self._namespace = namespace
        self._labels = labels
        self._changed = changed
        self._random = random
        self._trim = trim
        self._what = f"The {kind.plural} of {namespace or 'all namespaces'}"
        self._objects: dict[str, KubeObject] = {}
        self._version = ""
        self._is_listed = False
        self._error: LaunchbayError | None = None
        self._pauses = _Pauses(random)
        self._syncing: list[asyncio.Future[None]] = []
        self._refreshing: list[asyncio.Future[None]] = []
        self._limit: asyncio.Timeout | None = None
        self._opened_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def objects(self) -> Mapping[str, KubeObject]:
        """What there is, by name. What it was when it became blind, while it is."""
        return MappingProxyType(self._objects)

    @property
    def is_synced(self) -> bool:
        """Whether `objects` is what the cluster has."""
        return self._is_listed and self._error is None

    @property
    def error(self) -> LaunchbayError | None:
        """Why it is blind just now; None if it is not, or has only begun.

        A kind that the cluster no longer knows is such a reason, too: a server that has just started may say so of one
        that is there.
        """
        return self._error

    def start(self) -> None:
        """Begin to list and to watch."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"reflector of {self._kind.plural}")

    async def close(self) -> None:
        """End. Whoever waits is told."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._error = KubeUnavailable(f"{self._what} are no longer watched.")
        self._answer_all(self._error)

    async def synced(self) -> None:
        """Return when `objects` is what the cluster has. Raises why it is blind instead."""
        if not self.is_synced:
            await self._told(self._syncing)

    async def refresh(self) -> None:
        """List everything anew, and return when that is done. Raises why it is blind instead."""
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())
        await self._told(self._refreshing)

    async def _told(self, waiting: list[asyncio.Future[None]]) -> None:
        if self._error is not None:
            raise _again(self._error)
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(told)
        await told

    async def _run(self) -> None:
        while True:
            pause = 0.0
            try:
                await self._list()
                await self._follow()
            except LaunchbayError as error:
                self._be_blind(error)
                pause = self._pauses.next()
                if isinstance(error, KubeUnavailable):
                    pause = max(pause, min(error.retry_after or 0.0, CALM_SECONDS))
            except Exception as error:  # the supervisor: a bug must not end the watching
                log.exception("a reflector failed and begins again", kind=self._kind.kind, namespace=self._namespace)
                self._be_blind(KubeUnavailable(f"{self._what} cannot be watched: {error!r}"))
                pause = self._pauses.next()
            await asyncio.sleep(pause)

    async def _list(self) -> None:
        """List everything, and tell what is new."""
        asked = len(self._refreshing)
        listing = await self._api.list(self._kind, self._namespace, labels=self._labels, trim=self._kept)
        listed = {object_["metadata"]["name"]: object_ for object_ in listing.items}
        for name in self._objects.keys() - listed.keys():
            self._put(name, None, self._objects[name])
        for name, object_ in listed.items():
            self._put(name, object_, self._objects.get(name))
        self._version = listing.resource_version
        if self._error is not None:
            log.info("watched again", kind=self._kind.kind, namespace=self._namespace)
        self._is_listed, self._error = True, None
        _answer([*self._syncing, *self._refreshing[:asked]], None)
        self._syncing.clear()
        del self._refreshing[:asked]

    async def _follow(self) -> None:
        """Watch until it is time to list again."""
        loop = asyncio.get_running_loop()
        list_at = loop.time() + RELIST_SECONDS * self._random.uniform(1 - JITTER, 1 + JITTER)
        while not self._refreshing:
            before, self._opened_at = self._version, None
            try:
                if await self._watch(list_at):
                    return
            except WatchExpired:
                before, self._opened_at = self._version, None
            except LaunchbayError:
                if not self._can_go_on(before):
                    raise
            await asyncio.sleep(self._pauses.next())
            if not self._can_go_on(before):
                return

    def _can_go_on(self, before: str) -> bool:
        """Whether a watch that has ended had truly watched, so that another goes on from there."""
        if self._version != before:
            return True
        return self._opened_at is not None and asyncio.get_running_loop().time() - self._opened_at > SHORT_SECONDS

    async def _watch(self, list_at: float) -> bool:
        """Take in what one watch brings. Return whether we ended it: it is silent, or time to list."""
        loop = asyncio.get_running_loop()
        events = self._api.watch(self._kind, self._namespace, self._version, labels=self._labels)
        try:
            async with asyncio.timeout_at(min(list_at, loop.time() + SILENCE_SECONDS)) as self._limit, aclosing(events):
                async for event in events:
                    self._opened_at = self._opened_at or loop.time()
                    self._take(event)
                    now = loop.time()
                    self._limit.reschedule(now if self._refreshing else min(list_at, now + SILENCE_SECONDS))
        except TimeoutError:
            return True
        finally:
            self._limit = None
        return False

    def _take(self, event: WatchEvent) -> None:
        if event.type != "BOOKMARK":
            told = self._trim(event.object)
            name = told["metadata"]["name"]
            if event.type == "DELETED":
                # What is gone is told in its last state.
                self._put(name, None, told if name in self._objects else None)
            else:
                self._put(name, told, self._objects.get(name))
        self._version = event.resource_version or self._version

    def _put(self, name: str, new: KubeObject | None, old: KubeObject | None) -> None:
        """Change the cache, and tell."""
        if old is not None and new is not None:
            if _version(old) == _version(new):
                return
            if _identity(old) != _identity(new):  # deleted, and another made of the same name, while nobody looked
                self._put(name, None, old)
                old = None
        if new is None:
            self._objects.pop(name, None)
        else:
            self._objects[name] = new
        if old is None and new is None:
            return
        try:
            self._changed(name, old, new)
        except Exception:  # the supervisor: a bug of who listens must not make everybody blind
            log.exception("a change could not be told", kind=self._kind.kind, namespace=self._namespace, name=name)

    def _kept(self, object_: KubeObject) -> KubeObject:
        """Return what is kept of an object: itself as it was, if it has not changed."""
        old = self._objects.get(object_["metadata"]["name"])
        return old if old is not None and _version(old) == _version(object_) else self._trim(object_)

    def _be_blind(self, error: LaunchbayError) -> None:
        if self._error is None:
            log.warning("cannot be watched", kind=self._kind.kind, namespace=self._namespace, why=str(error))
        self._error = error
        self._answer_all(error)

    def _answer_all(self, error: LaunchbayError) -> None:
        _answer([*self._syncing, *self._refreshing], error)
        self._syncing.clear()
        self._refreshing.clear()


class _Pauses:
    """How long to wait before trying again: ever longer, until it has gone well for a while."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._next = FIRST_PAUSE_SECONDS
        self._calm_at = 0.0

    def next(self) -> float:
        """Return the next pause, in seconds."""
        now = asyncio.get_running_loop().time()
        if now >= self._calm_at:
            self._next = FIRST_PAUSE_SECONDS
        pause = self._next * self._random.uniform(1 - JITTER, 1 + JITTER)
        self._next = min(self._next * 2, LAST_PAUSE_SECONDS)
        self._calm_at = now + pause + CALM_SECONDS
        return pause


def _answer(waiting: Iterable[asyncio.Future[None]], error: LaunchbayError | None) -> None:
    for told in waiting:
        if told.done():  # who waited has left
            continue
        if error is None:
            told.set_result(None)
        else:
            told.set_exception(_again(error))


def _again(error: LaunchbayError) -> LaunchbayError:
    """Return an error that says the same: one that is raised twice would gather the traces of both."""
    if isinstance(error, KubeRefused):
        return KubeRefused(str(error), status=error.status, reason=error.reason, about=error.about)
    return KubeUnavailable(str(error), retry_after=getattr(error, "retry_after", None))


def _identity(object_: KubeObject) -> object:
    return object_["metadata"].get("uid")


def _version(object_: KubeObject) -> tuple[object, object]:
    return _identity(object_), object_["metadata"].get("resourceVersion")
