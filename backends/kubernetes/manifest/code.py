"""The code of a launch in its pods: an init container fetches it, another installs what it requires.

The first is `launchbay fetch-code FOLDER`, in the agent's own image. It fills a folder that is there; another one it
makes whole, or not at all. With `--tools FOLDER` it leaves there what the second container runs, in the image of the
job, and what the job is then run through.
"""

import hashlib
import json
import re
from collections.abc import Sequence

from backends.base import CACHE_VARIABLE, CODE_VARIABLE, Code, StartRequest
from backends.kubernetes.manifest.fields import Fields, copied, dig_fields, entries, text
from backends.kubernetes.manifest.secrets import OF_CODE, references
from backends.kubernetes.manifest.variables import of_code, plain
from backends.kubernetes.names import FETCH
from backends.kubernetes.settings import Settings
from protocol.errors import SpecError

CODE = "/mnt/wandb"
"""Where a launch's code is in its containers. The protocol says so."""
TOOLS = "/mnt/launchbay"
CACHE = "/mnt/launchbay-cache"
CLAIM = "/mnt/launchbay-code"
"""Where the whole of `code_claim` is, in the container that fetches."""

INSTALL = "wandb-requirements-init"
CODE_VOLUME = "wandb-source-code-volume"
"""The protocol's own name: sidecars of a queue may mount it."""
TOOLS_VOLUME = "launchbay-tools-volume"
CACHE_VOLUME = "launchbay-cache-volume"

_INSTALLERS = re.compile(r"(UV|PIP)_.*|.*_proxy|.*_PROXY")
"""Names of those of the code's secrets that its requirements may need. What builds them may be the job's own code, and
has no business with the rest."""
_ACCOUNT = ("runAsUser", "runAsGroup", "runAsNonRoot", "seccompProfile")
_RESOURCES = ("cpu", "memory", "ephemeral-storage")
_DIGEST_CHARS = 32


def runs_through(code: Code | None) -> Sequence[str]:
    """Return the program that a launch's command is run through, so that it finds what was installed for it."""
    return (f"{TOOLS}/bin/run",) if code and code.has_requirements else ()


def add_code(pod: Fields, main: Fields, request: StartRequest, settings: Settings, where: str) -> list[Fields]:
    """Bring a launch's code, if there is any to fetch, into the container of a pod that is the job.

    `where` is the pod's path. Returns the containers that do it.
    """
    code = request.code
    if code is None:
        return []
    volumes, folder = _volumes(code, settings)
    mounts = _mounts(code, settings)
    _check_free(pod, main, volumes, where)
    pod["volumes"].extend(volumes)
    main["volumeMounts"].extend(mounts)
    main["workingDir"] = f"{CODE}/{request.subfolder}" if request.subfolder else CODE
    added = [_fetch(main, request, code, settings, folder)]
    if code.has_requirements:
        added.append(_install(main, request, code, settings))
    pod["initContainers"].extend(added)
    return added


def _volumes(code: Code, settings: Settings) -> tuple[list[Fields], str]:
    """Return a pod's volumes, and which folder is to be filled."""
    volumes: list[Fields] = []
    if settings.code_claim:
        volumes.append(_claim(CODE_VOLUME, settings.code_claim))
    else:
        volumes.append({"name": CODE_VOLUME, "emptyDir": {}})
    if code.has_requirements:
        volumes.append({"name": TOOLS_VOLUME, "emptyDir": {}})
    if settings.cache_claim:
        volumes.append(_claim(CACHE_VOLUME, settings.cache_claim))
    return volumes, f"{CLAIM}/{_content(code)}" if settings.code_claim else CODE


def _mounts(code: Code, settings: Settings) -> list[Fields]:
    """Return what the job sees. Code that other launches run as well is not for writing."""
    shared: Fields = {"subPath": _content(code), "readOnly": True} if settings.code_claim else {}
    mounts: list[Fields] = [{"name": CODE_VOLUME, "mountPath": CODE, **shared}]
    if code.has_requirements:
        mounts.append({"name": TOOLS_VOLUME, "mountPath": TOOLS})
    return mounts


