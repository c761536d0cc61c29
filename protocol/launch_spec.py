"""The launch spec: what an item asks for. Read once, strictly, into frozen values; unknown keys are left alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from protocol.errors import SpecError
from protocol.json_read import Reader
from protocol.json_types import Json, JsonObject, dig, is_deeper
from protocol.masking import REDACTED
from protocol.names import ArtifactName, parse_job_reference
from protocol.resources import RESOURCES

DEFAULT_RESOURCE = "local-container"
SCHEDULER_URI = "placeholder-uri-scheduler"
API_KEY = "_wandb_api_key"
ADDITIONAL_SERVICES = "additional_services"
"""What else a launch may have its platform make. It stands beside the resource args, and counts as one."""
MAX_DEPTH = 64
_RESOURCE_KEYS = {"gcp-vertex": ("vertex", "gcp-vertex"), "vertex": ("vertex", "gcp-vertex")}


@dataclass(frozen=True, slots=True)
class JobSource:
    """Run a job."""

    reference: ArtifactName


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Run an image as it is."""

    image: str


@dataclass(frozen=True, slots=True)
class PlaceholderSource:
    """Run only the entry point; sweep schedulers are of this kind."""

    uri: str


Source: TypeAlias = JobSource | ImageSource | PlaceholderSource


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the submitter changes of the job."""

    args: tuple[str, ...] = ()
    run_config: JsonObject = field(default_factory=dict[str, Json])
    entry_point: tuple[str, ...] = ()
    dockerfile: str | None = None
    """A path inside the job's code."""
    artifacts: JsonObject = field(default_factory=dict[str, Json])
    files: JsonObject = field(default_factory=dict[str, Json])
    working_dir: str | None = None
    """Where the job begins: a path inside its code."""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """A launch spec, understood."""

    entity: str
    project: str
    """Spelled as it was pushed: lower-casing it would put the run into another project."""
    name: str | None
    source: Source
    resource: str
    resource_args: JsonObject
    """The block of this resource alone."""
    overrides: Overrides
    run_id: str | None
    sweep_id: str | None
    author: str | None
    python_version: str | None
    resume_count: int
    job: str | None
    """The job's reference as it was written, also beside an image."""
    api_key: str | None = field(repr=False)
    """A key that the server gave for this run alone."""
    raw: JsonObject = field(repr=False)


def parse_launch_spec(raw: JsonObject) -> LaunchSpec:
    """Read a launch spec; `SpecError` says which key is wrong and what is allowed."""
    spec = Reader(raw, SpecError)
    if is_deeper(raw, MAX_DEPTH):  # it would exhaust the stack of those who walk through it
        raise SpecError(f"The launch spec is nested deeper than {MAX_DEPTH} levels.")
    resource = spec.text("resource") or DEFAULT_RESOURCE
    source = _source(spec)
    if isinstance(source, ImageSource) and resource == "local-process":
        raise SpecError("Cannot specify docker image with local-process resource runner")
    return LaunchSpec(
        entity=spec.required_text("entity"),
        project=spec.required_text("project"),
        name=spec.text("name"),
        source=source,
        resource=resource,
        resource_args=_resource_block(spec, resource),
        overrides=_overrides(spec.inner("overrides")),
        run_id=spec.text("run_id"),
        sweep_id=spec.text("sweep_id"),
        author=spec.text("author"),
        python_version=spec.text("python_version"),
        resume_count=spec.integer("_resume_count"),
        job=spec.text("job"),
        api_key=_api_key(raw),
        raw=raw,
    )


def is_scheduler(spec: LaunchSpec) -> bool:
    """Whether this launch is a sweep's scheduler, which does not count as a job."""
    return is_scheduler_spec(spec.raw)


def is_scheduler_spec(raw: JsonObject) -> bool:
    """Tell it from the spec as it comes from the queue, which may be wrong in other ways.

    On the agent's own machine a scheduler is the command `wandb scheduler` and nothing else.
    """
    if raw.get("uri") != SCHEDULER_URI:
        return False
    if raw.get("resource") != "local-process" or raw.get("job"):
        return True
    entry_point = dig(raw, "overrides", "entry_point")
    if not isinstance(entry_point, list | tuple):
        return False
    words: list[object] = [*entry_point]
    return len(words) >= 3 and words[:2] == ["wandb", "scheduler"]


def without_stray_quotes(args: Sequence[str]) -> tuple[str, ...]:
    """Strip one pair of single quotes around each word: the stock client writes sweep arguments with them."""
    return tuple(word[1:-1] if len(word) >= 2 and word[0] == word[-1] == "'" else word for word in args)


def api_key_of(raw: JsonObject) -> str:
    """Return the API key that a spec carries for its run alone; empty if it carries none."""
    key = raw.get(API_KEY)
    return key if isinstance(key, str) else ""


def without_api_key(raw: JsonObject) -> JsonObject:
    """Return the spec with nothing hidden but the API key that it may carry for its run."""
    return {**raw, API_KEY: REDACTED} if raw.get(API_KEY) else raw


def _api_key(raw: JsonObject) -> str | None:
    key = raw.get(API_KEY)
    if key is not None and not isinstance(key, str):
        raise SpecError("`_wandb_api_key` must be a string. (What it is instead is not shown: it may be a secret.)")
    return key or None


def _source(spec: Reader) -> Source:
    image = spec.inner("docker").text("docker_image") or spec.text("image_uri")
    if image:
        return ImageSource(image)
    if job := spec.text("job"):
        return JobSource(parse_job_reference(job))
    uri = spec.text("uri")
    if uri and uri.startswith("placeholder"):
        return PlaceholderSource(uri)
    raise SpecError("Exactly one of job or docker_image must be specified in the launch spec.")


def names_resource(key: str) -> bool:
    """Whether a key of the resource args is that of a resource of the protocol."""
    return key in RESOURCES or key in _RESOURCE_KEYS


def _resource_block(spec: Reader, resource: str) -> JsonObject:
    args = spec.inner("resource_args")
    for key in _RESOURCE_KEYS.get(resource, (resource,)):
        if key in args.raw:
            return args.object(key)
    return {}


def _overrides(overrides: Reader) -> Overrides:
    return Overrides(
        args=overrides.texts("args"),
        run_config=overrides.object("run_config"),
        entry_point=overrides.texts("entry_point"),
        dockerfile=overrides.path_in_code("dockerfile"),
        artifacts=overrides.object("artifacts"),
        files=overrides.object("files"),
        working_dir=overrides.path_in_code("working_dir"),
    )
