"""Tells who is asking, from the API key in the request (HTTP Basic, user `api`, or a bearer token)."""

import base64
import binascii

from aiohttp import web

from server.context import Services, Viewer
from server.errors import Unauthenticated
from server.storage import users

REMEMBERED_SECONDS = 5
"""How long a key's user is remembered. A deleted key or a changed membership takes effect after at most this long."""


class Authenticator:
    """Looks up keys, remembering the answer for a moment: agents ask many times a second."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._known: dict[str, tuple[float, Viewer]] = {}

    async def viewer(self, request: web.Request) -> Viewer:
        """Return the user behind a request; `Unauthenticated` if there is none."""
        secret = _secret(request.headers.get("Authorization", ""))
        hashed = users.hash_key(secret)
        now = self._services.clock()
        known = self._known.get(hashed)
        if known and now - known[0] < REMEMBERED_SECONDS:
            return known[1]
        viewer = await self._services.database.read(users.viewer_by_key, secret)
        if viewer is None:
            self._known.pop(hashed, None)
            raise Unauthenticated("This API key is not known here. Check WANDB_API_KEY and WANDB_BASE_URL.")
        self._forget_old(now)
        self._known[hashed] = (now, viewer)
        return viewer

    def _forget_old(self, now: float) -> None:
        for key in [key for key, (seen, _) in self._known.items() if now - seen >= REMEMBERED_SECONDS]:
            del self._known[key]


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
