"""Names of container images, read as engines read them. Pure."""

import re
from dataclasses import dataclass

DOCKER_HUB = "docker.io"
HOST = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"

_REGISTRY = re.compile(rf"{HOST}(?::[0-9]+)?")
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-f]{32,}))?"
)
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ImageName:
    """An image's reference, as a container engine understands it."""

    registry: str
    path: str
    tag: str
    """`latest` where none is written."""
    digest: str | None


def parse_image(reference: str) -> ImageName | None:
    """Read a reference; None if it is none. What engines are lenient about is none: they may mean something else."""
    registry, name = split_registry(reference)
    match = _NAME.fullmatch(name)
    if match is None or not _REGISTRY.fullmatch(registry) or _ID.fullmatch(reference):
        return None
    path = f"library/{match['path']}" if registry == DOCKER_HUB and "/" not in match["path"] else match["path"]
    return ImageName(registry, path, match["tag"] or "latest", match["digest"])


def split_registry(name: str) -> tuple[str, str]:
    """Split off the registry as engines do: without one it is Docker Hub's. Hosts have no case."""
    first, slash, rest = name.partition("/")
    if not slash or not (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        return DOCKER_HUB, name
    registry = first.lower()
    return (DOCKER_HUB if registry == f"index.{DOCKER_HUB}" else registry), rest
