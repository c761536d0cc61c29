"""Report: tell the server how a launch ended, with the evidence, until it knows.

A Launchbay server is told the end and decides what it means for item and run. Other servers know only failed items:
there the agent looks whether the run ever started, and fails the item if it did not.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace

import structlog

from agent import operations
from agent.context import AgentContext
from agent.errors import ControlPlaneRefused
from agent.launch import End, Launch, Outcome
from agent.redaction import SECRETS
from backends.base import BackendUnavailable

log = structlog.get_logger(__name__)

EVIDENCE_BYTES = 256 * 1024
"""How much of the end of the output is attached to a failed item."""
LAST_LINES = 10
LAST_CHARS = 500
LAST_BYTES = 16 * 1024
"""What of that stands on the item itself."""
RUN_GRACE_SECONDS = (0, 1, 3, 7)
"""A server that is not ours may see a run a moment after the job has ended."""
EVIDENCE_FILE = "error.log"


async def report(context: AgentContext, launch: Launch) -> None:
    """Tell the server about the end of a launch. Returns when it knows; a refusal is logged, as that is final."""
    assert launch.end is not None
    end = launch.end
    try:
        if context.facts.is_launchbay:
            state = await _finish(context, launch, end)
            log.info("launch ended", outcome=end.outcome, item_state=state, exit_code=end.exit_code)
        elif await _never_started(context, launch):
            evidence = await _evidence(context, launch)
            files = await _attach(context, launch, evidence)
            told = replace(end, message=_with_last_lines(end.message, evidence))
            await context.server.persist(
                lambda: operations.fail(context.server, launch.item_id, told, files), doing="failing the item"
            )
    except ControlPlaneRefused as error:
        log.error("the server does not take the end of the launch", reason=str(error))


async def tell_progress(context: AgentContext, launch: Launch, status: str, message: str) -> bool:
    """Tell a Launchbay server how far a launch is. Returns when it knows: whether the item is still this agent's."""
    server, agent_id = context.server, context.identity.agent_id
    return await server.persist(
        lambda: operations.tell_progress(server, launch.item_id, agent_id, status, message), doing="telling progress"
    )


async def keep_evidence(context: AgentContext, launch: Launch, content: bytes) -> None:
    """Keep the log of a failure before the start, so that it survives until it is reported."""
    path = context.folder_of(launch.name).with_suffix(".log")
    text = SECRETS.text(content.decode("utf-8", "surrogateescape"))

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))

    try:
        await asyncio.to_thread(write)
    except OSError as error:
        log.warning("the log of the failure cannot be kept", error=str(error))


async def _finish(context: AgentContext, launch: Launch, end: End) -> str:
    files: list[str] = []
    try:
        await deliver_log(context, launch)
        if end.outcome is not Outcome.FINISHED:
            evidence = await _evidence(context, launch)
            files = await _attach(context, launch, evidence)
            end = replace(end, message=_with_last_lines(end.message, evidence))
    except ControlPlaneRefused as error:
        # The end must be told, with its log or without.
        log.warning("the server does not take the log", reason=str(error))
    return await context.server.persist(
        lambda: operations.finish(context.server, launch, end, context.identity.agent_id, files),
        doing="reporting the end",
    )


async def deliver_log(context: AgentContext, launch: Launch) -> None:
    """Send the rest of the output that the server does not have yet. Only a Launchbay server takes it."""
    async for offset, data in _output(context, launch, launch.log_offset):
        await send_log(context, launch, offset, data)


async def send_log(context: AgentContext, launch: Launch, offset: int, data: bytes) -> None:
    """Send a piece of an attempt's output. Sending it again does no harm, as every piece says where it belongs."""
    await context.server.persist(
        lambda: context.server.request(
            "POST", "/launchbay/item-log", data=data, item=launch.item_id, offset=launch.log_base + offset
        ),
        doing="sending the log",
    )
    launch.log_offset = offset + len(data)


async def log_size(context: AgentContext, launch: Launch) -> int:
    """Return how much output of an item a Launchbay server has, in bytes."""
    answer = await context.server.persist(
        lambda: context.server.request("POST", "/launchbay/item-log", data=b"", item=launch.item_id, offset=0),
        doing="looking at the log",
    )
    return int(json.loads(answer)["size"])


async def _output(context: AgentContext, launch: Launch, since: int) -> AsyncGenerator[tuple[int, bytes]]:
    """Yield the output with its offsets; of a launch that the backend never had, the evidence kept here."""
    backend = context.backends.get(launch.resource)
    if launch.handle is not None and backend is not None:
        try:
            async for chunk in SECRETS.chunks(backend.logs(launch.handle, since)):
                yield chunk.offset, chunk.data
        except BackendUnavailable as error:
            log.warning("the output cannot be read", error=str(error))
        return
    content = await _kept_evidence(context, launch)
    if content[since:]:
        yield since, content[since:]


async def _kept_evidence(context: AgentContext, launch: Launch) -> bytes:
    path = context.folder_of(launch.name).with_suffix(".log")
    try:
        return await asyncio.to_thread(path.read_bytes)
    except FileNotFoundError:
        return b""
    except OSError as error:
        log.warning("the log of the failure cannot be read", error=str(error))
        return b""


async def _evidence(context: AgentContext, launch: Launch) -> bytes:
    """Return the end of the output."""
    content = b""
    # A Launchbay server has been given all of it by now, so that we know how much there is.
    async for _, data in _output(context, launch, max(0, launch.log_offset - EVIDENCE_BYTES)):
        content = (content + data)[-EVIDENCE_BYTES:]
    return content


def _with_last_lines(message: str, evidence: bytes) -> str:
    """Return what happened and, below it, the last lines of the output: mostly they say why."""
    text = evidence[-LAST_BYTES:].decode(errors="replace")
    lines = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]  # a progress bar is one line
    last = [line[:LAST_CHARS] for line in lines if line][-LAST_LINES:]
    if message in text or all(line.strip() in message for line in last):
        return message
    told = f"{message}\n" if "\n" in message else f"{message} "
    return "\n".join([f"{told}Last lines:", *(f"    {line}" for line in last)])


async def _attach(context: AgentContext, launch: Launch, content: bytes) -> list[str]:
    """Upload the evidence, where the protocol keeps it; returns its path among the agent's run files."""
    if not content:
        return []
    name = f"{launch.item_id}/error/{EVIDENCE_FILE}"
    await context.server.persist(
        lambda: operations.upload_file(
            context.server,
            entity=context.entity,
            agent_name=context.identity.agent_name,
            name=name,
            content=content,
        ),
        doing="attaching the log",
    )
    return [name]


async def _never_started(context: AgentContext, launch: Launch) -> bool:
    """Whether no run came of a launch. One that is still running is told to be over: its process is."""
    assert launch.end is not None
    entity, project = str(launch.spec.get("entity", "")), str(launch.spec.get("project", ""))
    for pause in RUN_GRACE_SECONDS:
        await asyncio.sleep(pause)
        state = await context.server.persist(
            lambda: operations.run_state(context.server, entity, project, launch.run_id), doing="looking for the run"
        )
        if state == "running" and launch.end.outcome is not Outcome.FINISHED:
            await context.server.persist(
                lambda: operations.fail_run(context.server, entity, project, launch.run_id), doing="failing the run"
            )
        if state not in {None, "pending"}:
            return False
    return True
