"""Checks of the platforms: Docker, Kubernetes and the clouds. Without their SDKs: sockets, files and variables only."""

import asyncio
import base64
import configparser
import json
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import aiohttp
import yaml

from agent.building.engine import engine_environment
from launchbay.doctor.checks import Finding, Surroundings, absent, broken, ok, skipped
from protocol.json_types import dig

# --- Docker -----------------------------------------------------------------------------------------------------------

DOCKER_SOCKET = Path("/var/run/docker.sock")


async def docker(around: Surroundings) -> Finding:
    """Whether the engine answers on which containers run, and images are built."""
    host = engine_environment(around.config, "local-container", around.environment).get("DOCKER_HOST", "")
    if host and not host.startswith(("unix://", "tcp://")):
        return skipped(f"the engine is at {host.partition('://')[0]}://..., which is not looked at")
    if host.startswith("tcp://") and around.environment.get("DOCKER_TLS_VERIFY"):
        return skipped("the engine is reached by TLS, which is not looked at")
    sockets = [Path(host.removeprefix("unix://"))] if host.startswith("unix://") else list(_docker_sockets(around))
    if host.startswith("tcp://"):
        return await _docker_version(host.replace("tcp", "http", 1), None, host)
    for path in sockets:
        if await asyncio.to_thread(path.exists):
            return await _docker_version("http://docker", path, str(path))
    return absent(f"no socket at {' or '.join(map(str, sockets))}", "Start Docker, or set DOCKER_HOST.")


def _docker_sockets(around: Surroundings) -> Iterator[Path]:
    yield DOCKER_SOCKET
    if runtime := around.environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime, "docker.sock")  # rootless


async def _docker_version(url: str, path: Path | None, name: str) -> Finding:
    connector = aiohttp.UnixConnector(str(path)) if path else None
    try:
        async with aiohttp.ClientSession(connector=connector) as session, session.get(f"{url}/version") as response:
            answer = await response.json(content_type=None)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if isinstance(getattr(error, "os_error", None), PermissionError):
            return broken(f"{name} is not for this user", "Add the user to the group `docker`, and log in again.")
        return broken(f"{name} does not answer as Docker does: {error}", "Start Docker, or set DOCKER_HOST.")
    return ok(f"{name} answers: version {dig(answer, 'Version')}, API {dig(answer, 'ApiVersion')}")


# --- Kubernetes -------------------------------------------------------------------------------------------------------

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


async def kubernetes(around: Surroundings) -> Finding:
    """Whether the API server of the current context answers. Says nothing about what we may do there."""
    try:
        cluster = await asyncio.to_thread(_cluster, around.environment, around.home)
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        yaml.YAMLError,
    ) as error:  # anything may be in a file
        return broken(f"the kubeconfig cannot be used: {type(error).__name__}", "See: kubectl config view")
    if cluster is None:
        return absent("no kubeconfig, and not in a cluster", "Set KUBECONFIG, or make ~/.kube/config.")
    name, url, context = cluster
    if not url:
        return broken(f"{name} names no API server", "See: kubectl config get-contexts")
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url.rstrip('/')}/version", ssl=context) as response,
        ):
            status = response.status
            answer = await response.json(content_type=None)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return broken(f"{name}: {url} does not answer: {error}", "See: kubectl cluster-info")
    version = dig(answer, "gitVersion") if status == 200 else "not told to strangers"
    return ok(f"{name}: {url} answers, version {version}")


_Cluster = tuple[str, str, ssl.SSLContext | bool]
"""What to call it, the URL of its API server, and whom to trust there."""


def _cluster(environment: Mapping[str, str], home: Path) -> _Cluster | None:
    named = environment.get("KUBECONFIG")
    paths = [Path(part) for part in named.split(":") if part] if named else [home / ".kube" / "config"]
    files = [path for path in paths if path.is_file()]
    if files:
        return _from_kubeconfig(files)
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if host and (SERVICE_ACCOUNT / "ca.crt").is_file():
        host = f"[{host}]" if ":" in host else host
        return "this cluster", f"https://{host}:{port}", ssl.create_default_context(cafile=SERVICE_ACCOUNT / "ca.crt")
    return None


def _from_kubeconfig(files: list[Path]) -> _Cluster:
    current = ""
    contexts: dict[str, Any] = {}
    clusters: dict[str, Any] = {}
    for path in files:  # of several files the first word counts
        loaded = yaml.safe_load(path.read_text("utf-8"))
        if not isinstance(loaded, dict):
            raise ValueError("not a mapping")
        content = cast("dict[str, Any]", loaded)
        current = current or content.get("current-context") or ""
        for each in cast("list[dict[str, Any]]", content.get("contexts") or []):
            contexts.setdefault(each["name"], each["context"])
        for each in cast("list[dict[str, Any]]", content.get("clusters") or []):
            # Files that it names lie beside it.
            clusters.setdefault(each["name"], {**each["cluster"], "folder": path.parent})
    cluster: dict[str, Any] = clusters.get(dig(contexts.get(current), "cluster"), {})
    return f"context {current!r}", str(cluster.get("server") or ""), _trust(cluster)


