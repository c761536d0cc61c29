"""The agent's configuration, as one validated model. `agent/config/file.py` reads it from file, environment and flags.

Every key of the stock agent's file is accepted with its meaning; the blocks are ours.
"""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, field_validator, model_validator

from agent.config.forms import ADDRESS, ADDRESS_FORM, SIZE, SIZE_FORM, parse_address, parse_size
from agent.launch import Cause

JsonBlock = dict[str, Any]
Seconds = Annotated[float, Field(gt=0)]


def _index_as_text(value: Any) -> Any:
    """Let an index be a number, as people write it."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else value


def _size(value: Any) -> Any:
    if value is not None:
        try:
            parse_size(value)
        except ValueError as error:
            raise ValueError(f"must be {SIZE_FORM}, or null") from error
        return str(value)
    return value


def _memory(value: Any) -> str:
    if value != "auto":
        try:
            parse_size(value)
        except ValueError as error:
            raise ValueError(f"must be auto, {SIZE_FORM}") from error
    return str(value)


def _address(value: Any) -> Any:
    if value is not None:
        try:
            parse_address(value)
        except ValueError as error:
            raise ValueError(f"must be {ADDRESS_FORM}") from error
    return value


GpuName = Annotated[str, BeforeValidator(_index_as_text, json_schema_input_type=str | NonNegativeInt)]
_MemoryText = Annotated[str, Field(pattern=rf"^(auto|\s*{SIZE.pattern}\s*)$")]
Memory = Annotated[str, BeforeValidator(_memory, json_schema_input_type=_MemoryText | NonNegativeInt)]
_SizeText = Annotated[str, Field(pattern=rf"^\s*{SIZE.pattern}\s*$")]
Size = Annotated[str | None, BeforeValidator(_size, json_schema_input_type=_SizeText | NonNegativeInt | None)]
_AddressText = Annotated[str, Field(pattern=f"^{ADDRESS.pattern}$")]
Address = Annotated[str | None, BeforeValidator(_address, json_schema_input_type=_AddressText | None)]


class Block(BaseModel):
    """A part of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ExitCodes(Block):
    """A cause of its own: a job that ended with one of these codes."""

    exit_code: tuple[int, ...] = Field(min_length=1, description="Exit codes; 128 + n is a death by signal n.")


class RetryRule(Block):
    """Which failures are tried again, how often and how soon. Each cause has a budget of its own."""

    on: tuple[Cause | ExitCodes, ...] = Field(min_length=1, description="Causes that this rule is for.")
    attempts: int = Field(default=3, ge=1, description="How often a launch is tried again for each of these causes.")
    first_seconds: float = Field(
        default=10, ge=0, description="The pause before the first retry; it doubles each time."
    )
    longest_seconds: float = Field(default=600, ge=0, description="The longest pause.")
    total_seconds: Seconds | None = Field(default=None, description="No retry begins later than this after the claim.")


class Timeouts(Block):
    """How long each phase of a launch may take, in seconds; null for no limit."""

    prepare: Seconds | None = Field(default=3600, description="Fetching code and making the environment.")
    admit: Seconds | None = Field(default=None, description="In a queue of the platform's own, as Kueue's.")
    schedule: Seconds | None = Field(default=None, description="Waiting for a place to run.")
    pull: Seconds | None = Field(default=None, description="Waiting for its image.")
    start: Seconds | None = Field(default=1800, description="From the platform's acceptance until it runs, in all.")
    run: Seconds | None = Field(default=None, description="Running.")


class Drain(Block):
    """What SIGTERM does with running launches."""

    running: Literal["leave", "wait"] = Field(
        default="leave", description="Leave them for the next agent, or wait for them."
    )
    wait_seconds: Seconds | None = Field(default=None, description="The longest wait; what runs then is left.")


class Slots(Block):
    """What of this machine launches are given. They ask with `gpus`, `cpus` and `memory` in their resource args."""

    gpus: Literal["auto", "none"] | tuple[GpuName, ...] = Field(
        default="auto", description="GPUs by UUID or index; auto finds them; none leaves CUDA_VISIBLE_DEVICES alone."
    )
    cpus: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(default="auto", description="CPU cores.")
    memory: Memory = Field(default="auto", description="Memory, as 64GiB.")
    skip_busy_gpus: bool = Field(default=False, description="Leave a GPU alone on which somebody else's process runs.")


class Caches(Block):
    """How much on disk the agent keeps of what it has fetched and made; null for no limit. What was used last stays."""

    code: Size = Field(default="20GiB", description="Code of jobs, as 20GiB.")
    environments: Size = Field(default="20GiB", description="Python environments, as 20GiB.")


