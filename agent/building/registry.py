"""Asks a registry for images, by its own protocol: for agents that have no program beside them which does."""

import asyncio
import hashlib
import re
from collections.abc import Mapping

import aiohttp

from agent.building.credentials import Credential, pair_of
from agent.errors import LaunchFailed
from agent.launch import Cause
from protocol.image_names import DOCKER_HUB, parse_image
from protocol.json_types import dig

HUB_HOST = "registry-1.docker.io"
"""Where Docker Hub's registry is."""
SECONDS = 30.0
MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
DIGEST = "Docker-Content-Digest"
SHOWN_CHARS = 300
_ABSENT = frozenset({404})
_REFUSED = frozenset({401, 403})
_PART = re.compile(r'(\w+)="([^"]*)"')


class _Refused(Exception):
    """The registry does not let us in."""


async def pushed_digest(image: str, credential: Credential | None, *, is_insecure: bool = False) -> str | None:
    """Return the digest of an image in its registry; None if it is not there. `LaunchFailed` if nobody can say."""
    name = parse_image(image)
    assert name is not None
    host = HUB_HOST if name.registry == DOCKER_HUB else name.registry
    url = f"{'http' if is_insecure else 'https'}://{host}/v2/{name.path}/manifests/{name.tag}"
    try:
        async with asyncio.timeout(SECONDS), aiohttp.ClientSession(trust_env=True) as session:
            return await _digest(session, url, credential)
    except _Refused as error:
        what, why = "does not let this agent look for", str(error)
        todo = "Correct the login in the agent's block `builder`: `user` and `password_file`, or `secret-name`."
    except TimeoutError:
        what, why = "does not say whether it has", f"no answer within {SECONDS:g} seconds"
        todo = "See that it can be reached from here (builder.destination)."
    except (aiohttp.ClientError, OSError, ValueError) as error:
        what, why = "does not say whether it has", str(error) or type(error).__name__
        todo = "See that it can be reached from here (builder.destination; one that speaks HTTP: insecure_registry)."
    raise LaunchFailed(
        f"The registry {what} the image {image}: {why}. {todo}",
        stage="build",
        reason="registry",
        cause=Cause.INFRASTRUCTURE,
    )


async def _digest(session: aiohttp.ClientSession, url: str, credential: Credential | None) -> str | None:
    headers = {"Accept": MANIFESTS}
    async with session.get(url, headers=headers) as response:
        if response.status != 401:
            return await _read(response)
        challenge = response.headers.get("WWW-Authenticate", "")
    headers["Authorization"] = await _authorization(session, challenge, credential)
    async with session.get(url, headers=headers) as response:
        return await _read(response)


async def _read(response: aiohttp.ClientResponse) -> str | None:
    body = await response.read()
    if response.status == 200:
        return response.headers.get(DIGEST) or f"sha256:{hashlib.sha256(body).hexdigest()}"
    if response.status in _ABSENT:
        return None
    why = f"{response.status} {body[:SHOWN_CHARS].decode(errors='replace').strip()}".strip()
    raise _Refused(why) if response.status in _REFUSED else ValueError(why)


async def _authorization(session: aiohttp.ClientSession, challenge: str, credential: Credential | None) -> str:
    """Return who we are, in the form that the registry asks for."""
    kind, _, rest = challenge.partition(" ")
    login = f"Basic {pair_of(credential)}" if credential else ""
    if kind.lower() == "basic":
        if not login:
            raise _Refused("it wants a login, and there is none")
        return login
    asked: Mapping[str, str] = dict(_PART.findall(rest))
    if kind.lower() != "bearer" or "realm" not in asked:
        raise _Refused(f"it wants a login of an unknown kind, {kind!r}")
    query = {key: asked[key] for key in ("service", "scope") if key in asked}
    headers = {"Authorization": login} if login else {}
    async with session.get(asked["realm"], params=query, headers=headers) as response:
        if response.status in _REFUSED:
            raise _Refused(f"{response.status} for the login")
        answer = await response.json(content_type=None)
    token = dig(answer, "token") or dig(answer, "access_token")
    if not isinstance(token, str):
        raise _Refused("it gave no token")
    return f"Bearer {token}"
