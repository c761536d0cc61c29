"""The Secret of a launch: its values stand there and nowhere else; containers refer to it by name and key."""

import base64
import re
from collections.abc import Mapping

from backends.base import StartRequest
from backends.kubernetes import names
from backends.kubernetes.manifest.fields import Fields
from backends.kubernetes.manifest.marks import Marks
from protocol.errors import SpecError

OF_CODE = "code."
"""Before the names of those secrets that only bring the code."""

_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


def secret_of(request: StartRequest, namespace: str, marks: Marks) -> Fields | None:
    """Return the Secret of a launch; None if it has nothing to hide. To one with services something must belong."""
    values = dict(request.secrets)
    if request.code:
        values |= {OF_CODE + name: value for name, value in request.code.secrets.items()}
    for name in values:
        if not _KEY.fullmatch(name):
            raise SpecError(f"The launch has a secret variable {name!r}, which no Secret of a cluster can hold.")
    if not values and not request.services:
        return None
    secret: Fields = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": names.launch_of(request.name), "namespace": namespace},
        "type": "Opaque",
        "immutable": True,  # nobody has a reason to change it, and no node has to watch it
        "data": {name: _encoded(value) for name, value in values.items()},
    }
    marks.put_on(secret, "")
    return secret


def references(launch: str, secrets: Mapping[str, str], prefix: str = "") -> list[Fields]:
    """Return entries of `env` that take variables from a launch's Secret."""
    name = names.launch_of(launch)
    return [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": prefix + variable}}}
        for variable in secrets
    ]


def _encoded(value: str) -> str:
    return base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()
