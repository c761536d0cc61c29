"""Resources: the kinds of places where launches run."""

import difflib
import re

from protocol.errors import SpecError

RESOURCES = ("local-process", "local-container", "kubernetes", "sagemaker", "gcp-vertex")
"""Those of the protocol. A site can add its own backend, under a name of its own."""
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def serving_command(queue: str, entity: str, resource: str) -> str:
    """Return the command of an agent that serves a queue; without `-r` an agent runs launches as local processes."""
    elsewhere = "" if resource == "local-process" else f" -r {resource}"
    return f"launchbay agent -q {queue} -e {entity}{elsewhere}"


def check_resource(name: str) -> str:
    """Return the name of a resource; `SpecError` if it cannot be one, or is a slip of the pen."""
    if name in RESOURCES:
        return name
    nearest = difflib.get_close_matches(name.lower().replace("_", "-"), RESOURCES, 1, cutoff=0.75)
    if nearest:
        raise SpecError(f"Resource {name!r} is not known. Did you mean {nearest[0]!r}?")
    if not NAME.fullmatch(name):
        raise SpecError(
            f"Resource {name!r} is not known; use one of: {', '.join(RESOURCES)}; or the name of a backend of your own "
            "(small letters, digits and dashes)."
        )
    return name
