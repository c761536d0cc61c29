"""Render: fill in what only the agent knows. Pure.

A Launchbay server has filled the `{{variables}}` at the push; another server may leave them to us, and then defaults
cannot be known here, so what still stands in an item is an error that names it. The `${macros}` are always ours.
"""

from agent.errors import LaunchFailed
from protocol import macros, templates
from protocol.json_types import JsonObject
from protocol.launch_spec import LaunchSpec


def render_resource_args(spec: LaunchSpec, run_id: str, image: str | None) -> JsonObject:
    """Return the spec's resource args with every macro filled in; `LaunchFailed` if a template variable is left."""
    left = templates.variable_names(spec.resource_args)
    if left:
        raise LaunchFailed(
            f"Template variable(s) {', '.join(sorted(left))} of the queue have no value. "
            "Push the job again with --set-var for each of them."
        )
    rendered = macros.expand(spec.resource_args, macros.launch_macros(spec, run_id, image))
    assert isinstance(rendered, dict)
    return rendered
