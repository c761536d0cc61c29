"""What is known of launches on a cluster: their objects and pods, as two watches tell of them. No I/O."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from backends.kubernetes import names
from backends.kubernetes.addresses import Address
from backends.kubernetes.api import KubeObject
from backends.kubernetes.reading.fields import is_true, mapping, objects, text

REMEMBERED = 64
"""How many pods of a launch are remembered that are gone."""
ENDED = frozenset({"Succeeded", "Failed"})


@dataclass(eq=False)
class Pods:
    """The pods of a launch, by name."""

    live: dict[str, KubeObject] = field(default_factory=dict[str, KubeObject])
    gone: dict[str, KubeObject] = field(default_factory=dict[str, KubeObject])
    """In their last form. They may tell of the launch's end what its object does not."""

    @property
    def are_over(self) -> bool:
        """Whether there are or were some, and none will run again."""
        return bool(self.live or self.gone) and all(_phase(pod) in ENDED for pod in self.live.values())

    @property
    def are_terminating(self) -> bool:
        """Whether one of them is to go."""
        return any(pod["metadata"].get("deletionTimestamp") for pod in self.live.values())

    def put(self, name: str, last: KubeObject | None, new: KubeObject | None) -> None:
        """Take note of a pod's new form. None says that it is gone; it was in its last form then."""
        if new is not None:
            self.live[name] = new
            self.gone.pop(name, None)
        elif last is not None:
            self.live.pop(name, None)
            self.gone[name] = last
            if len(self.gone) > REMEMBERED:
                del self.gone[next(iter(self.gone))]


@dataclass(eq=False)
class Tracked:
    """A launch that the cluster knows, or knew."""

    address: Address
    object: KubeObject
    """In its last form."""
    pods: Pods
    is_gone: bool = False
    """Whether the object is there no more."""
    made_at: float | None = None
    """When we made it ourselves and no watch has told of it yet, by the loop's clock."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Those of the launch."""
    events: tuple[KubeObject, ...] = ()
    """What was said about it, if it does not get to run."""

    @property
    def uid(self) -> str:
        """Tells it from others of its name."""
        return str(self.object["metadata"]["uid"])

    @property
    def launch(self) -> str:
        """The name that all that belongs to it is labelled with."""
        return launch_label(self.object)

    @property
    def is_leaving(self) -> bool:
        """Whether the cluster is to remove it."""
        return "deletionTimestamp" in self.object["metadata"]

    @property
    def is_told_to_stop(self) -> bool:
        """Whether somebody asked us to stop it."""
        return bool(text(self.object, "metadata", "annotations", names.STOP))


class Launches:
    """Those of one namespace of a cluster."""

    def __init__(self) -> None:
        self._by_address: dict[Address, Tracked] = {}
        self._by_launch: dict[str, Tracked] = {}
        self._pods: dict[str, Pods] = {}
        self._forgotten: dict[Address, str] = {}
        """The UIDs of those that are being removed."""

    def __iter__(self) -> Iterator[Tracked]:
        """Iterate over all."""
        return iter(list(self._by_address.values()))

    def has(self, launch: str) -> bool:
        """Whether there is a launch that what belongs to it is labelled with so."""
        return launch in self._by_launch

    def get(self, address: Address) -> Tracked | None:
        """Return a launch, if there is such a one."""
        return self._by_address.get(address)

    def put(self, address: Address, found: KubeObject, *, made_at: float | None = None) -> Tracked | None:
        """Take note of an object's form; with `made_at` of one that we have made just now. Returns whose it is.

        None if it is nobody's: what somebody else has made for a launch, or what is being forgotten.
        """
        uid = str(found["metadata"]["uid"])
        if _is_part(found) or self._forgotten.get(address) == uid:
            return None
        tracked = self._by_address.get(address)
        if tracked is None:
            launch = launch_label(found)
            labels = names.read_labels(mapping(found, "metadata", "annotations"))
            pods = self._pods.setdefault(launch, Pods())
            tracked = Tracked(address, found, pods, made_at=made_at, labels=labels)
            self._by_address[address] = self._by_launch[launch] = tracked
        elif made_at is None:
            tracked.object, tracked.made_at, tracked.is_gone = found, None, False
        return tracked

    def drop(self, address: Address, last: KubeObject) -> Tracked | None:
        """Take note that an object is gone, which was in this form then. Returns whose it was."""
        uid = str(last["metadata"]["uid"])
        if self._forgotten.get(address) == uid:
            del self._forgotten[address]
        tracked = self._by_address.get(address)
        if tracked is None or tracked.uid != uid:
            return None
        tracked.object, tracked.is_gone, tracked.made_at = last, True, None
        return tracked

    def put_pod(self, name: str, old: KubeObject | None, new: KubeObject | None) -> Tracked | None:
        """Take note of a pod's new form, or that it is gone. Returns whose it is."""
        launch = launch_label(new or old or {})
        pods = self._pods.setdefault(launch, Pods())
        pods.put(name, old, new)
        tracked = self._by_launch.get(launch)
        if tracked is None and not pods.live:
            del self._pods[launch]
        return tracked

    def forget(self, address: Address, uid: str) -> None:
        """Forget a launch whose object is being removed. What is still told of it and of its pods means nothing."""
        tracked = self._by_address.pop(address, None)
        if tracked is None or not tracked.is_gone:
            self._forgotten[address] = uid
        if tracked:
            self._by_launch.pop(tracked.launch, None)
            self._pods.pop(tracked.launch, None)


def launch_label(found: KubeObject) -> str:
    """Return the label that says to which launch an object belongs."""
    return text(found, "metadata", "labels", names.LAUNCH)


def _is_part(found: KubeObject) -> bool:
    """Whether a controller made it, even if it is that controller's no more: it is part of a launch and none itself."""
    is_controlled = any(is_true(owner, "controller") for owner in objects(found, "metadata", "ownerReferences"))
    return is_controlled or bool(text(found, "metadata", "generateName"))


def _phase(pod: KubeObject) -> str:
    return text(pod, "status", "phase")
