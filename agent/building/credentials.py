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
import threading
import urllib.parse
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from agent.config.builder import Builder
from agent.errors import LaunchFailed
from agent.launch import Cause
from agent.redaction import SECRETS
from backends.sagemaker.settings import Identity
from protocol.image_names import DOCKER_HUB, split_registry

ECR = re.compile(r"(?P<account>[0-9]{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
ARTIFACT_REGISTRY = re.compile(r"[a-z0-9-]+-docker\.pkg\.dev|(?:[a-z]+\.)?gcr\.io")
ACR = re.compile(r"[a-z0-9]+\.azurecr\.(?:io|cn|us)")
ACR_USER = "00000000-0000-0000-0000-000000000000"
"""As Azure has it for a token in the place of a password."""
HUB_KEY = "https://index.docker.io/v1/"
"""What Docker Hub is called in docker's configuration."""
EXCHANGE_SECONDS = 30
LEFT_SECONDS = 1800
"""A token of a cloud's that is to be used once more is good for this long: a build needs it again at its end."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A user of a registry."""

    user: str
    password: str = field(repr=False)
    expires_at: float = field(default=0, compare=False)
    """In seconds since 1970; 0 where that is not known, or never."""


class Tokens:
    """What clouds gave, by registry, while it is good for another build. For several threads."""

    def __init__(self, cloud: Mapping[str, Any] | None = None) -> None:
        """`cloud` is the agent's block `environment`, which says who it is there."""
        self._cloud = cloud or {}
        self._known: dict[str, Credential] = {}
        self._asking = threading.Lock()

    def get(self, host: str, now: float) -> Credential | None:
        """Return the credential for a registry, from its cloud if need be; None if it is no cloud's. Blocks.

        Raises whatever the cloud's library does.
        """
        with self._asking:
            known = self._known.get(host)
            if known and known.expires_at - now >= LEFT_SECONDS:
                return known
            found = _ask(host, self._cloud)
            if found:
                self._known[host] = found
            return found

    def forget(self, repository: str) -> None:
        """Ask the cloud again next time: the registry may have refused this one."""
        self._known.pop(split_registry(repository)[0], None)


def find(
    repository: str, builder: Builder, environment: Mapping[str, str], tokens: Tokens, now: float
) -> Credential | None:
    """Return the credential for a repository; None: what docker itself knows will do. Blocks.

    `now` is in seconds since 1970. Raises `LaunchFailed` where one is asked for and cannot be had.
    """
    host = split_registry(repository)[0]
    if builder.user and builder.password_file:
        try:
            return Credential(builder.user, builder.password_file.read_text("utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise _failed(host, f"`builder.password_file` ({builder.password_file}) cannot be read: {why}") from error
    if _knows(_parsed(own_configuration(environment)), host):
        return None
    try:
        return tokens.get(host, now)
    except ImportError as error:
        raise _failed(host, f"the Python package {error.name!r} is not installed beside the agent") from error
    except Exception as error:  # of three clouds' libraries, which share no class of errors
        raise _failed(host, f"{type(error).__name__}: {error}") from error


def written_down(repository: str, text: str) -> Credential | None:
    """Return the login at a repository's registry that stands in a docker configuration, given as its text, if any."""
    host = split_registry(repository)[0]
    logins = _object(_parsed(text), "auths")
    for key in _keys(host):
        entry = _object(logins, key)
        user, password = str(entry.get("username") or ""), str(entry.get("password") or "")
        with suppress(ValueError):
            pair = base64.b64decode(str(entry.get("auth") or ""), validate=True).decode()
            user, password = (user or pair.partition(":")[0]), (password or pair.partition(":")[2])
        if user and password:
            return Credential(user, password)
    return None


def own_configuration(environment: Mapping[str, str]) -> str:
    """Return the text of docker's own configuration; empty if there is none. Blocks."""
    with suppress(OSError, UnicodeDecodeError):
        return (config_folder(environment) / "config.json").read_text("utf-8")
    return ""


def key_of(repository: str) -> str:
    """Return under which key docker's configuration has the login at a repository's registry."""
    host = split_registry(repository)[0]
    return HUB_KEY if host == DOCKER_HUB else host


def pair_of(credential: Credential) -> str:
    """Return a login as docker's configuration has it, and HTTP."""
    return base64.b64encode(f"{credential.user}:{credential.password}".encode()).decode()


def _ask(host: str, cloud: Mapping[str, Any]) -> Credential | None:
    if ecr := ECR.fullmatch(host):
        return ecr_credential(ecr["account"], ecr["region"], cloud if cloud.get("type") == "aws" else {})
    if ARTIFACT_REGISTRY.fullmatch(host):
        return artifact_registry_credential()
    if ACR.fullmatch(host):
        return acr_credential(f"https://{host}")
    return None


def ecr_credential(account: str, region: str, cloud: Mapping[str, Any]) -> Credential:
    """Ask Amazon ECR for a token, as the profile and the role of a block `environment`. Blocks."""
    identity = Identity(region, cloud.get("profile") or "", cloud.get("role_arn") or "")
    client = import_module("backends.sagemaker.access").open_session(identity).client("ecr")
    answer = client.get_authorization_token(registryIds=[account])
    (data,) = answer["authorizationData"]
    user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    return Credential(user, password, data["expiresAt"].timestamp())


def artifact_registry_credential() -> Credential:
    """Ask Google for an access token. Blocks."""
    credentials, _ = import_module("google.auth").default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    credentials.refresh(import_module("google.auth.transport.requests").Request())
    expiry: datetime | None = credentials.expiry  # in UTC, which it does not say
    return Credential("oauth2accesstoken", credentials.token, expiry.replace(tzinfo=UTC).timestamp() if expiry else 0)


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
        refresh_token: str = json.load(answer)["refresh_token"]
    return Credential(ACR_USER, refresh_token, _expiry(refresh_token))


def _expiry(token: str) -> float:
    """Return when a JSON web token expires; 0 if it does not tell."""
    try:
        claims = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        return 0


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
    key, pair = key_of(repository), pair_of(credential)
    config = _parsed(own_configuration(environment))
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


def _parsed(text: str) -> dict[str, Any]:
    try:
        read: Any = json.loads(text)
    except ValueError:
        return {}  # docker warns of it itself
    return dict(read) if isinstance(read, dict) else {}  # pyright: ignore[reportUnknownArgumentType]


def _knows(config: Mapping[str, Any], host: str) -> bool:
    """Whether docker has a login or a helper for that very registry."""
    return not _keys(host).isdisjoint({**_object(config, "auths"), **_object(config, "credHelpers")})


def _keys(host: str) -> set[str]:
    return {HUB_KEY} if host == DOCKER_HUB else {host, f"https://{host}"}


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
