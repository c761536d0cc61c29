"""Uses and downloads what `log_artifacts.py` has logged, and reads all of it with the public API."""

import json
import sys
from pathlib import Path
from typing import Any

import wandb
from wandb.errors import CommError


def texts(folder: str) -> dict[str, str]:
    """Return the contents of all files below a folder."""
    return {str(file.relative_to(folder)): file.read_text() for file in Path(folder).rglob("*") if file.is_file()}


project = sys.argv[1]
path = f"admin/{project}"
seen: dict[str, Any] = {}
with wandb.init(entity="admin", project=project, id="user") as run:
    used = run.use_artifact("data:is 2")
    seen["downloaded"] = texts(used.download(root="data again"))
    used.verify(root="data again")
    seen["one file"] = Path(run.use_artifact("data:latest").get_entry("one").download(root="single")).read_text()
    seen["followed"] = texts(run.use_artifact("refers:latest").download(root="followed"))
    table = run.use_artifact("copy:v1").get("same table")
    assert isinstance(table, wandb.Table)
    seen["table"] = table.data
    seen["code"] = texts(run.use_artifact("code:latest").download(root="code again"))
    try:
        run.use_artifact("data:missing")
    except CommError as error:
        seen["missing"] = str(error)
api = wandb.Api()
data = api.artifact(f"{path}/data:v0")
described = (data.version, data.type, data.description, data.metadata, data.size, data.file_count, data.state)
seen["described"] = [*described, sorted(data.aliases)]
seen["files"] = [file.name for file in data.files(per_page=2)]
seen["some files"] = [(file.name, file.size) for file in data.files(names=["one"])]
seen["exists"] = [api.artifact_exists(f"{path}/data:{alias}") for alias in ("latest", "v0", "missing")]
seen["exists elsewhere"] = api.artifact_exists(f"admin/no-{project}/data:v0")
seen["collection exists"] = [api.artifact_collection_exists(f"{path}/{name}", "dataset") for name in ("data", "none")]
maker = data.logged_by()
seen["logged by"] = maker.id if maker else None
seen["used by"] = [run.id for run in api.artifact(f"{path}/data:v1").used_by()]
seen["logged"] = sorted(found.name for found in api.run(f"{path}/maker").logged_artifacts(per_page=2))
seen["used"] = sorted(found.name for found in api.run(f"{path}/user").used_artifacts())
seen["listed"] = [found.name for found in api.artifacts("dataset", f"{path}/data", per_page=1)]
try:
    upwards = api.artifacts("dataset", f"{path}/data", order="+version_index", per_page=1)
    seen["upwards"] = [found.name for found in upwards]
except CommError as error:
    seen["upwards"] = str(error)
seen["types"] = sorted(found.name for found in api.artifact_types(path))
seen["collections"] = sorted(found.name for found in api.artifact_collections(path, "dataset", per_page=1))
seen["collection aliases"] = sorted(api.artifact_collection("dataset", f"{path}/data").aliases)
print("SEEN", json.dumps(seen))
