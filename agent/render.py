"""Render: fill in what only the agent knows. Pure.

The server has filled the `{{variables}}` at the push. One that is not ours may have left some, whose values cannot be
known here; that is an error that names them. Ours never does: what looks like a variable then is somebody's value. The
`${macros}` are always the agent's.
"""

from collections.abc import Iterable, Mapping

from agent.errors import LaunchFailed
from protocol import macros, templates
from protocol.json_types import JsonObject
from protocol.launch_spec import LaunchSpec


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
    left = frozenset[str]() if is_rendered else templates.variable_names(spec.resource_args)
    if left:
        raise LaunchFailed(
            f"Template variable(s) {', '.join(sorted(left))} of the queue have no value. "
            "Push the job again with --set-var for each of them."
        )
    rendered = macros.expand(spec.resource_args, macros.launch_macros(spec, run_id, image, environment))
    assert isinstance(rendered, dict)
    return rendered


def macro_environment(own: Mapping[str, str], readable: Iterable[str]) -> dict[str, str]:
    """Return what macros may read of the agent's environment: what the operator lists (`policy.macro_environment`)."""
    return {name: own[name] for name in readable if name in own}
