"""Programs that say who we are, as kubeconfig files name them: `aws eks get-token`, `gke-gcloud-auth-plugin`.

The `kubernetes` package runs them, too. It lets one that hangs live on, gives it the agent's own input, and where one
fails it goes on as nobody.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson

SECONDS = 60.0
"""How long one may take."""
WORDS_LENGTH = 500
"""How much of what it says when it fails is told."""


class PluginFailed(Exception):
    """There are no credentials. Says why."""


async def ask_plugin(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run a plugin, of which a kubeconfig says this under `exec`; return the `status` of its answer."""
    command = str(settings.get("command") or "")
    version = settings.get("apiVersion")
    question = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    arguments: list[Any] = settings.get("args") or []
    variables: list[Any] = settings.get("env") or []
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            *map(str, arguments),
            env={
                **os.environ,
                **{str(each["name"]): str(each["value"]) for each in variables},
                "KUBERNETES_EXEC_INFO": orjson.dumps(question).decode(),
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        hint = str(settings.get("installHint") or "").strip()
        raise PluginFailed(f"the credentials plugin {command} cannot be run: {error}. {hint}".strip()) from error
    try:
        async with asyncio.timeout(SECONDS):
            output, words = await process.communicate()
    except TimeoutError as error:
        raise PluginFailed(f"the credentials plugin {command} took more than {SECONDS:.0f} s") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            await process.wait()
    if process.returncode:
        said = words.decode(errors="replace").strip()[-WORDS_LENGTH:]
        raise PluginFailed(f"the credentials plugin {command} failed with exit code {process.returncode}: {said}")
    try:
        answer = orjson.loads(output)
        status: Mapping[str, Any] = answer["status"]
        if answer["apiVersion"] != version or not isinstance(status, dict):
            raise TypeError
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise PluginFailed(f"the credentials plugin {command} answered with no ExecCredential of {version}") from error
    return status