def _fetch(main: Fields, request: StartRequest, code: Code, settings: Settings, folder: str) -> Fields:
    command = ["launchbay", "fetch-code", folder]
    mounts = [{"name": CODE_VOLUME, "mountPath": CLAIM if settings.code_claim else CODE}]
    if settings.code_claim:
        command += ["--keep-days", str(settings.code_claim_days)]
    if code.has_requirements:
        command += ["--tools", TOOLS]
        mounts.append({"name": TOOLS_VOLUME, "mountPath": TOOLS})
    source = {CODE_VARIABLE: json.dumps(copied(code.source), sort_keys=True, separators=(",", ":"))}
    hidden = {**request.secrets, **code.secrets}
    variables = {**of_code(request), **code.environment, **_cache_variable(settings), **source}
    return {
        "name": FETCH,
        "image": settings.fetch_image,
        "command": command,
        "env": [
            *plain({name: value for name, value in variables.items() if name not in hidden}),
            *references(request.name, {name: "" for name in request.secrets if name not in code.secrets}),
            *references(request.name, code.secrets, OF_CODE),
        ],
        **_as_job(main),
        "volumeMounts": [*mounts, *_cache_mount(settings)],
    }


def _install(main: Fields, request: StartRequest, code: Code, settings: Settings) -> Fields:
    secrets = {name: value for name, value in code.secrets.items() if _INSTALLERS.fullmatch(name)}
    variables = {**code.environment, **_cache_variable(settings)}
    return {
        "name": INSTALL,
        "image": main["image"],
        **({"imagePullPolicy": main["imagePullPolicy"]} if "imagePullPolicy" in main else {}),
        "command": [f"{TOOLS}/bin/install"],
        "workingDir": main["workingDir"],
        "env": [
            *plain({name: value for name, value in variables.items() if name not in code.secrets}),
            *references(request.name, secrets, OF_CODE),
        ],
        **_as_job(main),
        "volumeMounts": [*copied(_mounts(code, settings)), *_cache_mount(settings)],
    }


def _as_job(main: Fields) -> Fields:
    """Return the job's account, whose files they are to be, its resources, and how an end is told.

    These cost nothing more before the job runs, and quotas may ask for some. Devices are left out.
    """
    account = _kept(dig_fields(main, "securityContext"), _ACCOUNT)
    resources = {kind: _kept(dig_fields(main, "resources", kind), _RESOURCES) for kind in ("limits", "requests")}
    resources = {kind: amounts for kind, amounts in resources.items() if amounts}
    return {
        **({"resources": resources} if resources else {}),
        **({"securityContext": account} if account else {}),
        "terminationMessagePolicy": "FallbackToLogsOnError",  # why it failed is on the item
    }


def _kept(fields: Fields, names: Sequence[str]) -> Fields:
    return copied({name: fields[name] for name in names if name in fields})


def _check_free(pod: Fields, main: Fields, volumes: Sequence[Fields], where: str) -> None:
    """Refuse a pod that has something else where the code goes."""
    taken = {each["name"] for each in volumes}
    for place, volume in enumerate(entries(pod, "volumes", where)):
        if text(volume, "name", f"{where}.volumes[{place}]") in taken:
            raise SpecError(
                f"The resource arg `{where}.volumes[{place}]` is called {volume['name']!r}, as one of ours."
            )
    for place, container in enumerate(entries(pod, "initContainers", where)):
        if container.get("name") in (FETCH, INSTALL):
            raise SpecError(f"The resource arg `{where}.initContainers[{place}]` is called as one of ours.")
    for place, mount in enumerate(entries(main, "volumeMounts", f"{where}.containers[]")):
        path = text(mount, "mountPath", f"{where}.containers[].volumeMounts[{place}]").rstrip("/")
        if path in (CODE, TOOLS):
            raise SpecError(
                f"The resource args mount a volume at {path} in a container that is the job (under `{where}`); the "
                "job's own code goes there."
            )


def _cache_variable(settings: Settings) -> dict[str, str]:
    return {CACHE_VARIABLE: CACHE} if settings.cache_claim else {}


def _cache_mount(settings: Settings) -> list[Fields]:
    return [{"name": CACHE_VOLUME, "mountPath": CACHE}] if settings.cache_claim else []


def _claim(name: str, claim: str) -> Fields:
    return {"name": name, "persistentVolumeClaim": {"claimName": claim}}


def _content(code: Code) -> str:
    """Return what stands for the content of a launch's code: what is fetched, and how it is made ready."""
    told = json.dumps(copied(code.source), sort_keys=True)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]
