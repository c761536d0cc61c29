"""Runs log what is no number: pictures, sounds, videos, molecules, clouds of points, pages, tables, plots."""

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import wandb

from tests.end_to_end.snippets.checks import once, shows

PATH = "admin/media"
CLASSES = {0: "background", 1: "cat"}


@once
def log_media() -> None:
    """Log one of each kind."""
    pixels = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    corner = {"position": {"minX": 0.1, "maxX": 0.5, "minY": 0.2, "maxY": 0.6}, "class_id": 1, "scores": {"p": 0.9}}
    whole = {"position": {"middle": [5, 5], "width": 9, "height": 9}, "domain": "pixel", "class_id": 1}
    with wandb.init(entity="admin", project="media", id="all") as run:
        picture = wandb.Image(
            pixels,
            caption="noise",
            masks={"truth": {"mask_data": np.eye(10, dtype=np.uint8), "class_labels": CLASSES}},
            boxes={"found": {"box_data": [corner, whole], "class_labels": CLASSES}},
        )
        run.log({"picture": picture, "pictures": [wandb.Image(pixels), wandb.Image(PIL.Image.new("L", (4, 4)))]})
        run.log({"sound": wandb.Audio(tone(), caption="a tone"), "clip": wandb.Video(clip(), caption="a clip")})
        run.log({"molecule": wandb.Molecule(text_file("water.pdb", "HETATM    1  O   HOH"), caption="water")})
        boxes = [{"corners": [[0, 0, number] for number in range(8)], "label": "box", "color": [1, 2, 3]}]
        scene = {"type": "lidar/beta", "points": np.ones((3, 3)), "boxes": np.array(boxes), "vectors": np.array([])}
        run.log({"cloud": wandb.Object3D(np.ones((5, 6))), "scene": wandb.Object3D(scene)})
        run.log({"page": wandb.Html("<b>bold</b>"), "page of a file": wandb.Html(text_file("page.html", "<i>it</i>"))})
        counts = wandb.Histogram(np_histogram=np.histogram([1, 2, 2, 3], bins=3))
        run.log({"histogram": wandb.Histogram([1, 2, 3], num_bins=4), "counted": counts})
        table = wandb.Table(columns=["id", "picture", "when"], allow_mixed_types=True)
        table.add_data(1, wandb.Image(pixels), None)
        table.add_data(2, picture, "later")
        table.add_column("score", [0.5, 1.5])
        run.log({"table": table})
        growing = wandb.Table(columns=["x"], log_mode="INCREMENTAL")
        for x in range(2):
            growing.add_data(x)
            run.log({"growing": growing})
        run.summary["kept"] = wandb.Histogram([1, 2, 3])


def logged() -> Any:
    """Return the run with these, as the public API sees it."""
    log_media()
    return wandb.Api().run(f"{PATH}/all")


