"""Leader election: of several agents of one name, the one that has a Lease of Kubernetes works, and the others wait.

No two clocks are compared. Who waits measures for how long the Lease has not changed, and takes it after the time that
its holder has given itself. The holder counts from the moment in which it asked for its last renewal, and ends well
before that time is over, as it also does if its event loop is blocked. So there is a pause between two holders, as long
as clocks run at about the same speed. Each write names the version that it replaces: of several who take it, one wins.
"""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import NoReturn
from uuid import uuid4

import structlog

from agent.config.model import LeaderElection
from agent.errors import ConfigError, LeaseLost
from agent.signals import when_told_to_end
from backends.base import BackendError
from backends.kubernetes.api import Kind, KubeApi, KubeObject, KubeRefused, KubeUnavailable

LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")
LOOK_SECONDS = 1.0
"""How often who waits looks at the Lease."""
RELEASE_SECONDS = 5.0
"""How long an agent that ends tries to say so. Without, the next one waits until its time is over."""
# Parts of the Lease's time.
RENEW, ATTEMPT, AGAIN, GIVE_UP, DEADLINE = 1 / 6, 1 / 6, 1 / 30, 2 / 3, 5 / 6
"""When it is renewed; how long one attempt may take, and the pause after it; when its holder begins to end; and when it
is dead."""

Alarm = Callable[[float | None], None]
"""Ends this process after so many seconds, unless it is called again before; None takes that back."""

log = structlog.get_logger(__name__)


class ToldToEnd(Exception):
    """A signal has ended an agent before it began to work."""


