"""Plots and data frames of other packages are logged as they are."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import wandb
from wandb.data_types import Bokeh

from tests.end_to_end.snippets.checks import shows

PATH = "admin/plots"
PLACE: Any = {"entity": "admin", "project": "plots"}


def content(run: Any, key: str, kind: str) -> bytes:
    """Return the file of what a run has logged, which must be of a kind."""
    value = run.summary[key]
    file = run.file(value["path"])
    assert (value["_type"], value["size"]) == (kind, file.size)
    return Path(file.download(root=f"plots-of-{run.id}", exist_ok=True).name).read_bytes()


@shows("wandb.Run.log")
def figures_of_matplotlib() -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    plt.plot([1, 2, 3], [4, 5, 6])
    plt.ylabel("height")
    with wandb.init(**PLACE, id="matplotlib") as run:
        run.log({"interactive": plt})
        run.log({"picture": wandb.Image(plt, caption="as it is")})
    plt.close()
    found = wandb.Api().run(f"{PATH}/matplotlib")
    figure = json.loads(content(found, "interactive", "plotly-file"))
    assert (figure["data"][0]["y"], figure["layout"]["yaxis"]["title"]["text"]) == ([4, 5, 6], "height")
    assert content(found, "picture", "image-file").startswith(b"\x89PNG")


@shows("wandb.Run.log")
def figures_of_plotly() -> None:
    import plotly.graph_objects as go

    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4]))
    table = wandb.Table(columns=["figure", "page"])
    figure.write_html("figure.html", include_plotlyjs="cdn", auto_play=False)
    table.add_data(wandb.Plotly(figure), wandb.Html("figure.html"))
    with wandb.init(**PLACE, id="plotly") as run:
        run.log({"figure": figure, "told": wandb.Plotly(figure), "table": table})
    found = wandb.Api().run(f"{PATH}/plotly")
    for key in ("figure", "told"):
        assert json.loads(content(found, key, "plotly-file"))["data"][0]["y"] == [3, 4]
    folder = Path(wandb.Api().artifact(f"{PATH}/run-plotly-table:latest").download())
    ((plot, page),) = json.loads((folder / "table.table.json").read_text())["data"]
    assert json.loads((folder / plot["path"]).read_text())["data"][0]["x"] == [1, 2]
    assert "plotly" in (folder / page["path"]).read_text()


@shows("wandb.Run.log")
def figures_of_bokeh() -> None:
    from bokeh.plotting import figure

    plot = figure(title="A line")
    plot.line([1, 2], [3, 4])
    with wandb.init(**PLACE, id="bokeh") as run:
        run.log({"plot": Bokeh(plot)})
    document = json.loads(content(wandb.Api().run(f"{PATH}/bokeh"), "plot", "bokeh-file"))
    assert document["roots"][0]["attributes"]["title"]["attributes"]["text"] == "A line"


@shows("wandb.Run.log")
def data_frames() -> None:
    frame = pd.DataFrame({"x": [1, 2], "name": ["a", None], "of": pd.to_datetime(["2020-01-01", "2021-01-01"])})
    with wandb.init(**PLACE, id="frame") as run:
        run.log({"table": wandb.Table(dataframe=frame), "frame": frame})
    found = wandb.Api().run(f"{PATH}/frame")
    for key in ("table", "frame"):
        assert (found.summary[key]["_type"], found.summary[key]["ncols"]) == ("table-file", 3)
        back: Any = wandb.Api().artifact(f"{PATH}/run-frame-{key}:latest").get(key)
        assert back.columns == ["x", "name", "of"]
        assert [row[:2] for row in back.data] == [[1, "a"], [2, None]]
        assert [row[2].year for row in back.data] == [2020, 2021]
