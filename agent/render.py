"""Render: fill in what only the agent knows. Pure.

The server has filled the `{{variables}}` at the push. One that is not ours may have left some, whose values cannot be
known here; that is an error that names them. Ours never does: what looks like a variable then is somebody's value. The
`${macros}` are always the agent's.
"""

from collections.abc import Iterable, Mapping, Sequence

from agent.errors import LaunchFailed
from protocol import macros
from protocol.errors import SpecError
from protocol.json_types import Json, JsonObject
from protocol.launch_spec import ADDITIONAL_SERVICES, LaunchSpec


def render_resource_args(
    spec: LaunchSpec,
    run_id: str,
    image: str | None,
    *,
    is_rendered: bool,
    environment: Mapping[str, str],
) -> JsonObject:
    """Return the spec's resource args with every macro filled in; `LaunchFailed` if a template variable is left.

    `environment` are the agent's own variables that macros may read.
    """
    _check_rendered(spec.resource_args, is_rendered=is_rendered)
    rendered = macros.expand(spec.resource_args, macros.launch_macros(spec, run_id, image, environment))
    assert isinstance(rendered, dict)
    return rendered


def render_services(
    spec: LaunchSpec,
    run_id: str,
    image: str | None,
    *,
    is_rendered: bool,
    environment: Mapping[str, str],
) -> Sequence[JsonObject]:
    """Return what the spec wants made beside the launch, with every macro filled in; as `render_resource_args`.

    Raises `SpecError` unless it is a list of objects.
    """
    services = spec.raw.get(ADDITIONAL_SERVICES) or []
    entries = [entry for entry in services if isinstance(entry, Mapping)] if isinstance(services, list | tuple) else []
    if not isinstance(services, list | tuple) or len(entries) != len(services):
        raise SpecError(f"`{ADDITIONAL_SERVICES}` must be a list of objects, each with the key `config`.")
    _check_rendered(entries, is_rendered=is_rendered)
    known = macros.launch_macros(spec, run_id, image, environment)
    return [{key: macros.expand(value, known) for key, value in entry.items()} for entry in entries]


def _check_rendered(value: Json, *, is_rendered: bool) -> None:
    if is_rendered:
        return
    from protocol import templates  # with jinja2 and jsonschema: 3 MiB that agents of our own server have no use for

    if left := templates.variable_names(value):
        raise LaunchFailed(
            f"These template variables of the queue have no value: {', '.join(sorted(left))}. "
            "Push the job again with --set-var for each of them."
        )


def macro_environment(own: Mapping[str, str], readable: Iterable[str]) -> dict[str, str]:
    """Return what macros may read of the agent's environment: what the operator lists (`policy.macro_environment`)."""
    return {name: own[name] for name in readable if name in own}
