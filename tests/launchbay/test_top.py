"""`launchbay top`: what matters first, other people's words as words, and a terminal that is as it was."""

import asyncio
import fcntl
import io
import json
import os
import pty
import struct
import sys
import termios
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from agent.control_plane import ControlPlane
from launchbay.commands.top import View, render
from server.start import ServerSettings, running

LAUNCHBAY = Path(sys.executable).parent / "launchbay"
LIMIT_SECONDS = 120.0
TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a program as a shell would: Ctrl-C reaches the programs of the session whose terminal it is."""


def item(state: str, number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return an item as the server shapes it."""
    return {
        "id": f"item-{number}",
        "state": state,
        "createdAt": None,
        "runSpec": {"job": "admin/p/train:v1"},
        "associatedRunId": None,
        "agent": None,
        "error": None,
        "waitingReason": None,
        **changes,
    }


def view(*items: dict[str, Any], **changes: Any) -> View:
    """Return a view of one queue with these items, and one agent."""

    def edges(*states: str) -> dict[str, Any]:
        return {"edges": [{"node": each} for each in items if not states or each["state"] in states]}

    over = [each["state"] for each in items if each["state"] not in {"PENDING", "LEASED", "CLAIMED", "RUNNING"}]
    queue = {
        "name": "gpu-box",
        "pendingCount": 7,
        "held": edges("LEASED", "CLAIMED", "RUNNING"),
        "waiting": edges("PENDING"),
        "over": edges(*over) if over else {"edges": []},
    }
    agent = {"name": "agent-1", "hostname": "box", "agentStatus": "POLLING", "stopPolling": False, "isAlive": True}
    shown: dict[str, Any] = {"agents": [{**agent, "heartbeatAt": None}], "queues": [queue], **changes}
    return View(datetime.now(UTC), "admin", **shown)


def drawn(seen: View, *, color: bool = False, width: int = 160) -> str:
    """Return what the screen shows."""
    console = Console(file=io.StringIO(), width=width, force_terminal=color, color_system="standard" if color else None)
    with console.capture() as capture:
        console.print(render(seen))
    return capture.get()


def test_what_is_held_comes_before_what_waits_and_what_is_over() -> None:
    shown = drawn(view(item("FAILED", 1), item("PENDING", 2), item("RUNNING", 3), item("FINISHED", 4)))
    places = [shown.index(f"item-{number}") for number in (3, 2, 1, 4)]
    assert places == sorted(places)
    assert shown.index("agent-1") < shown.index("gpu-box") < places[0]
    (queue,) = [line for line in shown.splitlines() if line.startswith("gpu-box")]
    assert queue.split() == ["gpu-box", "7", "1"]


def test_each_item_says_why() -> None:
    waiting = item("PENDING", waitingReason="no agent serves this queue")
    failed = item("FAILED", 2, error={"message": "no such image"}, agent={"name": "agent-1"})
    shown = drawn(view(waiting, failed))
    assert "no agent serves this queue" in shown
    assert "no such image" in shown


def test_a_narrow_screen_cuts_sentences_and_never_states_and_names_to_type() -> None:
    failed = item("FAILED", error={"message": "why " * 50}, agent={"name": "agent-1"}, associatedRunId="run12345")
    running = item("RUNNING", 2, runSpec={"job": "somebody/some-project/a-job-of-a-long-name:latest"})
    lines = drawn(view({**failed, "id": "UnVuUXVldWVJdGVtOjE="}, running), width=80).splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("UnVuUXVldWVJdGVtOjE= ")]
    assert " FAILED " in lines[at]
    assert " run12345 " in lines[at]
    assert lines[at + 1].startswith("    why why "), "there is more room below than at its side"
    assert lines[at + 1].rstrip().endswith("…")
    assert len(lines[at + 1].rstrip()) > 70
    assert lines[at - 1].startswith("item-2 "), "who has nothing to say takes one line"


def test_other_peoples_words_are_no_orders_to_the_terminal() -> None:
    shown = drawn(view(item("PENDING", runSpec={"job": "a\x1b]0;title\x07\x1b[2Jb"}, waitingReason="[red]x[/y] \n z")))
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[red]x[/y]" in shown


def test_a_silent_agent_is_told_from_one_at_work() -> None:
    silent = {"name": "a", "hostname": "h", "agentStatus": "POLLING", "stopPolling": False, "isAlive": False}
    stopping = {**silent, "name": "b", "isAlive": True, "stopPolling": True}
    shown = drawn(view(agents=[{**each, "heartbeatAt": None} for each in (silent, stopping)]))
    assert "SILENT" in shown
    assert "POLLING, stopping" in shown


def test_a_state_has_a_color() -> None:
    assert drawn(view(item("FAILED")), color=True).count("\x1b[31m") >= 1
    assert "\x1b[31m" not in drawn(view(item("RUNNING")), color=True)


def test_a_problem_is_shown_beside_the_last_view() -> None:
    shown = drawn(view(item("RUNNING"), problem="The server cannot be reached."))
    assert "The server cannot be reached." in shown
    assert "item-1" in shown


