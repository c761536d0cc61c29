"""Request: what AWS is asked to make for a launch. Pure.

The queue's resource args are the request's own fields, in CamelCase or snake_case. What the launch brings is added: its
name, image, command, variables and tags.
"""

import base64
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, cast

from backends.base import BackendError, StartRequest
from backends.sagemaker import names
from backends.sagemaker.kinds import KINDS, PROCESSING, TRAINING, TRANSFORM, Kind
from protocol.json_types import Json, JsonObject
from protocol.run_environment import CUT_VARIABLES, split_variable

NOT_AWSS = frozenset({"EcrRepoName", "Region", "Profile"})
"""Resource args that are for the agent: the stock one does not pass them on, either."""
IMAGE_ARGS = (
    ("AlgorithmSpecification", "TrainingImage"),
    ("AlgorithmSpecification", "AlgorithmName"),
    ("AppSpecification", "ImageUri"),
    ("ModelName",),
)
"""Resource args that name what runs in place of the launch's own image."""
KEPT = frozenset({"WANDB_RUN_ID"})
"""Variables that a queue cannot set: two launches of it would write to one run."""
SECRETS = "LAUNCHBAY_SECRETS"
"""Variable: where the job's secrets are, as `backends/sagemaker/bring_secrets.py` reads it."""
MAX_WORD = 256
"""How long one word of a command may be."""
_BEGIN = (
    "import sys,zlib,base64;n=2+int(sys.argv[1]);"
    "exec(zlib.decompress(base64.b64decode(''.join(sys.argv[2:n]))));run(sys.argv[n:])"
)


@dataclass(frozen=True, slots=True)
class Account:
    """Whose jobs they are."""

    number: str
    partition: str
    """`aws`, or that of China or of a government."""
    region: str


@dataclass(frozen=True, slots=True)
class Secret:
    """What a job fetches by itself."""

    name: str
    value: str = field(repr=False)
    """Variables, as JSON."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be made for a launch."""

    kind: Kind
    name: str
    arguments: JsonObject = field(repr=False)
    """Of the API's operation."""
    image: str | None
    secret: Secret | None


def plan(request: StartRequest, owner: str, account: Account, secret_prefix: str = "") -> Plan:
    """Return what is to be made. Raises `BackendError` that names what is missing or wrong."""
    kind, name = job_of(request, owner)
    given = _in_camel_case(request.resource_args)
    if (region := given.get("Region")) and region != account.region:
        raise BackendError(f"The queue wants the region {region!r}, and this agent works in {account.region!r}.")
    asked = {key: value for key, value in given.items() if key not in NOT_AWSS}
    _check_required(kind, asked)
    image, asked = _COMPLETED[kind](request, asked, account)
    variables, secret = _variables(request, kind, _texts(asked, "Environment"), name, account, secret_prefix)
    if kind is TRAINING and asked.get("EnableManagedSpotTraining"):
        # The same job begins again after an interruption, and goes on with its run.
        variables = {"WANDB_RESUME": "allow", **variables}
        asked.setdefault("CheckpointConfig", {"S3Uri": _checkpoints(asked, request)})
    if secret:
        _wrap(kind, asked)
    tags = names.as_mapping(cast("Sequence[Mapping[str, str]]", _tags(asked)))
    arguments: dict[str, Json] = {
        **asked,
        kind.name: name,
        "Environment": variables,
        "Tags": names.as_list({**tags, **names.tags_of(owner, request.labels)}),
    }
    return Plan(kind, name, arguments, image, secret)


def job_of(request: StartRequest, owner: str) -> tuple[Kind, str]:
    """Return the kind and the name of a launch's job. Raises `BackendError`."""
    given = _in_camel_case(request.resource_args)
    kind = _kind_of(given)
    return kind, names.job_name(request.name, owner, _text(given, kind.name))


def _kind_of(given: JsonObject) -> Kind:
    """Return which kind of job resource args in CamelCase ask for: a training job, unless they have another's."""
    asked = [kind for kind in (PROCESSING, TRANSFORM) if kind.marks & set(given)]
    mixed = asked and TRAINING.marks & set(given)
    if len(asked) > 1 or mixed:
        kinds = [kind for kind in KINDS if kind.marks & set(given)]
        raise BackendError(
            f"The resource args of the queue are of several kinds of jobs: {', '.join(kind.noun for kind in kinds)}. "
            f"Only one can have these: {', '.join(sorted(kinds[0].marks))}."
        )
    return asked[0] if asked else TRAINING


