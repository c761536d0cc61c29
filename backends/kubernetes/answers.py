"""What an API server says when it does not do as it was asked: the errors of ours that this amounts to. Pure."""

import re
from collections.abc import Mapping
from typing import Any, cast

import orjson

from backends.kubernetes.api import KubeRefused, KubeUnavailable, WatchExpired

MESSAGE_LENGTH = 2000
"""Longer words of a server are cut."""
PAGE_LENGTH = 200
"""Of a body that is no message, as a proxy's page: what is shown of it."""

_FINAL = re.compile(r"admission webhook \S+ denied the request")
"""What is told with 5xx, and will be told again: a webhook's no."""


def status_in(body: bytes) -> Mapping[str, Any]:
    """Return the `Status` in a body; of what is none, as a proxy's page, one whose message shows the beginning."""
    try:
        status = orjson.loads(body)
    except orjson.JSONDecodeError:
        status = None
    if isinstance(status, dict) and cast("dict[str, Any]", status).get("kind") == "Status":
        return cast("dict[str, Any]", status)
    return {"message": shortened(body)}


def error_of(
    code: int, status: Mapping[str, Any], *, server: str, who: str, retry_after: str | None = None
) -> KubeRefused | KubeUnavailable:
    """Return the error that an answer amounts to. `server` and `who` say where it came from, and who we are there."""
    message = _cut(str(status.get("message") or ""), MESSAGE_LENGTH)
    reason = str(status.get("reason") or "")
    if code == 410:
        return WatchExpired(f"{server} no longer knows what was asked about: {message}")
    if code == 401:
        return KubeUnavailable(f"{server} does not know who we are ({message}). We come by {who}.")
    if code in {408, 429} or (code >= 500 and not _FINAL.search(message)):
        return KubeUnavailable(
            f"{server} cannot answer now ({f'{code} {reason}'.strip()}): {message}",
            retry_after=_seconds(retry_after or str(_details(status).get("retryAfterSeconds", ""))),
        )
    if code >= 500:
        code, reason = 422, "Invalid"
    about = str(_details(status).get("name") or "")
    return KubeRefused(f"The cluster refused: {message}", status=code, reason=reason, about=about)


def shortened(body: bytes) -> str:
    """Return the beginning of a body as one line of text."""
    text = re.sub(r"(?s)<(script|style|head)\b.*?</\1>|<[^>]*>", " ", body[:20_000].decode(errors="replace"))
    return _cut(" ".join(text.split()), PAGE_LENGTH)


def _details(status: Mapping[str, Any]) -> Mapping[str, Any]:
    details = status.get("details")
    return cast("dict[str, Any]", details) if isinstance(details, dict) else {}


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() else None


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "..."