class Election:
    """One candidate. `alarm` ends it where nothing else can; `clock` tells the time that the Lease shows to people."""

    def __init__(
        self,
        api: KubeApi,
        settings: LeaderElection,
        identity: str,
        *,
        alarm: Alarm,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.identity = identity
        self.leader = ""
        """Who has it, as far as is known; empty for nobody."""
        self.error: str | None = None
        """Why the Lease cannot be had or seen just now."""
        self.is_won = False
        """Whether it was ours once."""
        self._api = api
        self._name, self._seconds = settings.lease, settings.seconds
        self._namespace = settings.namespace or api.default_namespace
        self._pause = min(LOOK_SECONDS, self._seconds * RENEW)
        self._alarm = alarm
        self._clock = clock
        self._seen: KubeObject | None = None
        self._seen_at = self._until = 0.0

    @property
    def lease(self) -> str:
        """The Lease, as namespace/name."""
        return f"{self._namespace}/{self._name}"

    async def win(self) -> None:
        """Return when the Lease is ours."""
        told: tuple[str, str | None] | None = None
        while not await self._attempted():
            told = self._tell(told)
            await asyncio.sleep(self._pause)
        self.is_won = True
        log.info("has the lease: it works from now on", lease=self.lease, identity=self.identity)

    async def keep(self) -> NoReturn:
        """Renew it for as long as possible; raises `LeaseLost` when that is over. Comes right after `win`."""
        while True:
            await asyncio.sleep(self._seconds * RENEW)
            try:
                async with asyncio.timeout_at(self._until):
                    while not await self._attempted():
                        if self.leader not in {"", self.identity}:
                            raise self._lost(f"{self.leader} has it")
                        log.warning("cannot renew the lease", lease=self.lease, error=self.error)
                        await asyncio.sleep(self._seconds * AGAIN)
            except TimeoutError:
                raise self._lost(
                    f"it could not be renewed for {self._seconds * GIVE_UP:.0f} s: {self.error or 'no answer'}"
                ) from None

    async def release(self) -> None:
        """Let the next one have it at once, if it is ours. Comes when no work is done any more."""
        self._alarm(None)
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                lease = await self._api.get(LEASE, self._namespace, self._name)
                if lease and _holder(lease) == self.identity:
                    await self._write(lease, {"holderIdentity": None})
                    log.info("has let go of the lease", lease=self.lease)
        except (KubeUnavailable, KubeRefused, TimeoutError) as error:
            log.warning("could not let go of the lease", lease=self.lease, error=str(error))

    async def _attempted(self) -> bool:
        """Take or renew it. Returns whether it is ours now; what came between is kept as `error`."""
        asked = _now()
        try:
            async with asyncio.timeout(self._seconds * ATTEMPT):
                is_ours = await self._attempt()
        except KubeRefused as error:
            self.error = None if error.status == 409 else str(error)  # 409: another one was faster
            return False
        except (KubeUnavailable, TimeoutError) as error:
            self.error = str(error) or f"no answer within {self._seconds * ATTEMPT:.1f} s"
            return False
        self.error = None
        if is_ours:
            self.leader = self.identity
            self._until = asked + self._seconds * GIVE_UP
            self._alarm(asked + self._seconds * DEADLINE - _now())
        return is_ours

    async def _attempt(self) -> bool:
        lease = await self._api.get(LEASE, self._namespace, self._name)
        now = self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours: KubeObject = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self._seconds,
            "renewTime": now,
        }
        if lease is None:
            manifest = {
                "apiVersion": LEASE.api_version,
                "kind": LEASE.kind,
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": {**ours, "acquireTime": now, "leaseTransitions": 0},
            }
            await self._api.create(LEASE, self._namespace, manifest)
            return True
        self.leader = _holder(lease)
        if self.leader != self.identity:
            if self.leader and not self._is_over(lease):
                return False
            transitions = int(_spec(lease).get("leaseTransitions") or 0)
            ours |= {"acquireTime": now, "leaseTransitions": transitions + 1}
        return await self._write(lease, ours)

    async def _write(self, lease: KubeObject, spec: KubeObject) -> bool:
        patch = {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": spec}
        return await self._api.patch(LEASE, self._namespace, self._name, patch) is not None

    def _is_over(self, lease: KubeObject) -> bool:
        """Return whether its holder has not renewed it for the time that it has given itself."""
        spec = _spec(lease)
        if spec != self._seen:
            self._seen, self._seen_at = spec, _now()
        return _now() - self._seen_at >= float(spec.get("leaseDurationSeconds") or self._seconds)

    def _tell(self, told: tuple[str, str | None] | None) -> tuple[str, str | None]:
        """Log what is waited for, where that is new."""
        now = (self.leader, self.error)
        if now != told and self.error:
            log.warning("cannot get the lease", lease=self.lease, error=self.error)
        elif now != told:
            log.info("waits for the lease: another agent works", lease=self.lease, leader=self.leader)
        return now

    def _lost(self, why: str) -> LeaseLost:
        self._alarm(self._seconds * (DEADLINE - GIVE_UP))
        return LeaseLost(f"This agent no longer has the lease {self.lease}: {why}. What runs goes on.")


@asynccontextmanager
async def leading(election: Election) -> AsyncGenerator[None]:
    """Wait for the Lease, and hold it while the block runs.

    Without it the block is cancelled, and `LeaseLost` raised. Raises `ToldToEnd` for a signal that comes before the
    block listens to signals itself.
    """
    main = asyncio.current_task()
    assert main
    reason: list[LeaseLost | ToldToEnd] = []

    def end(why: LeaseLost | ToldToEnd) -> None:
        if not reason:
            reason.append(why)
            main.cancel()

    async def keep() -> None:
        try:
            await election.keep()
        except LeaseLost as error:
            end(error)

    when_told_to_end(lambda: end(ToldToEnd()))
    keeping: asyncio.Task[None] | None = None
    try:
        await election.win()
        keeping = asyncio.create_task(keep())
        yield
    except asyncio.CancelledError:
        if not reason:
            raise
        main.uncancel()
    finally:
        if keeping:
            keeping.cancel()
            await asyncio.wait([keeping])
        await election.release()
    if reason:
        raise reason[0]


@asynccontextmanager
async def candidate(settings: LeaderElection) -> AsyncGenerator[Election]:
    """Give the election in the cluster that this process runs in; outside of one, in the one that `kubectl` would ask.

    Raises `ConfigError` where there is none, and where the kernel would not end this process: see `end_process_in`.
    """
    if os.getpid() == 1:
        raise ConfigError(
            "`leader_election` needs an agent that is not the first process of its container: the kernel would not end "
            "that one when its time is over. Start the agent through an init, such as tini or `docker run --init`."
        )
    try:
        from backends.kubernetes.client import KubeClient

        api = await KubeClient.open()
    except ModuleNotFoundError as error:
        raise ConfigError(
            "`leader_election` needs the `kubernetes` package: pip install 'launchbay[kubernetes]'."
        ) from error
    except BackendError as error:
        raise ConfigError(f"`leader_election` needs a Kubernetes cluster. {error}") from error
    try:
        yield Election(api, settings, f"{socket.gethostname()}_{uuid4()}", alarm=end_process_in)
    finally:
        await api.close()


def end_process_in(seconds: float | None) -> None:
    """End this process after so many seconds, whatever it does then.

    The kernel does it, with SIGALRM: no thread of ours has to run, and nothing has to be written, so that a process
    that hung or was stopped does no work of the holder's when it comes back.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    if seconds is not None and seconds <= 0:
        signal.raise_signal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _spec(lease: KubeObject) -> KubeObject:
    return lease.get("spec") or {}


def _holder(lease: KubeObject) -> str:
    return str(_spec(lease).get("holderIdentity") or "")
