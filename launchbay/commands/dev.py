"""`launchbay dev`: server, agent and a queue for each backend of this machine in one command, for a laptop.

Server and agent are separate processes that meet on the wire, as they do anywhere else; this one starts them, shows
their lines, and ends them together.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom
from typing import cast

import click

from agent.config.file import read
from agent.control_plane import ControlPlane
from agent.errors import ControlPlaneUnavailable
from backends import registry
from backends.base import BackendError, BackendUnavailable, ImageBackend
from protocol.names import QUEUE_PROJECT

DATA_DIR = Path.home() / ".local" / "share" / "launchbay" / "dev"
PROCESSES, CONTAINERS = "local-process", "local-container"
"""Queues are called as their resources."""
START_SECONDS = 30.0
ENGINE_SECONDS = 5.0
NO_IMAGE = "launchbay.invalid/none"


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
    """Run a server, an agent and its queues until Ctrl-C.

    The queue `local-process` runs jobs as processes. Where a container engine answers, Docker or Podman, the queue
    `local-container` runs them in containers.
    """
    _check_free(port)
    return asyncio.run(_run(port, data_dir.resolve(), max_jobs))


def agent_dir(data_dir: Path) -> Path:
    """Return the state folder of the agent."""
    return data_dir / "agent"


async def _run(port: int, data_dir: Path, max_jobs: int) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    base_url = f"http://127.0.0.1:{port}"
    why_no_containers = await _why_no_containers(data_dir)
    resources = (PROCESSES,) if why_no_containers else (PROCESSES, CONTAINERS)
    server = await _start("server", "--port", str(port), "--data-dir", str(data_dir / "server"))
    agent = None
    try:
        key = await _ready(base_url, data_dir / "server" / "admin-api-key", server, resources)
        environment = {**os.environ, "WANDB_BASE_URL": base_url, "WANDB_API_KEY": key}
        served = [word for resource in resources for word in ("-q", resource, "-r", resource)]
        agent = await _start(
            *("agent", *served, "-j", str(max_jobs), "--state-dir", str(agent_dir(data_dir))), env=environment
        )
        _say_how(base_url, data_dir, resources, why_no_containers)
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


def _check_free(port: int) -> None:
    """Look before the server does, as another one there would take us for its own client."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise click.ClickException(
                f"Port {port} cannot be had: {error.strerror}. Choose another with --port."
            ) from error


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


async def _why_no_containers(data_dir: Path) -> str | None:
    """Return why the agent could run no containers; None if its engine answers."""
    settings = read(None, os.environ, {}).config.backends.get(CONTAINERS, {})
    try:
        backend = cast("ImageBackend", registry.load(CONTAINERS)(agent_dir(data_dir) / CONTAINERS, "dev", settings))
    except BackendError as error:
        return str(error)
    try:
        async with asyncio.timeout(ENGINE_SECONDS):
            await backend.has_image(NO_IMAGE)
    except TimeoutError:
        return f"The container engine has not answered for {ENGINE_SECONDS:.0f} seconds."
    except (BackendError, BackendUnavailable) as error:
        return str(error)
    finally:
        await backend.close()
    return None


async def _ready(base_url: str, key_file: Path, server: asyncio.subprocess.Process, resources: Sequence[str]) -> str:
    """Wait until the server answers, and make the queues; returns the first user's API key."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            if server.returncode is not None:
                raise click.ClickException("The server did not start; its lines above say why. Is the port in use?")
            if await asyncio.to_thread(key_file.is_file):
                key = (await asyncio.to_thread(key_file.read_text)).strip()
                try:
                    await _ensure_queues(base_url, key, resources)
                    return key
                except ControlPlaneUnavailable:
                    pass
            await asyncio.sleep(0.05)


async def _ensure_queues(base_url: str, key: str, resources: Sequence[str]) -> None:
    async with ControlPlane(base_url, key, random=SystemRandom()) as control:
        entity = (await control.ask("query Viewer { viewer { entity } }"))["viewer"]["entity"]
        for resource in resources:
            await control.ask(
                "mutation UpsertRunQueue($input: UpsertRunQueueInput!) { upsertRunQueue(input: $input) { success } }",
                input={
                    "entityName": entity,
                    "projectName": QUEUE_PROJECT,
                    "queueName": resource,
                    "resourceType": resource,
                    "resourceConfig": json.dumps({"resource_args": {resource: {}}}),
                },
            )


def _say_how(base_url: str, data_dir: Path, queues: Sequence[str], why_no_containers: str | None) -> None:
    key_file = data_dir / "server" / "admin-api-key"
    click.echo(f"Launchbay is running, with the queue{'s' * (len(queues) > 1)} {' and '.join(queues)}.")
    if why_no_containers:
        click.echo(f"There is no queue {CONTAINERS}: {why_no_containers}")
    click.echo(f"In another terminal:\n  export WANDB_BASE_URL={base_url}")
    click.echo(f"  export WANDB_API_KEY=$(cat {key_file})\n  launchbay status")
