"""The stock client tracks runs on a real server and reads them back."""

import json
import math
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import LiveServer
from tests.end_to_end.snippets.checks import shows

pytestmark = pytest.mark.end_to_end

ENDS = """
import sys, wandb
project, how = sys.argv[1:]
run = wandb.init(project=project, id=how)
run.log({"loss": 1})
if how == "finish-3":
    run.finish(exit_code=3)
elif how == "exit-4":
    sys.exit(4)
elif how == "raise":
    raise RuntimeError("broken on purpose")
"""
RESUME = """
import sys, wandb
project, resume, loss = sys.argv[1:]
with wandb.init(project=project, id="r", resume=resume or None, config={resume or "first": loss}) as run:
    print("step", run.starting_step)
    run.log({"loss": float(loss)})
"""
STOPPABLE = """
import sys, time, wandb
settings = wandb.Settings(x_file_stream_transmit_interval=0.5)
with wandb.init(project=sys.argv[1], id="r", settings=settings) as run:
    print("started", flush=True)
    for step in range(10_000):
        run.log({"step": step})
        time.sleep(0.05)
"""
PUBLIC = """
import json, sys, wandb
from pathlib import Path
project = sys.argv[1]
api = wandb.Api()
seen = {}
for name in ("a", "b"):
    wandb.init(entity="admin", project=project, id=name, group="g-" + name).finish()
path = f"admin/{project}"
seen["oldest"] = [run.id for run in api.runs(path, per_page=1)]
seen["newest"] = [run.id for run in api.runs(path, order="-created_at", per_page=1)]
seen["group"] = [run.id for run in api.runs(path, filters={"group": "g-b"})]
seen["finished"] = len(api.runs(path, filters={"state": "finished"}))
seen["lazy"] = [run.config for run in api.runs(path, lazy=False)]
try:
    list(api.runs(path, filters={"colour": "red"}))
except Exception as error:
    seen["refused"] = str(error)
run = api.run(f"{path}/a")
run.config["lr"] = 0.5
run.tags.append("late")
run.notes = "changed"
run.display_name = "renamed"
run.group = "regrouped"
run.summary["best"] = 1
run.update()
run.wait_until_finished()
Path("upload.txt").write_text("by hand")
run.upload_file("upload.txt")
again = wandb.Api().run(f"{path}/a")
seen["updated"] = [again.config, again.tags, again.notes, again.display_name, again.group, again.state]
seen["summary"] = again.summary_metrics["best"]
seen["uploaded"] = again.file("upload.txt").download(replace=True).read()
again.file("upload.txt").delete()
seen["left"] = [file.name for file in wandb.Api().run(f"{path}/a").files(["upload.txt"])]
api.run(f"{path}/b").delete()
api.flush()
seen["after delete"] = [run.id for run in api.runs(path)]
try:
    wandb.init(entity="admin", project=project, id="b")
except Exception as error:
    seen["deleted id"] = str(error)
print("SEEN", json.dumps(seen))
"""
READ = """
import json, sys, wandb
api = wandb.Api()
runs = {}
for run in api.runs("admin/" + sys.argv[1]):
    losses = [row["loss"] for row in run.scan_history(keys=["loss"])]
    assert losses == [row["loss"] for row in run.beta_scan_history(keys=["loss"], page_size=2)]
    config = api.run("/".join(run.path)).config  # in a list, older clients leave it out
    runs[run.id] = [run.state, losses, config, run.lastHistoryStep]
print("SEEN", json.dumps(runs))
"""


def checked(result: subprocess.CompletedProcess[str]) -> str:
    """Return the output of a script that must have succeeded."""
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def seen(output: str) -> Any:
    """Return what a script says that it saw."""
    return json.loads(next(line for line in output.splitlines() if line.startswith("SEEN ")).removeprefix("SEEN "))


def test_what_a_run_logs_is_read_back(server: LiveServer) -> None:
    checked(server.run_script(Path("train.py"), "readback", "r1"))
    run = json.loads(checked(server.run_script(Path("read.py"), "admin/readback/r1")))
    described = {
        "viewer": "admin",
        "id": "r1",
        "name": "first try",
        "state": "finished",
        "user": "admin",
        "group": "group a",
        "job_type": "train",
        "tags": ["red", "blue"],
        "notes": "some notes",
        "config": {"lr": 0.1, "nested": {"depth": 3}, "late": "value"},
        "metadata": True,
        "last_step": 19,
    }
    assert {key: run[key] for key in described} == described
    assert (run["summary"]["best"], run["summary"]["loss"], run["summary"]["sparse"]) == (0.25, 1 / 20, 15)
    _check_history(run)
    names = {"config.yaml", "notes/über uns.txt", "output.log", "requirements.txt", "wandb-metadata.json"}
    assert names | {"wandb-summary.json"} == set(run["files"])
    assert run["some_files"] == ["notes/über uns.txt", "requirements.txt"]
    assert run["saved"] == "saved by the run\n"
    if server.is_newest:  # the older one measures later than such a run ends, and cannot read the console
        assert run["system"] >= 1
        assert run["console"][0] == "hello from the run"
        assert run["console_tail"] == run["console"][-1:]