def _in_camel_case(args: JsonObject) -> dict[str, Json]:
    """Spell the keys as the API does, without nulls. Those below the first level may be names, and stay as they are."""
    given: dict[str, Json] = {}
    for key, value in args.items():
        if value is None:
            continue
        spelled = "".join(part[:1].upper() + part[1:] for part in key.split("_"))
        if spelled in given:
            raise BackendError(f"The resource arg {spelled!r} is given twice, in two spellings.")
        given[spelled] = value
    return given


# --- what each kind needs ---------------------------------------------------------------------------------------------

_REQUIRED: Mapping[Kind, Mapping[str, str]] = {
    TRAINING: {
        "OutputDataConfig": "Sagemaker launcher requires an OutputDataConfig Sagemaker resource argument",
        "ResourceConfig": "Sagemaker launcher requires a ResourceConfig resource argument",
        "StoppingCondition": "Sagemaker launcher requires a StoppingCondition resource argument",
    },
    PROCESSING: {"ProcessingResources": "A processing job requires a ProcessingResources resource argument"},
    TRANSFORM: {
        key: f"A batch-transform job requires a {key} resource argument"
        for key in ("ModelName", "TransformInput", "TransformOutput", "TransformResources")
    },
}


def _check_required(kind: Kind, asked: JsonObject) -> None:
    for key, message in _REQUIRED[kind].items():
        if key not in asked:
            raise BackendError(f"{message}.")


def _training(request: StartRequest, asked: JsonObject, account: Account) -> tuple[str | None, dict[str, Json]]:
    defaults = {"TrainingInputMode": "File"} if "AlgorithmSpecification" not in asked else {}
    algorithm: dict[str, Json] = {**defaults, **_object(asked, "AlgorithmSpecification")}
    given = _text(algorithm, "TrainingImage")
    image = given or request.image
    if not image and not algorithm.get("AlgorithmName"):
        raise BackendError("The launch names no image, and neither does its queue (AlgorithmSpecification).")
    program, arguments = _command(request, is_own_image=bool(given) and given != request.image)
    algorithm |= {"TrainingImage": image} if image else {}
    algorithm |= {"ContainerEntrypoint": program} if program else {}
    algorithm |= {"ContainerArguments": arguments} if arguments else {}
    return image, {**asked, "AlgorithmSpecification": algorithm, "RoleArn": _role(asked, account)}


def _processing(request: StartRequest, asked: JsonObject, account: Account) -> tuple[str | None, dict[str, Json]]:
    application: dict[str, Json] = dict(_object(asked, "AppSpecification"))
    given = _text(application, "ImageUri")
    image = given or request.image
    if not image:
        raise BackendError("The launch names no image, and neither does its queue (AppSpecification).")
    program, arguments = _command(request, is_own_image=bool(given) and given != request.image)
    application |= {"ImageUri": image}
    application |= {"ContainerEntrypoint": program} if program else {}
    application |= {"ContainerArguments": arguments} if arguments else {}
    return image, {**asked, "AppSpecification": application, "RoleArn": _role(asked, account)}


def _transform(request: StartRequest, asked: JsonObject, account: Account) -> tuple[str | None, dict[str, Json]]:
    """The model has the image and the role, and runs as it is."""
    del request, account
    return None, dict(asked)


_COMPLETED = {TRAINING: _training, PROCESSING: _processing, TRANSFORM: _transform}


def _command(request: StartRequest, *, is_own_image: bool) -> tuple[list[str], list[str]]:
    """Return program and arguments. An image of the queue's own runs its own program unless the launch names one."""
    words = len(request.command) - len(request.args)
    program = list(request.command[:words]) if request.command else []
    return [] if is_own_image and request.command_yields else program, list(request.args)


def _role(asked: JsonObject, account: Account) -> str:
    role = asked.get("RoleArn")
    if not isinstance(role, str) or not role:
        raise BackendError(
            "AWS sagemaker require a string RoleArn set this by adding a `RoleArn` key to the sagemaker field of "
            "resource_args."
        )
    return role if role.startswith("arn:") else f"arn:{account.partition}:iam::{account.number}:role/{role}"


