"""This backend's block of the agent's configuration."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from backends.base import BackendError
from backends.known_keys import check_known
from protocol.json_types import Json, JsonObject

WHERE = "backends.kubernetes."
MAX_ID = 2**31 - 1
MOST_DAYS = 10_000

_KEYS = (
    "cache_claim",
    "code_claim",
    "code_claim_days",
    "config_file",
    "context",
    "contexts",
    "fetch_image",
    "image_pull_secrets",
    "kinds",
    "namespace",
    "namespaces",
    "run_as_user",
)
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator says."""

    config_file: Path | None = None
    """The kubeconfig; None finds it as `kubectl` does, or takes the service account of the agent's pod."""
    context: str = ""
    """Which context of it; empty for its current one."""
    contexts: Sequence[str] = ()
    """Further ones that queues may name."""
    namespace: str = ""
    """Where launches go whose queue names no namespace; empty for the context's."""
    namespaces: Sequence[str] = ()
    """Further ones that queues may name."""
    kinds: Sequence[tuple[str, str]] = ()
    """Further kinds (`apiVersion`, `kind`) to look for after the agent has lost its state."""
    fetch_image: str = f"launchbay-agent:{version('launchbay')}"
    """The image that brings a job's code into its pods."""
    cache_claim: str = ""
    """A persistent volume claim that keeps the packages of jobs; empty for none."""
    code_claim: str = ""
    """A persistent volume claim that keeps the code of jobs; empty gives each pod a copy of its own."""
    code_claim_days: int = 30
    """After how many days code goes from there that no launch has begun with since."""
    image_pull_secrets: Sequence[str] = ()
    """Secrets with logins at registries, in each namespace."""
    run_as_user: int | None = None
    """The account of jobs whose queue names none; None leaves it to their images."""


def read_settings(block: JsonObject) -> Settings:
    """Read the block; `BackendError` names what is wrong with it, and what is allowed."""
    check_known(WHERE, block, _KEYS)
    file = _text(block, "config_file")
    return Settings(
        config_file=Path(file).expanduser() if file else None,
        context=_text(block, "context"),
        contexts=_texts(block, "contexts"),
        namespace=_namespace(f"{WHERE}namespace", _text(block, "namespace")),
        namespaces=tuple(_namespace(f"{WHERE}namespaces", each) for each in _texts(block, "namespaces")),
        kinds=tuple(_kind(place, each) for place, each in enumerate(_list(block, "kinds"))),
        fetch_image=_text(block, "fetch_image") or Settings().fetch_image,
        cache_claim=_name(block, "cache_claim"),
        code_claim=_name(block, "code_claim"),
        code_claim_days=_days(block.get("code_claim_days")),
        image_pull_secrets=tuple(
            _object_name(f"{WHERE}image_pull_secrets", each) for each in _texts(block, "image_pull_secrets")
        ),
        run_as_user=_user(block.get("run_as_user")),
    )


def _user(value: Json) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_ID:
        raise _wrong("run_as_user", "the number of an account that is not root's, as 1000")
    return value


def _days(value: Json) -> int:
    if value is None:
        return Settings().code_claim_days
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MOST_DAYS:
        raise _wrong("code_claim_days", "a number of days, as 30: more than any launch runs")
    return value


def _kind(place: int, entry: Json) -> tuple[str, str]:
    allowed = "as {api_version: batch.volcano.sh/v1alpha1, kind: Job}"
    if not isinstance(entry, Mapping) or set(entry) != {"api_version", "kind"}:
        raise _wrong(f"kinds[{place}]", allowed)
    api_version, kind = entry["api_version"], entry["kind"]
    if not isinstance(api_version, str) or not isinstance(kind, str) or not api_version or not kind:
        raise _wrong(f"kinds[{place}]", allowed)
    return api_version, kind


def _name(block: JsonObject, key: str) -> str:
    name = _text(block, key)
    return _object_name(WHERE + key, name) if name else ""


def _object_name(key: str, name: str) -> str:
    if not _DNS_NAME.fullmatch(name):
        raise BackendError(f"`{key}` names {name!r}; names have small letters, digits, dots and dashes.")
    return name


def _namespace(key: str, name: str) -> str:
    if name and not _DNS_LABEL.fullmatch(name):
        raise BackendError(f"`{key}` names {name!r}; namespaces have small letters, digits and dashes.")
    return name


def _text(block: JsonObject, key: str) -> str:
    value = block.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or not value:
        raise _wrong(key, "a text")
    return value


def _texts(block: JsonObject, key: str) -> tuple[str, ...]:
    texts = [each for each in _list(block, key) if isinstance(each, str) and each]
    if len(texts) != len(_list(block, key)):
        raise _wrong(key, "a list of texts")
    return tuple(texts)


def _list(block: JsonObject, key: str) -> Sequence[Json]:
    value = block.get(key)
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _wrong(key, "a list")
    return value


def _wrong(key: str, allowed: str) -> BackendError:
    return BackendError(f"`{WHERE}{key}` cannot be read; it must be {allowed}.")
