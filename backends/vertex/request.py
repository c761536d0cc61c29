"""What a launch becomes: the custom job that is asked for, in the JSON of Vertex AI. Pure.

The queue's block has two parts, as with the stock agent: `spec` describes the job, and `run` how it is to run.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from backends.base import BackendError, StartRequest
from backends.vertex import names
from protocol.json_types import Json, JsonObject

SPEC = "vertex.spec"
RUN = "vertex.run"
_SPEC_KEYS = ("worker_pool_specs", "staging_bucket", "base_output_dir", "encryption_spec_key_name", "labels")
_RUN_KEYS = (
    "timeout",
    "service_account",
    "network",
    "enable_web_access",
    "experiment",
    "experiment_run",
    "tensorboard",
    "restart_job_on_worker_restart",
    "disable_retries",
    "persistent_resource_id",
    "scheduling_strategy",
    "max_wait_duration",
)
"""The arguments of `CustomJob.submit` of Google's own package, which is what the stock agent passes them to."""
MAX_DISPLAY_NAME = 128
MAX_VARIABLES = 100
NAME_VARIABLE = "WANDB_NAME"


def custom_job(request: StartRequest, parent: str, owner: str, through: Sequence[str] = ()) -> dict[str, Any]:
    """Return the job of a launch.

    `parent` is the project and region, as Google spells them. `through` is a program by way of which the launch's own
    runs, if any; then the launch's secrets come by that, and are not in here. Raises `BackendError` for what is missing
    or wrong.
    """
    spec, run = _block(request.resource_args, "spec", _SPEC_KEYS), _block(request.resource_args, "run", _RUN_KEYS)
    job: dict[str, Any] = {
        "display_name": (request.environment.get(NAME_VARIABLE) or request.name)[:MAX_DISPLAY_NAME],
        "labels": {**_labels(spec), **names.labels_of(owner, request.name, request.labels)},
        "job_spec": {
            "worker_pool_specs": _pools(spec, request, through),
            "base_output_directory": {"output_uri_prefix": _output(spec, request)},
            "scheduling": _scheduling(run),
            **_run(run, parent),
        },
    }
    if key := _text(spec, SPEC, "encryption_spec_key_name"):
        job["encryption_spec"] = {"kms_key_name": key}
    return job


# --- the parts of `spec` -------------------------------------------------------------------------------------------


def _pools(spec: JsonObject, request: StartRequest, through: Sequence[str]) -> list[dict[str, Any]]:
    pools = spec.get("worker_pool_specs")
    if not pools:
        raise BackendError(
            "Vertex requires at least one worker pool spec. Please specify a worker pool spec in resource arguments "
            "under the key `vertex.spec.worker_pool_specs`."
        )
    if isinstance(pools, str) or not isinstance(pools, Sequence):
        raise _wrong(SPEC, "worker_pool_specs", "a list of objects")
    return [_pool(pool, place, request, through) for place, pool in enumerate(pools)]


def _pool(pool: Json, place: int, request: StartRequest, through: Sequence[str]) -> dict[str, Any]:
    where = f"{SPEC}.worker_pool_specs[{place}]"
    container = pool.get("container_spec") if isinstance(pool, Mapping) else None
    if not isinstance(pool, Mapping) or not isinstance(container, Mapping) or not container:
        raise BackendError(
            "Vertex requires a container spec for each worker pool spec. Please specify a container spec in resource "
            "arguments under the key `vertex.spec.worker_pool_specs[].container_spec`."
        )
    made: dict[str, Any] = dict(container)
    made["image_uri"] = made.get("image_uri") or request.image
    if not made["image_uri"]:
        raise BackendError(
            f"The launch has no image, and `{where}.container_spec.image_uri` names none. Name one there, or launch a "
            "job that is an image or is built into one."
        )
    if request.command:
        made["command"] = list(request.command)
    elif request.args:
        made["args"] = list(request.args)
    if through:
        if not made.get("command"):
            raise BackendError(
                "The launch runs its image's own program, so that it cannot be given its API key by Secret Manager. "
                "Give the launch an entry point, or have the operator leave out `secrets` of the agent's block."
            )
        made["command"] = [*through, *made["command"]]
    variables = dict(request.environment) if through else {**request.environment, **request.secrets}
    if place == 0:
        variables[names.LABELS_VARIABLE] = names.written_labels(request.labels)
    made["env"] = _variables(made.get("env"), variables, f"{where}.container_spec.env")
    return {**pool, "container_spec": made}


