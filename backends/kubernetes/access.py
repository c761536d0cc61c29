"""Who we are in a cluster and how it is reached: by a kubeconfig file, or by what a pod is given.

The only module that knows the `kubernetes` package: of it, its reading of kubeconfig files with all their ways to log
in, and its HTTP client.
"""

import asyncio
import os
import ssl
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from urllib import request
from urllib.parse import urlsplit

import aiohttp
import yaml
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, incluster_config, kube_config

from backends.base import BackendError
from backends.kubernetes.api import KubeUnavailable
from backends.kubernetes.clock import ClusterClock
from backends.kubernetes.credentials import PluginFailed, ask_plugin
from backends.kubernetes.sockets import Sockets

FILE_SECONDS = 60.0
"""After which a token that somebody renews in its file is read again."""
EARLY_SECONDS = 60.0
"""How long before its end a token is replaced."""
BUFFER_BYTES = 2 * 2**20
"""Of what the server sends: more than any object has."""
AGENT = "launchbay"
"""As which program we introduce ourselves."""

_POD_FOLDER = Path(incluster_config.SERVICE_TOKEN_FILENAME).parent
_UNUSABLE = (PluginFailed, ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError)
"""What the package raises for a file that is not as it should be."""


class NoCluster(BackendError):
    """There is nothing that says how to reach a cluster, or it cannot be understood."""

    code = "kubernetes_config"


@dataclass(frozen=True)
class Access:
    """A way into a cluster, as of now."""

    client: Any
    """The package's `ApiClient`."""
    address: str
    """The server's URL."""
    authorization: str = field(repr=False)
    """Of the header of that name; empty where a certificate says who we are."""
    lasts: float | None
    """In how many seconds it should be asked for anew; None if only when it is refused."""
    transport: Sequence[object] = field(repr=False)
    """What the client's connections are made of. A client stays for as long as this does."""
    sockets: Sockets

    async def close(self) -> None:
        """Let go of the client's connections."""
        await self.client.close()
        await self.sockets.close()


class Source(Protocol):
    """Where access comes from."""

    clock: ClusterClock
    """That of the cluster, as all access there has heard."""

    @property
    def namespace(self) -> str:
        """The namespace that it names; else `default`."""
        ...

    @property
    def name(self) -> str:
        """What it is, for people."""
        ...

    async def load(self, before: Access | None) -> Access:
        """Read everything anew. Raises `KubeUnavailable` if there is no access just now."""
        ...


async def find_source(config_file: str | None, context: str | None) -> Source:
    """Return where access to a cluster comes from, as `kubectl` finds it. Raises `NoCluster`.

    That is: the file given, `KUBECONFIG`, `~/.kube/config`, or the service account of the pod that we run in.
    """
    usual = Path.home() / ".kube" / "config"
    files = config_file or os.environ.get("KUBECONFIG") or (str(usual) if usual.exists() else None)
    if files is not None:
        return await asyncio.to_thread(KubeconfigFile, files, context)
    if context is None and incluster_config.SERVICE_HOST_ENV_NAME in os.environ:
        return await asyncio.to_thread(Pod)
    raise NoCluster("No cluster: there is no kubeconfig file, and this is no pod. Name one as `config_file`.")


class KubeconfigFile:
    """A context of one or more kubeconfig files, separated as in `KUBECONFIG`."""

    def __init__(self, files: str, context: str | None) -> None:
        """Read them. Blocks. Raises `NoCluster` if they are not there, or lack the context."""
        self.clock = ClusterClock()
        self._files = files
        self._context = context
        try:
            loader = self._loader()
            self._namespace = str(loader.current_context["context"].get("namespace") or "default")
            self._context = str(loader.current_context["name"])  # it stays this one, whatever the file calls current
        except _UNUSABLE as error:
            raise NoCluster(f"The kubeconfig file {files} cannot be used: {_words(error)}") from error

    @property
    def namespace(self) -> str:
        """See `Source.namespace`."""
        return self._namespace

    @property
    def name(self) -> str:
        """See `Source.name`."""
        return f"context {self._context} of {self._files}"

    async def load(self, before: Access | None) -> Access:
        """See `Source.load`."""
        configuration: Any = Configuration()
        try:
            loader = await asyncio.to_thread(self._loader)
            lasts = await _log_in(loader._user.value) if loader._user else None
            await loader.load_and_set(configuration)
            return _access(configuration, before, lasts, self.clock)
        except _UNUSABLE as error:
            raise KubeUnavailable(f"No access by {self.name}: {_words(error)}") from error

    def _loader(self) -> Any:
        if not any(Path(file).expanduser().exists() for file in self._files.split(os.pathsep) if file):
            raise ConfigException("there is no such file")
        package: Any = kube_config
        merged = package.KubeConfigMerger(self._files).config
        return package.KubeConfigLoader(merged, active_context=self._context, config_base_path=None)


