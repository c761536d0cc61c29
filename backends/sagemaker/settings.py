"""This backend's block of the agent's configuration, with what the block `environment` says of AWS."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from backends.base import BackendError
from backends.known_keys import check_known
from protocol.json_types import Json, JsonObject

WHERE = "backends.sagemaker."
_KEYS = ("poll_seconds", "profile", "region", "role_arn", "secrets")
_PREFIX = re.compile(r"[A-Za-z0-9/_+=.@-]{1,200}")
_ROLE = re.compile(r"arn:[a-z0-9-]+:iam::[0-9]{12}:role/\S+")
_REGION = re.compile(r"[a-z]{2,}(-[a-z0-9]+)+")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the agent is at AWS, and where."""

    region: str = ""
    """Empty: as boto3 finds it, in variables and files."""
    profile: str = ""
    """Of the files of credentials; empty: as boto3 finds it."""
    role_arn: str = ""
    """The role that the agent assumes; empty for none."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator says."""

    identity: Identity = Identity()
    poll_seconds: float = 10.0
    """How often to look what has changed."""
    secret_prefix: str = ""
    """How the names of secrets begin through which jobs get their keys; empty: they stand in plain variables."""


def read_settings(block: JsonObject) -> Settings:
    """Read the block; `BackendError` names what is wrong with it, and what is allowed."""
    check_known(WHERE, block, _KEYS)
    return Settings(
        identity=Identity(
            region=_text(block, "region", _REGION, "a region, as eu-west-1"),
            profile=_text(block, "profile", re.compile(r".+"), "the name of a profile"),
            role_arn=_text(block, "role_arn", _ROLE, "the ARN of a role, as arn:aws:iam::123456789012:role/agent"),
        ),
        poll_seconds=_seconds(block),
        secret_prefix=_prefix(block.get("secrets")),
    )


def _seconds(block: JsonObject) -> float:
    value = block.get("poll_seconds", Settings().poll_seconds)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 3600:
        raise _wrong("poll_seconds", "a number of seconds, at most 3600")
    return float(value)


def _prefix(value: Json) -> str:
    if value is None:
        return ""
    if not isinstance(value, Mapping) or set(value) != {"prefix"}:
        raise _wrong("secrets", "as {prefix: launchbay/}")
    return _text(value, "prefix", _PREFIX, "how the names of secrets begin, as launchbay/", "secrets.prefix")


def _text(block: JsonObject, key: str, form: re.Pattern[str], allowed: str, path: str = "") -> str:
    value = block.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or not form.fullmatch(value):
        raise _wrong(path or key, allowed)
    return value


def _wrong(key: str, allowed: str) -> BackendError:
    where = f"`{WHERE}{key}`"
    if key in {"region", "profile", "role_arn"}:
        where += f" (or `environment.{key}`)"
    return BackendError(f"{where} cannot be read; it must be {allowed}.")
