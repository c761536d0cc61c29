"""Reports and workspaces are saved, listed and loaded back."""

import warnings
from typing import Any

import wandb
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from tests.end_to_end.snippets.checks import differs, refusal, shows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it uses what is deprecated in pydantic
    import wandb_workspaces.expr as expressions
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

expr: Any = expressions
wr: Any = reports
ws: Any = workspaces


def saved(project: str) -> Any:
    """Return a report of a project with a run."""
    wandb.Api().create_run(entity="admin", project=project, run_id="shown")
    grid = wr.PanelGrid(
        panels=[wr.LinePlot(x="Step", y=["loss"])], runsets=[wr.Runset(entity="admin", project=project)]
    )
    report = wr.Report(project=project, entity="admin", title="My report", description="described")
    report.blocks = [wr.H1("Heading"), wr.P("Some text"), grid]
    report.save()
    return report


@shows()
def load_a_report() -> None:
    found = wr.Report.from_url(saved("reports-loaded").url)
    assert (found.title, found.description) == ("My report", "described")
    assert [type(block).__name__ for block in found.blocks][:3] == ["H1", "P", "PanelGrid"]


@shows("Api.reports", "BetaReport.name", "BetaReport.display_name", "BetaReport.description", "BetaReport.spec")
def list_reports() -> None:
    report = saved("reports-listed")
    draft = wr.Report(project="reports-listed", entity="admin", title="A draft")
    draft.save(draft=True)
    (found,) = wandb.Api().reports("admin/reports-listed")  # without the draft
    assert (found.display_name, found.description) == ("My report", "described")
    assert found.spec["blocks"]
    for name in (found.name, "My report"):
        (named,) = wandb.Api().reports("admin/reports-listed", name=name)
        assert named.display_name == report.title


@shows("BetaReport.id", "BetaReport.url", "BetaReport.user", "BetaReport.to_html", "Api.from_path")
@shows("BetaReport.created_at", "BetaReport.updated_at")
def look_up_a_report() -> None:
    report = saved("reports-found")
    found: Any = wandb.Api().reports("admin/reports-found")[0]
    assert found.url == report.url.replace("=", "")
    assert found.user["username"] == "admin"
    assert "<iframe" in found.to_html()
    assert found.updated_at >= found.created_at
    assert wandb.Api().from_path(f"admin/reports-found/reports/My-report--{found.id}").id == found.id


@differs("BetaReport.sections", "KeyError: the reports of `wandb_workspaces` have blocks instead")
@differs("BetaReport.runs", "of sections, which the reports of `wandb_workspaces` do not have")
def list_runs_of_a_section_of_a_report() -> None:
    saved("reports-sections")
    report: Any = wandb.Api().reports("admin/reports-sections")[0]
    assert "panelGroups" in refusal(lambda: report.sections, KeyError)
    filters = {"op": "OR", "filters": [{"op": "AND", "filters": []}]}
    created = {"key": {"section": "run", "name": "createdAt"}, "ascending": True}
    section = {"runSets": [{"sort": created, "filters": filters, "selections": {"tree": ["shown"]}}]}
    assert [run.id for run in report.runs(section)] == ["shown"]


@shows()
def edit_and_delete_a_report() -> None:
    saved("reports-changed")
    other = wr.Report(project="reports-changed", entity="admin", title="Other")
    other.save()
    other.title = "Another"
    other.save()
    listed = [report.display_name for report in wandb.Api().reports("admin/reports-changed", per_page=1)]
    assert listed == ["My report", "Another"]
    other.delete()
    assert [report.display_name for report in wandb.Api().reports("admin/reports-changed")] == ["My report"]


@shows()
def share_a_report_with_a_link() -> None:
    report = saved("reports-unshared")
    assert (report.get_share_url(), report.disable_share_link()) == (None, False)
    assert "cannot be shared" in refusal(report.enable_share_link, WandbApiFailedError)


@shows()
def save_and_load_a_workspace() -> None:
    wandb.Api().create_project("workspaces", "admin")
    section = ws.Section(name="Metrics", panels=[wr.LinePlot(x="Step", y=["loss"])], is_open=True)
    workspace = ws.Workspace(entity="admin", project="workspaces", name="Mine", sections=[section])
    workspace.save()
    found = ws.Workspace.from_url(workspace.url)
    assert (found.name, [section.name for section in found.sections]) == ("Mine", ["Metrics"])


@shows()
def edit_a_workspace_and_save_it_as_a_new_view() -> None:
    wandb.Api().create_run(entity="admin", project="workspaces", run_id="shown")
    workspace = ws.Workspace(
        entity="admin",
        project="workspaces",
        name="First",
        settings=ws.WorkspaceSettings(x_axis="epoch", smoothing_type="gaussian", smoothing_weight=10, max_runs=20),
        runset_settings=ws.RunsetSettings(
            query="run.*",
            regex_query=True,
            filters=[expr.Summary("loss") <= 1, expr.Config("lr") == 0.1],
            groupby=[expr.Config("lr")],
            order=[expr.Ordering(expr.Summary("loss"), ascending=True)],
            run_settings={"shown": ws.RunSettings(color="red", disabled=True)},
        ),
    )
    workspace.save()
    found = ws.Workspace.from_url(workspace.url)
    assert (found.settings.x_axis, found.settings.smoothing_weight, found.settings.max_runs) == ("epoch", 10, 20)
    assert (found.runset_settings.query, found.runset_settings.regex_query) == ("run.*", True)
    assert found.runset_settings.run_settings["shown"].disabled
    found.name = "Second"
    found.save_as_new_view()
    assert ws.Workspace.from_url(workspace.url).name == "First"
    assert ws.Workspace.from_url(found.url).name == "Second"