def _trust(cluster: Mapping[str, Any]) -> ssl.SSLContext | bool:
    if cluster.get("insecure-skip-tls-verify"):
        return False
    if data := cluster.get("certificate-authority-data"):
        return ssl.create_default_context(cadata=base64.b64decode(data).decode())
    if file := cluster.get("certificate-authority"):
        return ssl.create_default_context(cafile=cluster["folder"] / file)
    return True


# --- clouds -----------------------------------------------------------------------------------------------------------


async def aws(around: Surroundings) -> Finding:
    """Whether there are credentials for AWS. Says nothing about whether they are valid."""
    return await asyncio.to_thread(_aws, around.environment, around.home)


def _aws(environment: Mapping[str, str], home: Path) -> Finding:
    todo = "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use: aws configure"
    key, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    profile = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE")
    # A profile that is named goes over keys in variables, as the SDK has it.
    if not profile and (key or secret):
        if not (key and secret):
            return broken("only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set", "Set both, or none.")
        return ok("keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    files = (
        Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws" / "credentials"),
        Path(environment.get("AWS_CONFIG_FILE") or home / ".aws" / "config"),
    )
    wanted = profile or "default"
    for path in files:
        found = configparser.RawConfigParser()
        try:
            found.read(path, "utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            return broken(f"{path} cannot be read: {type(error).__name__}", "Correct it, or use: aws configure")
        for section in (wanted, f"profile {wanted}"):
            if found.has_section(section) and _AWS_SOURCES & set(found.options(section)):
                return ok(f"profile {wanted!r} in {path}")
    if profile:
        return broken(f"AWS_PROFILE is {profile!r}, which has no credentials in {files[0]} or {files[1]}", todo)
    if environment.get("AWS_WEB_IDENTITY_TOKEN_FILE") and environment.get("AWS_ROLE_ARN"):
        return ok("a web identity, in AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN")
    if any(environment.get(f"AWS_CONTAINER_CREDENTIALS_{kind}_URI") for kind in ("RELATIVE", "FULL")):
        return ok("the container's role")
    return absent("no credentials in variables or files; a role of this machine is not looked for", todo)


_AWS_SOURCES = {"aws_access_key_id", "credential_process", "role_arn", "sso_session", "sso_start_url"}
"""Options of a profile from which credentials come."""


async def azure(around: Surroundings) -> Finding:
    """Whether there are credentials for Azure. Says nothing about whether they are valid."""
    return await asyncio.to_thread(_azure, around.environment, around.home)


def _azure(environment: Mapping[str, str], home: Path) -> Finding:
    todo = "Set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or use: az login"
    who = [name for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID") if environment.get(name)]
    proofs = ("AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE")
    given = [name for name in proofs if environment.get(name)]
    if given and len(who) < 2:
        return broken(f"{given[0]} is set without AZURE_TENANT_ID and AZURE_CLIENT_ID", todo)
    for name in given:
        if name != "AZURE_CLIENT_SECRET" and not Path(environment[name]).is_file():
            return broken(f"{name} is {environment[name]}, where nothing is", todo)
    if given:
        return ok(f"an application, in AZURE_CLIENT_ID and {given[0]}")
    folder = Path(environment.get("AZURE_CONFIG_DIR") or home / ".azure")
    for path in (folder / "msal_token_cache.json", folder / "msal_token_cache.bin"):
        if path.is_file():
            return ok(f"a login of `az`, in {path}")
    return absent("no credentials in variables or of `az`; an identity of this machine is not looked for", todo)


async def google(around: Surroundings) -> Finding:
    """Whether there are application default credentials for Google Cloud. Says nothing about whether they are valid."""
    return await asyncio.to_thread(_google, around.environment, around.home)


def _google(environment: Mapping[str, str], home: Path) -> Finding:
    todo = "Set GOOGLE_APPLICATION_CREDENTIALS, or use: gcloud auth application-default login"
    named = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    folder = Path(environment.get("CLOUDSDK_CONFIG") or home / ".config" / "gcloud")
    path = Path(named) if named else folder / "application_default_credentials.json"
    try:
        kind = dig(json.loads(path.read_text("utf-8")), "type")
    except FileNotFoundError:
        if named:
            return broken(f"GOOGLE_APPLICATION_CREDENTIALS is {named}, where nothing is", todo)
        return absent("no credentials in variables or files; a service account of this machine is not looked for", todo)
    except (OSError, ValueError, AttributeError) as error:
        return broken(f"{path} cannot be read: {type(error).__name__}", todo)
    return ok(f"{kind or 'credentials'} in {path}")