class Limits(Block):
    """How much code a launch may have; null for no limit."""

    file: Size = Field(default="1GiB", description="The largest file, as 1GiB.")
    total: Size = Field(default="10GiB", description="All files together, as 10GiB.")


class Retention(Block):
    """What is kept of launches on this machine after their end."""

    failed_seconds: float = Field(
        default=0, ge=0, description="How long the working folder of a failed attempt is kept; 0 removes it at once."
    )
    size: Size = Field(default="10GiB", description="All of them together, as 10GiB; the oldest go first.")


class GitHost(Block):
    """How the agent proves at one git host who it is."""

    user: str = Field(default="git", description="The user name beside the token, over https.")
    token_file: Path | None = Field(default=None, description="File with the token, over https.")
    token_env: str | None = Field(default=None, description="Name of the agent's own variable with the token.")
    key_file: Path | None = Field(default=None, description="File with the private key, over ssh.")

    @model_validator(mode="after")
    def _one_token(self) -> "GitHost":
        if self.token_file and self.token_env:
            raise ValueError("has a token_file and a token_env; one of them is enough")
        return self


class Git(Block):
    """Fetching code from git."""

    hosts: dict[str, GitHost] = Field(default_factory=dict, description="By host, how to prove there who we are.")
    known_hosts: Path | None = Field(
        default=None, description="File with the ssh keys of hosts. Default: the user's own and the machine's."
    )
    accept_new_hosts: bool = Field(
        default=False, description="Trust a host's ssh key when it is first seen, and no other one after that."
    )
    submodules: bool = Field(default=False, description="Fetch submodules, too.")
    timeout: Seconds = Field(default=900, description="How long git may take for one repository.")

    @field_validator("hosts")
    @classmethod
    def _without_case(cls, value: dict[str, GitHost]) -> dict[str, GitHost]:
        return {name.lower(): host for name, host in value.items()}

    def host(self, name: str) -> GitHost:
        """Return what is configured for a host, which may be nothing."""
        return self.hosts.get(name, GitHost())


class KubernetesPolicy(Block):
    """What launches in a Kubernetes cluster may ask for beyond pods that are shut in. Names may be patterns."""

    pod_security: Literal["restricted", "baseline", "privileged"] = Field(
        default="restricted", description="The Pod Security profile that pods must keep to."
    )
    host_paths: tuple[str, ...] = Field(
        default=(), description="Paths of nodes that pods may mount, to read and write; * stands for one name."
    )
    service_accounts: tuple[str, ...] = Field(
        default=(), description="Service accounts that pods may run as, with their tokens."
    )
    secrets: tuple[str, ...] = Field(default=(), description="Secrets that launches may name.")
    claims: tuple[str, ...] = Field(default=(), description="Persistent volume claims that pods may mount.")
    csi_drivers: tuple[str, ...] = Field(default=(), description="CSI drivers of volumes that stand in a pod itself.")
    kinds: tuple[str, ...] = Field(
        default=(),
        description="Further kinds of launches and of what they have beside them, as Ingress.networking.k8s.io.",
    )
    service_types: tuple[Literal["NodePort", "LoadBalancer", "ExternalName"], ...] = Field(
        default=(), description="Types of Services beside ClusterIP."
    )
    priority_classes: tuple[str, ...] = Field(default=(), description="Priority classes that pods may have.")
    runtime_classes: tuple[str, ...] = Field(default=(), description="Runtime classes that pods may have, as nvidia.")

    @field_validator("host_paths")
    @classmethod
    def _paths_of_nodes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            path = PurePosixPath(entry)
            if not path.is_absolute() or ".." in path.parts:
                raise ValueError("must be whole paths without `..`, as /data")
        return value


