"""Reports and workspaces are saved, listed and loaded back."""

import warnings
from functools import cache
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
    assert [report.display_name for report in wandb.Api().reports(PATH, per_page=1)] == ["My report", "Another"]
    other.delete()
    assert [report.display_name for report in wandb.Api().reports(PATH)] == ["My report"]


@shows()
def a_report_has_no_link_that_opens_it_to_all() -> None:
    report = saved()
    assert (report.get_share_url(), report.disable_share_link()) == (None, False)
    assert "cannot be shared" in refusal(report.enable_share_link, WandbApiFailedError)


@shows()
def a_workspace_is_loaded_back() -> None:
    saved()
    section = ws.Section(name="Metrics", panels=[wr.LinePlot(x="Step", y=["loss"])], is_open=True)
    workspace = ws.Workspace(entity="admin", project="reported", name="Mine", sections=[section])
    workspace.save()
    found = ws.Workspace.from_url(workspace.url)
    assert (found.name, [section.name for section in found.sections]) == ("Mine", ["Metrics"])


@shows()
def a_workspace_is_changed_and_saved_as_another() -> None:
    saved()
    workspace = ws.Workspace(
        entity="admin",
        project="reported",
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
def every_kind_of_block_is_loaded_back() -> None:
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
    report = wr.Report(project="reported-blocks", entity="admin", title="Blocks", width="fluid", blocks=blocks)
    report.save()
    found = wr.Report.from_url(report.url)
    assert found.blocks == blocks
    assert found.title == "Blocks"


@shows()
def panels_and_sets_of_runs_are_loaded_back() -> None:
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
    runset = wr.Runset(
        entity="admin",
        project="reported",
        name="Some of them",
        query="run",
        filters="Config('lr') >= 0.1 and State = 'finished'",
        groupby=["config.lr"],
        order=[wr.OrderBy("CreatedTimestamp", ascending=True)],
        run_settings={"shown": wr.RunSettings(color="red", disabled=True)},
    )
    report = wr.Report(project="reported-panels", entity="admin", title="Panels")
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
def a_report_is_copied() -> None:
    original = saved()
    copy = wr.Report.from_url(original.url)
    copy.project, copy.title = "reported-copy", "A copy"
    copy.save(clone=True)
    assert copy.id != original.id
    (found,) = wandb.Api().reports("admin/reported-copy")
    assert found.display_name == "A copy"
    assert wr.Report.from_url(original.url).title == "My report"
    assert "<iframe" in copy.to_html()


@shows("Api.create_custom_chart")
def a_chart_of_ones_own_is_made_and_used() -> None:
    spec = {"mark": "bar", "encoding": {"x": {"field": "${field:x}"}, "y": {"field": "${field:y}"}}}
    chart = wandb.Api().create_custom_chart("admin", "bars", "My bars", spec_type="vega2", access="private", spec=spec)
    table = wandb.Table(columns=["name", "size"], data=[["a", 1]])
    with wandb.init(entity="admin", project="charted", id="user") as run:
        run.log({"bars": wandb.plot_table(chart, table, {"x": "name", "y": "size"})})
    shown = wandb.Api().run("admin/charted/user").rawconfig["_wandb"]["visualize"]["bars"]
    assert (chart, shown["panel_config"]["panelDefId"]) == ("admin/bars", "admin/bars")