def _variables(own: Json, ours: Mapping[str, str], where: str) -> list[dict[str, Any]]:
    """Return the queue's variables and the launch's: these win, as they say who the run is."""
    entries = [each for each in own if isinstance(each, Mapping)] if isinstance(own, Sequence) else []
    if own and (isinstance(own, str) or not isinstance(own, Sequence) or len(entries) != len(own)):
        raise BackendError(f"`{where}` cannot be read; it must be a list of objects with `name` and `value`.")
    kept: list[dict[str, Any]] = [dict(each) for each in entries if each.get("name") not in ours]
    made = [*kept, *({"name": name, "value": value} for name, value in ours.items())]
    if len(made) > MAX_VARIABLES:
        raise BackendError(
            f"The launch has {len(made)} environment variables, and Vertex AI takes {MAX_VARIABLES}. Give it fewer; "
            "a long run config or many file overrides are several."
        )
    return made


def _output(spec: JsonObject, request: StartRequest) -> str:
    """Return where the job's output goes. All attempts of a run share it, so that each finds the last checkpoint."""
    bucket, folder = _text(spec, SPEC, "staging_bucket"), _text(spec, SPEC, "base_output_dir")
    if not bucket:
        raise BackendError(
            "Vertex requires a staging bucket. Please specify a staging bucket in resource arguments under the key "
            "`vertex.spec.staging_bucket`."
        )
    folder = folder or f"{bucket.rstrip('/')}/launchbay/{request.labels.get('run') or request.name}"
    return folder if folder.startswith("gs://") else f"gs://{folder}"


def _labels(spec: JsonObject) -> dict[str, str]:
    labels = spec.get("labels")
    if labels is None:
        return {}
    if not isinstance(labels, Mapping) or not all(isinstance(each, str) for each in labels.values()):
        raise _wrong(SPEC, "labels", "an object of texts")
    return {key: str(value) for key, value in labels.items()}


# --- the parts of `run` --------------------------------------------------------------------------------------------


def _scheduling(run: JsonObject) -> dict[str, Any]:
    made: dict[str, Any] = {
        "timeout": _seconds(run, "timeout"),
        "max_wait_duration": _seconds(run, "max_wait_duration"),
        "strategy": _text(run, RUN, "scheduling_strategy").upper(),
        "restart_job_on_worker_restart": _flag(run, "restart_job_on_worker_restart"),
        "disable_retries": _flag(run, "disable_retries"),
    }
    return {key: value for key, value in made.items() if value}


def _run(run: JsonObject, parent: str) -> dict[str, Any]:
    experiment, experiment_run = _text(run, RUN, "experiment"), _text(run, RUN, "experiment_run")
    tensorboard = _text(run, RUN, "tensorboard")
    if experiment_run and not experiment:
        raise BackendError(f"`{RUN}.experiment_run` needs `{RUN}.experiment`: name the experiment that it is a run of.")
    if tensorboard and not run.get("service_account"):
        raise BackendError(f"`{RUN}.tensorboard` needs `{RUN}.service_account`: the job writes there as that account.")
    contexts = f"{parent}/metadataStores/default/contexts"
    whole = _whole(experiment, contexts)
    made: dict[str, Any] = {
        "service_account": _text(run, RUN, "service_account"),
        "network": _text(run, RUN, "network"),
        "persistent_resource_id": _text(run, RUN, "persistent_resource_id"),
        "enable_web_access": _flag(run, "enable_web_access"),
        "tensorboard": _whole(tensorboard, f"{parent}/tensorboards"),
        "experiment": whole,
        "experiment_run": experiment_run if "/" in experiment_run else experiment_run and f"{whole}-{experiment_run}",
    }
    return {key: value for key, value in made.items() if value}


def _whole(name: str, within: str) -> str:
    """Return the whole name of something that may be named by its last word."""
    return name if "/" in name or not name else f"{within}/{name}"


def _seconds(run: JsonObject, key: str) -> str:
    value = run.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise _wrong(RUN, key, "a number of seconds")
    return f"{value}s"


def _flag(run: JsonObject, key: str) -> bool:
    value = run.get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _wrong(RUN, key, "true or false")


# --- what they share -----------------------------------------------------------------------------------------------


def _block(resource_args: JsonObject, name: str, known: Collection[str]) -> JsonObject:
    for key in resource_args:
        if key not in {"spec", "run"}:
            raise BackendError(f"`vertex.{key}` is not known; there are `spec` and `run`.")
    block = resource_args.get(name)
    if block is None:
        return {}
    if not isinstance(block, Mapping):
        raise BackendError(f"`vertex.{name}` cannot be read; it must be an object.")
    for key in block:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, 1)
            hint = f"Did you mean `{nearest[0]}`?" if nearest else f"There are: {', '.join(known)}."
            raise BackendError(f"`vertex.{name}.{key}` is not known. {hint}")
    return block


def _text(block: JsonObject, where: str, key: str) -> str:
    value = block.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(where, key, "a text")
    return value


def _wrong(where: str, key: str, allowed: str) -> BackendError:
    return BackendError(f"`{where}.{key}` cannot be read; it must be {allowed}.")