def _check_history(run: dict[str, Any]) -> None:
    for rows in (run["history"], run["scan"], run["beta_scan"]):
        assert [row["_step"] for row in rows] == list(range(20))
        assert [row["loss"] for row in rows] == [1 / (step + 1) for step in range(20)]
        assert [row["train/acc"] for row in rows] == [step / 20 for step in range(20)]
    assert math.isnan(run["scan"][5]["sparse"])
    assert [row["_step"] for row in run["sampled"]] == [0, 4, 9, 14, 19]
    assert [row["_step"] for row in run["of_keys"]] == [0, 5, 10, 15]
    some = [{"_step": step, "loss": 1 / (step + 1)} for step in (3, 4, 5)]
    assert run["scan_of_keys"] == run["beta_scan_of_keys"] == some
    assert (run["exports"], run["exports_are_whole"]) == ([[], True], False)


@shows("wandb.Run.finish")
def test_how_a_process_ends_is_how_its_run_ends(server: LiveServer) -> None:
    ends = {"end": ("finished", 0), "finish-3": ("failed", 0), "exit-4": ("failed", 4), "raise": ("failed", 1)}
    with ExitStack() as stack:
        processes = {how: stack.enter_context(server.started_script(ENDS, "ends", how)) for how in ends}
        codes = {how: process.wait(timeout=240) for how, process in processes.items()}
    assert codes == {how: code for how, (_, code) in ends.items()}
    runs = seen(checked(server.run_script(READ, "ends")))
    assert {how: run[0] for how, run in runs.items()} == {how: state for how, (state, _) in ends.items()}
    assert {how: run[1] for how, run in runs.items()} == {how: [1] for how in ends}


@shows("wandb.init")
def test_resume_by_id(server: LiveServer) -> None:
    missing = server.run_script(RESUME, "resume", "must", "0")
    assert missing.returncode != 0
    assert "resume" in missing.stderr
    assert "step 0" in checked(server.run_script(RESUME, "resume", "allow", "1"))
    assert "step 1" in checked(server.run_script(RESUME, "resume", "allow", "2"))
    assert "step 2" in checked(server.run_script(RESUME, "resume", "must", "3"))
    assert server.run_script(RESUME, "resume", "never", "4").returncode != 0
    state, losses, config, last_step = seen(checked(server.run_script(READ, "resume")))["r"]
    assert (state, losses, last_step) == ("finished", [1, 2, 3], 2)
    assert config == {"allow": "2", "must": "3"}
    assert "step 0" in checked(server.run_script(RESUME, "resume", "", "5"))
    state, losses, config, last_step = seen(checked(server.run_script(READ, "resume")))["r"]
    assert (state, losses, config, last_step) == ("finished", [5], {"first": "5"}, 0)


@pytest.mark.older_client
def test_the_public_api_lists_changes_and_deletes(server: LiveServer) -> None:
    found = seen(checked(server.run_script(PUBLIC, "public")))
    assert (found["oldest"], found["newest"], found["group"]) == (["a", "b"], ["b", "a"], ["b"])
    assert (found["finished"], found["lazy"]) == (2, [{}, {}])
    assert "colour" in found["refused"]
    assert found["updated"] == [{"lr": 0.5}, ["late"], "changed", "renamed", "regrouped", "finished"]
    assert (found["summary"], found["uploaded"], found["left"]) == (1, "by hand", [])
    assert found["after delete"] == ["a"]
    assert "deleted" in found["deleted id"]


@shows("Run.stop")
@pytest.mark.newest_client("the older one asks every 15 seconds; the sweeps' tests see it stop")
def test_a_stopped_run_is_killed(server: LiveServer) -> None:
    with server.started_script(STOPPABLE, "stop") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        checked(server.run_script('import wandb; wandb.Api().run("admin/stop/r").stop()'))
        assert process.wait(timeout=240) != 0
    checked(server.run_script('import wandb; assert wandb.Api().run("admin/stop/r").state == "killed"'))
