"""What automations can do, and how clients say it. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from protocol.json_types import is_deeper
from server.errors import RequestError

MAX_DEPTH = 100
"""Of a payload: it is filled in by recursion, for an artifact that is being logged, too."""


class ActionType(StrEnum):
    """What an automation does, as the protocol names it."""

    WEBHOOK = "GENERIC_WEBHOOK"
    NOTIFICATION = "NOTIFICATION"
    NOTHING = "NO_OP"


@dataclass(frozen=True, slots=True)
class Action:
    """What an automation does."""

    type: ActionType
    integration: str | None
    """Where it is sent, by its id on the wire; None if nothing is."""
    content: Mapping[str, Any]
    """What is sent: the payload of a webhook as JSON text, or title, message and severity."""


def read(action_type: str, config: Mapping[str, Any]) -> Action:
    """Read an action as clients send it; `RequestError` if there is none of this kind."""
    match action_type:
        case ActionType.WEBHOOK:
            told = _part(config, "genericWebhookActionInput")
            payload = told.get("requestPayload")
            _check_payload(payload)
            return Action(ActionType.WEBHOOK, told["integrationID"], {"payload": payload})
        case ActionType.NOTIFICATION:
            told = _part(config, "notificationActionInput")
            content = {key: told.get(key) for key in ("title", "message", "severity")}
            return Action(ActionType.NOTIFICATION, told["integrationID"], content)
        case ActionType.NOTHING:
            return Action(ActionType.NOTHING, None, {})
        case _:
            raise RequestError(f"An automation cannot do {action_type}. Use one of: {', '.join(ActionType)}.")


def _part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    told = config.get(key)
    if told is None:
        raise RequestError(f"The action's config lacks {key!r}.")
    return told


def _check_payload(text: str | None) -> None:
    try:
        payload = json.loads(text or "null")
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The payload of the webhook is not JSON: {error}.") from error
    if is_deeper(payload, MAX_DEPTH):
        raise RequestError(f"The payload of the webhook is nested more than {MAX_DEPTH} deep.")
