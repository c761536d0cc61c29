"""Checks of the machine that the agent is on: state folder, processes, environments of jobs, GPUs."""

import asyncio
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from uv import find_uv_bin

from agent import operations
from agent.admission.inventory import read_inventory
from agent.config.forms import size_text
from agent.errors import ControlPlaneRefused, ControlPlaneUnavailable
from agent.observability.status_app import ask_status
from agent.opening import default_state_dir
from agent.sources.git_fetch import OLDEST_GIT
from backends.local_process.control_groups import NoControlGroups, find
from launchbay.doctor.checks import Finding, Surroundings, absent, broken, ok, skipped, warning


async def state_folder(around: Surroundings) -> Finding:
    """Whether the agent can write its state, and whether another agent is there already."""
    folder = around.config.state_dir or await _default_folder(around)
    if folder is None:
        return skipped("which it is depends on server, entity and queues; not all of these are known")
    if problem := await asyncio.to_thread(_why_not_writable, folder):
        return broken(f"{folder}: {problem}", "Make it writable for this user, or choose another with --state-dir.")
    status = await ask_status(folder)
    if status is not None:
        return warning(f"{folder} is in use by a running agent", "A second agent needs one of its own: --state-dir.")
    return ok(f"{folder} is writable and not in use")


async def _default_folder(around: Surroundings) -> Path | None:
    if not around.config.queues:
        return None
    entity = around.config.entity
    if entity is None:
        try:
            entity = (await operations.server_facts(around.server)).entity
        except (ControlPlaneUnavailable, ControlPlaneRefused):
            return None
    return default_state_dir(around.server.base_url, entity, around.config.queues)


def _why_not_writable(folder: Path) -> str:
    # Made by the agent at its start if it is missing; until then what counts is where it would be made.
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return ""
    except OSError as error:
        return f"{there} cannot be written to: {error.strerror}"


async def local_process(_: Surroundings) -> Finding:
    """Whether processes can be started, and the kernel tells when they end."""
    try:
        process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", "")
        await process.wait()
    except OSError as error:
        return broken(f"no process can be started: {error.strerror}", "Raise the limits of this user or container.")
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return warning(
            f"no pidfds here ({error.strerror}), so ends of launches are noticed up to a second later",
            "Needs Linux 5.3, and a container whose seccomp profile allows pidfd_open.",
        )
    return ok("processes start, and pidfds tell when they end")


async def limits(_: Surroundings) -> Finding:
    """Whether the kernel would hold jobs to what they ask for. An agent that is a service may have what we have not."""
    try:
        found = await asyncio.to_thread(find, Path())
    except NoControlGroups as error:
        return skipped(f"nothing would hold the jobs of an agent that is started here to what they ask for: {error}")
    return ok(
        f"an agent that is started here has the kernel hold jobs to what they ask for: {', '.join(found.parents)}"
    )


async def uv(_: Surroundings) -> Finding:
    """Whether the program that makes the environments of jobs is there."""
    try:
        path = await asyncio.to_thread(find_uv_bin)
        process = await asyncio.create_subprocess_exec(
            path, "--version", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except OSError as error:
        return absent(f"uv cannot be run: {error}", "Install Launchbay again, with its dependency `uv`.")
    output, _errors = await process.communicate()
    return ok(f"{output.decode().strip()} at {path}")


async def git(around: Surroundings) -> Finding:
    """Whether code can be fetched from git, and the tokens and keys that it needs are there."""
    path = shutil.which("git", path=around.environment.get("PATH"))
    if path is None:
        return absent("there is no git", "Install git, if jobs come from there.")
    process = await asyncio.create_subprocess_exec(
        path, "version", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    output, _errors = await process.communicate()
    version = output.decode().strip()
    numbers = tuple(int(number) for number in re.findall(r"[0-9]+", version)[:2])
    if numbers < OLDEST_GIT:
        return broken(f"{version} at {path} is too old", f"Install git {'.'.join(map(str, OLDEST_GIT))} or newer.")
    if missing := await asyncio.to_thread(_missing_credentials, around):
        return broken(f"cannot be read: {', '.join(missing)}", "Make them readable for this user, or correct `git`.")
    return ok(f"{version} at {path}")


def _missing_credentials(around: Surroundings) -> list[str]:
    settings, missing = around.config.git, list[str]()
    files = {"git.known_hosts": settings.known_hosts}
    for name, host in settings.hosts.items():
        files |= {f"git.hosts.{name}.token_file": host.token_file, f"git.hosts.{name}.key_file": host.key_file}
        if host.token_env and not around.environment.get(host.token_env):
            missing.append(f"`git.hosts.{name}.token_env` ({host.token_env})")
    missing += [f"`{key}` ({path})" for key, path in files.items() if path and not os.access(path, os.R_OK)]
    return missing


async def gpus(around: Surroundings) -> Finding:
    """Which GPUs launches can be given."""
    slots = around.config.slots
    if slots.gpus == "none":
        return skipped("the agent does not manage GPUs (`slots.gpus`)")
    inventory = await read_inventory(slots, around.environment)
    if not inventory.gpus:
        return skipped("none found: no driver, or none that it shows")
    listed = ", ".join(
        f"{gpu.name or gpu.id}{f' ({size_text(gpu.memory)})' if gpu.memory else ''}" for gpu in inventory.gpus
    )
    return ok(f"{len(inventory.gpus)}: {listed}")