class Policy(Block):
    """What launches may do. Every refusal names its rule, as `policy.images`."""

    images: tuple[str, ...] | None = Field(default=None, description="Patterns of allowed images, as registry/team/*.")
    git_hosts: tuple[str, ...] | None = Field(default=None, description="Hosts from which code may be fetched.")
    git_http_hosts: tuple[str, ...] = Field(
        default=(), description="Hosts from which code may be fetched over plain http."
    )
    resource_args: dict[str, tuple[str, ...]] | None = Field(
        default=None, description="By resource, the resource args that launches may set."
    )
    macro_environment: tuple[str, ...] = Field(
        default=(), description="Names of the agent's own variables that ${macros} in resource args may read."
    )
    host_paths: tuple[str, ...] = Field(
        default=(), description="What of the machine containers may mount, as /data/*:ro; or names of volumes."
    )
    networks: tuple[str, ...] = Field(
        default=(), description="Networks that containers may join, beside the engine's default one and none."
    )
    devices: tuple[str, ...] = Field(default=(), description="Devices that containers may have, as /dev/fuse.")
    privileged: bool = Field(
        default=False,
        description="Containers may be let out: `privileged`, `cap-add`, `pid` and the like.",
    )
    kubernetes: KubernetesPolicy = KubernetesPolicy()

    @field_validator("host_paths", "devices")
    @classmethod
    def _whole_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            path = PurePosixPath(entry.removesuffix(":ro"))
            if not path.parts or ("/" in entry and not path.is_absolute()) or ".." in path.parts:
                raise ValueError("must be whole paths without `..`, as /data/*, or names without a slash")
        return value

    @field_validator("macro_environment")
    @classmethod
    def _no_key(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _without_key(value)


def _without_key(names: tuple[str, ...]) -> tuple[str, ...]:
    if "WANDB_API_KEY" in names:
        raise ValueError("may not hand out the agent's own WANDB_API_KEY; a job gets a key by itself")
    return names


class LeaderElection(Block):
    """Of several agents of one name, the one that has a Lease of Kubernetes works, and the others wait."""

    lease: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", description="Name of the Lease, which is made if need be."
    )
    namespace: str | None = Field(default=None, description="Its namespace. Default: the agent's own.")
    seconds: int = Field(
        default=15, ge=3, description="How long after an agent has vanished another takes over, in seconds."
    )


class AgentConfig(Block):
    """What an agent serves, and how."""

    entity: str | None = Field(
        default=None, description="Owner of the queues. Default: the API key's user's own entity."
    )
    queues: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="Names of the queues to serve."
    )
    max_jobs: int = Field(default=1, description="How many launches may be held at once; -1 for no limit.")
    max_schedulers: int = Field(
        default=1, ge=-1, description="How many sweep schedulers may run at once; -1 for no limit."
    )
    queue_limits: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict, description="By queue, how many of its launches may be held at once."
    )
    secure_mode: bool = Field(default=False, description="Refuse items that override the entry point.")
    verbosity: int = Field(default=0, ge=0, le=2, description="0 tells what happened, 1 and 2 also how.")
    stopped_run_timeout: float = Field(default=60, ge=0, description="Seconds between a polite stop and a kill.")
    environment: JsonBlock = Field(default_factory=dict, description="Cloud environment (aws, gcp, azure).")
    registry: JsonBlock = Field(default_factory=dict, description="Image registry; deprecated in favor of builder.")
    builder: JsonBlock = Field(default_factory=dict, description="How images are built.")

    resources: tuple[str, ...] = Field(default=("local-process",), description="Where this agent may run launches.")
    name: str | None = Field(
        default=None,
        description="Who this agent is on its platforms, across restarts. Default: this host and state folder.",
    )
    state_dir: Path | None = Field(
        default=None,
        description="Holds the journal, running launches and caches. Default: one per server, entity and queues.",
    )
    job_environment: tuple[str, ...] = Field(
        default=(),
        description="Names of variables of the agent's own environment that jobs may see, beside the harmless ones.",
    )
    job_base_url: Annotated[str, Field(pattern=r"^https?://[^\s/]")] | None = Field(
        default=None, description="The server's address where jobs run. Default: the one that the agent uses."
    )
    listen: Address = Field(
        default=None,
        description="HOST:PORT for metrics and health. The agent's socket in the state folder is always there.",
    )
    backends: dict[str, JsonBlock] = Field(
        default_factory=dict, description="By resource, what its backend is told; see the backend."
    )
    leader_election: LeaderElection | None = Field(
        default=None, description="Let one of several agents of this name work, and the others wait (Kubernetes)."
    )
    retries: tuple[RetryRule, ...] = Field(
        default=(RetryRule(on=(Cause.PREEMPTED,), attempts=5),),
        description="Which failures are tried again; first match wins.",
    )
    timeouts: Timeouts = Timeouts()
    drain: Drain = Drain()
    slots: Slots = Slots()
    limits: Limits = Limits()
    caches: Caches = Caches()
    retention: Retention = Retention()
    git: Git = Git()
    policy: Policy = Policy()

    @field_validator("queues")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("job_environment")
    @classmethod
    def _no_key(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _without_key(value)

    @field_validator("max_jobs")
    @classmethod
    def _not_negative(cls, value: int) -> int:
        if value < -1 or value == 0:
            raise ValueError("must be 1 or more, or -1 for no limit")
        return value
