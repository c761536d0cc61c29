"""Hands over what must not be seen: a secret of Secret Manager per launch, which the job itself reads at its start.

Vertex AI gives custom jobs no secrets by reference, so that a small program does, by way of which the launch's own
runs. It reads the secret as the job's service account and becomes the launch's program. It needs Python in the image,
and nothing else. Pure.
"""

import json
from collections.abc import Mapping, Sequence

from backends.vertex.names import launch_of

SECRET_VARIABLE = "LAUNCHBAY_SECRET"  # noqa: S105 -- names one
"""Variable with the name of the secret's version, for the program below."""
KEPT_SECONDS = 30 * 24 * 3600
"""When Google removes a secret by itself that nobody has removed: longer than a job can wait and run."""

_PROGRAM = """\
import base64, json, os, sys, time, urllib.error, urllib.request
def ask(url, headers, handlers=()):
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.build_opener(*handlers).open(request, timeout=30) as answer:
        return json.load(answer)
def read(name):
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    url = "http://" + host + "/computeMetadata/v1/instance/service-accounts/default/token"
    token = ask(url, {"Metadata-Flavor": "Google"}, [urllib.request.ProxyHandler({})])["access_token"]
    url = "https://secretmanager.googleapis.com/v1/" + name + ":access"
    return json.loads(base64.b64decode(ask(url, {"Authorization": "Bearer " + token})["payload"]["data"]))
name = os.environ.pop("LAUNCHBAY_SECRET")
for pause in (1, 2, 4, 8, 0):
    try:
        os.environ.update(read(name))
        break
    except (OSError, ValueError, KeyError) as error:
        why = str(error)
        if getattr(error, "code", 0) in (401, 403, 404) or not pause:
            sys.exit("The secret " + name + " cannot be read: " + why + ". The service account of the job needs the "
                     "role Secret Manager Secret Accessor.")
        time.sleep(pause)
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except FileNotFoundError:
    print(sys.argv[1] + ": not found", file=sys.stderr)
    sys.exit(127)
except OSError as error:
    print(sys.argv[1] + ": " + str(error), file=sys.stderr)
    sys.exit(126)
"""
THROUGH = ("python3", "-c", _PROGRAM)
"""The program by way of which a launch runs that is given a secret."""


def secret_id(prefix: str, name: str) -> str:
    """Return what a launch's secret is called."""
    return f"{prefix}{launch_of(name)}"


def written(secrets: Mapping[str, str]) -> bytes:
    """Return what the secret of a launch with these variables holds."""
    return json.dumps(dict(secrets)).encode()


def own_command(command: Sequence[str]) -> Sequence[str]:
    """Return a job's command without the program by way of which it runs."""
    return command[len(THROUGH) :] if tuple(command[: len(THROUGH)]) == THROUGH else command
