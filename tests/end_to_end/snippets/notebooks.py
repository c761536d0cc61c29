"""What a notebook shows of a run."""

import wandb
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from tests.end_to_end.snippets.checks import shows


@shows("wandb.Run.display")
def display_a_run_in_a_notebook() -> None:
    with wandb.init(entity="admin", project="training", settings=wandb.Settings(silent=False)) as run:
        assert not run.display(), "this is no notebook"
        # In a kernel, IPython knows of the file that says how to connect to it.
        InteractiveShell.instance(config=Config({"IPKernelApp": {"connection_file": "jupyter/kernel.json"}}))
        try:
            with capture_output() as captured:
                assert run.display(height=99)
        finally:
            InteractiveShell.clear_instance()
    (shown,) = captured.outputs
    assert f"{run.url}?jupyter=true" in shown.data["text/html"]