# --- on a terminal ---------------------------------------------------------------------------------------------------


class Terminal:
    """A terminal with `launchbay top` in it."""

    def __init__(self, master: int, slave: int, process: asyncio.subprocess.Process) -> None:
        self.master, self._slave, self.process = master, slave, process
        self._shown = b""

    async def shows(self, text: str) -> None:
        """Wait until a text has been shown."""
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                while text.encode() not in self._shown:
                    self._shown += await asyncio.to_thread(self._read)
        except TimeoutError:
            raise AssertionError(f"{text!r} was never shown, but {self._shown!r}") from None

    def type(self, key: bytes) -> None:
        """Press a key."""
        os.write(self.master, key)

    def is_as_it_was(self) -> bool:
        """Whether lines are read as wholes, and echoed."""
        return termios.tcgetattr(self._slave)[3] & (termios.ICANON | termios.ECHO) == termios.ICANON | termios.ECHO

    def _read(self) -> bytes:
        return os.read(self.master, 65536)


class Server:
    """A server that comes and goes at one address, with one queue."""

    def __init__(self, folder: Path, url: str) -> None:
        self.key = (folder / "admin-api-key").read_text().strip()
        self.environment = {"PATH": os.environ["PATH"], "WANDB_BASE_URL": url, "WANDB_API_KEY": self.key}
        self._url = url

    async def make_queue(self) -> None:
        """Make the queue."""
        await self._ask(
            """mutation Queue { upsertRunQueue(input: {
                 entityName: "admin", projectName: "model-registry", queueName: "gpu-box",
                 resourceType: "local-process", resourceConfig: "{\\"resource_args\\": {\\"local-process\\": {}}}"
               }) { success } }"""
        )

    async def push(self, project: str) -> None:
        """Push a launch."""
        spec = {"entity": "admin", "project": project, "uri": f"job-of-{project}", "resource": "local-process"}
        await self._ask(
            """mutation Push($spec: JSONString!) { pushToRunQueueByName(input: {
                 entityName: "admin", projectName: "model-registry", queueName: "gpu-box", runSpec: $spec
               }) { runQueueItemId } }""",
            spec=json.dumps(spec),
        )

    async def _ask(self, document: str, **variables: Any) -> None:
        async with ControlPlane(self._url, self.key, random=Random(1)) as control:
            await control.ask(document, **variables)


@asynccontextmanager
async def serving(folder: Path) -> AsyncGenerator[Server]:
    """Serve, with a queue that one launch waits in."""
    async with running(ServerSettings(folder / "server", port=0)) as url:
        server = Server(folder / "server", url)
        await server.make_queue()
        await server.push("first")
        yield server


@asynccontextmanager
async def top(server: Server) -> AsyncGenerator[Terminal]:
    """Have `launchbay top` in a terminal, and what it shows first."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", TAKE_TERMINAL, LAUNCHBAY, "top", "--interval", "0.1"),
        env={**server.environment, "TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    terminal = Terminal(master, slave, process)
    try:
        await terminal.shows("job-of-first")
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(master)
        os.close(slave)


async def ended(terminal: Terminal) -> int:
    """Wait for the end of `launchbay top`; returns its exit code."""
    async with asyncio.timeout(LIMIT_SECONDS):
        return await terminal.process.wait()


async def test_it_is_live_and_q_ends_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, top(server) as terminal:
        assert not terminal.is_as_it_was(), "keys come one by one"
        await server.push("second")
        await terminal.shows("job-of-second")
        terminal.type(b"x")
        await server.push("third")
        await terminal.shows("job-of-third")
        terminal.type(b"q")
        assert await ended(terminal) == 0
        assert terminal.is_as_it_was()


async def test_ctrl_c_ends_it_and_a_server_that_is_away_does_not(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with serving(tmp_path) as server:
            terminal = await stack.enter_async_context(top(server))
        await terminal.shows("cannot be reached")
        terminal.type(b"\x03")
        assert await ended(terminal) == 0
        assert terminal.is_as_it_was()


async def test_into_a_pipe_it_prints_the_items_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        process = await asyncio.create_subprocess_exec(
            LAUNCHBAY, "top", env=server.environment, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(LIMIT_SECONDS):
            output, _ = await process.communicate()
    assert process.returncode == 0
    header, line = output.decode().splitlines()
    assert header.split() == ["ITEM", "QUEUE", "STATE", "AGE", "JOB", "RUN", "AGENT", "WHY"]
    assert line.split()[1:3] == ["gpu-box", "PENDING"]
    assert "job-of-first" in line
    assert "\x1b" not in output.decode()


@pytest.mark.parametrize("interval", ["0", "-1", "fast"])
async def test_an_interval_is_some_time(interval: str) -> None:
    process = await asyncio.create_subprocess_exec(
        LAUNCHBAY, "top", "--interval", interval, env={}, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert b"--interval" in errors