class Pod:
    """The service account of the pod that we run in."""

    def __init__(self, folder: Path = _POD_FOLDER) -> None:
        """Read its namespace. Blocks."""
        self.clock = ClusterClock()
        self._folder = folder
        try:
            self._namespace = (folder / "namespace").read_text().strip() or "default"
        except OSError:
            self._namespace = "default"

    @property
    def namespace(self) -> str:
        """See `Source.namespace`."""
        return self._namespace

    @property
    def name(self) -> str:
        """See `Source.name`."""
        return "the pod's service account"

    async def load(self, before: Access | None) -> Access:
        """See `Source.load`."""
        configuration: Any = Configuration()
        try:
            loader: Any = incluster_config.InClusterConfigLoader(
                token_filename=str(self._folder / "token"),
                cert_filename=str(self._folder / "ca.crt"),
                try_refresh_token=False,
            )
            loader.load_and_set(configuration)
            return _access(configuration, before, FILE_SECONDS, self.clock)
        except _UNUSABLE as error:
            raise KubeUnavailable(f"No access by {self.name}: {_words(error)}") from error


async def _log_in(user: dict[str, Any]) -> float | None:
    """Have a context's credentials plugin, if it has one, say who we are; return in how many seconds that is stale."""
    if "exec" not in user:
        return FILE_SECONDS if "tokenFile" in user and "token" not in user else None
    status = await ask_plugin(user.pop("exec"))
    if token := status.get("token"):
        user["token"] = token
    if (certificate := status.get("clientCertificateData")) and (key := status.get("clientKeyData")):
        user["client-certificate-data"] = b64encode(certificate.encode()).decode()
        user["client-key-data"] = b64encode(key.encode()).decode()
    elif not token:
        raise PluginFailed("the credentials plugin gave neither a token nor a certificate")
    if expires := status.get("expirationTimestamp"):
        left = datetime.fromisoformat(expires).timestamp() - time.time()
        return max(left - EARLY_SECONDS, left / 2)
    return None


def _access(configuration: Any, before: Access | None, lasts: float | None, clock: ClusterClock) -> Access:
    """Make a client of what was read, or keep the one before if it would be the same. Blocks for a few small files."""
    configuration.proxy = configuration.proxy or _proxy(configuration.host)
    # As `kubectl`: the CAs of many clusters lack what Python 3.13 insists on.
    configuration.disable_strict_ssl_verification = True
    transport = (
        configuration.host,
        configuration.verify_ssl,
        configuration.tls_server_name,
        configuration.proxy,
        *(Path(file).read_bytes() if file else b"" for file in _files(configuration)),
    )
    if before is None or before.transport != transport:
        client: Any = ApiClient(configuration)
        client.user_agent = AGENT
        sockets = Sockets()
        client.rest_client.pool_manager = _session(client.rest_client.ssl_context, sockets, clock)
    else:
        client, sockets = before.client, before.sockets
    # What stood in the kubeconfig file itself was written to files for the TLS library, which has read them. The
    # package would leave them, keys too, and fail when they are swept away.
    kube_config._cleanup_temp_files()  # pyright: ignore[reportPrivateUsage]
    token = str(configuration.api_key.get("BearerToken") or "")
    return Access(client, configuration.host, token, lasts, transport, sockets)


def _session(tls: ssl.SSLContext, sockets: Sockets, clock: ClusterClock) -> aiohttp.ClientSession:
    """Return the session that the package would make at the first request, but for its connections."""

    async def hear(_session: object, _context: object, answered: aiohttp.TraceRequestEndParams) -> None:
        clock.hear(answered.response.headers.get("Date"))

    listening = aiohttp.TraceConfig()
    listening.on_request_end.append(hear)
    # Watches and logs that are followed must not take the place of calls.
    connector = aiohttp.TCPConnector(limit=0, ssl=tls, socket_factory=sockets.make)
    # The package would have aiohttp read ~/.netrc for every request, and stop at a password there.
    return aiohttp.ClientSession(
        connector=connector, trust_env=False, read_bufsize=BUFFER_BYTES, trace_configs=[listening]
    )


def _files(configuration: Any) -> tuple[str | None, str | None, str | None]:
    return configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file


def _proxy(address: str) -> str | None:
    """Return the proxy that the environment names for an address."""
    url = urlsplit(address)
    return None if request.proxy_bypass(url.netloc) else request.getproxies().get(url.scheme)


def _words(error: BaseException) -> str:
    return (str(error) or type(error).__name__).rstrip(".") + "."
