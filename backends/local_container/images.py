"""Pulling images: each once at a time, whoever waits for it, with progress and a cause for people."""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.base import BackendError
from backends.local_container.engine import ContainerEngine, EngineRefused, image_registry
from backends.local_container.settings import Settings

UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
CAUSES = tuple(
    (reason, re.compile(pattern, re.IGNORECASE), advice)
    for reason, pattern, advice in (
        (
            "no_space",
            r"no space left",
            "The disk of the container engine is full. Remove images, or give it more room.",
        ),
        (
            "wrong_platform",
            r"no matching manifest for|does not match the specified platform|no image found in .* for arch",
            "It was not built for this platform. Build it for this one, or set `platform`.",
        ),
        ("rate_limited", r"toomanyrequests|rate limit", "The registry allows no more pulls for a while. Log in there."),
        (
            "denied",
            r"denied|unauthorized|authentication required|no basic auth|forbidden",
            "The registry does not show it to this agent: it is not there, or needs a login (`registries` in the block "
            "`backends.local-container` of the agent's configuration).",
        ),
        (
            "not_found",
            r"manifest unknown|not found|name unknown|no such image|repository does not exist",
            "The registry has no such image, or not with this tag. Look at its name and tag.",
        ),
        (
            "unreachable",
            r"connection refused|no such host|timeout|i/o|network is unreachable|server misbehaving|EOF|TLS|x509"
            r"|server gave HTTP response|pinging container registry|reset by peer",
            "The registry cannot be reached from the container engine. Look at its name and at the network.",
        ),
    )
)


class PullFailed(BackendError):
    """An image could not be pulled."""

    code = "image_pull_failed"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class _Pull:
    task: asyncio.Task[None]
    listeners: set[Callable[[str], None]] = field(default_factory=set[Callable[[str], None]])
    told: str = ""


class Images:
    """Pulls images."""

    def __init__(self, engine: ContainerEngine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._pulls: dict[tuple[str, str | None], _Pull] = {}

    async def pull(self, image: str, platform: str | None, tell: Callable[[str], None]) -> None:
        """Pull an image, or wait for whoever does. `tell` is given a sentence for people as it gets on.

        Who is cancelled waits no more; when nobody does, the pull ends. Raises `PullFailed` or `BackendUnavailable`.
        """
        key = (image, platform)
        pull = self._pulls.get(key)
        if pull is None:
            pull = self._pulls[key] = _Pull(asyncio.create_task(self._pull(key)))
            pull.task.add_done_callback(lambda task: self._done(key, task))
        pull.listeners.add(tell)
        tell(pull.told or f"pulling {image}")
        try:
            await asyncio.shield(pull.task)
        finally:
            pull.listeners.discard(tell)
            if not pull.listeners and not pull.task.done():
                self._pulls.pop(key, None)  # who comes now begins anew
                pull.task.cancel()

    async def close(self) -> None:
        """End every pull."""
        tasks = [pull.task for pull in self._pulls.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _done(self, key: tuple[str, str | None], task: asyncio.Task[None]) -> None:
        if (pull := self._pulls.get(key)) and pull.task is task:
            del self._pulls[key]
        if not task.cancelled():
            task.exception()  # whoever waits for it has it

    async def _pull(self, key: tuple[str, str | None]) -> None:
        image, platform = key
        layers: dict[str, tuple[int, int]] = {}
        login = self._settings.registries.get(image_registry(image))
        credentials = await asyncio.to_thread(login.read) if login else None
        try:
            async for reports in self._engine.pull(image, platform, credentials):
                for report in reports:
                    if error := report.get("error"):
                        raise pull_failed(image, str(error))
                    note_progress(layers, report)
                pull = self._pulls.get(key)
                if pull and (words := progress_text(image, layers)) != pull.told:
                    pull.told = words
                    for tell in tuple(pull.listeners):
                        tell(words)
        except EngineRefused as error:
            raise pull_failed(image, error.explanation) from error


def note_progress(layers: dict[str, tuple[int, int]], report: Mapping[str, Any]) -> None:
    """Take note of what the engine reports: how much of each layer is here, in bytes."""
    detail: Mapping[str, int] = report.get("progressDetail") or {}
    layer, status, total = str(report.get("id")), report.get("status"), detail.get("total", 0)
    if status == "Downloading" and total > 0:
        layers[layer] = (detail.get("current", 0), total)
    elif status in {"Download complete", "Pull complete"} and layer in layers:
        layers[layer] = (layers[layer][1], layers[layer][1])


def progress_text(image: str, layers: dict[str, tuple[int, int]]) -> str:
    """Return how far a pull is, for people. The total grows while the engine finds out about layers."""
    here, total = (sum(each) for each in zip(*layers.values(), strict=True)) if layers else (0, 0)
    if not total:
        return f"pulling {image}"
    size, unit = next(((size, unit) for size, unit in UNITS if total >= size), (1, "bytes"))
    return f"pulling {image}: {100 * here // total}%, {here / size:.3g} of {total / size:.3g} {unit}"


def pull_failed(image: str, words: str) -> PullFailed:
    """Return the error for what an engine says, with the one cause that its words tell."""
    for reason, pattern, advice in CAUSES:
        if pattern.search(words):
            return PullFailed(f"image:{reason}", f"The image {image} could not be pulled. {advice} It says: {words}")
    return PullFailed("image:failed", f"The image {image} could not be pulled: {words}")