def tone() -> str:
    """Return a file of sound."""
    with wave.open("tone.wav", "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(bytes(100))
    return "tone.wav"


def clip() -> str:
    """Return a file of moving pictures."""
    frames = [PIL.Image.new("L", (4, 4), shade) for shade in (0, 255)]
    frames[0].save("clip.gif", save_all=True, append_images=frames[1:])
    return "clip.gif"


def text_file(name: str, text: str) -> str:
    """Return a file of text."""
    Path(name).write_text(text)
    return name


def content(run: Any, value: dict[str, Any]) -> bytes:
    """Return the bytes of a file of a run that a value refers to, which must be what it says."""
    file = run.file(value["path"])
    assert file.size == value["size"]
    return Path(file.download(root="back", exist_ok=True).name).read_bytes()


@shows("wandb.Run.log")
def log_images_with_masks_and_boxes() -> None:
    run = logged()
    picture = run.summary["picture"]
    assert (picture["_type"], picture["format"], picture["width"], picture["caption"]) == (
        "image-file",
        "png",
        10,
        "noise",
    )
    assert content(run, picture).startswith(b"\x89PNG")
    assert content(run, picture["masks"]["truth"]).startswith(b"\x89PNG")
    boxes = json.loads(content(run, picture["boxes"]["found"]))
    assert [box["class_id"] for box in boxes["box_data"]] == [1, 1]
    assert boxes["class_labels"] == {"0": "background", "1": "cat"}
    pictures = run.summary["pictures"]
    assert (pictures["_type"], pictures["count"]) == ("images/separated", 2)
    assert all(run.file(name).size > 0 for name in pictures["filenames"])


@shows("wandb.Run.log")
def log_audio_video_molecules_and_point_clouds() -> None:
    run = logged()
    summary = run.summary
    assert content(run, summary["sound"]) == Path(tone()).read_bytes()
    assert content(run, summary["clip"]).startswith(b"GIF8")
    assert content(run, summary["molecule"]).startswith(b"HETATM")
    assert json.loads(content(run, summary["cloud"])) == [[1] * 6] * 5
    assert json.loads(content(run, summary["scene"]))["boxes"][0]["label"] == "box"
    kinds = [summary[key]["_type"] for key in ("sound", "clip", "molecule", "cloud")]
    assert kinds == ["audio-file", "video-file", "molecule-file", "object3D-file"]


@shows("wandb.Run.log")
def log_html_and_histograms() -> None:
    run = logged()
    assert b"<b>bold</b>" in content(run, run.summary["page"])
    assert b"<i>it</i>" in content(run, run.summary["page of a file"])
    histogram = next(run.scan_history(keys=["histogram"]))["histogram"]
    assert (histogram["_type"], len(histogram["bins"]), sum(histogram["values"])) == ("histogram", 5, 3)
    assert next(run.scan_history(keys=["counted"]))["counted"]["values"] == [1, 2, 1]
    assert run.summary["kept"]["_type"] == "histogram"


@shows("wandb.Run.log")
def log_tables_with_images_and_incremental_tables() -> None:
    run = logged()
    table: Any = wandb.Api().artifact(f"{PATH}/run-all-table:latest").get("table")
    assert table.columns == ["id", "picture", "when", "score"]
    assert [row[0] for row in table.data] == [1, 2]
    assert table.data[0][1].image.size == (10, 10)
    assert run.summary["growing"]["_type"] == "incremental-table-file"


@shows("wandb.Run.log")
def log_plots() -> None:
    table = wandb.Table(columns=["x", "y"], data=[[1, 2], [3, 4]])
    truth: Any
    chances: Any
    truth, chances = [0, 1, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]]
    plots = {
        "scatter": wandb.plot.scatter(table, "x", "y", title="Points"),
        "bar": wandb.plot.bar(table, "x", "y"),
        "counts": wandb.plot.histogram(table, "x"),
        "series": wandb.plot.line_series(xs=[0, 1], ys=[[1, 2], [3, 4]], keys=["a", "b"], xname="step"),
        "roc": wandb.plot.roc_curve(truth, chances, labels=["cat", "dog"]),
        "pr": wandb.plot.pr_curve(truth, chances, labels=["cat", "dog"]),
        "matrix": wandb.plot.confusion_matrix(probs=chances, y_true=truth, class_names=["cat", "dog"]),
    }
    with wandb.init(entity="admin", project="media", id="plots") as run:
        run.log(plots)
    found = wandb.Api().run(f"{PATH}/plots")
    shown = found.rawconfig["_wandb"]["visualize"]
    assert shown.keys() == plots.keys()
    assert shown["roc"]["panel_config"]["panelDefId"] == "wandb/area-under-curve/v0"
    keys = {name: f"{name}_table" for name in plots}
    rows: Any = wandb.Api().artifact(f"{PATH}/run-plots-series_table:latest").get(keys["series"])
    assert rows.data == [[0, "a", 1], [1, "a", 2], [0, "b", 3], [1, "b", 4]]
