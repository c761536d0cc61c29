"""The stock client logs artifacts to a real server, and gets them back."""

import base64
import hashlib
import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.processes import run

pytestmark = pytest.mark.end_to_end

CHANGE = """
import json, sys, wandb
path = "admin/" + sys.argv[1]
seen = {}
with wandb.init(entity="admin", project=sys.argv[1]) as run:
    for name in ("data", "data", "other"):
        artifact = wandb.Artifact(name, "dataset", metadata={"rows": 2}, description="first")
        with artifact.new_file("file") as file:
            file.write(f"{len(seen)}")
        seen[run.log_artifact(artifact, aliases=["latest", "tested"]).wait().name] = None
data = wandb.Api().artifact(path + "/data:v0")
data.metadata["rows"] = 3
data.description = "changed"
data.aliases = ["best"]
data.save()
data = wandb.Api().artifact(path + "/data:best")
seen["changed"] = [data.version, data.description, data.metadata, data.aliases]
try:
    data.delete()
except Exception as error:
    seen["refused"] = str(error)
data.delete(delete_aliases=True)
api = wandb.Api()
seen["left"] = [(found.name, sorted(found.aliases)) for found in api.artifacts("dataset", path + "/data")]
collection = api.artifact_collection("dataset", path + "/other")
collection.name, collection.description = "renamed", "described"
collection.save()
seen["renamed"] = api.artifact(path + "/renamed:v0").name
seen["described"] = wandb.Api().artifact_collection("dataset", path + "/renamed").description
collection.delete()
seen["collections"] = [found.name for found in wandb.Api().artifact_collections(path, "dataset")]
print("SEEN", json.dumps(seen))
"""
LOG_ONE = """
import sys, wandb
with wandb.init(entity="admin", project=sys.argv[1]) as run:
    artifact = wandb.Artifact("data", "dataset")
    with artifact.new_file("file") as file:
        file.write("fallback content")
    run.log_artifact(artifact).wait()
"""


def seen(server: LiveServer, script: str | Path, project: str, **env: str) -> Any:
    """Return what a script says that it saw."""
    result = server.run_script(script, project, **env)
    assert result.returncode == 0, result.stdout + result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("SEEN "))
    return json.loads(line.removeprefix("SEEN "))


def test_what_a_run_logs_another_one_uses(server: LiveServer, tmp_path: Path) -> None:
    logged = seen(server, Path("log_artifacts.py"), "artifacts")
    assert logged["versions"] == ["v0", "v1", "v0"], "content that is there already makes no new version"
    assert logged["tables"] == ["v0", "v1"]
    assert "already exists with type 'dataset'" in logged["other type"]
    # Without the maker's cache, everything has to come from the server.
    used = seen(server, Path("use_artifacts.py"), "artifacts", WANDB_CACHE_DIR=str(tmp_path))
    assert used["downloaded"] == {"one": "2", "dir/a": "same", "dir/sub/b": "in a folder", "ref": "same"}
    assert (used["one file"], used["followed"], used["table"]) == ("1", {"elsewhere": "1"}, [[1]])
    assert used["code"] == {"train.py": "print(1)"}
    assert "'data:missing' not found" in used["missing"]
    _check_public(used, server.is_newest)


def _check_public(used: dict[str, Any], is_newest: bool) -> None:
    metadata, aliases = {"rows": 2, "none": None}, ["is 1", "latest"]
    assert used["described"] == ["v0", "dataset", "numbers", metadata, 20, 4, "COMMITTED", aliases]
    assert used["files"] == ["dir/a", "dir/sub/b", "one", "ref"]
    assert used["some files"] == [["one", 1]]
    assert (used["exists"], used["exists elsewhere"]) == ([True, True, False], False)
    assert used["collection exists"] == [True, False]
    assert (used["logged by"], used["used by"]) == ("maker", ["user"])
    logged = ["code:v0", "copy:v0", "copy:v1", "data:v0", "data:v1", "original:v0", "refers:v0"]
    assert used["logged"] == logged
    assert used["used"] == ["code:v0", "copy:v1", "data:v0", "data:v1", "refers:v0"]
    assert used["listed"] == ["data:v1", "data:v0"]
    # Older clients know one order only.
    assert used["upwards"] == (
        ["data:v0", "data:v1"] if is_newest else "Api.artifacts() got an unexpected keyword argument 'order'"
    )
    assert used["types"] == ["code", "dataset", "tables"]
    assert (used["collections"], used["collection aliases"]) == (["data", "refers"], ["is 1", "is 2", "latest"])


def test_artifacts_are_changed_and_deleted(server: LiveServer) -> None:
    found = seen(server, CHANGE, "changes")
    assert found["changed"] == ["v0", "changed", {"rows": 3}, ["best"]]
    assert "aliases best" in found["refused"]
    assert found["left"] == [["data:v1", ["latest", "tested"]]]
    assert (found["renamed"], found["described"], found["collections"]) == ("renamed:v0", "described", ["data"])


@pytest.mark.newest_client("the older one has the same commands, and what they do is tested with it")
def test_the_command_puts_lists_and_gets(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "source" / "deep").mkdir(parents=True)
    (tmp_path / "source" / "deep" / "file").write_text("content")
    project, source, back = "admin/by-command", str(tmp_path / "source"), str(tmp_path / "back")
    made = ("--name", f"{project}/data", "--type", "dataset", "--description", "said", "--alias", "best")
    run(server, "wandb", "artifact", "put", *made, source)
    listed = run(server, "wandb", "artifact", "ls", project)
    assert re.search(r"dataset\s.*\sdata:v0", listed.stdout + listed.stderr)
    run(server, "wandb", "artifact", "get", f"{project}/data:best", "--root", back)
    assert (Path(back) / "deep" / "file").read_text() == "content"


@pytest.mark.newest_client("no stock client takes part")
def test_a_client_without_a_signed_url_downloads_by_digest(server: LiveServer) -> None:
    assert server.run_script(LOG_ONE, "fallback").returncode == 0
    digest = hashlib.md5(b"fallback content", usedforsecurity=False).hexdigest()
    credentials = base64.b64encode(f"api:{server.api_key}".encode()).decode()
    for where in (
        f"artifactsV2/default/admin/fallback/data/QXJ0aWZhY3Q6MQ==/{digest}/file",
        f"artifactsV2/default/admin/fallback/data/QXJ0aWZhY3Q6MQ==/QXJ0aWZhY3Q6MQ==/{digest}/file",
        f"artifacts/admin/{digest}",
    ):
        headers = {"Authorization": f"Basic {credentials}"}
        request = urllib.request.Request(f"{server.base_url}/{where}", headers=headers)
        with urllib.request.urlopen(request) as answer:
            assert answer.read() == b"fallback content"