@shows()
def report_with_blocks_of_every_type() -> None:
    blocks = [
        wr.TableOfContents(),
        *(heading("Heading") for heading in (wr.H1, wr.H2, wr.H3)),
        wr.P(["Text with ", wr.Link("a link", "https://example.com"), wr.InlineCode("code"), wr.InlineLatex("e=mc^2")]),
        wr.UnorderedList(["one", "two"]),
        wr.OrderedList(["first", "second"]),
        wr.CheckedList([wr.CheckedListItem("done", checked=True), wr.CheckedListItem("to do")]),
        wr.CodeBlock("print('ünï 🚀')", language="python"),
        wr.MarkdownBlock("**bold** <script>"),
        wr.LatexBlock("\\alpha"),
        wr.BlockQuote("quoted"),
        wr.CalloutBlock("watch out"),
        wr.HorizontalRule(),
        wr.Image("https://example.com/a.png", caption="a picture"),
        wr.Video("https://www.youtube.com/watch?v=krWjJcW80_A"),
    ]
    report = wr.Report(project="reports-blocks", entity="admin", title="Blocks", width="fluid", blocks=blocks)
    report.save()
    found = wr.Report.from_url(report.url)
    assert found.blocks == blocks
    assert found.title == "Blocks"


@shows()
def report_with_panels_and_run_sets() -> None:
    panels = [
        wr.LinePlot(title="Loss", x="Step", y=["loss", "val/loss"], smoothing_factor=0.8, log_y=True),
        wr.ScatterPlot(x=wr.SummaryMetric("loss"), y=wr.Config("lr")),
        wr.BarPlot(metrics=["loss"], orientation="v"),
        wr.ScalarChart(metric="loss", groupby_aggfunc="mean"),
        wr.CodeComparer(diff="split"),
        wr.ParallelCoordinatesPlot(columns=[wr.ParallelCoordinatesPlotColumn("c::lr")]),
        wr.ParameterImportancePlot(with_respect_to="loss"),
        wr.RunComparer(diff_only="split"),
        wr.MediaBrowser(media_keys=["picture"], num_columns=2),
        wr.MarkdownPanel(markdown="# Words"),
        wr.CustomChart(query={"summaryTable": {"tableKey": "bars_table"}}, chart_name="admin/bars"),
    ]
    wandb.Api().create_project("reports-panels", "admin")
    runset = wr.Runset(
        entity="admin",
        project="reports-panels",
        name="Some of them",
        query="run",
        filters="Config('lr') >= 0.1 and State = 'finished'",
        groupby=["config.lr"],
        order=[wr.OrderBy("CreatedTimestamp", ascending=True)],
        run_settings={"shown": wr.RunSettings(color="red", disabled=True)},
    )
    report = wr.Report(project="reports-panels", entity="admin", title="Panels")
    report.blocks = [wr.PanelGrid(panels=panels, runsets=[runset])]
    report.save()
    (grid,) = wr.Report.from_url(report.url).blocks
    assert [type(panel) for panel in grid.panels] == [type(panel) for panel in panels]
    assert ([metric.name for metric in grid.panels[0].y], grid.panels[0].smoothing_factor) == (
        ["loss", "val/loss"],
        0.8,
    )
    (found,) = grid.runsets
    assert (found.name, found.query, found.groupby) == ("Some of them", "run", ["config.lr.value"])
    assert "lr" in str(found.filters)
    assert found.run_settings["shown"].disabled


@shows()
def clone_a_report() -> None:
    original = saved("reports-original")
    copy = wr.Report.from_url(original.url)
    copy.project, copy.title = "reports-copy", "A copy"
    copy.save(clone=True)
    assert copy.id != original.id
    (found,) = wandb.Api().reports("admin/reports-copy")
    assert found.display_name == "A copy"
    assert wr.Report.from_url(original.url).title == "My report"
    assert "<iframe" in copy.to_html()


@shows("Api.create_custom_chart")
def create_and_log_a_custom_chart() -> None:
    spec = {"mark": "bar", "encoding": {"x": {"field": "${field:x}"}, "y": {"field": "${field:y}"}}}
    chart = wandb.Api().create_custom_chart("admin", "bars", "My bars", spec_type="vega2", access="private", spec=spec)
    table = wandb.Table(columns=["name", "size"], data=[["a", 1]])
    with wandb.init(entity="admin", project="charted", id="user") as run:
        run.log({"bars": wandb.plot_table(chart, table, {"x": "name", "y": "size"})})
    shown = wandb.Api().run("admin/charted/user").rawconfig["_wandb"]["visualize"]["bars"]
    assert (chart, shown["panel_config"]["panelDefId"]) == ("admin/bars", "admin/bars")
