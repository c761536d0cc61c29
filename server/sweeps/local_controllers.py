"""Sweeps whose search runs with their user: he writes into the sweep what is to be tried and stopped, and reads there
what has become of it.

`controller` is his: `{"schedule": [{"id", "data": {"args"}}], "earlystop": [<run id>]}`, with null args at the end of
the search. `scheduler` is ours: `{"scheduled": [{"id", "runid"}]}`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from protocol.json_types import JsonObject, dig
from server.storage.rows import AnyRow


@dataclass(frozen=True, slots=True)
class Wish:
    """One entry of the schedule."""

    id: str
    args: JsonObject | None
    """None: nothing is left to try."""


def next_wish(sweep: AnyRow) -> Wish | None:
    """Return what the controller wants tried and nobody does yet."""
    begun = {entry.get("id") for entry in _entries(sweep.scheduler, "scheduled")}
    for entry in _entries(sweep.controller, "schedule"):
        wish = Wish(str(entry.get("id")), dig(entry, "data", "args"))
        if wish.id not in begun:
            return wish
    return None


def with_begun(sweep: AnyRow, wish: Wish, run_name: str) -> str:
    """Return the new `scheduler`: the wish is this run now."""
    begun = _entries(sweep.scheduler, "scheduled")
    return json.dumps({**_document(sweep.scheduler), "scheduled": [*begun, {"id": wish.id, "runid": run_name}]})


def unwanted(sweep: AnyRow) -> Sequence[str]:
    """Return the ids of the runs that the controller wants stopped."""
    names: list[Any] = _document(sweep.controller).get("earlystop") or []
    return [str(name) for name in names]


def _entries(text: str | None, key: str) -> list[dict[str, Any]]:
    entries: list[Any] = _document(text).get(key) or []
    return [entry for entry in entries if isinstance(entry, dict)]


def _document(text: str | None) -> dict[str, Any]:
    return json.loads(text) if text else {}
