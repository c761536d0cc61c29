"""This backend's block of the agent's configuration."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

from backends.base import BackendError
from backends.known_keys import check_known
from backends.local_container.engine import Credentials
from protocol.json_types import Json, JsonObject

Pull: TypeAlias = Literal["missing", "always", "never"]
PULLS: tuple[str, ...] = get_args(Pull)

WHERE = "backends.local-container."
_KEYS = ("engine", "pull", "registries")
_LOGIN_KEYS = ("user", "password_file", "password_env")


@dataclass(frozen=True, slots=True)
class Login:
    """How to log in at a registry. The password is read when it is needed, so that it may change."""

    user: str
    password_file: Path | None = None
    password_env: str | None = None

    def read(self) -> Credentials:
        """Return user and password; `BackendError` if there is none where the configuration says. Blocks."""
        if self.password_file:
            try:
                return Credentials(self.user, self.password_file.read_text("utf-8").strip())
            except (OSError, ValueError) as error:
                raise BackendError(f"The password file {self.password_file} cannot be read: {error}.") from error
        password = os.environ.get(self.password_env or "")
        if password is None:
            raise BackendError(f"The agent has no variable {self.password_env} with a registry's password.")
        return Credentials(self.user, password)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator says."""

    engine: str | None = None
    """URL of the engine; None finds it as the `docker` command does."""
    pull: Pull = "missing"
    """When images are pulled: if they are not on this machine, before each start, or never."""
    registries: Mapping[str, Login] = field(default_factory=dict[str, Login])
    """By host. For others the engine's client looks into its own files, as `~/.docker/config.json`."""


def read_settings(block: JsonObject) -> Settings:
    """Read the block; `BackendError` names what is wrong with it, and what is allowed."""
    check_known(WHERE, block, _KEYS)
    registries = block.get("registries") or {}
    if not isinstance(registries, Mapping):
        raise _wrong("registries", registries, "by registry, user and password_file or password_env")
    return Settings(
        engine=_text("engine", block.get("engine")),
        pull=read_pull(f"{WHERE}pull", block.get("pull") or "missing"),
        registries={host: _login(host, login) for host, login in registries.items()},
    )


def read_pull(key: str, value: Json) -> Pull:
    """Return when to pull; `BackendError` if it is none of the words."""
    if value not in PULLS:
        raise BackendError(f"`{key}` is {value!r}; it must be one of: {', '.join(PULLS)}.")
    return cast("Pull", value)


def _login(host: str, block: Json) -> Login:
    key = f"registries.{host}"
    if not isinstance(block, Mapping):
        raise _wrong(key, block, "user and password_file or password_env")
    check_known(f"{WHERE}{key}.", block, _LOGIN_KEYS)
    user = _text(f"{key}.user", block.get("user"))
    file, variable = (_text(f"{key}.{name}", block.get(name)) for name in _LOGIN_KEYS[1:])
    if not user or bool(file) == bool(variable):
        raise BackendError(f"`{WHERE}{key}` needs `user`, and `password_file` or `password_env`.")
    return Login(user, Path(file).expanduser() if file else None, variable)


def _text(key: str, value: Json) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise _wrong(key, value, "a text")


def _wrong(key: str, value: Json, allowed: str) -> BackendError:
    del value  # it may be a password
    return BackendError(f"`{WHERE}{key}` cannot be read; it must be {allowed}.")
