"""Automations: made, found, changed and deleted; what they send comes."""

import json
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import wandb
import wandb.automations
from click.testing import CliRunner
from wandb.automations import (
    ArtifactEvent,
    DoNothing,
    RunEvent,
    SendNotification,
    SendWebhook,
    SlackIntegration,
    WebhookIntegration,
)
from wandb.errors import CommError

from launchbay.cli import launchbay
from tests.end_to_end.snippets.artifacts import filled
from tests.end_to_end.snippets.checks import differs, refusal, shows

# They take more than their types say.
OnAddArtifactAlias: Any = wandb.automations.OnAddArtifactAlias
OnRunMetric: Any = wandb.automations.OnRunMetric
OnRunState: Any = wandb.automations.OnRunState

RECEIVED: Queue[tuple[str, str, dict[str, Any]]] = Queue()
"""Path, authorization and body of what was sent."""


class Receiver(BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    def do_POST(self) -> None:
        """Keep a request."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        RECEIVED.put((self.path, self.headers.get("Authorization", ""), json.loads(body)))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- its name in the base class
        """Say nothing."""


def command(*arguments: str) -> str:
    """Run a command of ours; returns what it prints."""
    done = CliRunner().invoke(launchbay, arguments)
    assert done.exit_code == 0, done.output
    return done.output


@cache
def prepared() -> tuple[wandb.Api, WebhookIntegration, SlackIntegration]:
    """Return the public API of a server with a project `acting`, a webhook and a Slack channel that gets alerts."""
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=receiver.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{receiver.server_port}"
    Path("slack-url").write_text(f"{url}/slack\n")
    Path("token").write_text("opensesame\n")
    command("integration", "create", "webhook", "ci", "--url", f"{url}/ci", "--access-token-file", "token")
    command("integration", "create", "slack", "models", "--url-file", "slack-url", "--alerts")
    api = wandb.Api()
    api.create_project("acting", "admin")
    return api, next(iter(api.webhook_integrations())), next(iter(api.slack_integrations(entity="admin")))


def project(api: wandb.Api) -> Any:
    """Return the project that automations are made for, as a scope."""
    return api.project("acting", "admin")


@shows("Api.integrations", "Api.webhook_integrations", "Api.slack_integrations")
def integrations_are_listed() -> None:
    api, ci, models = prepared()
    assert ci.name == "ci"
    assert ci.url_endpoint.endswith("/ci")
    assert (models.team_name, models.channel_name) == ("127.0.0.1", "models")
    assert list(api.integrations(per_page=1)) == [ci, models]
    assert "ci" in command("integration", "list")


@shows("Api.automation", "Api.automations", "Api.create_automation", "Api.update_automation", "Api.delete_automation")
def an_automation_is_made_changed_and_deleted() -> None:
    api, ci, _ = prepared()
    event = OnRunState(scope=project(api), filter=RunEvent.state.in_(["finished", "failed"]))
    made = api.create_automation(event >> SendWebhook.from_integration(ci), name="ends", description="of runs")
    assert api.create_automation(event >> DoNothing(), name="ends", fetch_existing=True).id == made.id
    said = refusal(lambda: api.create_automation(event >> DoNothing(), name="ends"), CommError)
    assert "exists" in said
    assert [each.name for each in api.automations(entity="admin", per_page=1)] == ["ends"]
    assert [each.name for each in api.automations(name="ends")] == ["ends"]
    found = api.automation("ends", entity="admin")
    found.enabled = False
    changed = api.update_automation(found, description="not now", action=DoNothing())
    assert (changed.enabled, changed.description, changed.action.action_type.value) == (False, "not now", "NO_OP")
    assert changed.event == made.event
    metric = OnRunMetric(scope=event.scope, filter=RunEvent.metric("loss").avg(3).decreases_by(diff=None, frac=0.5))
    assert api.update_automation(changed, event=metric).event.event_type.value == "RUN_METRIC_CHANGE"
    assert api.delete_automation(changed)
    assert "No automations found" in refusal(lambda: api.automation("ends"), ValueError)
    assert "not found" in refusal(lambda: api.update_automation(changed), CommError)


@differs("Api.update_automation", "`create_missing` ends in an error: the client cannot send what it has read as new")
def a_deleted_automation_is_not_made_again() -> None:
    api, _, _ = prepared()
    event = OnRunState(scope=project(api), filter=RunEvent.state.eq("running"))
    made = api.create_automation(event >> DoNothing(), name="gone")
    api.delete_automation(made.id)
    said = refusal(lambda: api.update_automation(made, create_missing=True), CommError)
    assert "Extra inputs are not permitted" in said


@shows("Api.create_automation", "wandb.Run.alert")
def what_happens_is_told() -> None:
    api, ci, models = prepared()
    high = OnRunMetric(scope=project(api), filter=(RunEvent.metric("loss") > 5) & (RunEvent.name == "wild"))
    payload = {"text": "${metric_name} of ${run_name} is ${metric_value}"}
    api.create_automation(high >> SendWebhook.from_integration(ci, payload=payload), name="high")
    prod = OnAddArtifactAlias(scope=project(api), filter=ArtifactEvent.alias.eq("prod"))
    api.create_automation(prod >> SendNotification.from_integration(models, title="Deploy", text="${alias}"), name="d")
    with wandb.init(entity="admin", project="acting", name="wild") as run:
        run.log({"loss": 4})
        run.log({"loss": 6.5})
        run.alert("Loss is high", "Have a look", level="WARN")
        version = run.log_artifact(filled("model", {"weights": "w"}), aliases=["latest"]).wait()
    version.aliases.append("prod")
    version.save()
    received = [RECEIVED.get(timeout=120) for _ in range(3)]  # in whatever order
    texts = sorted((path, key, *body["text"].splitlines()[:2]) for path, key, body in received)
    assert texts == [
        ("/ci", "Bearer opensesame", "loss of wild is 6.5"),
        ("/slack", "", "*[INFO] Deploy*", "prod"),
        ("/slack", "", "*[WARN] Loss is high*", "Have a look"),
    ]
    assert any("artifact_version_string: admin/acting/model:v0" in body["text"] for _, _, body in received)
    shown = json.loads(command("integration", "deliveries", "--json"))
    assert {each["eventType"] for each in shown} == {"ADD_ARTIFACT_ALIAS", "RUN_ALERT", "RUN_METRIC"}
    assert "Loss is high" in command("alerts")


@shows("Api.webhook_integrations")
def an_integration_is_deleted() -> None:
    api, ci, _ = prepared()
    refused = CliRunner().invoke(launchbay, ["integration", "delete", "ci"])
    assert "used by automations: high" in str(refused.exception)
    api.delete_automation(api.automation("high"))
    command("integration", "delete", ci.name)
    assert list(api.webhook_integrations()) == []
