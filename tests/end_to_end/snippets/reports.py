"""Reports and workspaces are saved, listed and loaded back."""

import warnings
from functools import cache
from typing import Any

import wandb

from tests.end_to_end.snippets.checks import differs, refusal, shows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it uses what is deprecated in pydantic
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

wr: Any = reports
ws: Any = workspaces

PATH = "admin/reported"


@cache
def saved() -> Any:
    """Return a report of a project with a run."""
    wandb.Api().create_run(entity="admin", project="reported", run_id="shown")
    grid = wr.PanelGrid(
        panels=[wr.LinePlot(x="Step", y=["loss"])], runsets=[wr.Runset(entity="admin", project="reported")]
    )
    report = wr.Report(project="reported", entity="admin", title="My report", description="described")
    report.blocks = [wr.H1("Heading"), wr.P("Some text"), grid]
    report.save()
    return report


@shows()
def a_report_is_loaded_back() -> None:
    found = wr.Report.from_url(saved().url)
    assert (found.title, found.description) == ("My report", "described")
    assert [type(block).__name__ for block in found.blocks][:3] == ["H1", "P", "PanelGrid"]


@shows("Api.reports", "BetaReport.name", "BetaReport.display_name", "BetaReport.description", "BetaReport.spec")
def reports_are_listed() -> None:
    draft = wr.Report(project="reported", entity="admin", title="A draft")
    draft.save(draft=True)
    (found,) = wandb.Api().reports(PATH)  # without the draft
    assert (found.display_name, found.description) == ("My report", "described")
    assert found.spec["blocks"]
    (named,) = wandb.Api().reports(PATH, name=found.name)
    assert named.display_name == saved().title


@shows("BetaReport.id", "BetaReport.url", "BetaReport.user", "BetaReport.to_html", "Api.from_path")
@shows("BetaReport.created_at", "BetaReport.updated_at")
def where_a_report_is() -> None:
    found: Any = wandb.Api().reports(PATH)[0]
    assert found.url == saved().url
    assert found.user["username"] == "admin"
    assert "<iframe" in found.to_html()
    assert found.updated_at >= found.created_at
    assert wandb.Api().from_path(f"{PATH}/reports/My-report--{found.id}").id == found.id


@differs("BetaReport.sections", "KeyError: the reports of `wandb_workspaces` have blocks instead")
@differs("BetaReport.runs", "of sections, which the reports of `wandb_workspaces` do not have")
def runs_of_a_section() -> None:
    saved()
    report: Any = wandb.Api().reports(PATH)[0]
    assert "panelGroups" in refusal(lambda: report.sections, KeyError)
    filters = {"op": "OR", "filters": [{"op": "AND", "filters": []}]}
    created = {"key": {"section": "run", "name": "createdAt"}, "ascending": True}
    section = {"runSets": [{"sort": created, "filters": filters, "selections": {"tree": ["shown"]}}]}
    assert [run.id for run in report.runs(section)] == ["shown"]


@shows()
def a_report_is_changed_and_deleted() -> None:
    other = wr.Report(project="reported", entity="admin", title="Other")
    other.save()
    other.title = "Another"
    other.save()
    assert [report.display_name for report in wandb.Api().reports(PATH)] == ["My report", "Another"]
    other.delete()
    assert [report.display_name for report in wandb.Api().reports(PATH)] == ["My report"]


@shows()
def a_workspace_is_loaded_back() -> None:
    saved()
    section = ws.Section(name="Metrics", panels=[wr.LinePlot(x="Step", y=["loss"])], is_open=True)
    workspace = ws.Workspace(entity="admin", project="reported", name="Mine", sections=[section])
    workspace.save()
    found = ws.Workspace.from_url(workspace.url)
    assert (found.name, [section.name for section in found.sections]) == ("Mine", ["Metrics"])


@shows("Api.create_custom_chart")
def a_chart_of_ones_own_is_made_and_used() -> None:
    spec = {"mark": "bar", "encoding": {"x": {"field": "${field:x}"}, "y": {"field": "${field:y}"}}}
    chart = wandb.Api().create_custom_chart("admin", "bars", "My bars", spec_type="vega2", access="private", spec=spec)
    table = wandb.Table(columns=["name", "size"], data=[["a", 1]])
    with wandb.init(entity="admin", project="charted", id="user") as run:
        run.log({"bars": wandb.plot_table(chart, table, {"x": "name", "y": "size"})})
    shown = wandb.Api().run("admin/charted/user").rawconfig["_wandb"]["visualize"]["bars"]
    assert (chart, shown["panel_config"]["panelDefId"]) == ("admin/bars", "admin/bars")
