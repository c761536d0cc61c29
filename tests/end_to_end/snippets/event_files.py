"""What is written for TensorBoard is logged, too."""

from pathlib import Path
from typing import Any

import numpy as np
import wandb
from click import ClickException
from wandb.cli.cli import cli

from tests.end_to_end.snippets.checks import differs, refusal, shows

PATH = "admin/event-files"
PLACE: Any = {"entity": "admin", "project": "event-files"}
tensorboard: Any = wandb.tensorboard  # type: ignore -- the client has it for who asks


@shows("wandb.init", "wandb.Run.log")
def what_summary_writers_write_is_logged() -> None:
    from tensorboardX import SummaryWriter

    for name in ("train", "test"):  # else the client may look for a folder that its writer has not made yet
        Path("synced", name).mkdir(parents=True, exist_ok=True)
    with wandb.init(**PLACE, id="synced", sync_tensorboard=True) as run:
        # Two writers: the client waits ten seconds for the second one, to know which folder is above both.
        with SummaryWriter("synced/train") as train, SummaryWriter("synced/test") as test:
            for step in range(3):
                train.add_scalar("loss", 4 - step, step)
                test.add_scalar("loss", 14 - step, step)
        run.log({"own": 1})
    tensorboard.unpatch()
    found = wandb.Api().run(f"{PATH}/synced")
    for name, first in (("train", 4), ("test", 14)):
        keys = ["global_step", f"{name}/loss"]
        rows = [[row[key] for key in keys] for row in found.scan_history(keys=keys)]
        assert rows == [[0, first], [1, first - 1], [2, first - 2]]
    assert [row["own"] for row in found.scan_history(keys=["own"])] == [1]
    folders = {Path(file.name).parent.name for file in found.files() if "events.out.tfevents." in file.name}
    assert folders == {"train", "test"}


@shows("wandb.init")
def pictures_histograms_and_curves_of_a_summary_writer() -> None:
    from tensorboardX import SummaryWriter

    edges: Any = np.arange(6)
    Path("patched").mkdir(exist_ok=True)
    tensorboard.patch(root_logdir="patched", save=False)
    with wandb.init(**PLACE, id="patched"), SummaryWriter("patched") as writer:
        writer.add_histogram("weights", np.arange(4), 1, bins=edges)
        writer.add_image("picture", np.zeros((3, 5, 4), np.uint8), 1)
        writer.add_pr_curve("curve", np.array([0, 1, 1]), np.array([0.1, 0.9, 0.8]), 1)
    tensorboard.unpatch()
    found = wandb.Api().run(f"{PATH}/patched")
    (row,) = found.scan_history()
    assert (row["global_step"], sum(row["weights"]["values"])) == (1, 4)
    assert (row["picture"]["width"], row["picture"]["height"]) == (4, 5)
    assert (row["curve"]["_type"], row["curve"]["ncols"]) == ("table-file", 2)
    assert "curve" in found.rawconfig["_wandb"]["visualize"]
    names = [file.name for file in found.files()]
    assert row["picture"]["filenames"][0] in names
    assert not [name for name in names if "tfevents" in name]


@differs("Api.sync_tensorboard", "ModuleNotFoundError: the client can read a folder of event files no longer")
def folders_of_event_files() -> None:
    Path("of-events").mkdir(exist_ok=True)
    refusal(lambda: wandb.Api().sync_tensorboard("of-events"), ModuleNotFoundError)
    command = ["sync", "--sync-tensorboard", "of-events"]
    told = refusal(lambda: cli.main(command, standalone_mode=False), ClickException)
    assert "have been removed: --sync-tensorboard" in told
