"""An agent as a process: where its log goes, what it tells systemd, how it ends, and why it does not start."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agent.control_plane import ControlPlane
from launchbay.exits import DRAINED_WITH_WORK, FAILED, STOPPED_WORK, USAGE
from server.start import ServerSettings, running
from tests.agent.world import until

LAUNCHBAY = Path(sys.executable).with_name("launchbay")
ENDED = ("FAILED", "FINISHED", "STOPPED")


@dataclass
class Site:
    """A server with the queue `box`, and a machine for its agents."""

    folder: Path
    url: str
    server: ControlPlane

    @property
    def environment(self) -> dict[str, str]:
        """What programs here are given."""
        own = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "NOTIFY_"))}
        return {**own, "WANDB_BASE_URL": self.url, "WANDB_API_KEY": self.server.api_key, "HOME": str(self.folder)}

    async def start(self, *words: str | Path, **variables: str) -> asyncio.subprocess.Process:
        """Start a command."""
        return await asyncio.create_subprocess_exec(
            *(LAUNCHBAY, *words),
            env={**self.environment, **variables},
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *words: str | Path, **variables: str) -> tuple[int | None, str, str]:
        """Run a command to its end: exit code and what it said."""
        process = await self.start(*words, **variables)
        out, err = await asyncio.wait_for(process.communicate(), 120)
        return process.returncode, out.decode(), err.decode()

    @asynccontextmanager
    async def agent(self, *words: str | Path, **variables: str) -> AsyncGenerator["Agent"]:
        """Run an agent of the queue while the block runs."""
        log = self.folder / "agent.log"
        process = await self.start(
            *("agent", "-q", "box", "--state-dir", "state", *(words or ("-l", log))), **variables
        )
        try:
            yield Agent(process, log)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def push(self, *command: str) -> str:
        """Push a launch; returns its item."""
        spec = {"entity": "admin", "project": "p", "uri": "placeholder", "resource": "local-process"}
        data = await self.server.ask(
            """mutation Push($spec: JSONString!) { pushToRunQueueByName(input: {
                 entityName: "admin", projectName: "model-registry", queueName: "box", runSpec: $spec
               }) { runQueueItemId } }""",
            spec=json.dumps({**spec, "overrides": {"entry_point": command}}),
        )
        return data["pushToRunQueueByName"]["runQueueItemId"]

    async def in_state(self, item_id: str, *states: str) -> dict[str, Any]:
        """Wait until an item is in one of these states."""

        async def look() -> dict[str, Any] | None:
            data = await self.server.ask(
                "query Item($id: ID!) { runQueueItem(id: $id) { state error { message } } }", id=item_id
            )
            return dict(data["runQueueItem"]) if data["runQueueItem"]["state"] in states else None

        return await until(look, f"{item_id} in {states}")


@dataclass
class Agent:
    """An agent at work."""

    process: asyncio.subprocess.Process
    log: Path

    async def said(self, event: str) -> dict[str, Any]:
        """Wait for a line of its log."""

        async def look() -> dict[str, Any] | None:
            lines = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
            return next((line for line in lines if line["event"] == event), None)

        return await until(look, event)

    async def end(self) -> tuple[int | None, str]:
        """Wait for its end: exit code and last words."""
        _, err = await asyncio.wait_for(self.process.communicate(), 120)
        return self.process.returncode, err.decode()


@pytest.fixture(name="site")
async def _site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(ServerSettings(tmp_path / "data", "127.0.0.1", 0)) as url:
        key = (tmp_path / "data" / "admin-api-key").read_text().strip()
        async with ControlPlane(url, key, random=Random(1)) as server:
            site = Site(tmp_path, url, server)
            await server.ask(
                """mutation Queue { upsertRunQueue(input: {
                     entityName: "admin", projectName: "model-registry", queueName: "box",
                     resourceType: "local-process", resourceConfig: "{\\"resource_args\\": {\\"local-process\\": {}}}"
                   }) { success } }"""
            )
            yield site


# --- its log ----------------------------------------------------------------------------------------------------------


async def test_the_log_goes_to_a_file_of_which_nothing_is_lost(site: Site) -> None:
    (site.folder / "agent.log").write_text('{"event": "earlier"}\n')
    async with site.agent() as agent:
        await agent.said("agent is ready")
        agent.process.terminate()
        assert await agent.end() == (0, "")
    assert agent.log.read_text().startswith('{"event": "earlier"}\n')


@pytest.mark.parametrize("words", [("-l", "-"), ("--log-file", "-")])
async def test_a_dash_is_standard_output(site: Site, words: tuple[str, ...]) -> None:
    async with site.agent(*words) as agent:
        assert agent.process.stdout is not None
        line = await asyncio.wait_for(agent.process.stdout.readline(), 120)
        assert json.loads(line)["event"] == "agent is ready"
        agent.process.terminate()
        assert await agent.end() == (0, "")


async def test_a_log_that_cannot_be_written_costs_no_launch(site: Site) -> None:
    async with site.agent("-l", "/dev/full", "-v") as agent:
        item = await site.in_state(await site.push("true"), *ENDED)
        assert "failed to call wandb.init" in item["error"]["message"], "it ran"
        agent.process.terminate()
        assert (await agent.end())[0] == 0


# --- systemd ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["by a signal", "by its server"])
async def test_systemd_hears_of_the_end_when_it_begins(site: Site, told: str) -> None:
    config = site.folder / "config.yaml"
    config.write_text("drain: {running: wait}")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    listening.bind(str(site.folder / "notify"))
    loop = asyncio.get_running_loop()

    async def heard() -> bytes:
        return await asyncio.wait_for(loop.sock_recv(listening, 4096), 120)

    with listening:
        async with site.agent("-c", config, NOTIFY_SOCKET=str(site.folder / "notify")) as agent:
            assert await heard() == b"READY=1"
            mark = site.folder / "started"
            await site.push("sh", "-c", f"touch {mark}; sleep 60")
            async with asyncio.timeout(120):
                while not mark.exists():  # noqa: ASYNC110 -- what has not started is handed back
                    await asyncio.sleep(0.01)
            if told == "by a signal":
                agent.process.terminate()
            else:
                record = await site.server.ask(
                    'query Agents { project(name: "model-registry", entityName: "admin") { launchAgents { id } } }'
                )
                await site.server.ask(
                    "mutation Stop($id: ID!) { stopLaunchAgent(input: {launchAgentId: $id}) { success } }",
                    id=record["project"]["launchAgents"][0]["id"],
                )
            assert await heard() == b"STOPPING=1"
            assert agent.process.returncode is None, "it waits for what runs"
            agent.process.send_signal(signal.SIGHUP)
            agent.process.terminate()
            agent.process.terminate()
            assert (await agent.end())[0] in {STOPPED_WORK, DRAINED_WITH_WORK}
        rest: set[bytes] = set()
        while True:
            try:
                rest.add(listening.recv(4096))
            except BlockingIOError:
                break
        assert rest == {b"STOPPING=1"}, "and nothing that looks like work"


# --- its end ----------------------------------------------------------------------------------------------------------


async def test_a_signal_that_comes_while_it_leaves_does_not_take_its_exit_code_away(site: Site) -> None:
    async with site.agent() as agent:
        await agent.said("agent is ready")
        item_id = await site.push("sleep", "60")
        await agent.said("started")
        while agent.process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(agent.process.pid, signal.SIGTERM)  # not by its object, which would look for its end as well
            await asyncio.sleep(0.005)
        code, said = await agent.end()
    assert code in {DRAINED_WITH_WORK, STOPPED_WORK}
    assert "1 launch" in said
    async with site.agent():  # so that nothing is left running
        await site.server.ask(
            "mutation Stop($id: ID!) { stopRunQueueItem(input: {runQueueItemId: $id}) { success } }", id=item_id
        )
        assert (await site.in_state(item_id, *ENDED))["state"] == "STOPPED"


@pytest.mark.parametrize(("times", "code"), [(2, STOPPED_WORK), (3, DRAINED_WITH_WORK)])
async def test_told_twice_it_stops_what_runs_and_told_thrice_it_leaves_at_once(
    site: Site, times: int, code: int
) -> None:
    config = site.folder / "config.yaml"
    config.write_text(f"drain: {{running: wait}}\nstopped_run_timeout: {0.2 if times == 2 else 60}")
    log = site.folder / "agent.log"
    async with site.agent("-c", config, "-l", log) as agent:
        await site.push("sh", "-c", "trap '' TERM; for second in $(seq 20); do sleep 1; done")
        await agent.said("started")
        for what in ("claiming nothing more", "stopping what runs", "leaving at once")[:times]:
            agent.process.terminate()
            await agent.said(f"told to end: {what}")
        ended, said = await agent.end()
    assert ended == code
    assert said in {"Stopped 1 launch.\n", "1 launch left running, for the next start of the agent to adopt.\n"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
async def test_it_can_be_ended_while_it_waits_for_its_server(site: Site, number: signal.Signals, code: int) -> None:
    async with site.agent(WANDB_BASE_URL="http://127.0.0.1:1") as agent:
        await agent.said("server not available")
        agent.process.send_signal(number)
        ended, said = await agent.end()
    assert (ended, said.strip()) == (code, "")


# --- what it cannot start with ----------------------------------------------------------------------------------------


async def refused(site: Site, *words: str | Path, **variables: str) -> tuple[int | None, str]:
    """Run what must fail: exit code, and its one line of an error."""
    code, out, err = await site.run(*words, **variables)
    assert out == ""
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("Error: ")]
    return code, line


async def test_a_state_folder_that_cannot_be_used_is_named(site: Site) -> None:
    (site.folder / "file").touch()
    broken = site.folder / "broken"
    broken.mkdir()
    (broken / "journal.db").write_bytes(b"nothing of the kind" * 1000)
    for folder, why in (
        (site.folder / "file" / "below", "Not a directory"),
        (Path("/proc/nowhere"), "No such file or directory"),
        (broken, "file is not a database"),
    ):
        code, said = await refused(site, "agent", "-q", "box", "--state-dir", folder)
        assert code == FAILED
        assert said.startswith(f"Error: The state folder {folder} cannot be used: {why}. Make it writable")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("resources: [moon]", "Error: There is no backend for resource 'moon' here"),
        ("slots: {gpus: [one]}", "Error: `slots.gpus` names 'one'"),
        ("backends: {local-process: {nonsense: 1}}", "Error: `backends.local-process.nonsense` is not known"),
    ],
)
async def test_who_cannot_work_here_is_never_known_to_the_server(site: Site, config: str, said: str) -> None:
    (site.folder / "config.yaml").write_text(config)
    code, line = await refused(site, "agent", "-q", "box", "-c", "config.yaml")
    assert (code, line.startswith(said)) == (FAILED, True), line
    _, out, _ = await site.run("status", "--json")
    assert json.loads(out)["agents"] == []


async def test_a_second_agent_in_a_state_folder_is_refused(site: Site) -> None:
    async with site.agent() as agent:
        await agent.said("agent is ready")
        code, said = await refused(site, "agent", "-q", "box", "--state-dir", "state")
    assert code == FAILED
    assert said.startswith("Error: Another agent is using the state folder ")


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        (("-l", "nowhere/log"), {}, "The log file nowhere/log cannot be written: No such file or directory."),
        (
            ("-u", "https://x"),
            {},
            "--url is not supported. Name the queues with -q, and the server with WANDB_BASE_URL",
        ),
        ((), {"WANDB_BASE_URL": "here"}, "WANDB_BASE_URL is 'here'; it must be a URL, as http://127.0.0.1:8080."),
        ((), {"WANDB_BASE_URL": "http://me:hunter2@[x"}, "WANDB_BASE_URL is 'http://<redacted>@[x'; it must be a URL"),
        ((), {"WANDB_API_KEY": "", "WANDB_API_KEY_FILE": "key"}, "which holds no key: it is not text."),
    ],
)
async def test_what_it_was_given_wrongly_is_named(
    site: Site, words: tuple[str, ...], variables: dict[str, str], said: str
) -> None:
    (site.folder / "key").write_bytes(b"\xff\xfe")
    code, line = await refused(site, "agent", "-q", "box", *words, **variables)
    assert code == USAGE
    assert said in line


async def test_home_is_meant_by_a_tilde_also_where_the_shell_leaves_it(site: Site) -> None:
    (site.folder / "config.yaml").write_text("max_jobs: 7\n")
    code, out, _ = await site.run("agent", "-q", "box", "--config=~/config.yaml", "--state-dir=~/here", "--check")
    assert code == 0
    assert "max_jobs: 7" in out
    assert f"state_dir: {site.folder}/here" in out


async def test_a_launch_that_the_machine_cannot_prepare_says_so_and_holds_up_nothing(site: Site) -> None:
    async with site.agent() as agent:
        await agent.said("agent is ready")
        work = site.folder / "state" / "work"
        work.write_text("in the way")
        item = await site.in_state(await site.push("true"), *ENDED)
        assert "could not prepare the launch: [Errno" in item["error"]["message"]
        assert f"see that its state folder {site.folder}/state is writable" in item["error"]["message"]
        work.unlink()
        item = await site.in_state(await site.push("true"), *ENDED)
        assert "failed to call wandb.init" in item["error"]["message"], "it ran"
        agent.process.terminate()
        assert await agent.end() == (0, ""), "nothing is held any more"
    assert "Traceback" not in agent.log.read_text()
