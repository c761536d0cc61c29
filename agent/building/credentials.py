"""Who this agent is at a registry: what the configuration says, what docker itself knows, or what the cloud gives.

Each cloud is one small function, whose library is imported when it is needed and no earlier. What is found reaches
docker in a configuration folder of its own that nobody else can read, and that lives as long as the build.
"""

import base64
import json
import os
import re
import shutil
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from agent.config.builder import DockerBuilder
from agent.errors import LaunchFailed
from agent.launch import Cause
from agent.redaction import SECRETS
from protocol.image_names import DOCKER_HUB, split_registry

ECR = re.compile(r"(?P<account>[0-9]{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
ARTIFACT_REGISTRY = re.compile(r"[a-z0-9-]+-docker\.pkg\.dev|(?:[a-z]+\.)?gcr\.io")
ACR = re.compile(r"[a-z0-9]+\.azurecr\.(?:io|cn|us)")
ACR_USER = "00000000-0000-0000-0000-000000000000"
"""As Azure has it for a token in the place of a password."""
HUB_KEY = "https://index.docker.io/v1/"
"""What Docker Hub is called in docker's configuration."""
EXCHANGE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Credential:
    """A user of a registry."""

    user: str
    password: str = field(repr=False)


def find(repository: str, builder: DockerBuilder, environment: Mapping[str, str]) -> Credential | None:
    """Return the credential for a repository; None: what docker itself knows will do. Blocks.

    Raises `LaunchFailed` where one is asked for and cannot be had.
    """
    host = split_registry(repository)[0]
    if builder.user and builder.password_file:
        try:
            return Credential(builder.user, builder.password_file.read_text("utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise _failed(host, f"`builder.password_file` cannot be read: {type(error).__name__}") from error
    if _knows(_config(config_folder(environment)), host):
        return None
    try:
        if ecr := ECR.fullmatch(host):
            return ecr_credential(ecr["account"], ecr["region"])
        if ARTIFACT_REGISTRY.fullmatch(host):
            return artifact_registry_credential()
        if ACR.fullmatch(host):
            return acr_credential(f"https://{host}")
    except ImportError as error:
        raise _failed(host, f"the Python package {error.name!r} is not installed beside the agent") from error
    except Exception as error:  # of three clouds' libraries, which share no class of errors
        raise _failed(host, f"{type(error).__name__}: {error}") from error
    return None


def ecr_credential(account: str, region: str) -> Credential:
    """Ask Amazon ECR for a token. Blocks."""
    client = import_module("boto3").client("ecr", region_name=region)
    answer = client.get_authorization_token(registryIds=[account])
    token = base64.b64decode(answer["authorizationData"][0]["authorizationToken"]).decode()
    user, _, password = token.partition(":")
    return Credential(user, password)


def artifact_registry_credential() -> Credential:
    """Ask Google for an access token. Blocks."""
    credentials, _ = import_module("google.auth").default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    credentials.refresh(import_module("google.auth.transport.requests").Request())
    return Credential("oauth2accesstoken", credentials.token)


def acr_credential(registry: str) -> Credential:
    """Exchange the identity that Azure gives this machine for a token of its registry, given as a URL. Blocks."""
    identity = import_module("azure.identity").DefaultAzureCredential()
    token: str = identity.get_token("https://containerregistry.azure.net/.default").token
    form = {
        "grant_type": "access_token",
        "service": urllib.parse.urlsplit(registry).netloc,
        "access_token": token,
    }
    request = urllib.request.Request(f"{registry}/oauth2/exchange", urllib.parse.urlencode(form).encode())  # noqa: S310 -- https, and http in tests
    with urllib.request.urlopen(request, timeout=EXCHANGE_SECONDS) as answer:  # noqa: S310 -- as above
        return Credential(ACR_USER, json.load(answer)["refresh_token"])


def config_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of docker's own configuration."""
    given = environment.get("DOCKER_CONFIG")
    return Path(given) if given else Path(environment.get("HOME") or Path.home()) / ".docker"


@contextmanager
def logged_in(
    repository: str, credential: Credential | None, environment: Mapping[str, str]
) -> Generator[Mapping[str, str]]:
    """Give the environment in which docker is that user, as long as the block runs. Blocks, but not for long."""
    if credential is None:
        yield environment
        return
    own = config_folder(environment)
    host = split_registry(repository)[0]
    key = HUB_KEY if host == DOCKER_HUB else host
    config = _config(own)
    pair = base64.b64encode(f"{credential.user}:{credential.password}".encode()).decode()
    config["auths"] = {**_object(config, "auths"), key: {"auth": pair}}
    # A helper for all hosts would be asked instead.
    config["credHelpers"] = {**_object(config, "credHelpers"), key: ""}
    folder = Path(tempfile.mkdtemp(prefix="launchbay-docker-"))  # of mode 0700
    SECRETS.keep(credential.password, pair)
    try:
        for name in ("cli-plugins", "contexts"):
            if (own / name).is_dir():
                (folder / name).symlink_to((own / name).absolute())
        with os.fdopen(os.open(folder / "config.json", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            json.dump(config, file)
        # The builders that people have made are kept with their configuration.
        yield {"BUILDX_CONFIG": str(own / "buildx"), **environment, "DOCKER_CONFIG": str(folder)}
    finally:
        SECRETS.drop(credential.password, pair)
        shutil.rmtree(folder, ignore_errors=True)


def _config(folder: Path) -> dict[str, Any]:
    try:
        read: Any = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # docker warns of it itself
    return dict(read) if isinstance(read, dict) else {}  # pyright: ignore[reportUnknownArgumentType]


def _knows(config: Mapping[str, Any], host: str) -> bool:
    """Whether docker has a login or a helper for that very registry."""
    keys = {HUB_KEY} if host == DOCKER_HUB else {host, f"https://{host}"}
    return not keys.isdisjoint({**_object(config, "auths"), **_object(config, "credHelpers")})


def _object(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    return dict(value) if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownArgumentType]


def _failed(host: str, why: str) -> LaunchFailed:
    return LaunchFailed(
        f"The agent has no login for the registry {host}: {why}. Log in there with `docker login` as the agent's user, "
        "or name `user` and `password_file` in its block `builder`.",
        stage="build",
        reason="registry",
        cause=Cause.INFRASTRUCTURE,
    )
