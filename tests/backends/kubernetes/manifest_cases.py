"""The pairs of `manifests/`: what is asked for, and everything that is made of it."""

from pathlib import Path
from typing import Any

import yaml

from backends.base import Code, StartRequest
from backends.kubernetes.manifest import Plan, namespace_of, plan, target
from backends.kubernetes.settings import read_settings

FOLDER = Path(__file__).parent / "manifests"
CASES = sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.endswith(".expected"))
OWNER = "team/agent-1"
ENVIRONMENT = {
    "WANDB_BASE_URL": "http://server.test",
    "WANDB_PROJECT": "mnist",
    "WANDB_RUN_ID": "run12345",
    "WANDB_CONFIG": '{"lr": 0.1}',
    "WANDB_ARTIFACTS": "{}",
}
LABELS = {
    "item": "UnVuUXVldWVJdGVtOjE=",
    "attempt": "1",
    "agent": "agent-1",
    "run": "run12345",
    "entity": "vision_team",
    "project": "MNIST",
}


def request(
    *, code: dict[str, Any] | None = None, resource_args: dict[str, Any] | None = None, **fields: Any
) -> StartRequest:
    """Return a start request with what every launch has."""
    given: dict[str, Any] = {
        "name": "launch-0123456789abcdef-1",
        "command": (),
        "environment": ENVIRONMENT,
        "secrets": {"WANDB_API_KEY": "hidden-api-key"},
        "labels": LABELS,
        "code": Code(**code) if code else None,
        "resource_args": resource_args or {},
        **fields,
    }
    return StartRequest(**given)


def planned(asked: StartRequest, **block: Any) -> Plan:
    """Return the plan of a request, as the backend has it made."""
    settings = read_settings({"namespaces": ["research"], **block})
    namespace = namespace_of(target(asked.resource_args, settings), settings, "launches")
    return plan(asked, settings, None, namespace, OWNER)


def case(name: str) -> Plan:
    """Return the plan of a case."""
    asked: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    settings = asked.pop("settings", {})
    return planned(request(**asked), **settings)


def written(made: Plan) -> str:
    """Return a plan as its file of expectations has it."""
    objects = [made.object, *([made.secret] if made.secret else []), *made.services]
    return "---\n".join(yaml.dump(each, Dumper=_Dumper, sort_keys=False, width=120) for each in objects)


class _Dumper(yaml.SafeDumper):
    """Writes what occurs twice twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


if __name__ == "__main__":
    for each in CASES:
        (FOLDER / f"{each}.expected.yaml").write_text(written(case(each)), "utf-8")
