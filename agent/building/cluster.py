"""Builds in a cluster: by BuildKit in a pod, into a registry (`backends/kubernetes/builds`)."""

import asyncio
import base64
import binascii
import json
import shutil
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import structlog

from agent.building import credentials, registry
from agent.building.buildx import CACHE_TAG, READ_BYTES
from agent.building.credentials import Credential
from agent.building.failures import SHOWN_CHARS, build_failed
from agent.building.making import Making
from agent.building.recipe import DOCKERFILE
from agent.config.builder import ClusterBuilder
from agent.config.model import AgentConfig
from agent.errors import LaunchFailed
from agent.fetching.hand_over import for_image
from agent.fetching.source import ImageContext
from agent.launch import Cause, Tell
from agent.redaction import SECRETS
from backends.base import BackendError, BackendUnavailable, Phase
from backends.kubernetes.api import KubeApi
from backends.kubernetes.builds import Build, BuildFailed, Order, Registry
from backends.kubernetes.cluster import SECRET
from backends.kubernetes.reading.fields import mapping
from backends.kubernetes.settings import Settings, read_settings
from protocol.errors import SpecError
from protocol.image_names import split_registry

CLUSTER = "kubernetes"
"""The backend whose block says how the cluster is reached."""
LAST_LINES = 5
_HOPELESS_AGAIN = frozenset({"oom_killed", "deadline_exceeded"})
"""Reasons for which another try ends as this one."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Site:
    """Where builds run."""

    api: KubeApi
    settings: Settings
    """Of the backend of that cluster."""
    namespace: str


@asynccontextmanager
async def site(config: AgentConfig, builder: ClusterBuilder) -> AsyncGenerator[Site]:
    """Give the cluster in which images are built, while the block runs. Raises `BackendError` if there is none."""
    settings = read_settings(config.backends.get(CLUSTER, {}))
    api = await _open(settings)
    try:
        yield Site(api, settings, builder.namespace or settings.namespace or api.default_namespace)
    finally:
        await api.close()


async def _open(settings: Settings) -> KubeApi:
    try:
        from backends.kubernetes.client import KubeClient
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "kubernetes":
            raise
        raise BackendError(
            "Builds in a cluster need the `kubernetes` package: pip install 'launchbay[kubernetes]'."
        ) from error
    file = str(settings.config_file) if settings.config_file else None
    return await KubeClient.open(file, settings.context or None)


@dataclass(frozen=True, slots=True)
class InCluster:
    """Makes one image there."""

    making: Making
    builder: ClusterBuilder

    async def ensure(self, tell: Tell) -> str | None:
        """See to it that the image exists; returns its digest."""
        repository = self.builder.destination
        assert repository is not None  # who asks has seen to it
        try:
            async with site(self.making.context.config, self.builder) as where:
                login = await self._login(where)
                with login.kept_secret():
                    return await self._ensure(where, login, tell)
        except LaunchFailed:
            self.making.context.tokens.forget(repository)
            raise
        except (BackendError, BackendUnavailable, SpecError) as error:
            raise LaunchFailed(
                f"The image {self.making.image} cannot be built in the cluster: {error} Whoever runs the agent can see "
                "with `launchbay doctor` what it lacks.",
                stage="build",
                reason="builder",
                cause=Cause.INFRASTRUCTURE,
            ) from error

    async def _ensure(self, where: Site, login: "Login", tell: Tell) -> str | None:
        image, is_insecure = self.making.image, self.builder.insecure_registry
        if found := await registry.pushed_digest(image, login.credential, is_insecure=is_insecure):
            return found
        await tell(f"building the image {image}")
        await self._build(where, login, tell)
        digest = await registry.pushed_digest(image, login.credential, is_insecure=is_insecure)
        if digest is None:
            raise LaunchFailed(
                f"The image {image} was built and pushed, and its registry does not have it. Does the cluster reach "
                "another one under that name?",
                stage="build",
                reason="registry",
                cause=Cause.INFRASTRUCTURE,
            )
        log.info("image built", image=image, digest=digest)
        return digest

    async def _build(self, where: Site, login: "Login", tell: Tell) -> None:
        context, image = self.making.context, self.making.image
        folder = context.build_folder_of(self.making.launch.name)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)  # of an agent that was killed
        order = self._order(where, login)
        build = Build(where.api, order, context.owner, folder, tell, random=context.random, clock=context.clock)

        async def run(hear: Callable[[bytes], None]) -> None:
            tail = bytearray()

            def heard(data: bytes) -> None:
                hear(data)
                tail.extend(data)
                del tail[:-READ_BYTES]

            try:
                await build.run(heard, lambda: context.builds.is_wanted_by_others(image))
            except BuildFailed as error:
                raise explained(error, image, tail.decode(errors="replace")) from error

        try:
            await self.making.heard(run)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _order(self, where: Site, login: "Login") -> Order:
        making, builder = self.making, self.builder
        context, resolved, recipe = making.context, making.resolved, making.recipe
        assert resolved.code is not None
        assert resolved.code_folder is not None
        assert builder.destination is not None
        image = ImageContext(
            root=recipe.code.relative_to(resolved.code_folder).as_posix(),
            place=recipe.place,
            notebook=recipe.notebook or "",
            more=tuple(recipe.more),
            limit=builder.context_limit,
        )
        host = split_registry(builder.destination)[0]
        own = (builder.secret_name, builder.secret_key) if builder.secret_name else None
        return Order(
            image=making.image,
            dockerfile=recipe.dockerfile,
            file_name=DOCKERFILE,
            code=for_image(resolved.code, image),
            environment={"WANDB_BASE_URL": context.config.job_base_url or context.server.base_url},
            secrets={"WANDB_API_KEY": resolved.spec.api_key or context.server.api_key},
            registry=Registry(host, builder.insecure_registry, login.file, own),
            namespace=where.namespace,
            fetch_image=where.settings.fetch_image,
            build_image=builder.image,
            cache=f"{builder.destination}:{CACHE_TAG}" if builder.cache == "registry" else None,
            platform=builder.platform,
            prefix=builder.job_name,
            base=builder.job_config,
            pull_secrets=where.settings.image_pull_secrets,
            seconds=int(context.config.timeouts.prepare or Order.seconds),
        )

    async def _login(self, where: Site) -> "Login":
        context, repository = self.making.context, self.builder.destination or ""
        return await find_login(
            where, repository, self.builder, context.process_environment, context.tokens, context.clock()
        )


@dataclass(frozen=True, slots=True)
class Login:
    """Who pushes."""

    credential: Credential | None = field(default=None, repr=False)
    """None for a registry that is for everybody."""
    file: str = field(default="", repr=False)
    """The docker configuration for the pod, as JSON; empty if a Secret of the namespace has it."""

    @contextmanager
    def kept_secret(self) -> Generator[None]:
        """Let nobody see it while the block runs."""
        secrets = [self.credential.password, credentials.pair_of(self.credential)] if self.credential else []
        SECRETS.keep(*secrets)
        try:
            yield
        finally:
            SECRETS.drop(*secrets)


async def find_login(
    where: Site,
    repository: str,
    builder: ClusterBuilder,
    environment: Mapping[str, str],
    tokens: credentials.Tokens,
    now: float,
) -> Login:
    """Return who pushes to a repository: by the operator's Secret, else as with builds here (`credentials.find`).

    Raises `LaunchFailed` where one is asked for and cannot be had, and as `KubeApi`.
    """
    if builder.secret_name:
        text = await _in_secret(where, builder.secret_name, builder.secret_key)
        return Login(credentials.written_down(repository, text))
    found = await asyncio.to_thread(credentials.find, repository, builder, environment, tokens, now)
    if found is None:
        text = await asyncio.to_thread(credentials.own_configuration, environment)
        found = credentials.written_down(repository, text)
    if found is None:
        return Login()
    logins = {credentials.key_of(repository): {"auth": credentials.pair_of(found)}}
    return Login(found, json.dumps({"auths": logins}))


async def _in_secret(where: Site, name: str, key: str) -> str:
    secret = await where.api.get(SECRET, where.namespace, name)
    try:
        text = base64.b64decode(mapping(secret or {}, "data").get(key) or "", validate=True).decode()
        if not isinstance(json.loads(text), dict):
            raise ValueError
    except (ValueError, binascii.Error) as error:
        lacks = "is not there" if secret is None else f"has no docker configuration under {key!r}"
        raise LaunchFailed(
            f"The Secret {where.namespace}/{name} (builder.secret-name) {lacks}. Make it with `kubectl create secret "
            "docker-registry`.",
            stage="build",
            reason="registry",
            cause=Cause.INFRASTRUCTURE,
        ) from error
    return text


def explained(error: BuildFailed, image: str, said: str) -> LaunchFailed:
    """Return why a build failed, for the item: what BuildKit said, or what befell its pod."""
    seen = error.seen
    if not seen.reason and not seen.is_platforms_fault and seen.phase is Phase.FAILED:
        last = " ".join([line.strip() for line in said.splitlines() if line.strip()][-LAST_LINES:])[:SHOWN_CHARS]
        otherwise = last or seen.message or f"BuildKit ended with code {seen.exit_code}"
        return build_failed(image, said, otherwise, "in the cluster")
    is_own_fault = (error.is_of_code and seen.exit_code == 1) or seen.reason in _HOPELESS_AGAIN
    return LaunchFailed(
        f"Building the image {image} in the cluster failed: {seen.message or seen.reason}",
        stage="build",
        reason="build_context" if error.is_of_code else "builder",
        cause=Cause.WORKLOAD if is_own_fault else Cause.INFRASTRUCTURE,
    )
