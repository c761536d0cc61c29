"""Prints a run as the public API of a fresh process sees it. Argument: its path."""

import json
import sys

import wandb
from wandb.apis.public import Run

HAS_CONSOLE = hasattr(Run, "console_logs")  # since 0.26
api = wandb.Api()
run = api.run(sys.argv[1])
saved = run.file("notes/über uns.txt").download(root="downloaded", exist_ok=True)
print(
    json.dumps(
        {
            "viewer": api.viewer.username,
            "id": run.id,
            "name": run.name,
            "state": run.state,
            "user": run.user.username,
            "group": run.group,
            "job_type": run.job_type,
            "tags": run.tags,
            "notes": run.notes,
            "config": run.config,
            "summary": run.summary_metrics,
            "metadata": run.metadata is not None,
            "last_step": run.lastHistoryStep,
            "history": run.history(pandas=False),
            "sampled": run.history(samples=5, pandas=False),
            "of_keys": run.history(keys=["sparse"], pandas=False),
            "scan": list(run.scan_history(page_size=7)),
            "scan_of_keys": list(run.scan_history(keys=["loss", "_step"], min_step=3, max_step=6)),
            "system": len(run.history(stream="system", pandas=False)),
            "files": sorted(file.name for file in run.files()),
            "some_files": sorted(file.name for file in run.files(pattern="%.txt")),
            "saved": saved.read(),
            "console": [line.content for line in run.console_logs()] if HAS_CONSOLE else None,
            "console_tail": [line.content for line in run.console_logs(last=1)] if HAS_CONSOLE else None,
        }
    )
)
