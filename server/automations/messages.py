"""What is sent of an event: the payload that an automation's author wrote, with its variables filled in. Pure."""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any, cast

from protocol.json_types import Json

_VARIABLE = re.compile(r"\$\{([^${}]+)\}")
_IN_METADATA = "artifact_metadata."
_OF_ALERT = {"title": "title", "message": "text", "severity": "severity"}
ACCESS_TOKEN = "ACCESS_TOKEN"  # noqa: S105 -- the name of a variable


def metadata_asked_for(action: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables of an artifact's metadata that an action names: it may be too large to keep all of it."""
    content = json.loads(action)
    said = {**content, "payload": json.loads(content.get("payload") or "null")}
    names = {name for name in _VARIABLE.findall(json.dumps(said, ensure_ascii=False)) if name.startswith(_IN_METADATA)}
    return {name: _at(metadata, name.removeprefix(_IN_METADATA)) for name in sorted(names)}


def webhook_body(action: Mapping[str, Any], variables: Mapping[str, Any], access_token: str | None) -> bytes:
    """Return the JSON of a webhook: the payload, or all variables if none was given."""
    payload = action.get("payload")
    if payload is None:
        return json.dumps(variables).encode()
    known = {**variables, **({ACCESS_TOKEN: access_token} if access_token is not None else {})}
    return json.dumps(_filled(json.loads(payload), known)).encode()


def webhook_headers(body: bytes, access_token: str | None, secret: str | None) -> dict[str, str]:
    """Return what shows the receiver who sends a body."""
    headers = {"Content-Type": "application/json"}
    if access_token is not None:
        headers["Authorization"] = f"Bearer {access_token}"
    if secret is not None:
        headers["X-Wandb-Signature"] = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return headers


def of_alert(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is sent of an alert, as an automation would say it."""
    return {key: variables[f"alert_{part}"] for key, part in _OF_ALERT.items()}


def slack_body(action: Mapping[str, Any], variables: Mapping[str, Any]) -> bytes:
    """Return the JSON of a Slack message: its title and text, and what it is about."""
    title, text, severity = (action.get(key) or "" for key in ("title", "message", "severity"))
    head = _fill(title, variables) or str(variables.get("automation_name", ""))
    said = {f"alert_{part}" for part in _OF_ALERT.values()}
    about = [f"{name}: {_shown(value)}" for name, value in variables.items() if name not in said]
    parts = [f"*{_escaped(f'[{severity}] {head}' if severity else head)}*", _escaped(_fill(text, variables))]
    return json.dumps({"text": "\n".join([*(part for part in parts if part), *map(_escaped, about)])}).encode()


def _filled(payload: Json, variables: Mapping[str, Any]) -> Json:
    """Fill the variables in all texts of a payload; a value can so never become more than a text."""
    if isinstance(payload, str):
        return _fill(payload, variables)
    if isinstance(payload, dict):
        return {key: _filled(value, variables) for key, value in payload.items()}
    if isinstance(payload, list):
        return [_filled(value, variables) for value in payload]
    return payload


def _fill(text: str, variables: Mapping[str, Any]) -> str:
    """Replace each `${name}` that is known; others stay as they are, so that their author sees them."""
    return _VARIABLE.sub(lambda found: _shown(variables[found[1]]) if found[1] in variables else found[0], text)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _at(metadata: Mapping[str, Any], path: str) -> Any:
    """Return a value by key, or by a dotted path; None if there is none."""
    if path in metadata:
        return metadata[path]
    found: Any = metadata
    for part in path.split("."):
        found = cast("dict[str, Any]", found).get(part) if isinstance(found, dict) else None
    return found


def _escaped(text: str) -> str:
    """Return a text in which Slack finds no orders, such as mentions of everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