def _checkpoints(asked: JsonObject, request: StartRequest) -> str:
    """Return where all attempts of a run find their checkpoints."""
    output = _text(_object(asked, "OutputDataConfig"), "S3OutputPath").rstrip("/")
    return f"{output}/{request.environment.get('WANDB_RUN_ID') or request.name}/checkpoints"


# --- variables and secrets --------------------------------------------------------------------------------------------


def _variables(
    request: StartRequest, kind: Kind, given: Mapping[str, str], name: str, account: Account, secret_prefix: str
) -> tuple[dict[str, str], Secret | None]:
    """Return the variables in plain sight, and what the job fetches by itself. The queue's own values win."""
    given = {key: value for key, value in given.items() if key not in KEPT or key not in request.environment}
    hidden = {key: value for key, value in request.secrets.items() if key not in given}
    variables = {**_cut_anew(request.environment, kind.max_value_chars), **given}
    secret = None
    if not secret_prefix:
        variables |= hidden
    elif hidden:
        secret = Secret(secret_prefix + name, json.dumps(hidden))
        variables[SECRETS] = f"{account.region}/{secret.name}"
    too_long = [key for key, value in variables.items() if len(value) > kind.max_value_chars]
    if too_long:
        raise BackendError(
            f"The variable {too_long[0]} has {len(variables[too_long[0]])} characters, and a {kind.noun} takes "
            f"{kind.max_value_chars}. Make shorter what stands in it."
        )
    return variables, secret


def _cut_anew(variables: Mapping[str, str], max_chars: int) -> dict[str, str]:
    """Cut what comes in pieces into pieces for this kind of job."""
    cut = dict(variables)
    for name in CUT_VARIABLES:
        pieces = [key for key in cut if re.fullmatch(rf"{name}(_[0-9]+)?", key)]
        if pieces:
            cut |= split_variable(name, "".join(cut.pop(key) for key in pieces), max_chars)
    return cut


def _wrap(kind: Kind, asked: dict[str, Json]) -> None:
    """Have a job begin with what fetches its secrets. A model's container is left alone, and may fetch them itself."""
    if kind is TRANSFORM:
        return
    key = "AlgorithmSpecification" if kind is TRAINING else "AppSpecification"
    specification = dict(_object(asked, key))
    program = cast("Sequence[str]", specification.get("ContainerEntrypoint") or ())
    if not program:
        raise BackendError(
            "The launch names no program, so that its image would run its own, without the API key: that comes through "
            "Secrets Manager (backends.sagemaker.secrets). Give the launch or its job an entry point."
        )
    specification["ContainerEntrypoint"] = [*_bringing(), *program]
    asked[key] = specification


def unwrapped(entrypoint: Sequence[str]) -> Sequence[str]:
    """Return the program of a job without what fetches its secrets before it."""
    if list(entrypoint[:3]) == ["python3", "-c", _BEGIN]:
        return entrypoint[4 + int(entrypoint[3]) :]
    return entrypoint


def _bringing() -> Iterator[str]:
    source = files("backends.sagemaker").joinpath("bring_secrets.py").read_bytes()
    text = base64.b64encode(zlib.compress(source, 9)).decode()
    pieces = [text[start : start + MAX_WORD] for start in range(0, len(text), MAX_WORD)]
    yield from ("python3", "-c", _BEGIN, str(len(pieces)), *pieces)


# --- reading what the queue wrote -------------------------------------------------------------------------------------


def _object(args: JsonObject, key: str) -> Mapping[str, Json]:
    value = args.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BackendError(f"The resource arg {key!r} must be an object.")
    return value


def _text(args: JsonObject, key: str) -> str:
    value = args.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BackendError(f"The resource arg {key!r} must be a text.")
    return value


def _texts(args: JsonObject, key: str) -> Mapping[str, str]:
    values = _object(args, key)
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def _tags(args: JsonObject) -> Sequence[Any]:
    tags = args.get("Tags")
    if tags is None:
        return ()
    if not isinstance(tags, list | tuple) or not all(_is_tag(tag) for tag in tags):
        raise BackendError("The resource arg 'Tags' must be a list, as [{Key: team, Value: vision}].")
    return tags


def _is_tag(tag: Json) -> bool:
    return (
        isinstance(tag, Mapping)
        and set(tag) == {"Key", "Value"}
        and all(isinstance(each, str) for each in tag.values())
    )
