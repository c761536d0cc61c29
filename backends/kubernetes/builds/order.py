"""What is to be built, and with what."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backends.base import Code
from backends.kubernetes import names
from protocol.json_types import Json, JsonObject

_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Registry:
    """Where images are pushed."""

    host: str
    is_insecure: bool = False
    """Whether it speaks HTTP."""
    login: str = field(default="", repr=False)
    """A docker configuration with the login, as JSON; empty if none is needed, or if a Secret has it."""
    secret: tuple[str, str] | None = None
    """The Secret of the namespace that has such a configuration, and the key in it."""


@dataclass(frozen=True, slots=True)
class Order:
    """A build. Complete: nothing is looked up later."""

    image: str
    """What it is to be called, with its registry and tag. The same name is the same content."""
    dockerfile: str
    """Its text."""
    file_name: str
    """What it is called in the context."""
    code: Code
    """What the context is made of."""
    environment: Mapping[str, str]
    """Variables of the command that fetches it."""
    secrets: Mapping[str, str] = field(repr=False)
    """Those whose values must not stand in plain sight."""
    registry: Registry
    namespace: str
    fetch_image: str
    """The image with `launchbay fetch-code`."""
    build_image: str
    """The image with rootless BuildKit."""
    cache: str | None = None
    """Under which name the steps are kept in a registry; None if nowhere."""
    platform: str | None = None
    prefix: str = ""
    """What the Job's name begins with."""
    base: JsonObject = field(default_factory=dict[str, Json])
    """What the Job's manifest is based on."""
    pull_secrets: Sequence[str] = ()
    seconds: int = 3600
    """How long it may take."""

    @property
    def key(self) -> str:
        """What it is told from other builds by, on every machine."""
        return hashlib.sha256(self.image.encode()).hexdigest()[:_DIGITS]

    @property
    def name(self) -> str:
        """The name of its Job, and of its Secret."""
        return names.object_name(f"build-{self.key}", self.prefix)
