"""Which kinds of objects a cluster knows, as it says itself."""

import difflib
import re
from collections.abc import Awaitable, Iterator
from typing import Any, Protocol

from backends.kubernetes.api import Kind, KubeRefused

AGGREGATED = ",".join(
    [f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList" for version in ("v2", "v2beta1")]
    + ["application/json"]
)
"""Asks for everything of all groups at once. A server that does not know this answers with the groups alone."""
_API_VERSION = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?v[a-z0-9]+")
NEAR = 3
"""How many of the kinds that may have been meant are named."""


class Ask(Protocol):
    """Asks the server for a path."""

    def __call__(self, path: str, *, accept: str = ...) -> Awaitable[Any]:
        """Return the JSON of the answer. Raises as the calls of `KubeApi` do."""
        ...


class Discovery:
    """Finds kinds, and remembers what it found."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._known: dict[tuple[str, str], Kind] = {}

    async def kind(self, api_version: str, kind: str) -> Kind:
        """See `KubeApi.kind`."""
        if found := await self.find(api_version, kind):
            return found
        near = await self._near(api_version, kind)
        hint = f" Near it: {'; '.join(near)}." if near else ""
        raise KubeRefused(f"The cluster knows no kind {kind} of {api_version}.{hint}", status=404, reason="NotFound")

    async def find(self, api_version: str, kind: str) -> Kind | None:
        """See `KubeApi.find_kind`."""
        if (api_version, kind) not in self._known:
            for found in await self._of_version(api_version):
                self._known[api_version, found.kind] = found
        return self._known.get((api_version, kind))

    async def _of_version(self, api_version: str) -> list[Kind]:
        """Return the kinds of an API version; nothing if the server does not serve it."""
        group, _, version = api_version.rpartition("/")
        if not _API_VERSION.fullmatch(api_version):
            return []
        try:
            answer = await self._ask(f"/apis/{api_version}" if group else f"/api/{version}")
        except KubeRefused as error:
            if error.status == 404:
                return []
            raise
        resources: list[Any] = answer.get("resources") or []
        return [
            Kind(group, version, resource["kind"], resource["name"], bool(resource["namespaced"]))
            for resource in resources
            if "/" not in resource["name"]
        ]

    async def _near(self, api_version: str, kind: str) -> list[str]:
        """Return the kinds that may have been meant, the likeliest first."""
        served = [
            *_everything(await self._ask("/apis", accept=AGGREGATED)),
            *_everything(await self._ask("/api", accept=AGGREGATED)),
        ]
        texts = {f"{kind} {api_version}".lower(): f"{kind} of {api_version}" for kind, api_version in served}
        same = [text for word, text in texts.items() if word.split()[0] == kind.lower()]
        likely = difflib.get_close_matches(f"{kind} {api_version}".lower(), texts, n=NEAR, cutoff=0.7)
        return list(dict.fromkeys([*same, *(texts[word] for word in likely)]))[:NEAR]


def _everything(answer: Any) -> Iterator[tuple[str, str]]:
    """Yield each kind, and the API version that it is of."""
    groups: list[Any] = answer.get("items") or []
    for group in groups:
        name = group["metadata"].get("name")
        for version in group["versions"]:
            api_version = f"{name}/{version['version']}" if name else version["version"]
            resources: list[Any] = version.get("resources") or []
            for resource in resources:
                if "responseKind" in resource:
                    yield resource["responseKind"]["kind"], api_version
