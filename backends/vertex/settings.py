"""This backend's block of the agent's configuration, with what the agent's block `environment` says of Google Cloud."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from backends.base import BackendError
from backends.known_keys import check_known
from protocol.json_types import Json, JsonObject

WHERE = "backends.gcp-vertex."
POLL_SECONDS = 5.0
REGION_VARIABLE = "GOOGLE_CLOUD_REGION"

SERVICES = ("jobs", "logging", "secrets")
"""What is spoken to: Vertex AI, Cloud Logging, Secret Manager."""
_KEYS = ("endpoints", "poll_seconds", "project", "region", "secrets")
_REGION = re.compile(r"[a-z]+(-[a-z]+)*-?[a-z]*[0-9]+")
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator says."""

    region: str
    project: str = ""
    """Empty for that of the credentials."""
    poll_seconds: float = POLL_SECONDS
    """How often Google is asked what has changed."""
    secret_prefix: str = ""
    """How the names of secrets in Secret Manager begin that launches are given; empty for none: then what must not be
    seen stands in the plain environment of the job."""
    endpoints: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """By service, where else it is: HOST[:PORT]; with http:// before it without encryption and credentials."""


def read_settings(block: JsonObject) -> Settings:
    """Read the block; `BackendError` names what is wrong with it, and what is allowed."""
    check_known(WHERE, block, _KEYS)
    region = _text(block, "region") or os.environ.get(REGION_VARIABLE, "")
    if not _REGION.fullmatch(region):
        raise BackendError(
            "Vertex AI needs a region, as us-central1: name it in the agent's block "
            f"`environment: {{type: gcp, region: ...}}`, as `{WHERE}region` or in {REGION_VARIABLE}."
        )
    return Settings(
        region=region,
        project=_text(block, "project"),
        poll_seconds=_seconds(block.get("poll_seconds")),
        secret_prefix=_prefix(block.get("secrets")),
        endpoints=_endpoints(block.get("endpoints")),
    )


def _seconds(value: Json) -> float:
    if value is None:
        return POLL_SECONDS
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 3600:
        raise _wrong("poll_seconds", "a number of seconds, as 5")
    return float(value)


def _prefix(value: Json) -> str:
    if value is None:
        return ""
    prefix = value.get("prefix") if isinstance(value, Mapping) and set(value) == {"prefix"} else None
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
        raise _wrong("secrets", "as {prefix: launchbay-}: letters, digits, - and _")
    return prefix


def _endpoints(value: Json) -> Mapping[str, str]:
    if value is None:
        return MappingProxyType({})
    if not isinstance(value, Mapping) or not set(value) <= set(SERVICES):
        raise _wrong("endpoints", f"by service ({', '.join(SERVICES)}) a host, as jobs: vertex.example:443")
    found = {name: each for name, each in value.items() if isinstance(each, str) and each}
    if len(found) != len(value):
        raise _wrong("endpoints", "texts, as HOST:PORT")
    return MappingProxyType(found)


def _text(block: JsonObject, key: str) -> str:
    value = block.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or not value:
        raise _wrong(key, "a text")
    return value


def _wrong(key: str, allowed: str) -> BackendError:
    return BackendError(f"`{WHERE}{key}` cannot be read; it must be {allowed}.")
