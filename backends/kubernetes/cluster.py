"""One cluster, as a context of the kubeconfig reaches it: what of ours is on it, by a watch per kind and namespace."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from random import Random

import structlog

from backends.kubernetes import names
from backends.kubernetes.addresses import Address
from backends.kubernetes.api import Kind, KubeApi, KubeObject, KubeRefused
from backends.kubernetes.launches import Launches, Tracked, launch_label
from backends.kubernetes.reflector import Reflector
from backends.kubernetes.trimming import trimmed, trimmed_pod
from protocol.errors import LaunchbayError

POD = Kind("", "v1", "Pod", "pods")
SECRET = Kind("", "v1", "Secret", "secrets")
EVENT = Kind("", "v1", "Event", "events")
NODE = Kind("", "v1", "Node", "nodes", is_namespaced=False)

log = structlog.get_logger(__name__)


class Namespace:
    """A namespace of a cluster: its launches, and the watches that tell of them."""

    def __init__(
        self, api: KubeApi, context: str, name: str, owner: str, changed: Callable[[Tracked], None], random: Random
    ) -> None:
        self.api = api
        self.name = name
        self.launches = Launches()
        self._context = context
        self._selector = names.launches_of(owner)
        self._services = names.services_of(owner)
        self._changed = changed
        self._random = random
        self._kinds: dict[Kind, Reflector] = {}

    @property
    def errors(self) -> Iterator[LaunchbayError]:
        """Why watches are blind."""
        return (watch.error for watch in self._kinds.values() if watch.error)

    def kind_of(self, address: Address) -> Kind | None:
        """Return the kind of an address, if it is watched here."""
        return next((kind for kind in self._kinds if (kind.api_version, kind.kind) == _what(address)), None)

    def watch(self, kind: Kind) -> None:
        """Watch a kind, and pods, from now on."""
        for each in (kind, POD):
            if each not in self._kinds:
                changed = self._pod_changed if each == POD else partial(self._object_changed, each)
                reflector = Reflector(
                    self.api, each, self.name, self._selector, changed, random=self._random, trim=trimmed
                )
                self._kinds[each] = reflector
                reflector.start()

    async def has_any(self, kind: Kind) -> bool:
        """Whether there is anything of ours of this kind. Where we may not look, we have made nothing."""
        try:
            return await self.api.has_any(kind, self.name, labels=self._selector)
        except KubeRefused as error:
            log.debug("cannot look for launches", kind=kind.kind, namespace=self.name, error=str(error))
            return False

    async def synced(self) -> None:
        """Return when all that is watched is known. Raises `KubeUnavailable` or `KubeRefused`."""
        for watch in list(self._kinds.values()):
            await watch.synced()

    async def pods_of(self, launch: str) -> Sequence[KubeObject]:
        """Ask for the pods of a launch, whatever the watch has told so far."""
        listed = await self.api.list(POD, self.name, labels=f"{self._selector},{names.LAUNCH}={launch}")
        return [trimmed_pod(pod) for pod in listed.items]

    async def sweep(self, launch: str) -> None:
        """Remove what is left of a launch whose object is gone. Raises `KubeUnavailable` or `KubeRefused`."""
        await self.api.delete(SECRET, self.name, launch, propagation="Background")
        for pod in await self.pods_of(launch):
            if "deletionTimestamp" not in pod["metadata"]:
                await self.api.delete(
                    POD, self.name, pod["metadata"]["name"], propagation="Background", uid=pod["metadata"]["uid"]
                )

    async def sweep_services(self, is_wanted: Callable[[str], bool]) -> None:
        """Remove the services of launches that never came to be, and that nobody wants any more.

        An agent that dies while it waits for them, and whose successor has forgotten the launch, leaves them behind.
        They belong to a Secret that belongs to nobody. Raises `KubeUnavailable` or `KubeRefused`.
        """
        pods = await self.api.list(POD, self.name, labels=self._services, trim=trimmed_pod)
        for launch in {launch_label(pod) for pod in pods.items}:
            if is_wanted(launch) or self.launches.has(launch):
                continue
            root = await self.api.get(SECRET, self.name, launch)
            if root is not None and not root["metadata"].get("ownerReferences"):
                log.info("services that were left behind are removed", launch=launch, namespace=self.name)
                await self.api.delete(SECRET, self.name, launch, propagation="Background", uid=root["metadata"]["uid"])

    async def close(self) -> None:
        """Watch no more."""
        await asyncio.gather(*(watch.close() for watch in self._kinds.values()))

    def _object_changed(self, kind: Kind, name: str, old: KubeObject | None, new: KubeObject | None) -> None:
        address = Address(self._context, self.name, kind.api_version, kind.kind, name)
        if new:
            self._tell(self.launches.put(address, new))
        elif old:
            self._tell(self.launches.drop(address, old))

    def _pod_changed(self, name: str, old: KubeObject | None, new: KubeObject | None) -> None:
        self._object_changed(POD, name, old, new)  # it may be a launch itself
        self._tell(self.launches.put_pod(name, old, new))

    def _tell(self, tracked: Tracked | None) -> None:
        if tracked:
            self._changed(tracked)


class Cluster:
    """See the module."""

    def __init__(
        self, api: KubeApi, context: str, owner: str, changed: Callable[[Tracked], None], random: Random
    ) -> None:
        self.api = api
        self._context = context
        self._owner = owner
        self._changed = changed
        self._random = random
        self._namespaces: dict[str, Namespace] = {}

    @property
    def namespaces(self) -> Iterable[Namespace]:
        """Those where something of ours is, or was started."""
        return self._namespaces.values()

    def namespace(self, name: str) -> Namespace:
        """Return a namespace. Nothing is watched there yet if it is new."""
        if name not in self._namespaces:
            self._namespaces[name] = Namespace(self.api, self._context, name, self._owner, self._changed, self._random)
        return self._namespaces[name]

    async def find(self, namespaces: Iterable[str], kinds: Iterable[tuple[str, str]]) -> None:
        """Look for launches of ours, and watch where there are any. Raises `KubeUnavailable` or `KubeRefused`."""
        known = await asyncio.gather(*(self._kind(*each) for each in dict.fromkeys(kinds)))
        served = [kind for kind in known if kind]
        places = [(self.namespace(name), kind) for name in dict.fromkeys(namespaces) for kind in served]
        found = await asyncio.gather(*(namespace.has_any(kind) for namespace, kind in places))
        for (namespace, kind), is_there in zip(places, found, strict=True):
            if is_there:
                namespace.watch(kind)
        await asyncio.gather(*(namespace.synced() for namespace in self.namespaces))

    async def unwatch(self) -> None:
        """Watch no more."""
        await asyncio.gather(*(namespace.close() for namespace in self.namespaces))

    async def _kind(self, api_version: str, kind: str) -> Kind | None:
        try:
            found = await self.api.find_kind(api_version, kind)
        except KubeRefused:
            return None  # it is not ours to know
        return found if found and found.is_namespaced else None


def _what(address: Address) -> tuple[str, str]:
    return address.api_version, address.kind
