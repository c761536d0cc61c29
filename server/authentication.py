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
from server.wakeups import Topic

ACTS_FOR = "X-WANDB-USERNAME"
RIGHTS: Topic = ("rights", 0)


def rights_changed(services: Services) -> None:
    """Let a change of keys or memberships take effect at once, in every server process. Call it after the commit."""
    services.viewers.forget()
    services.wakeups.notify(RIGHTS)


async def forget_changed_rights(services: Services) -> None:
    """Forget who may what whenever another process says that it has changed; for ever."""
    with services.wakeups.listening([RIGHTS]) as event:
        while True:
            await event.wait()
            event.clear()
            services.viewers.forget()


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
        viewers = self._services.viewers
        known = viewers.get(who, now)
        if known is not None:
            return known
        before = viewers.times_forgotten
        viewer = await self._services.database.read(_viewer, secret, acts_for)
        if viewer is None:
            raise Unauthenticated("This API key is not known here. Check WANDB_API_KEY and WANDB_BASE_URL.")
        return viewers.put(who, viewer, now) if viewers.times_forgotten == before else viewer


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
