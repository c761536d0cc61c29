"""Runs go on: resumed, rewound, forked, shared, sent after they were made without a network."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb
from wandb.cli.cli import cli
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from tests.end_to_end.snippets.checks import refusal, shows

PATH = "admin/back"
PLACE: Any = {"entity": "admin", "project": "back"}


OTHER_WRITER = """
import wandb
settings = wandb.Settings(mode="shared", x_primary=False, x_label="1", x_update_finish_state=False)
with wandb.init(entity="admin", project="back", id="shared", settings=settings) as run:
    print("from the other")
    for step in range(3):
        run.log({"other": step})
"""


def losses(name: str) -> dict[int, float]:
    """Return what a run has logged, by step."""
    return {row["_step"]: row["loss"] for row in wandb.Api().run(f"{PATH}/{name}").scan_history(keys=["_step", "loss"])}


def log(count: int, **how: Any) -> None:
    """Log rows; each says its step."""
    with wandb.init(**PLACE, **how) as run:
        for _ in range(count):
            run.log({"loss": run.step})


@shows("wandb.init", "wandb.Run.resumed", "wandb.Run.starting_step")
def resume_a_run() -> None:
    log(2, id="resumed", config={"first": 1})
    with wandb.init(**PLACE, id="resumed", resume="must", config={"second": 2}) as run:
        assert (run.resumed, run.starting_step) == (True, 2)
        run.log({"loss": 5})
    assert losses("resumed") == {0: 0, 1: 1, 2: 5}
    assert wandb.Api().run(f"{PATH}/resumed").config == {"first": 1, "second": 2}
    assert "resume" in refusal(lambda: wandb.init(**PLACE, id="resumed", resume="never"), wandb.Error)
    assert "resume" in refusal(lambda: wandb.init(**PLACE, id="unknown", resume="must"), wandb.Error)


@shows("wandb.init", "wandb.Run.resumed")
def resume_a_run_that_failed() -> None:
    Path("unlucky").mkdir(exist_ok=True)
    how: Any = {**PLACE, "dir": "unlucky", "resume": "auto"}
    with suppress(ArithmeticError), wandb.init(**how) as run:
        run.log({"loss": 0})
        raise ArithmeticError
    assert wandb.Api().run(run.path).state == "failed"
    with wandb.init(**how) as again:
        assert (again.id, again.resumed, again.starting_step) == (run.id, True, 1)
        again.log({"loss": 1})
    assert (wandb.Api().run(run.path).state, losses(run.id)) == ("finished", {0: 0, 1: 1})
    with wandb.init(**how) as other:
        assert (other.id != run.id, other.resumed) == (True, False)


@shows("wandb.Run.resumed", "wandb.Run.restore")
def resume_a_run_from_a_checkpoint() -> None:
    for folder in ("first-host", "second-host"):
        Path(folder).mkdir(exist_ok=True)
        with wandb.init(**PLACE, id="checkpoints", dir=folder, resume="allow") as run:
            start = 0
            if run.resumed:
                checkpoint: Any = run.restore("checkpoint.txt")
                start = int(checkpoint.read())
            for epoch in range(start, start + 2):
                run.log({"loss": epoch})
                Path(run.dir, "checkpoint.txt").write_text(str(epoch + 1))
                run.save(str(Path(run.dir, "checkpoint.txt")), base_path=run.dir)
    assert losses("checkpoints") == {0: 0, 1: 1, 2: 2, 3: 3}
    assert wandb.Api().run(f"{PATH}/checkpoints").file("checkpoint.txt").download(replace=True).read() == "4"


@shows("wandb.init", "wandb.Run.step")
def rewind_a_run() -> None:
    with wandb.init(**PLACE, id="rewound", config={"first": 1}, tags=["kept"]) as run:
        for loss in range(5):
            print(f"the loss is {loss}")
            run.log({"loss": loss})
    assert losses("rewound") == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}  # what is read once is read anew
    with wandb.init(**PLACE, resume_from="rewound?_step=2", config={"second": 2}) as run:
        assert run.starting_step == 3
        print("and now for something else")
        run.log({"loss": 30})
    assert losses("rewound") == {0: 0, 1: 1, 2: 2, 3: 30}
    found = wandb.Api().run(f"{PATH}/rewound")
    assert (found.lastHistoryStep, found.config, found.tags) == (3, {"first": 1, "second": 2}, ["kept"])
    assert [line.content for line in found.console_logs()] == ["and now for something else"]


@shows("wandb.init")
def rewind_a_run_beyond_its_end() -> None:
    log(2, id="short")
    with wandb.init(**PLACE, resume_from="short?_step=50") as run:
        run.log({"loss": 30})
    assert losses("short") == {0: 0, 1: 1, 51: 30}


@shows("wandb.init")
def fork_a_run() -> None:
    log(5, id="parent")
    with wandb.init(**PLACE, id="forked", fork_from="parent?_step=2") as run:
        run.log({"loss": 30})
    assert losses("forked") == {0: 0, 1: 1, 2: 2, 3: 30}
    assert losses("parent") == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}
    told = refusal(lambda: wandb.init(**PLACE, id="orphan", fork_from="unknown?_step=2"), wandb.Error)
    assert "no run 'unknown'" in told
    with wandb.init(**PLACE, id="forked-again", fork_from="forked?_step=3") as run:
        run.log({"loss": 40})
    assert losses("forked-again") == {0: 0, 1: 1, 2: 2, 3: 30, 4: 40}
    with wandb.init(**PLACE, id="forked-again", resume="must") as run:
        run.log({"loss": 50})
    assert losses("forked-again") == {0: 0, 1: 1, 2: 2, 3: 30, 4: 40, 5: 50}


@shows("wandb.init", "Run.delete")
def a_deleted_run_is_not_resumed_rewound_or_forked() -> None:
    def gone(name: str) -> str:
        wandb.Api().create_run(**PLACE, run_id=name).delete()
        return name

    ways: Any = ("allow", "never", "auto")
    for how in ways:
        told = refusal(lambda how=how: wandb.init(**PLACE, id=gone(how), resume=how), wandb.Error)
        assert "previously created and deleted" in told
    with wandb.init(**PLACE, id="gone-offline", mode="offline") as run:
        run.log({"loss": 0})
    gone("gone-offline")
    sync(run.sync_dir)
    refusal(lambda: wandb.Api().run(f"{PATH}/gone-offline"), wandb.Error)
    assert "previously created and deleted" in refusal(lambda: gone("gone-offline"), WandbApiFailedError)
    assert "does not exist" in refusal(lambda: wandb.init(**PLACE, id=gone("must"), resume="must"), wandb.Error)
    rewind = refusal(lambda: wandb.init(**PLACE, resume_from=f"{gone('past')}?_step=0"), wandb.Error)
    assert "There is no run admin/back/past" in rewind
    fork = refusal(lambda: wandb.init(**PLACE, id="heir", fork_from=f"{gone('parent-gone')}?_step=0"), wandb.Error)
    assert "There is no run 'parent-gone'" in fork


@shows("wandb.init")
def log_to_one_run_from_several_processes() -> None:
    with wandb.init(**PLACE, id="shared", settings=wandb.Settings(mode="shared", x_primary=True, x_label="0")) as run:
        print("from the first")
        for step in range(3):
            run.log({"loss": step})
        alone = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # as on another machine
        subprocess.run([sys.executable, "-c", OTHER_WRITER], env=alone, check=True, timeout=60)
        assert wandb.Api().run(f"{PATH}/shared").state == "running"
    found = wandb.Api().run(f"{PATH}/shared")
    assert (found.state, found.summary["loss"], found.summary["other"]) == ("finished", 2, 2)
    assert losses("shared") == {0: 0, 1: 1, 2: 2}
    assert [row["other"] for row in found.scan_history(keys=["other"])] == [0, 1, 2]
    told = {line.label: line.content for line in found.console_logs()}
    assert told == {"0": "from the first", "1": "from the other"}
    assert {file.name for file in found.files(pattern="output%")} == {"output_0.log", "output_1.log"}


@shows("wandb.Run.offline", "wandb.Run.dir", "wandb.Run.sync_dir")
def sync_an_offline_run() -> None:
    with wandb.init(**PLACE, id="offline", mode="offline", config={"lr": 0.1}) as run:
        assert run.offline
        run.log({"loss": 0})
        run.summary["best"] = 1
        assert Path(run.dir).parent == Path(run.sync_dir)
    for _ in range(2):  # the second time changes nothing
        sync(run.sync_dir)
    found = wandb.Api().run(f"{PATH}/offline")
    assert (found.state, found.config, found.summary["best"], losses("offline")) == ("finished", {"lr": 0.1}, 1, {0: 0})


@shows("wandb.init", "wandb.Run.save", "wandb.Run.log_artifact")
def sync_an_offline_run_with_files_and_artifacts() -> None:
    Path("notes.txt").write_text("saved without a network")
    with wandb.init(**PLACE, id="offline-files", mode="offline", tags=["late"], notes="n", group="g") as run:
        run.define_metric("loss", summary="min")
        for loss in (2, 1, 3):
            run.log({"loss": loss})
        run.log({"page": wandb.Html("<b>bold</b>")})
        run.save("notes.txt", policy="now")
        run.log_artifact("notes.txt", name="notes", type="dataset")
        print("said without a network")
    sync(run.sync_dir)
    found = wandb.Api().run(f"{PATH}/offline-files")
    assert (found.state, found.tags, found.notes, found.group) == ("finished", ["late"], "n", "g")
    assert (found.summary["loss"]["min"], losses(found.id)) == (1, {0: 2, 1: 1, 2: 3})
    assert "<b>bold</b>" in found.file(found.summary["page"]["path"]).download(root="late", replace=True).read()
    assert found.file("notes.txt").download(root="late", replace=True).read() == "saved without a network"
    assert [artifact.name for artifact in found.logged_artifacts()] == ["notes:v0"]
    assert "said without a network" in [line.content for line in found.console_logs()]


@shows("wandb.init")
def sync_an_offline_run_that_names_no_entity() -> None:
    with wandb.init(project="back", id="offline-own", mode="offline") as run:
        run.log({"samples": wandb.Table(columns=["a"], data=[[1]])})
    sync(run.sync_dir)
    found = wandb.Api().run(f"{PATH}/offline-own")
    assert [artifact.type for artifact in found.logged_artifacts()] == ["run_table"]


@shows("wandb.init")
def sync_an_offline_run_that_was_resumed() -> None:
    folders: list[str] = []
    parts: Any = ((None, 1), ("allow", 2))
    for resume, loss in parts:
        with wandb.init(**PLACE, id="parts", mode="offline", resume=resume, config={f"of {loss}": loss}) as run:
            run.log({"loss": loss})
        folders.append(shutil.move(run.sync_dir, f"offline-run-{loss}"))  # parts of one second have one name
    for folder in folders:
        sync(folder)
    assert losses("parts") == {0: 1, 1: 2}
    found = wandb.Api().run(f"{PATH}/parts")
    assert (found.config, found.state) == ({"of 1": 1, "of 2": 2}, "finished")


def sync(folder: str) -> None:
    """Send what a run has left in a folder, as the command line does."""
    cli.main(["sync", "--include-synced", folder], standalone_mode=False)


@shows("wandb.init", "wandb.Run.disabled")
def disable_wandb() -> None:
    with wandb.init(**PLACE, id="disabled", mode="disabled") as run:
        run.log({"loss": 0})
        assert run.disabled
    refusal(lambda: wandb.Api().run(f"{PATH}/disabled"), wandb.Error)
