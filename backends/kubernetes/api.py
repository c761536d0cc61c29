"""What this backend asks of a cluster: a protocol of few calls over raw JSON.

`backends.kubernetes.client` speaks it through the `kubernetes` package, and nothing else imports that package. Objects
are JSON as the API server writes it.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from backends.base import BackendError, BackendUnavailable

KubeObject: TypeAlias = dict[str, Any]
"""An object of the cluster, as JSON."""

Trim: TypeAlias = Callable[[KubeObject], KubeObject]
"""Returns of an object what is to be kept of it. May change what it is given."""

Propagation: TypeAlias = Literal["Foreground", "Background", "Orphan"]


class KubeRefused(BackendError):
    """The API server refused a request for a reason that trying again will not change."""

    code = "kubernetes_refused"

    def __init__(self, message: str, *, status: int, reason: str = "", about: str = "") -> None:
        super().__init__(message)
        self.status = status
        """HTTP status: 403 for what is forbidden, by rights, quota or an admission webhook; 422 for a bad object."""
        self.reason = reason
        """The server's word for it, as `Forbidden` or `Invalid`."""
        self.about = about
        """The name of the object that it is about, where the server tells it."""


class KubeUnavailable(BackendUnavailable):
    """The API server did not answer, or is overloaded, or does not know who we are just now (401)."""

    code = "kubernetes_unavailable"

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """In how many seconds the server wants to be asked again, where it says so."""


class WatchExpired(KubeUnavailable):
    """The watch cannot go on from where it was (410): list again."""

    code = "watch_expired"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object that the cluster knows."""

    group: str
    """Empty for the core group."""
    version: str
    kind: str
    plural: str
    """Its name in paths, as `jobs`."""
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As manifests write it: `batch/v1`, or `v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version


@dataclass(frozen=True, slots=True)
class Listing:
    """What there was at one moment."""

    items: Sequence[KubeObject]
    resource_version: str
    """Where a watch goes on from."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change. A bookmark only tells how far the watch has come."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: KubeObject

    @property
    def resource_version(self) -> str:
        """Where a new watch goes on from."""
        return str(self.object["metadata"].get("resourceVersion", ""))


class KubeApi(Protocol):
    """A cluster. Every call may raise `KubeUnavailable`, and `KubeRefused`, as for what we have no right to."""

    @property
    def default_namespace(self) -> str:
        """The namespace of the context, or of the pod that we run in; else `default`."""
        ...

    @property
    def clock_ahead(self) -> float:
        """By how much the cluster's clock is ahead of ours, in seconds; less than 0 if it is behind."""
        ...

    async def kind(self, api_version: str, kind: str) -> Kind:
        """Find a kind by discovery, which is asked anew for what it did not know before.

        Raises `KubeRefused` (404) if the cluster has no such kind, naming what is near.
        """
        ...

    async def find_kind(self, api_version: str, kind: str) -> Kind | None:
        """Find a kind likewise; return None if the cluster has no such kind."""
        ...

    async def create(self, kind: Kind, namespace: str, manifest: KubeObject) -> KubeObject:
        """Make an object, with our field manager.

        Raises `KubeRefused`: with 409 if there is one of that name, with 400 if one of Kubernetes' own kinds lacks a
        field.
        """
        ...

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> KubeObject | None:
        """Merge a JSON merge patch into an object and return it; None if there is none."""
        ...

    async def get(self, kind: Kind, namespace: str, name: str) -> KubeObject | None:
        """Return an object; None only if the server says that there is none."""
        ...

    async def list(
        self, kind: Kind, namespace: str, *, labels: str = "", fields: str = "", trim: Trim | None = None
    ) -> Listing:
        """Return all objects that the selectors choose, as they were at one moment; of each what `trim` returns.

        An empty namespace stands for all of them. Objects are asked for and trimmed page by page, so that many fit
        into memory.
        """
        ...

    async def has_any(self, kind: Kind, namespace: str, *, labels: str = "") -> bool:
        """Return whether there is any object that the selector chooses."""
        ...

    def watch(
        self, kind: Kind, namespace: str, resource_version: str, *, labels: str = ""
    ) -> AsyncGenerator[WatchEvent]:
        """Yield changes after a version, with bookmarks, until the server ends the watch, which is nothing unusual.

        The first is a bookmark of that version, once the server watches. Raises `WatchExpired` for 410. Never ends by
        a time limit of the client's; who listens to a silent one decides. Who leaves before the end closes it
        (`contextlib.aclosing`), as with `log`.
        """
        ...

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
        """Delete an object, of this UID and in this version if they are given. Returns whether there was such a one."""
        ...

    def log(
        self, namespace: str, pod: str, container: str, *, follow: bool = False, since: str = ""
    ) -> AsyncGenerator[bytes]:
        """Yield a container's output as it comes, each line after its time (RFC 3339 with nanoseconds) and a space:
        from the beginning, or from the second of the time `since` on; nothing if it has not begun or is gone.
        """
        ...

    async def may(self, verb: str, kind: Kind, namespace: str, *, subresource: str = "") -> bool:
        """Return whether we have the right to do this."""
        ...

    async def version(self) -> str:
        """Return the server's version, as `v1.34.1`."""
        ...

    async def close(self) -> None:
        """Let go of every connection."""
        ...
