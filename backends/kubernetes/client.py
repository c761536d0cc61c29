"""A cluster, spoken to over HTTP: `KubeApi` for a real one."""

import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import quote

import orjson

from backends.kubernetes.access import Source, find_source
from backends.kubernetes.api import (
    Kind,
    KubeObject,
    KubeRefused,
    KubeUnavailable,
    Listing,
    Propagation,
    Trim,
    WatchEvent,
    WatchExpired,
)
from backends.kubernetes.connection import JSON, Connection
from backends.kubernetes.discovery import Discovery

FIELD_MANAGER = "launchbay"
"""Whose fields the server takes ours for."""
PAGE = 100
"""How many objects are asked for at once: whole ones, of which little is kept."""
STARTS = 3
"""How often a list is begun before it counts as one that cannot be had."""

_REVIEW = Kind("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", is_namespaced=False)
_POD = Kind("", "v1", "Pod", "pods")


class KubeClient:
    """A cluster's API server. See `KubeApi`."""

    def __init__(self, source: Source) -> None:
        self._namespace = source.namespace
        self._clock = source.clock
        self._connection = Connection(source)
        self._discovery = Discovery(lambda path, accept=JSON: self._connection.call("GET", path, accept=accept))

    @classmethod
    async def open(cls, config_file: str | None = None, context: str | None = None) -> "KubeClient":
        """Return the cluster of a kubeconfig file and context, found as `kubectl` finds it. Asks it nothing yet.

        Raises `NoCluster` if there is none.
        """
        return cls(await find_source(config_file, context))

    @property
    def default_namespace(self) -> str:
        """See `KubeApi.default_namespace`."""
        return self._namespace

    @property
    def clock_ahead(self) -> float:
        """See `KubeApi.clock_ahead`."""
        return self._clock.ahead

    async def kind(self, api_version: str, kind: str) -> Kind:
        """See `KubeApi.kind`."""
        return await self._discovery.kind(api_version, kind)

    async def find_kind(self, api_version: str, kind: str) -> Kind | None:
        """See `KubeApi.find_kind`."""
        return await self._discovery.find(api_version, kind)

    async def create(self, kind: Kind, namespace: str, manifest: KubeObject) -> KubeObject:
        """See `KubeApi.create`."""
        # Not for custom kinds: what their schemas lack is often known to their controllers, or is a field of ours.
        validation = "Ignore" if "." in kind.group else "Strict"
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": validation}
        return await self._connection.call("POST", _path(kind, namespace), query=query, body=manifest)

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> KubeObject | None:
        """See `KubeApi.patch`."""
        try:
            return await self._connection.call(
                "PATCH",
                _path(kind, namespace, name),
                query={"fieldManager": FIELD_MANAGER},
                body=patch,
                content_type="application/merge-patch+json",
            )
        except KubeRefused as error:
            return _none_if_missing(error, name)

    async def get(self, kind: Kind, namespace: str, name: str) -> KubeObject | None:
        """See `KubeApi.get`."""
        try:
            return await self._connection.call("GET", _path(kind, namespace, name))
        except KubeRefused as error:
            return _none_if_missing(error, name)

    async def list(
        self, kind: Kind, namespace: str, *, labels: str = "", fields: str = "", trim: Trim | None = None
    ) -> Listing:
        """See `KubeApi.list`."""
        query = {"limit": str(PAGE), **_selectors(labels, fields)}
        for start in range(1, STARTS + 1):
            try:
                return await self._pages(kind, _path(kind, namespace), query, trim)
            except WatchExpired:  # the server has forgotten that moment before we had every page
                if start == STARTS:
                    raise
        raise AssertionError("unreachable")

    async def has_any(self, kind: Kind, namespace: str, *, labels: str = "") -> bool:
        """See `KubeApi.has_any`."""
        query = {"limit": "1", **_selectors(labels, "")}
        return bool((await self._connection.call("GET", _path(kind, namespace), query=query))["items"])

    async def watch(
        self, kind: Kind, namespace: str, resource_version: str, *, labels: str = ""
    ) -> AsyncGenerator[WatchEvent]:
        """See `KubeApi.watch`."""
        path = _path(kind, namespace)
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": resource_version}
        async with aclosing(self._connection.lines(path, {**query, **_selectors(labels, "")})) as lines:
            async for line in lines:
                if not line:
                    yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": resource_version}})
                    continue
                try:
                    event = orjson.loads(line)
                    type_, object_ = event["type"], cast("KubeObject", event["object"])
                except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                    raise KubeUnavailable(f"{self._connection.server} cut off its watch of {kind.plural}.") from error
                if type_ == "ERROR":
                    raise self._connection.error(int(object_.get("code") or 500), object_)
                if type_ in {"ADDED", "MODIFIED", "DELETED", "BOOKMARK"}:
                    yield WatchEvent(type_, object_)

    async def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        propagation: Propagation = "Foreground",
        grace_seconds: float | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> bool:
        """See `KubeApi.delete`."""
        options: KubeObject = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = math.ceil(grace_seconds)
        given = {"uid": uid, "resourceVersion": resource_version}
        if preconditions := {key: value for key, value in given.items() if value is not None}:
            options["preconditions"] = preconditions
        try:
            await self._connection.call("DELETE", _path(kind, namespace, name), body=options)
        except KubeRefused as error:
            if preconditions and error.status == 409 and "precondition" in str(error).lower():
                return False  # one of that name is there, and it is another or has changed
            return bool(_none_if_missing(error, name))
        return True

    async def log(
        self, namespace: str, pod: str, container: str, *, follow: bool = False, since: str = ""
    ) -> AsyncGenerator[bytes]:
        """See `KubeApi.log`."""
        query = {"container": container, "timestamps": "true"}
        query |= {"follow": "true"} if follow else {}
        query |= {"sinceTime": since} if since else {}
        try:
            async with aclosing(self._connection.stream(_path(_POD, namespace, pod) + "/log", query)) as chunks:
                async for chunk in chunks:
                    if chunk:
                        yield chunk
        except KubeRefused as error:
            if error.status != 400:  # that is: waiting to start
                _none_if_missing(error, pod)

    async def may(self, verb: str, kind: Kind, namespace: str, *, subresource: str = "") -> bool:
        """See `KubeApi.may`."""
        asked = {"verb": verb, "group": kind.group, "resource": kind.plural, "subresource": subresource}
        answer = await self._connection.call(
            "POST",
            _path(_REVIEW, ""),
            body={
                "apiVersion": _REVIEW.api_version,
                "kind": _REVIEW.kind,
                "spec": {"resourceAttributes": {**asked, "namespace": namespace}},
            },
        )
        return bool(answer["status"]["allowed"])

    async def version(self) -> str:
        """See `KubeApi.version`."""
        return str((await self._connection.call("GET", "/version"))["gitVersion"])

    async def close(self) -> None:
        """See `KubeApi.close`."""
        await self._connection.close()

    async def _pages(self, kind: Kind, path: str, query: Mapping[str, str], trim: Trim | None) -> Listing:
        items: list[KubeObject] = []
        position: dict[str, str] = {}
        while True:
            page = await self._connection.call("GET", path, query={**query, **position})
            listed: list[KubeObject] = page["items"] or []
            for item in listed:
                # What a watch says of each object, a list may say once.
                whole = {"apiVersion": kind.api_version, "kind": kind.kind, **item}
                items.append(trim(whole) if trim else whole)
            metadata = page["metadata"]
            if not metadata.get("continue"):
                return Listing(items, metadata["resourceVersion"])
            position = {"continue": metadata["continue"]}


def _path(kind: Kind, namespace: str, name: str | None = None) -> str:
    """Return the path of an object, or of all of a kind; an empty namespace stands for all."""
    for part in (namespace, name):
        # An empty name would stand for all objects, to be deleted, say.
        if part in {".", ".."} or "/" in (part or "") or name == "":
            raise KubeRefused(f"Nothing can be called {part!r} in a cluster.", status=400, reason="BadRequest")
    parts = ["apis", kind.group, kind.version] if kind.group else ["api", kind.version]
    if kind.is_namespaced and namespace:
        parts += ["namespaces", namespace]
    parts += [kind.plural] if name is None else [kind.plural, name]
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {key: text for key, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}


def _none_if_missing(error: KubeRefused, name: str) -> None:
    """Return if an error says that the object of this name is not there. Raise it if, say, its kind is not."""
    if error.status != 404 or error.about != name:
        raise error
