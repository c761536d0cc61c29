"""Tells who is asking, from the API key in the request (HTTP Basic, user `api`, or a bearer token).

A service account may say for which member of its team it asks (`X-WANDB-USERNAME`): what it makes then is that
member's, while the rights stay its own.
"""

import base64
import binascii
from dataclasses import replace

from aiohttp import web
from sqlalchemy import Connection

from server.context import Services, Viewer
from server.errors import Unauthenticated
from server.storage import users

ACTS_FOR = "X-WANDB-USERNAME"


class Authenticator:
    """Looks up keys, remembering the answer for a moment: agents ask many times a second."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def viewer(self, request: web.Request) -> Viewer:
        """Return the user behind a request; `Unauthenticated` if there is none."""
        secret = _secret(request.headers.get("Authorization", ""))
        acts_for = request.headers.get(ACTS_FOR, "")
        who = (users.hash_key(secret), acts_for)
        now = self._services.clock()
        known = self._services.viewers.get(who, now)
        if known is not None:
            return known
        viewer = await self._services.database.read(_viewer, secret, acts_for)
        if viewer is None:
            raise Unauthenticated("This API key is not known here. Check WANDB_API_KEY and WANDB_BASE_URL.")
        return self._services.viewers.put(who, viewer, now)


def _viewer(connection: Connection, secret: str, acts_for: str) -> Viewer | None:
    viewer = users.viewer_by_key(connection, secret)
    if viewer is None or not viewer.service_account or not acts_for:
        return viewer
    member = users.fellow(connection, viewer.id, acts_for)
    return replace(viewer, id=member.id, username=member.username, email=member.email) if member else viewer


def _secret(header: str) -> str:
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer" and value:
        return value.strip()
    if scheme.lower() == "basic":
        try:
            _, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, ValueError) as error:
            raise Unauthenticated("The Authorization header cannot be read. Send HTTP Basic, user `api`.") from error
        if secret:
            return secret
    raise Unauthenticated
