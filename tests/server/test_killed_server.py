"""What a server has acknowledged is there, and there once, though it is killed again and again while runs log."""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from tests import warm
from tests.server.test_artifacts import COMMIT, CREATE, FILES, MANIFEST, Content, manifest_input, md5, version_input

RUNS = 10
KILLS = 20
MOST_BETWEEN_KILLS = 20
"""So many requests are acknowledged from one kill to the next, or fewer."""
LONGEST_PAUSE_SECONDS = 0.005
"""From the last of them to the kill, so that it may find the server at anything."""
WAIT_SECONDS = 240
PROGRAM = """
import os
from launchbay.cli import main
print(os.getpid(), flush=True)
main()
"""
UPSERT = """mutation($name: String!) {
  upsertBucket(input: {name: $name, modelName: "p", entityName: "admin", host: "box"}) { inserted }
}"""
RUN_FILES = """mutation($run: String!, $names: [String!]!) {
  createRunFiles(input: {entityName: "admin", projectName: "p", runName: $run, files: $names}) {
    files { name uploadUrl }
  }
}"""
READ = """query($run: String!) { project(name: "p", entityName: "admin") {
  run(name: $run) {
    state historyLineCount logLineCount summaryMetrics history(minStep: 0, maxStep: 1000000)
    logLines(first: 10000) { edges { node { number line } } }
    files(first: 1000) { edges { node { name md5 url } } }
  }
  artifactCollection(name: $run) { artifacts { edges { node {
    state versionIndex digest files { edges { node { name md5 } } }
  } } } }
} }"""


@pytest.fixture(scope="module")
def forked() -> Iterator[Sequence[str]]:
    """The words that stand for a Python that has imported the server."""
    modules = ("launchbay.commands.server", "server.database.postgresql", "server.migrations.upgrade")
    with warm.running(Path(sys.executable), modules, os.environ) as words:
        yield words


@dataclass
class Server:
    """A server that dies and comes back, at another address."""

    command: Sequence[str]
    environment: dict[str, str]
    folder: Path
    url: str = ""
    key: str = ""
    is_up: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledged: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    """Has one more for every request that was."""

    @asynccontextmanager
    async def life(self) -> AsyncGenerator[None]:
        """Run while the block runs, and be killed at its end."""
        with subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True, env=self.environment) as process:
            assert process.stdout
            pid = int(await asyncio.to_thread(process.stdout.readline))
            try:
                self.url = (await asyncio.to_thread(process.stdout.readline)).split()[-1]
                self.key = (self.folder / "admin-api-key").read_text().strip()
                self.is_up.set()
                yield
            finally:
                self.is_up.clear()
                handle = os.pidfd_open(pid)
                os.kill(pid, signal.SIGKILL)
                await asyncio.to_thread(select.select, [handle], [], [])
                os.close(handle)


