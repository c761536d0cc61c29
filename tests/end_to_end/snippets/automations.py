"""Automations: made, found, changed and deleted; what they send comes."""

import json
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


def listening() -> str:
    """Receive what is sent to a URL."""
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=receiver.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{receiver.server_port}"


def webhook(name: str, url: str) -> WebhookIntegration:
    """Return a new webhook."""
    Path("token").write_text("opensesame\n")
    command("integration", "create", "webhook", name, "--url", url, "--access-token-file", "token")
    return next(each for each in wandb.Api().webhook_integrations() if each.name == name)


def slack(name: str, url: str, *options: str) -> SlackIntegration:
    """Return a new channel of Slack."""
    Path("slack-url").write_text(f"{url}\n")
    command("integration", "create", "slack", name, "--url-file", "slack-url", *options)
    return next(each for each in wandb.Api().slack_integrations(entity="admin") if each.channel_name == name)


def project(api: wandb.Api) -> Any:
    """Return the project that automations are made for, as a scope."""
    api.create_project("acting", "admin")
    return api.project("acting", "admin")


@shows("Api.integrations", "Api.webhook_integrations", "Api.slack_integrations")
def list_integrations() -> None:
    api = wandb.Api()
    listed = webhook("listed", "http://127.0.0.1:1/hook"), slack("news", "http://127.0.0.1:1/slack")
    assert listed[0].url_endpoint == "http://127.0.0.1:1/hook"
    assert (listed[1].team_name, listed[1].channel_name) == ("127.0.0.1", "news")
    assert [each for each in api.integrations(per_page=1) if each in listed] == list(listed)
    assert "listed" in command("integration", "list")


@shows("Api.automation", "Api.automations", "Api.create_automation", "Api.update_automation", "Api.delete_automation")
def create_change_and_delete_an_automation() -> None:
    api, hook = wandb.Api(), webhook("ends", "http://127.0.0.1:1/hook")
    event = OnRunState(scope=project(api), filter=RunEvent.state.in_(["finished", "failed"]))
    made = api.create_automation(event >> SendWebhook.from_integration(hook), name="ends", description="of runs")
    assert api.create_automation(event >> DoNothing(), name="ends", fetch_existing=True).id == made.id
    said = refusal(lambda: api.create_automation(event >> DoNothing(), name="ends"), CommError)
    assert "exists" in said
    assert "ends" in [each.name for each in api.automations(entity="admin", per_page=1)]
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
def update_an_automation_that_was_deleted() -> None:
    api = wandb.Api()
    event = OnRunState(scope=project(api), filter=RunEvent.state.eq("running"))
    made = api.create_automation(event >> DoNothing(), name="gone")
    api.delete_automation(made.id)
    said = refusal(lambda: api.update_automation(made, create_missing=True), CommError)
    assert "Extra inputs are not permitted" in said


@shows("Api.create_automation", "wandb.Run.alert")
def automations_and_alerts_are_sent_to_webhooks_and_slack() -> None:
    api, url = wandb.Api(), listening()
    ci, models = webhook("ci", f"{url}/ci"), slack("models", f"{url}/slack", "--alerts")
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
    assert {"ADD_ARTIFACT_ALIAS", "RUN_ALERT", "RUN_METRIC"} <= {each["eventType"] for each in shown}
    assert "Loss is high" in command("alerts")


@shows("Api.webhook_integrations")
def delete_an_integration() -> None:
    api, hook = wandb.Api(), webhook("passing", "http://127.0.0.1:1/hook")
    event = OnRunState(scope=project(api), filter=RunEvent.state.eq("failed"))
    using = api.create_automation(event >> SendWebhook.from_integration(hook), name="using")
    refused = CliRunner().invoke(launchbay, ["integration", "delete", "passing"])
    assert "used by automations: using" in str(refused.exception)
    api.delete_automation(using)
    command("integration", "delete", "passing")
    assert "passing" not in [each.name for each in api.webhook_integrations()]
