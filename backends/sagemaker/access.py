"""AWS, as this backend and the agent's builder need it, and the only module that knows boto3.

That package blocks: its calls run in a bounded pool of threads. What it raises becomes `AwsRefused`, where asking again
is of no use, or `BackendUnavailable`. In between this asks again by itself, slower and slower; how fast at all is a
matter of `RateLimit`.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# boto3 has no types.

import asyncio
import email.utils
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from random import Random, SystemRandom
from typing import Any

import boto3
import botocore.config
import botocore.credentials
import botocore.exceptions
import botocore.loaders
import botocore.session

from backends.base import BackendError, BackendUnavailable
from backends.rate_limit import RateLimit
from backends.sagemaker.settings import Identity
from protocol.json_types import JsonObject

THREADS = 16
"""How many calls may be under way at once."""
CONNECT_SECONDS, ANSWER_SECONDS = 10, 60
ATTEMPTS = 6
"""How often a call is made before AWS counts as unavailable."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 20.0

_THROTTLED = frozenset(
    {"Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException", "RequestLimitExceeded"}
    | {"RequestThrottled", "RequestThrottledException", "SlowDown", "PriorRequestNotComplete"}
)
_WRONG_CREDENTIALS = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidClientTokenId", "UnrecognizedClientException"}
    | {"InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature"}
)
_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.RefreshWithMFAUnsupportedError,
    botocore.exceptions.SSOError,
    botocore.exceptions.TokenRetrievalError,
)
_WRONG_SETTINGS = (
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.NoRegionError,
    botocore.exceptions.InvalidRegionError,
    botocore.exceptions.ConfigParseError,
    botocore.exceptions.ParamValidationError,
)
_LOADER: Any = botocore.loaders.create_loader()
"""Reads the descriptions of the services, which is slow, and remembers them."""


class AwsRefused(BackendError):
    """AWS answered that it will not."""

    def __init__(self, aws_code: str, operation: str, explanation: str) -> None:
        super().__init__(f"AWS refused {operation}: {explanation} ({aws_code})")
        self.aws_code = aws_code
        """As AWS has it, for example `ResourceLimitExceeded`."""
        self.explanation = explanation


class _Throttled(Exception):
    """Asked too much, or too fast."""


class _Passing(Exception):
    """It did not answer, or not as it should."""


class _WrongCredentials(Exception):
    """It does not take the agent's credentials, or there are none."""


