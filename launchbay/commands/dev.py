"""`launchbay dev`: server, agent and a queue in one command, for a laptop.

Server and agent are separate processes that meet on the wire, as they do anywhere else; this one starts them, shows
their lines, and ends them together.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from random import SystemRandom

import click

from agent.control_plane import ControlPlane
from agent.errors import ControlPlaneUnavailable
from protocol.names import QUEUE_PROJECT

DATA_DIR = Path.home() / ".local" / "share" / "launchbay" / "dev"
QUEUE = "local-process"
START_SECONDS = 30.0


@click.command()
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535), help="Port of the server.")
@click.option(
    "--data-dir",
    default=DATA_DIR,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Holds everything: the server's data and the agent's state.",
)
@click.option("-j", "--max-jobs", default=4, show_default=True, help="How many launches at once; -1 for no limit.")
def command(port: int, data_dir: Path, max_jobs: int) -> int:
    """Run a server, an agent and the queue `local-process` until Ctrl-C."""
    return asyncio.run(_run(port, data_dir.resolve(), max_jobs))


async def _run(port: int, data_dir: Path, max_jobs: int) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    base_url = f"http://127.0.0.1:{port}"
    server = await _start("server", "--port", str(port), "--data-dir", str(data_dir / "server"))
    agent = None
    try:
        key = await _ready(base_url, data_dir / "server" / "admin-api-key", server)
        environment = {**os.environ, "WANDB_BASE_URL": base_url, "WANDB_API_KEY": key}
        agent = await _start(
            *("agent", "-q", QUEUE, "-j", str(max_jobs), "--state-dir", str(data_dir / "agent")), env=environment
        )
        _say_how(base_url, data_dir)
        waits = [asyncio.create_task(process.wait()) for process in (server, agent)]
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([*waits, stopped], return_when=asyncio.FIRST_COMPLETED)
        died = not stop.is_set()
        for task in (*waits, stopped):
            task.cancel()
        await asyncio.gather(*waits, stopped, return_exceptions=True)
        if died:
            click.secho("Server or agent has ended by itself; its last lines say why.", err=True, fg="red")
        return int(died)
    finally:
        # The agent first: it says goodbye to the server.
        for process in (agent, server):
            await _end(process)


async def _start(*arguments: str, env: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    # A session of their own, so that Ctrl-C reaches only this process, which ends them in order.
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "launchbay", *arguments, env=env, start_new_session=True, stdout=sys.stderr
    )


async def _end(process: asyncio.subprocess.Process | None) -> None:
    if process is None or process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(10):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _ready(base_url: str, key_file: Path, server: asyncio.subprocess.Process) -> str:
    """Wait until the server answers, and make the queue; returns the first user's API key."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            if server.returncode is not None:
                raise click.ClickException("The server did not start; its lines above say why. Is the port in use?")
            if await asyncio.to_thread(key_file.is_file):
                key = (await asyncio.to_thread(key_file.read_text)).strip()
                try:
                    await _ensure_queue(base_url, key)
                    return key
                except ControlPlaneUnavailable:
                    pass
            await asyncio.sleep(0.05)


async def _ensure_queue(base_url: str, key: str) -> None:
    async with ControlPlane(base_url, key, random=SystemRandom()) as control:
        entity = (await control.ask("query Viewer { viewer { entity } }"))["viewer"]["entity"]
        await control.ask(
            """mutation UpsertRunQueue($input: UpsertRunQueueInput!) { upsertRunQueue(input: $input) { success } }""",
            input={
                "entityName": entity,
                "projectName": QUEUE_PROJECT,
                "queueName": QUEUE,
                "resourceType": QUEUE,
                "resourceConfig": '{"resource_args": {"local-process": {}}}',
            },
        )


def _say_how(base_url: str, data_dir: Path) -> None:
    key_file = data_dir / "server" / "admin-api-key"
    click.echo(f"Launchbay is running. In another terminal:\n  export WANDB_BASE_URL={base_url}")
    click.echo(f"  export WANDB_API_KEY=$(cat {key_file})\n  launchbay status")
