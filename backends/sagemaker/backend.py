"""The sagemaker backend: makes, watches and stops the jobs that are launches.

What is known of a launch is kept here so that looking costs nothing while nothing happens. It is only a cache: AWS has
the truth, and a new backend of the same owner knows the same.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import structlog

from backends.base import (
    BackendError,
    BackendUnavailable,
    Capabilities,
    Handle,
    LogChunk,
    Observation,
    PlatformFull,
    Snapshot,
    StartRequest,
)
from backends.hints import Hints
from backends.sagemaker import names
from backends.sagemaker.access import Aws, AwsRefused
from backends.sagemaker.images import Images
from backends.sagemaker.kinds import TRAINING
from backends.sagemaker.logs import Logs
from backends.sagemaker.records import Records
from backends.sagemaker.request import IMAGE_ARGS, Account, Plan, Secret, job_of, plan
from backends.sagemaker.settings import Settings
from backends.sagemaker.tracker import Tracked, Tracker, is_unknown

STOP_AGAIN_SECONDS = 60.0
"""How soon to ask again for a stop that has not happened."""
QUOTA_POLLS = 6
"""How soon to ask again for room in a quota, in terms of how often jobs are looked at."""
AGAIN_SECONDS = 2.0
"""How soon to read output again that could not be read."""

log = structlog.get_logger(__name__)


class SageMakerBackend:
    """See `backends.base.Backend`. A handle is the kind of a job, and its name."""

    def __init__(
        self, aws: Aws, state_dir: Path, owner: str, settings: Settings, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._aws = aws
        self._owner = owner
        self._settings = settings
        self._hints = Hints()
        self._records = Records(state_dir / "launches")
        self._tracker = Tracker(aws, owner, self._records, self._changed, clock)
        self._logs = Logs(aws, self._records, self._seen, settings.poll_seconds)
        self._images = Images(aws, clock)
        self._opening = asyncio.Lock()
        self._account: Account | None = None
        """Known once everything else is, too."""
        self._starting: dict[Handle, asyncio.Task[Handle]] = {}
        self._stops: dict[Handle, float] = {}
        """When a stop was asked for, by the event loop's clock."""
        self._polling: asyncio.Task[None] | None = None
        self._problem: Exception | None = None
        """Why the last look has failed."""

    @property
    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return Capabilities(
            runs_images=True, needs_image=True, image_args=IMAGE_ARGS, max_value_chars=TRAINING.max_value_chars
        )

    async def start(self, request: StartRequest) -> Handle:
        """See `Backend.start`. Who is cancelled leaves a start that goes on."""
        kind, name = job_of(request, self._owner)
        handle = kind.handle(name)
        task = self._starting.get(handle)
        if task is None:
            task = self._starting[handle] = asyncio.create_task(self._start(request, handle))
            task.add_done_callback(lambda done: self._started(handle, done))
        return await asyncio.shield(task)

    async def observe(self) -> Snapshot:
        """See `Backend.observe`. Tells what the last look has found, and raises what it has failed with."""
        await self._open()
        if self._problem is not None:
            raise BackendUnavailable(f"AWS cannot be asked about the launches there: {self._problem}")
        return self._tracker.snapshot

    def changes(self) -> AsyncGenerator[frozenset[Handle]]:
        """See `Backend.changes`. Yields once at once."""
        return self._hints.listen(frozenset(self._tracker.snapshot))

    async def stop(self, handle: Handle, grace_seconds: float) -> None:
        """See `Backend.stop`. SageMaker itself says how long a job has from the signal to its end: two minutes."""
        del grace_seconds
        if starting := self._starting.get(handle):
            await asyncio.wait([starting])
        await self._open()
        tracked = self._tracker.get(handle)
        if tracked is None or tracked.is_over:
            return
        now = asyncio.get_running_loop().time()
        if now - self._stops.get(handle, now - STOP_AGAIN_SECONDS) < STOP_AGAIN_SECONDS:
            return
        try:
            await self._aws.call("sagemaker", f"stop_{tracked.kind.snake}", {tracked.kind.name: tracked.name})
        except AwsRefused as error:
            # It may have ended just now, in one way or another: a look tells.
            log.info("a stop was refused", launch=handle, job=tracked.name, reason=str(error))
        self._stops[handle] = now
        tracked.is_stale = True

    async def logs(self, handle: Handle, since: int = 0, *, follow: bool = False) -> AsyncGenerator[LogChunk]:
        """See `Backend.logs`."""
        await self._open()
        while True:
            try:
                async with aclosing(self._logs.read(handle, since, follow=follow)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                        since = chunk.end
                return
            except AwsRefused as error:
                # That it cannot be read must not keep the end of a launch from being told.
                log.warning("cannot read the output of a job", launch=handle, error=str(error))
                return
            except BackendUnavailable:
                if not follow:
                    raise
                await asyncio.sleep(AGAIN_SECONDS)

    async def cleanup(self, handle: Handle) -> None:
        """See `Backend.cleanup`. The job itself stays at AWS, marked as over.

        Raises `BackendError` if the launch has not ended.
        """
        await self._open()
        tracked = self._tracker.get(handle)
        if tracked is None:
            return
        if not tracked.is_over:
            raise BackendError(f"The launch {handle} has not ended; stop it before it is cleaned up.")
        await self._mark_as_over(tracked)
        if self._settings.secret_prefix:
            await self._remove_secret(self._settings.secret_prefix + tracked.name)
        self._stops.pop(handle, None)
        self._logs.forget(handle)
        await self._tracker.forget(handle)

    async def close(self) -> None:
        """See `Backend.close`."""
        if self._starting:
            await asyncio.wait(list(self._starting.values()))
        if self._polling:
            self._polling.cancel()
            await asyncio.wait([self._polling])
        self._aws.close()

    # --- opening and looking -----------------------------------------------------------------------------------------

    async def _open(self) -> Account:
        """Find what earlier agents have left. All of it: what is not told of does not exist."""
        if self._account is not None:
            return self._account
        async with self._opening:
            if self._account is None:
                try:
                    region = await self._aws.region()
                    me = await self._aws.call("sts", "get_caller_identity")
                    await self._tracker.open()
                except BackendError as error:
                    raise BackendUnavailable(f"AWS does not let us see our launches: {error}") from error
                self._polling = asyncio.create_task(self._poll())
                self._account = Account(str(me["Account"]), str(me["Arn"]).split(":")[1], region)
            return self._account

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_seconds)
            try:
                if not self._tracker.is_idle:
                    await self._tracker.look()
                self._problem = None
            except (BackendError, BackendUnavailable) as error:
                log.warning("cannot look at the jobs", error=str(error))
                self._problem = error
            except Exception as error:  # a supervisor: a bug must be seen, and must not end the looking
                log.exception("looking at the jobs failed by a bug")
                self._problem = error

    def _changed(self, handle: Handle) -> None:
        self._hints.publish(handle)
        self._logs.wake(handle)

    def _seen(self, handle: Handle) -> Observation | None:
        tracked = self._tracker.get(handle)
        return tracked.record.seen if tracked else None

    # --- starting ----------------------------------------------------------------------------------------------------

    async def _start(self, request: StartRequest, handle: Handle) -> Handle:
        account = await self._open()
        if self._tracker.get(handle):
            return handle
        planned = plan(request, self._owner, account, self._settings.secret_prefix)
        if planned.image:
            await self._images.check(planned.image)
        try:
            if planned.secret:
                await self._put_secret(planned.secret)
            arn = await self._create(planned)
        except (BackendError, PlatformFull):
            if planned.secret:
                await self._remove_secret(planned.secret.name)
            raise
        await self._tracker.put(planned.kind, planned.name, arn, request.labels)
        return handle

    async def _create(self, planned: Plan) -> str:
        kind = planned.kind
        try:
            answer = await self._aws.call("sagemaker", f"create_{kind.snake}", planned.arguments)
            return str(answer[kind.arn])
        except AwsRefused as error:
            if error.aws_code not in {"ResourceInUse", "ResourceLimitExceeded"}:
                raise
            # An earlier request, which nobody has heard the answer to, may have made it.
            if arn := await self._tracker.arn_of(kind, planned.name):
                return arn
            if error.aws_code == "ResourceInUse":
                raise
            message = f"It waits for room in a quota of AWS: {error.explanation}"
            raise PlatformFull(message, retry_seconds=QUOTA_POLLS * self._settings.poll_seconds) from error

    def _started(self, handle: Handle, task: asyncio.Task[Handle]) -> None:
        del self._starting[handle]
        if not task.cancelled():
            task.exception()  # whoever asked for it has it, unless that task was cancelled: nobody is left to tell

    # --- what goes with a job ----------------------------------------------------------------------------------------

    async def _put_secret(self, secret: Secret) -> None:
        value = {"SecretString": secret.value}
        tags = names.as_list({names.OWNER: names.owner_of(self._owner)})
        try:
            await self._aws.call("secretsmanager", "create_secret", {"Name": secret.name, **value, "Tags": tags})
        except AwsRefused as error:
            if error.aws_code == "InvalidRequestException":  # one of this name is just being deleted
                raise BackendUnavailable(str(error)) from error
            if error.aws_code != "ResourceExistsException":
                raise
            await self._aws.call("secretsmanager", "put_secret_value", {"SecretId": secret.name, **value})

    async def _remove_secret(self, name: str) -> None:
        arguments = {"SecretId": name, "ForceDeleteWithoutRecovery": True}
        await self._try("remove a secret", self._aws.call("secretsmanager", "delete_secret", arguments))

    async def _mark_as_over(self, tracked: Tracked) -> None:
        tags = names.as_list({names.OVER: "true"})
        arguments = {"ResourceArn": tracked.record.arn, "Tags": tags}
        await self._try("mark a job as over", self._aws.call("sagemaker", "add_tags", arguments))

    async def _try(self, what: str, work: Coroutine[Any, Any, Any]) -> None:
        """Do what nothing depends on."""
        try:
            await work
        except AwsRefused as error:
            if not is_unknown(error):
                log.warning(f"cannot {what}", error=str(error))