class Aws:
    """AWS for one identity. Safe to call concurrently."""

    def __init__(self, identity: Identity, *, random: Random | None = None) -> None:
        self._identity = identity
        self._random = random or SystemRandom()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="aws")
        self._opening = threading.Lock()
        self._session: Any = None
        self._clients: dict[tuple[str, str], Any] = {}
        # What is known of SageMaker's limits: creating is slow, looking is faster. Other services allow more than this.
        # Nobody who wants to stop a job stands in line behind those who look.
        self._limits = {
            "create": RateLimit(5, burst=10),
            "stop": RateLimit(5, burst=10),
            "sagemaker": RateLimit(10, burst=20),
            "logs": RateLimit(10, burst=20),
            "": RateLimit(20, burst=40),
        }

    async def call(
        self, service: str, operation: str, arguments: JsonObject | None = None, *, region: str = ""
    ) -> dict[str, Any]:
        """Call an operation, as boto3 names it, and return its answer.

        Raises `AwsRefused` or `BackendUnavailable`. A call that changes something may have done so all the same, once
        or several times: it has to be one for which that makes no difference.
        """
        limit = self._limit(service, operation)
        for attempt in range(ATTEMPTS):
            try:
                async with limit:
                    return await asyncio.get_running_loop().run_in_executor(
                        self._threads, self._call, service, operation, arguments or {}, region
                    )
            except _Throttled as error:
                limit.throttled()
                problem = f"AWS is asked too much: {error}"
            except _Passing as error:
                problem = f"AWS does not answer: {error}"
            except _WrongCredentials as error:
                self._forget_session()
                problem = f"AWS does not take the agent's credentials: {error}. Renew them"
                if attempt:
                    break  # even fresh from where they come from they are not good
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt)
            await asyncio.sleep(pause * self._random.uniform(0.5, 1))
        raise BackendUnavailable(f"{problem} ({service} {operation}).")  # pyright: ignore[reportPossiblyUnboundVariable]

    async def region(self) -> str:
        """Return the region that is asked where nothing else is said. Raises `BackendError` if there is none."""

        def find() -> str:
            try:
                return str(self._open_session().region_name or "")
            except _WRONG_SETTINGS as error:
                raise BackendError(f"AWS cannot be asked: {error}") from error

        region = await asyncio.get_running_loop().run_in_executor(self._threads, find)
        if not region:
            raise BackendError("No region of AWS is named: set `environment.region`, or AWS_REGION.")
        return region

    def close(self) -> None:
        """Let go of AWS. Calls under way end by themselves, and nobody hears of them."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _limit(self, service: str, operation: str) -> RateLimit:
        verb = operation.partition("_")[0] if service == "sagemaker" else ""
        return self._limits.get(verb) or self._limits.get(service) or self._limits[""]

    # --- on threads --------------------------------------------------------------------------------------------------

    def _call(self, service: str, operation: str, arguments: JsonObject, region: str) -> dict[str, Any]:
        try:
            return getattr(self._client(service, region), operation)(**arguments)
        except botocore.exceptions.ClientError as error:
            raise _judged(error, operation) from error
        except _NO_CREDENTIALS as error:
            raise _WrongCredentials(str(error)) from error
        except _WRONG_SETTINGS as error:
            raise BackendError(f"AWS cannot be asked to {operation}: {error}") from error
        except botocore.exceptions.BotoCoreError as error:
            raise _Passing(f"{type(error).__name__}: {error}") from error

    def _client(self, service: str, region: str) -> Any:
        with self._opening:
            if (service, region) not in self._clients:
                config = botocore.config.Config(
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=ANSWER_SECONDS,
                    max_pool_connections=THREADS,
                    retries={"total_max_attempts": 1},
                )
                session = self._open_session()
                self._clients[service, region] = session.client(service, region_name=region or None, config=config)
            return self._clients[service, region]

    def _open_session(self) -> Any:
        if self._session is None:
            self._session = open_session(self._identity)
        return self._session

    def _forget_session(self) -> None:
        """Look for credentials anew at the next call: files and variables are read only once."""
        with self._opening:
            self._session = None
            self._clients.clear()


def open_session(identity: Identity) -> Any:
    """Return a session of boto3's for an identity. Blocks, and raises what boto3 does."""
    core: Any = botocore.session.Session(profile=identity.profile or None)
    core.register_component("data_loader", _LOADER)
    if identity.region:
        core.set_config_variable("region", identity.region)
    if identity.role_arn:
        source: Any = botocore.session.Session(profile=identity.profile or None)
        core.get_component("credential_provider").providers.insert(0, _AssumedRole(source, identity))
    return boto3.Session(botocore_session=core)


class _AssumedRole(botocore.credentials.CredentialProvider):
    """Gives credentials of a role, and renews them in time."""

    METHOD = "launchbay-assumed-role"
    CANONICAL_NAME = None

    def __init__(self, source: Any, identity: Identity) -> None:
        super().__init__()
        self._source = source
        self._identity = identity

    def load(self) -> Any:
        """See botocore. Asks AWS when the credentials are first used."""
        own: Any = self._source.get_credentials()
        if own is None:
            return None
        fetcher: Any = botocore.credentials.AssumeRoleCredentialFetcher(
            client_creator=self._create_client,
            source_credentials=own,
            role_arn=self._identity.role_arn,
            extra_args={"RoleSessionName": "launchbay"},
        )
        return botocore.credentials.DeferredRefreshableCredentials(
            refresh_using=fetcher.fetch_credentials, method=self.METHOD
        )

    def _create_client(self, service: str, **arguments: Any) -> Any:
        return self._source.create_client(service, region_name=self._identity.region or None, **arguments)


def _judged(error: Any, operation: str) -> Exception:
    answer: Mapping[str, Any] = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    said = str(answer.get("Error", {}).get("Message", "")) or "it does not say why"
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _THROTTLED or status == 429:
        return _Throttled(f"{said} ({code})")
    if code in _WRONG_CREDENTIALS:
        return _WrongCredentials(f"{said} ({code})")
    if status >= 500:
        return _Passing(f"{said} ({code or status})")
    return AwsRefused(code or str(status), operation, said)


def server_time(answer: Mapping[str, Any]) -> float | None:
    """Return when AWS answered by its own clock, in seconds since the epoch; None if it does not tell."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None
