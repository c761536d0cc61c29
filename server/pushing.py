"""Completes a pushed launch spec from its queue: resource, resource args, template values. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from protocol import templates
from protocol.json_types import Json, JsonObject
from protocol.launch_spec import (
    API_KEY,
    SCHEDULER_URI,
    PlaceholderSource,
    is_scheduler,
    names_resource,
    parse_launch_spec,
)
from protocol.masking import REDACTED
from server.errors import RequestError
from server.json_text import with_whole_pairs

DEFAULT_PRIORITY = 2
PRIORITIES = range(4)


@dataclass(frozen=True, slots=True)
class QueueRules:
    """What a queue says about its items."""

    name: str
    resource: str | None
    """None for a queue without a config, which takes what comes."""
    resource_args: JsonObject
    """`{<resource>: {...}}`"""
    variables: JsonObject
    prioritized: bool


def complete(
    spec: JsonObject, queue: QueueRules, given_values: JsonObject, author: str, *, earlier: JsonObject | None = None
) -> JsonObject:
    """Return the spec as an agent will get it: unknown keys are kept, an API key is not.

    Raises `RequestError` or `TemplateError`.

    `earlier` is the spec under which the same queue has had this launch before, if it is a preempted one.
    """
    values = {**_object(spec, "template_variables"), **given_values}
    completed = {key: value for key, value in without_key(spec).items() if key != "template_variables"}
    completed["author"] = spec.get("author") or author
    _check_source(completed)
    if _is_agents_own(completed):
        return completed
    if queue.resource is None:
        templates.resolve_values({}, values)  # tells of a value that no variable is there for
        return completed
    resource = spec.get("resource") or queue.resource
    if resource != queue.resource:
        raise RequestError(
            f"Queue {queue.name!r} runs {queue.resource!r}, but the launch asks for resource {resource!r}. "
            "Leave the resource out, or push to a queue of that resource."
        )
    completed["resource"] = resource
    # A preempted launch comes back with its args as they were rendered. They are taken from where they are known to be
    # that: nobody gets around the queue's variables by saying that he was preempted.
    completed["resource_args"] = _object(earlier, "resource_args") if earlier else _resource_args(spec, queue, values)
    return completed


def without_key(spec: JsonObject) -> JsonObject:
    """Return the spec without an API key that it may bring for its run: no secret is stored in an item."""
    return {name: value for name, value in spec.items() if name != API_KEY}


def brings_key(spec: JsonObject) -> bool:
    """Whether a spec brings an API key for its run, and not only what is shown in the place of one."""
    return spec.get(API_KEY) not in (None, "", REDACTED)


def is_preempted(spec: JsonObject) -> bool:
    """Whether an agent queues a launch again that it has lost."""
    return isinstance(count := spec.get("_resume_count"), int) and count > 0


def check_priority(priority: int | None, queue: QueueRules) -> int:
    """Return the priority to store; `RequestError` if this queue does not have it."""
    wanted = DEFAULT_PRIORITY if priority is None else priority
    if wanted not in PRIORITIES:
        raise RequestError(f"Priority {wanted} is not known; use 0 (critical), 1 (high), 2 (medium) or 3 (low).")
    if wanted != DEFAULT_PRIORITY and not queue.prioritized:
        raise RequestError(
            f"Queue {queue.name!r} has no priorities, so priority {wanted} cannot be kept. Push without one, or let "
            "the queue have them (prioritization mode V0)."
        )
    return wanted


def read_object(text: str | None, what: str) -> JsonObject:
    """Read JSON text that must be an object; absent, empty and `null` are an empty one."""
    if not text:
        return {}
    try:
        value = with_whole_pairs(json.loads(text))
    except ValueError as error:
        raise RequestError(f"{what} is not JSON: {error}.") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(f"{what} must be a JSON object, not {value!r}.")
    return cast("JsonObject", value)


def _is_agents_own(spec: JsonObject) -> bool:
    """Whether this is a sweep's scheduler that the agent runs itself: the client's own command, and nobody's code.

    It goes to the queue that its runs go to, whatever that runs, and has no use for the queue's resource config.
    """
    if spec.get("uri") != SCHEDULER_URI:
        return False
    scheduler = parse_launch_spec(spec)
    local = scheduler.resource == "local-process" and isinstance(scheduler.source, PlaceholderSource)
    return local and is_scheduler(scheduler)


def _resource_args(spec: JsonObject, queue: QueueRules, values: JsonObject) -> Json:
    own = _object(spec, "resource_args")
    # What is for another resource does no harm: some describe a launch once for several.
    stray = sorted(key for key in own if key != queue.resource and not names_resource(key))
    if queue.resource and stray:
        raise RequestError(
            f"The launch's resource_args have {stray[0]!r}, which would have no effect: queue {queue.name!r} runs "
            f"{queue.resource!r}, and its args stand below that, as {{{queue.resource!r}: {{{stray[0]!r}: ...}}}}."
        )
    variables = templates.parse_variables(queue.variables)
    if variables and own:
        raise RequestError(
            f"Queue {queue.name!r} has template variables ({', '.join(sorted(variables))}), so a launch may set those "
            "and not resource_args. Use --set-var."
        )
    rendered = templates.render(queue.resource_args, templates.resolve_values(variables, values))
    return _merged(rendered, own)


def _merged(base: Json, over: Json) -> Json:
    """Merge deeply; what the submitter says wins."""
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    return {**base, **{key: _merged(base[key], value) if key in base else value for key, value in over.items()}}


def _check_source(spec: JsonObject) -> None:
    image = _object(spec, "docker").get("docker_image")
    if spec.get("job") and image:
        raise RequestError("Exactly one of job or docker_image must be specified in the launch spec.")
    if not (spec.get("job") or image or spec.get("image_uri") or spec.get("uri")):
        raise RequestError("The launch spec names nothing to run: set `job` or `docker.docker_image`.")
    for key in ("entity", "project"):
        if not isinstance(spec.get(key), str):
            raise RequestError(f"The launch spec has no `{key}`.")


def _object(spec: JsonObject, key: str) -> JsonObject:
    value = spec.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RequestError(f"`{key}` of the launch spec must be an object, not {value!r}.")
    return value