@dataclass
class Run:
    """One that logs, as the stock client does: whatever gets no answer is sent again as it was."""

    name: str
    server: Server
    session: aiohttp.ClientSession
    random: Random
    values: list[int] = field(default_factory=list[int])
    console: list[str] = field(default_factory=list[str])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    versions: list[Content] = field(default_factory=list[Content])

    async def log(self, is_over: Callable[[], bool]) -> None:
        """Do what runs do, each of it at least once."""
        await self.ask(UPSERT, name=self.name)
        await self.upload()
        await self.log_artifact()
        while not is_over():
            await self.random.choices((self.stream, self.upload, self.log_artifact), (8, 1, 1))[0]()
        await self.stream(complete=True, exitcode=0)

    async def stream(self, **more: Any) -> None:
        """Send rows and console lines, of which the first rewrites the last one of before."""
        first, line = len(self.values), max(len(self.console) - 1, 0)
        self.values += [self.random.randrange(1000) for _ in range(self.random.randrange(1, 20))]
        self.console[line:] = [f"{self.name}: {len(self.values)} {index}" for index in range(3)]
        rows = [json.dumps({"_step": step, "value": self.values[step]}) for step in range(first, len(self.values))]
        files = {
            "wandb-history.jsonl": {"offset": first, "content": rows},
            "wandb-summary.json": {"offset": 0, "content": rows[-1:]},
            "output.log": {"offset": line, "content": self.console[line:]},
        }
        await self.send("POST", f"/files/admin/p/{self.name}/file_stream", json={"files": files, **more})

    async def upload(self) -> None:
        """Bring a file."""
        name, content = f"{len(self.files)}.bin", self.random.randbytes(2000)
        announced = (await self.ask(RUN_FILES, run=self.name, names=[name]))["createRunFiles"]["files"][0]
        await self.put(announced["uploadUrl"], content)
        self.files[name] = content

    async def log_artifact(self) -> None:
        """Bring a version of an artifact."""
        wanted = Content({"data": self.random.randbytes(1000)}, {})
        given = version_input(wanted, self.name, clientID=f"{self.name}-{len(self.versions)}", runName=self.name)
        made = (await self.ask(CREATE, input=given))["createArtifact"]["artifact"]
        announced = await self.ask(MANIFEST, input=manifest_input(made["id"], wanted.manifest, runName=self.name))
        await self.put(announced["createArtifactManifest"]["artifactManifest"]["file"]["uploadUrl"], wanted.manifest)
        specs = [{"artifactID": made["id"], "name": name, "md5": md5(data)} for name, data in wanted.files.items()]
        for edge in (await self.ask(FILES, files=specs))["createArtifactFiles"]["files"]["edges"]:
            await self.put(edge["node"]["uploadUrl"], wanted.files[edge["node"]["name"]])
        await self.ask(COMMIT, id=made["id"])
        self.versions.append(wanted)

    async def ask(self, query: str, **variables: Any) -> Any:
        """Return the data of an answer."""
        found = json.loads(await self.send("POST", "/graphql", json={"query": query, "variables": variables}))
        assert "errors" not in found, found
        return found["data"]

    async def put(self, url: str, content: bytes) -> None:
        """Upload to a URL that the server gave, wherever it is by now."""
        await self.send("PUT", url[url.index("/storage/") :], data=content)

    async def send(self, method: str, path: str, **content: Any) -> bytes:
        """Send until there is an answer; returns it."""
        while True:
            await self.server.is_up.wait()
            headers = {"Authorization": aiohttp.encode_basic_auth("api", self.server.key)}
            try:
                async with self.session.request(method, self.server.url + path, headers=headers, **content) as answer:
                    found = await answer.read()
                    assert answer.status == 200, found
            except aiohttp.ClientError:
                await asyncio.sleep(0)
            else:
                self.server.acknowledged.release()
                return found

    async def check(self) -> None:
        """Compare what was acknowledged with what is there."""
        project = (await self.ask(READ, run=self.name))["project"]
        run = project["run"]
        assert run["state"] == "finished"
        assert [json.loads(row)["value"] for row in run["history"]] == self.values
        assert json.loads(run["summaryMetrics"]) == json.loads(run["history"][-1])
        lines = [(edge["node"]["number"], edge["node"]["line"]) for edge in run["logLines"]["edges"]]
        assert lines == list(enumerate(self.console))
        assert (run["historyLineCount"], run["logLineCount"]) == (len(self.values), len(self.console))
        files = {edge["node"]["name"]: edge["node"] for edge in run["files"]["edges"]}
        assert files.keys() == self.files.keys()
        for name, content in self.files.items():
            assert files[name]["md5"] == md5(content)
            assert await self.send("GET", files[name]["url"].removeprefix(self.server.url)) == content
        versions = [edge["node"] for edge in project["artifactCollection"]["artifacts"]["edges"]]
        found = {version["versionIndex"]: version for version in versions}
        assert [found[index]["digest"] for index in sorted(found)] == [version.digest for version in self.versions]
        assert len(versions) == len(self.versions)
        for index, wanted in enumerate(self.versions):
            assert found[index]["state"] == "COMMITTED"
            entries = {edge["node"]["name"]: edge["node"]["md5"] for edge in found[index]["files"]["edges"]}
            assert entries == {name: md5(data) for name, data in wanted.files.items()}


async def test_everything_acknowledged_is_there_once_however_often_the_server_is_killed(
    tmp_path: Path, database_url: str | None, forked: Sequence[str]
) -> None:
    command = [*forked, "-c", PROGRAM, "server", "--data-dir", str(tmp_path), "--port", "0"]
    environment = {**os.environ, **({"LAUNCHBAY_DATABASE_URL": database_url} if database_url else {})}
    server, random, over = Server(command, environment, tmp_path), Random(8), asyncio.Event()
    async with AsyncExitStack() as last, asyncio.timeout(WAIT_SECONDS), aiohttp.ClientSession() as session:
        runs = [Run(f"r{number}", server, session, Random(number)) for number in range(RUNS)]
        async with asyncio.TaskGroup() as logging:
            for run in runs:
                logging.create_task(run.log(over.is_set))
            for _ in range(KILLS):
                async with server.life():
                    for _ in range(random.randrange(1, MOST_BETWEEN_KILLS)):
                        await server.acknowledged.acquire()
                    await asyncio.sleep(random.uniform(0, LONGEST_PAUSE_SECONDS))
            await last.enter_async_context(server.life())
            over.set()
        for run in runs:
            await run.check()
